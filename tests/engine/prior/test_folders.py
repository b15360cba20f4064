"""Posed folders: every layout gives back the cameras that it was written from."""

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lyra.engine.errors import InputError
from lyra.engine.prior.data.folders import Capture, read_capture
from lyra.engine.prior.data.pictures import read_picture
from lyra.engine.scene.camera import Camera, look_at
from lyra.engine.scene.transform import rotation_quat

WIDTH, HEIGHT, COUNT = 64, 48, 3


@pytest.fixture
def cameras() -> list[Camera]:
    eyes = [(2.0 * math.sin(i), 0.3 * i - 1, -2.0 * math.cos(i)) for i in range(COUNT)]
    return [look_at(eye, (0.1, 0, 0), fov=0.8, width=WIDTH, height=HEIGHT) for eye in eyes]


def names(count: int = COUNT) -> list[str]:
    return [f"view_{i}.png" for i in range(count)]


def draw(folder: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(names()):
        Image.new("RGB", size, (80 * i, 0, 0)).save(folder / name)


def opengl(camera: Camera) -> list[list[float]]:
    """Camera-to-world with y up, looking along -z."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    return (torch.linalg.inv(camera.world_to_camera) @ flip).tolist()


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def same(capture: Capture, cameras: list[Camera]) -> None:
    assert [path.name for path in capture.pictures] == names() and len(capture) == COUNT
    for found, given in zip(capture.cameras, cameras, strict=True):
        torch.testing.assert_close(found.world_to_camera, given.world_to_camera, atol=1e-9, rtol=0)
        torch.testing.assert_close(found.K, given.K, atol=1e-9, rtol=0)
        assert (found.width, found.height) == (given.width, given.height)


def test_nerf_synthetic(tmp_path: Path, cameras: list[Camera]) -> None:
    draw(tmp_path / "train")
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "train" / "view_1_depth_0007.png")
    frames = [
        {"file_path": f"./train/{name[:-4]}", "rotation": 0.1, "transform_matrix": opengl(camera)}
        for name, camera in zip(names(), cameras, strict=True)
    ]
    angle = 2 * math.atan(WIDTH / 2 / cameras[0].fx)
    write(tmp_path / "transforms_train.json", {"camera_angle_x": angle, "frames": frames})
    capture = read_capture(tmp_path)
    same(capture, cameras)
    assert capture.name == tmp_path.name and capture.times == (0.0, 0.5, 1.0)
    assert capture.depths == (None, tmp_path / "train" / "view_1_depth_0007.png", None)


def test_nerfstudio_with_its_own_lens_in_each_frame(tmp_path: Path, cameras: list[Camera]) -> None:
    draw(tmp_path / "images")
    frames = [
        {
            "file_path": f"images/{name}",
            "transform_matrix": opengl(camera),
            "time": i / 10,
            "fl_y": camera.fy,
        }
        for i, (name, camera) in enumerate(zip(names(), cameras, strict=True))
    ]
    shared = {"camera_model": "OPENCV", "w": WIDTH, "h": HEIGHT, "fl_x": cameras[0].fx, "fl_y": 1.0, "cx": 32, "cy": 24}
    capture = read_capture(write(tmp_path / "transforms.json", {**shared, "k1": 0.0, "aabb": 16, "frames": frames}))
    same(capture, cameras)
    assert capture.times == (0.0, 0.1, 0.2) and capture.depths is None


def test_opencv_cameras(tmp_path: Path, cameras: list[Camera]) -> None:
    draw(tmp_path / "images")
    frames = [
        {"file_path": f"images/{name}", "w2c": camera.world_to_camera.tolist(), "w": WIDTH, "h": HEIGHT,
         "fx": camera.fx, "fy": camera.fy, "cx": camera.cx, "cy": camera.cy}
        for name, camera in zip(names(), cameras, strict=True)
    ]  # fmt: skip
    write(tmp_path / "opencv_cameras.json", {"scene_name": "a", "frames": frames})
    same(read_capture(tmp_path), cameras)


@pytest.mark.parametrize("folder", [".", "images"])
def test_own_list(tmp_path: Path, cameras: list[Camera], folder: str) -> None:
    draw(tmp_path / folder)
    entries = [
        {"world_to_camera": c.world_to_camera.tolist()} | {k: getattr(c, k) for k in "fx fy cx cy width height".split()}
        for c in cameras
    ]
    write(tmp_path / "cameras.json", {"cameras": entries})
    same(read_capture(tmp_path), cameras)
    (tmp_path / folder / "view_1.png").unlink()
    refused(tmp_path, "lists 3 cameras, and .* holds 2 pictures: give one")


def write_colmap(folder: Path, cameras: list[Camera], *, binary: bool, model: int = 1) -> None:
    """In the order of neither names nor ids, with points that are to be skipped."""
    (folder / "sparse" / "0").mkdir(parents=True)
    name_of = ["SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL"]
    camera = cameras[0]
    lens = [camera.fx, camera.fy, camera.cx, camera.cy][model == 0 :] + [0.1] * (model == 2)
    placed = []
    for i, (name, c) in enumerate(zip(names(), cameras, strict=True)):
        quat = rotation_quat(c.world_to_camera[:3, :3]).tolist()
        placed.append((9 - i, [*quat, *c.world_to_camera[:3, 3].tolist()], name))
    if binary:
        head = struct.pack("<QiiQQ", 1, 5, model, WIDTH, HEIGHT) + struct.pack(f"<{len(lens)}d", *lens)
        images = struct.pack("<Q", COUNT)
        for key, pose, name in reversed(placed):
            images += struct.pack("<i7di", key, *pose, 5) + name.encode() + b"\0"
            images += struct.pack("<Q", key) + struct.pack("<ddq", 1.5, 2.5, -1) * key
        (folder / "sparse" / "0" / "cameras.bin").write_bytes(head)
        (folder / "sparse" / "0" / "images.bin").write_bytes(images)
    else:
        text = f"# a list\n5 {name_of[model]} {WIDTH} {HEIGHT} {' '.join(map(repr, lens))}\n"
        (folder / "sparse" / "0" / "cameras.txt").write_text(text)
        points = ["1.5 2.5 -1 " * (key % 2) for key, _, _ in placed]
        rows = [f"{key} {' '.join(map(repr, pose))} 5 {name}\n" for key, pose, name in placed]
        rows = [f"{row}{line}\n" for row, line in zip(rows, points, strict=True)]
        (folder / "sparse" / "0" / "images.txt").write_text("# a list\n" + "".join(reversed(rows)))


@pytest.mark.parametrize("model", [0, 1])
@pytest.mark.parametrize("binary", [True, False])
def test_colmap(tmp_path: Path, cameras: list[Camera], binary: bool, model: int) -> None:
    draw(tmp_path / "images")
    write_colmap(tmp_path, cameras, binary=binary, model=model)
    same(read_capture(tmp_path), cameras)


@pytest.mark.parametrize("binary", [True, False])
def test_colmap_with_distortion_or_damage(tmp_path: Path, cameras: list[Camera], binary: bool) -> None:
    draw(tmp_path / "images")
    write_colmap(tmp_path, cameras, binary=binary, model=2)
    refused(tmp_path, "SIMPLE_RADIAL, only SIMPLE_PINHOLE and PINHOLE are read: run colmap image_undistorter")
    shutil.rmtree(tmp_path / "sparse")
    write_colmap(tmp_path, cameras, binary=binary)
    for path in sorted((tmp_path / "sparse" / "0").iterdir()):
        whole = path.read_bytes()
        for length in range(1, len(whole) - (0 if binary else 40), 7):
            path.write_bytes(whole[:length])
            try:
                assert 0 < len(read_capture(tmp_path)) < COUNT or not binary  # text may end between two pictures
            except InputError as error:
                assert "\n" not in str(error) and str(error).startswith(str(tmp_path))
            else:
                assert not binary
        path.write_bytes(whole)


def test_intrinsics_follow_pictures_that_were_scaled(tmp_path: Path, cameras: list[Camera]) -> None:
    draw(tmp_path / "images", (WIDTH // 2, HEIGHT // 2))
    write_colmap(tmp_path, cameras, binary=True)
    same(read_capture(tmp_path), [camera.resized(WIDTH // 2, HEIGHT // 2) for camera in cameras])
    draw(tmp_path / "images", (WIDTH // 2, HEIGHT))
    refused(tmp_path, "has 32x48 pixels, its camera 64x48: give pictures of one shape")


def refused(path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        read_capture(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700 and message.startswith(str(path))


UNIT = torch.eye(4).tolist()
MIRROR = torch.diag(torch.tensor([-1.0, 1, 1, 1])).tolist()


@pytest.mark.parametrize(
    "content, pattern",
    [
        ([], "expected {name: ...} with frames"),
        ({"frames": []}, "lists no picture"),
        ({"frames": [{}]}, "frame 1: {} given, expected {name: ...} with file_path, transform_matrix"),
        ({"frames": [{"file_path": "view_0", "transform_matrix": UNIT}]}, "frame 1: tells no focal length"),
        ({"fl_x": 9, "frames": [{"file_path": "gone", "transform_matrix": UNIT}]}, "gone.png: no such file"),
        ({"fl_x": 9, "frames": [{"file_path": "view_0", "transform_matrix": UNIT[:3]}]}, "expected 4 rows"),
        ({"fl_x": 9, "frames": [{"file_path": "view_0", "transform_matrix": MIRROR}]}, "mirrors the world"),
        ({"fl_x": 9, "frames": [{"file_path": "view_0", "transform_matrix": [[2, 0, 0, 0], *UNIT[1:]]}]}, "off by 3"),
        ({"fl_x": 0, "frames": [{"file_path": "view_0", "transform_matrix": UNIT}]}, "fl_x: 0 given.*positive"),
        ({"fl_x": 9, "k2": 0.1, "frames": [{"file_path": "view_0", "w2c": UNIT}]}, "k2 is 0.1.*undistort"),
        ({"fl_x": 9, "camera_model": "EQUIRECTANGULAR", "frames": [{"file_path": "view_0", "w2c": UNIT}]}, "EQUIRECT"),
        ({"fl_x": 9, "w": 64.5, "h": 48, "frames": [{"file_path": "view_0", "w2c": UNIT}]}, "width is 64.5"),
        (
            {"fl_x": 9, "frames": [{"file_path": "view_0", "w2c": UNIT, "time": 1e999}]},
            "time: inf given, expected 0 to 1",
        ),
        ({"fl_x": 9, "frames": [{"file_path": "a\0b", "w2c": UNIT}]}, "give a file that can be read"),
        ({"cameras": [{"fx": 3}]}, "no camera list"),
    ],
)
def test_bad_lists(tmp_path: Path, content: Any, pattern: str) -> None:
    draw(tmp_path)
    refused(write(tmp_path / "transforms.json", content), pattern)


def test_bad_places(tmp_path: Path) -> None:
    refused(tmp_path, "holds no posed pictures: give a folder with transforms.json")
    refused(tmp_path / "absent", "no such file")
    (tmp_path / "transforms.json").write_text("{")
    refused(tmp_path / "transforms.json", "is no JSON")
    (tmp_path / "transforms.json").write_text("[" * 100_000)
    refused(tmp_path / "transforms.json", "is no JSON")


def test_real_captures(shared: Path) -> None:
    chair = read_capture(shared / "data/nerf_synthetic/chair")
    for camera in chair.cameras:  # all at one distance, looking at the middle
        assert float(camera.position.norm()) == pytest.approx(4.031, abs=1e-3)
        middle = camera.world_to_camera[:3, 3] @ torch.tensor([0, 0, 1.0], dtype=torch.float64)
        assert float(middle) == pytest.approx(4.031, abs=1e-3)
        assert camera.fx == pytest.approx(1111.111 * camera.width / 800, abs=0.01)
    desk = read_capture(shared / "data/mydesk")
    assert len(desk) == 100 and desk.depths is None
    assert {(camera.width, camera.height) for camera in desk.cameras} == {(960, 540)}
    errors = {depth: difference(desk, 0, 1, depth) for depth in (20.0, -20.0, 1e9)}
    assert errors[20.0] < 0.8 * min(errors[-20.0], errors[1e9]), errors


def difference(capture: Capture, a: int, b: int, depth: float) -> float:
    """Mean difference of picture a and what b shows of a wall at that depth before a."""
    first, second = capture.cameras[a].resized(240, 135), capture.cameras[b].resized(240, 135)
    pictures = [read_picture(capture.pictures[i]).rgb.permute(2, 0, 1)[None] for i in (a, b)]
    here, there = (torch.nn.functional.avg_pool2d(picture, 4) for picture in pictures)
    y, x = torch.meshgrid(torch.arange(135) + 0.5, torch.arange(240) + 0.5, indexing="ij")
    points = torch.stack((x, y, torch.ones_like(x)), -1).double() @ torch.linalg.inv(first.K).T * depth
    pose = second.world_to_camera @ torch.linalg.inv(first.world_to_camera)
    seen = (points @ pose[:3, :3].T + pose[:3, 3]) @ second.K.T
    grid = (seen[..., :2] / seen[..., 2:] / torch.tensor([240, 135]) * 2 - 1).float()[None]
    moved = torch.nn.functional.grid_sample(there, grid, align_corners=False, padding_mode="border")
    return float((moved - here).abs().mean())
