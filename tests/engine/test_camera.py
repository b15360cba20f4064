import json
import math
from pathlib import Path

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.scene.camera import Camera, load_cameras, look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.paths import PATHS, Framing, frame_scene


def pixel(camera: Camera, point: list[float]) -> tuple[float, float, float]:
    """Where a world point falls, and its depth."""
    x, y, z = (camera.world_to_camera @ torch.tensor([*point, 1.0], dtype=torch.float64))[:3].tolist()
    return camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy, z


@pytest.mark.parametrize("up", [(0, -1, 0), (0, 0, 1), (0.3, 0.5, -0.2)])
def test_look_at_sees_the_target_in_the_middle_and_up_above_it(up: tuple[float, float, float]) -> None:
    camera = look_at((1, 2, 3), (4, 3, 5), up=up, width=101, height=67)
    x, y, z = pixel(camera, [4, 3, 5])
    assert (x, y) == pytest.approx((50.5, 33.5))
    assert z == pytest.approx(math.sqrt(9 + 1 + 4))
    above = pixel(camera, [4 + 0.01 * up[0], 3 + 0.01 * up[1], 5 + 0.01 * up[2]])
    assert above[0] == pytest.approx(50.5)
    assert above[1] < 33.5
    assert camera.position.tolist() == pytest.approx([1, 2, 3])
    rotation = camera.world_to_camera[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)


def test_field_of_view_is_the_height_of_the_picture() -> None:
    camera = look_at((0, 0, 0), (0, 0, 1), fov=1.0, width=200, height=100)
    assert pixel(camera, [0, math.tan(0.5), 1])[1] == pytest.approx(100)
    assert pixel(camera, [0, -math.tan(0.5), 1])[1] == pytest.approx(0)


def test_looking_along_up_still_gives_a_rotation() -> None:
    camera = look_at((0, 0, 0), (0, -2, 0))
    assert pixel(camera, [0, -2, 0]) == pytest.approx((960, 540, 2))
    assert torch.isfinite(camera.world_to_camera).all()


def test_resizing_scales_the_picture() -> None:
    camera = Camera(torch.eye(4), 100, 110, 50, 40, 120, 80)
    double = camera.resized(240, 160)
    for point in ([0.1, 0.2, 1.0], [-0.3, 0.1, 2.0]):
        x, y, _ = pixel(camera, point)
        assert pixel(double, point)[:2] == pytest.approx((2 * x, 2 * y))
    wide = camera.resized(200, 80)  # the same height: nothing moves but the left edge
    assert pixel(wide, [0.1, 0.2, 1.0])[:2] == pytest.approx((pixel(camera, [0.1, 0.2, 1.0])[0] + 40, 62))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 0}, "width is 0"),
        ({"height": 20000}, "height is 20000"),
        ({"width": 64.0}, "width is 64.0, expected an integer"),
        ({"fx": -1.0}, "K has focal lengths -1.0"),
        ({"cx": math.nan}, "K holds NaN"),
        ({"world_to_camera": torch.eye(3)}, r"world_to_camera is \[3, 3\]"),
        ({"world_to_camera": torch.full((4, 4), torch.inf)}, "finite"),
        ({"world_to_camera": torch.zeros(4, 4)}, "no rotation and translation"),
        ({"world_to_camera": torch.diag(torch.tensor([2.0, 1, 1, 1]))}, "no rotation and translation"),
    ],
)
def test_an_impossible_camera_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Camera(
            **{
                "world_to_camera": torch.eye(4),
                "fx": 1,
                "fy": 1,
                "cx": 60,
                "cy": 40,
                "width": 120,
                "height": 80,
                **changes,
            }
        )


@pytest.mark.parametrize("up", [(1, 1, 1), (0, 0, 0)])
def test_a_useless_up_still_gives_a_rotation(up: tuple[float, float, float]) -> None:
    camera = look_at((0, 0, 0), (2, 2, 2), up=up)
    assert pixel(camera, [2, 2, 2]) == pytest.approx((960, 540, math.sqrt(12)))


def test_a_vector_of_two_is_refused() -> None:
    with pytest.raises(InputError, match=r"eye is \[0.0, 1.0\]"):
        look_at((0, 1), (1, 1, 1))


def test_eye_at_target_is_refused() -> None:
    with pytest.raises(InputError, match="move one of them"):
        look_at((1, 1, 1), (1, 1, 1))


ENTRY = {"world_to_camera": torch.eye(4).tolist(), "fx": 9, "fy": 8, "cx": 7, "cy": 6, "width": 5, "height": 4}


def test_camera_list_is_read(tmp_path: Path) -> None:
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps({"cameras": [{**ENTRY, "note": 1}, {**ENTRY, "fx": 10}]}))
    first, second = load_cameras(file)
    assert (first.fx, first.fy, first.cx, first.cy, first.width, first.height) == (9, 8, 7, 6, 5, 4)
    assert second.fx == 10
    assert torch.equal(first.world_to_camera, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no camera list"),
        ("[]", "is no camera list"),
        ('{"cameras": [{"fx": 1}]}', "world_to_camera"),
        ('{"cameras": 3}', "is no camera list"),
        ('{"cameras": []}', "lists no camera"),
        (
            '{"cameras": [{"world_to_camera": "x", "fx": 1, "fy": 1, "cx": 1, "cy": 1, "width": 1, "height": 1}]}',
            "no camera list",
        ),
        (json.dumps({"cameras": [{**ENTRY, "width": 0}]}), "width is 0"),
        (json.dumps({"cameras": [{**ENTRY, "fx": "a"}]}), "no camera list"),
        (json.dumps({"cameras": [{**ENTRY, "width": 4.5}]}), "width is 4.5"),
        (json.dumps({"cameras": [{**ENTRY, "fx": 10**400}]}), "no camera list"),
        ("[" * 100_000, "no camera list"),
    ],
)
def test_what_is_no_camera_list_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "cameras.json"
    file.write_text(text)
    with pytest.raises(InputError, match=said) as refused:
        load_cameras(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_camera_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere.json"):
        load_cameras(tmp_path / "nowhere.json")


FRAMING = Framing((1.0, 2.0, 3.0), radius=4.0, up=(0, 0, 1), elevation=0.3)


def test_an_orbit_goes_once_round_at_one_distance_and_height() -> None:
    eyes = torch.stack([camera.position for camera in PATHS["orbit"](FRAMING, 12, width=64, height=48)])
    offsets = eyes - torch.tensor(FRAMING.center)
    torch.testing.assert_close(offsets.norm(dim=1), torch.full((12,), 4.0, dtype=torch.float64))
    torch.testing.assert_close(offsets[:, 2], torch.full((12,), 4 * math.sin(0.3), dtype=torch.float64))
    torch.testing.assert_close(offsets[:, :2].sum(dim=0), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)
    steps = (eyes - eyes.roll(1, dims=0)).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(12))


def test_a_dolly_goes_straight_in() -> None:
    eyes = torch.stack([camera.position for camera in PATHS["dolly"](FRAMING, 7, width=64, height=48)])
    offsets = eyes - torch.tensor(FRAMING.center)
    torch.testing.assert_close(offsets.norm(dim=1), torch.linspace(6.0, 1.2, 7, dtype=torch.float64))
    directions = offsets / offsets.norm(dim=1, keepdim=True)
    torch.testing.assert_close(directions, directions[:1].expand(7, 3))


@pytest.mark.parametrize("name", list(PATHS))
@pytest.mark.parametrize("count", [1, 2, 31])
def test_every_path_is_smooth_and_keeps_the_centre_in_view(name: str, count: int) -> None:
    cameras = PATHS[name](FRAMING, count, width=64, height=48)
    assert len(cameras) == count
    for camera in cameras:
        x, y, z = pixel(camera, list(FRAMING.center))
        assert z > 0
        assert -16 < x < 80
        assert -12 < y < 60
    if count == 31:
        eyes = torch.stack([camera.position for camera in cameras])
        assert float((eyes[1:] - eyes[:-1]).norm(dim=1).max()) < 0.25 * FRAMING.radius


def splats(means: torch.Tensor) -> Gaussians:
    n = len(means)
    quats = torch.tensor([1.0, 0, 0, 0]).repeat(n, 1)
    return Gaussians(means, quats, torch.full((n, 3), 0.01), torch.full((n,), 0.9), torch.zeros(n, 1, 3))


def test_framing_holds_an_object_and_ignores_floaters() -> None:
    random = torch.Generator().manual_seed(0)
    body = torch.rand(5000, 3, generator=random) * 2 - 1 + torch.tensor([5.0, 0, 0])
    floaters = torch.randn(50, 3, generator=random) * 500
    clean, dirty = frame_scene(splats(body)), frame_scene(splats(torch.cat((body, floaters))))
    assert clean.center == pytest.approx((5, 0, 0), abs=0.05)
    assert 2.5 < clean.radius < 5
    assert dirty.center == pytest.approx(clean.center, abs=0.1)
    assert dirty.radius == pytest.approx(clean.radius, rel=0.15)


def test_framing_keeps_a_few_large_splats_in_front_of_the_near_plane() -> None:
    pair = splats(torch.zeros(2, 3))
    assert frame_scene(pair).radius > 0.03
    pair.scales[:] = 0.5
    assert frame_scene(pair).radius > 2


def test_framing_keeps_to_the_dense_middle_of_a_capture() -> None:
    random = torch.Generator().manual_seed(0)
    subject = torch.randn(5000, 3, generator=random) * 0.3
    background = torch.nn.functional.normalize(torch.randn(2000, 3, generator=random), dim=1) * 40
    assert frame_scene(splats(torch.cat((subject, background)))).radius < 5
