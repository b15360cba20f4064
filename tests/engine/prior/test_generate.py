"""`lyra generate` as typed, in the process, with a small prior of random weights."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from lyra.engine.cli import main
from lyra.engine.commands.generate import GenerateOptions
from lyra.engine.formats.registry import about, load
from lyra.engine.likeness import psnr
from lyra.engine.prior.generation.inputs import read_sources
from lyra.engine.prior.generation.paths import NAMES, path_poses
from lyra.engine.prior.generation.scenes import GenerationOptions, KnownDepth, generate
from lyra.engine.prior.weights import open_prior
from lyra.engine.renderer import render
from lyra.engine.scene.camera import Camera, look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.provenance import read_note

W, H, FOCAL = 160, 120, 140.0
FOV = 2 * np.degrees(np.arctan(H / 2 / FOCAL))
FORMATS = ("a.ply", "a.compressed.ply", "a.splat", "a.spz", "a.sog", "a.glb", "a.lyra")


def at(eye: tuple[float, float, float]) -> Camera:
    pose = look_at(eye, (0.0, 0.0, 1.1), width=1, height=1).world_to_camera
    return Camera(pose, FOCAL, FOCAL, W / 2, H / 2, W, H)


def save_picture(rgb: torch.Tensor, path: Path) -> Path:
    Image.fromarray((rgb * 255).round().byte().numpy()).save(path)
    return path


@pytest.fixture(scope="module")
def photo(stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture of the stage and its depth in millimetres."""
    folder = tmp_path_factory.mktemp("photo")
    rgb, z = stage(at((0.0, 0.0, 0.0)))
    save_picture(rgb, folder / "photo.png")
    Image.fromarray((z * 1000).round().numpy().astype(np.uint16)).save(folder / "depth.png")
    np.save(folder / "depth.npy", z.numpy())
    return folder


@pytest.fixture
def run(untrained: Path, tmp_path: Path) -> Callable[..., Gaussians]:
    """Runs the command; the scene that it wrote."""

    def command(source: Path, *arguments: object, out: str = "out.ply") -> Gaussians:
        given = [source, "-o", tmp_path / out, "--prior", untrained, *arguments]
        assert main(["generate", *map(str, given)]) == 0
        return load(tmp_path / out)

    return command


def test_same_seed_same_bytes(run, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(photo / "photo.png", "--seed", seed, out=f"{name}.ply")
        said = capsys.readouterr().out
        assert said.count("\n") == 1 and "untrained" in said and f"seed {seed}" in said and "cpu" in said
    a, b, c = ((tmp_path / f"{name}.ply").read_bytes() for name in "abc")
    assert a == b != c
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as sheet:
        assert sheet.size == (2 * W, 2 * H)
    note = read_note(about(tmp_path / "a.ply").note)
    assert note is not None and note.sources[0].name == "photo.png"
    assert note.operations[0]["generate"]["seed"] == 1


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_it(run, photo: Path, name: str) -> None:
    scene = run(photo / "photo.png", "--splats", 2000, "--preview", "none", "--fov", FOV, out=name)
    assert 2000 < len(scene) < 5000
    rgb = read_sources(photo / "photo.png").views[0].rgb
    least = 18 if name.endswith(".splat") else 19
    assert psnr(render(scene, at((0.0, 0.0, 0.0))).rgb, rgb) > least


def test_the_picture_is_crisp_and_its_parallax_right(run, stage, photo: Path) -> None:
    told = ("--depth", photo / "depth.png", "--depth-scale", 0.001, "--fov", FOV)
    scene, guessed = run(photo / "photo.png", *told), run(photo / "photo.png", "--fov", FOV, out="b.ply")
    here = at((0.0, 0.0, 0.0))
    for made in (scene, guessed):
        assert psnr(render(made, here).rgb, stage(here)[0]) > 30
    moved = at((0.06, -0.04, 0.05))
    truth, z = stage(moved)
    pictures = scene.select(slice(W * H))
    found, seen = render(scene, moved), render(pictures, moved).alpha > 0.97
    assert float(seen.float().mean()) > 0.8
    assert psnr(found.rgb[seen][None], truth[seen][None]) > 27
    assert found.depth is not None and float(((found.depth - z).abs() / z)[seen].median()) < 0.01
    unit = float(guessed.means[: W * H, 2].median())  # without depth the median is 1
    assert unit == pytest.approx(1.0, abs=0.35)


def test_depth_may_have_holes_and_fewer_pixels(run, stage, photo: Path, tmp_path: Path) -> None:
    z = np.load(photo / "depth.npy")[::2, ::2].copy()
    z[:15] = np.nan
    np.save(tmp_path / "z.npy", z)
    scene = run(photo / "photo.png", "--depth", tmp_path / "z.npy", "--fov", FOV)
    camera = at((0.0, 0.0, 0.0))
    found, (_, wanted) = render(scene.select(slice(W * H)), camera).depth, stage(camera)
    assert found is not None
    error = ((found - wanted).abs() / wanted)[32:]
    assert float(error.median()) < 0.01 and float((error > 0.05).float().mean()) < 0.06


def test_a_depth_model_is_aligned_to_the_prior(untrained: Path, photo: Path, stage, tmp_path: Path, run) -> None:
    """A model that tells brightness, so that nearer is brighter, between the prior's depths."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 28, 42])
    told = helper.make_tensor_value_info("d", TensorProto.FLOAT, None)
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["d"], keepdims=0)], "m", [given], [told], [axes]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "m.onnx")
    plain = run(photo / "photo.png").select(slice(W * H))
    scene = run(photo / "photo.png", "--depth-model", tmp_path / "m.onnx", out="b.ply").select(slice(W * H))
    assert not torch.equal(scene.means, plain.means)
    assert float(scene.means[:, 2].median()) == pytest.approx(float(plain.means[:, 2].median()), rel=0.1)
    bright = read_sources(photo / "photo.png").views[0].rgb.mean(dim=-1).flatten()
    inverse = 1 / scene.means[:, 2]
    assert float(torch.corrcoef(torch.stack((bright, inverse)))[0, 1]) > 0.8


def test_known_depths_of_any_unit_say_the_same(untrained: Path, photo: Path) -> None:
    """Relative inverse depth and metric depth of a model are aligned to the prior; a file's own unit is kept."""
    sources, prior = read_sources(photo / "photo.png", fov=FOV), open_prior(str(untrained))
    z = torch.from_numpy(np.load(photo / "depth.npy"))
    options, paths = GenerationOptions(), [("left", 0.2)]
    in_world = generate(sources, prior, paths, options, KnownDepth(3 * z, "z"))
    metric = generate(sources, prior, paths, options, KnownDepth(3 * z, "metric"))
    assert float(in_world.splats.means[: W * H, 2].median()) == pytest.approx(3 * float(z.median()), rel=1e-3)
    ratio = in_world.splats.means[: W * H, 2] / metric.splats.means[: W * H, 2]
    torch.testing.assert_close(ratio, ratio[0].expand_as(ratio))
    scaled = generate(sources, prior, paths, dataclasses.replace(options, scale=5.0))
    plain = generate(sources, prior, paths, options)
    torch.testing.assert_close(scaled.splats.means, 5 * plain.splats.means)
    torch.testing.assert_close(scaled.path[-1].position, 5 * plain.path[-1].position)


def test_known_cameras_are_kept(stage, untrained: Path, tmp_path: Path, run) -> None:
    """The world of a capture, turned, moved and in other units, is that of the scene."""
    turn = look_at((0.3, -0.5, 0.2), (1.0, 2.0, 3.0), width=1, height=1).world_to_camera
    (tmp_path / "images").mkdir()
    cameras = []
    for i, x in enumerate((0.0, 0.12, -0.12)):
        camera = at((x, 0.02 * i, 0.0))
        save_picture(stage(camera)[0], tmp_path / "images" / f"{i}.png")
        pose = camera.world_to_camera @ torch.linalg.inv(turn)
        pose[:3, 3] *= 10
        cameras.append(dataclasses.replace(camera, world_to_camera=pose))
    entries = [{**dataclasses.asdict(c), "world_to_camera": c.world_to_camera.tolist()} for c in cameras]
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": entries}))
    sources = read_sources(tmp_path, views=3)
    made = generate(sources, open_prior(str(untrained)), [("right", 0.1)], GenerationOptions())
    assert len(made.sources) == 3
    for found in made.sources:
        assert any(torch.equal(found.world_to_camera, camera.world_to_camera) for camera in cameras)
    first = made.sources[0]
    assert psnr(render(made.splats, first).rgb, stage(at((0.0, 0.0, 0.0)))[0]) > 28
    local = made.splats.means.double() @ first.world_to_camera[:3, :3].T + first.world_to_camera[:3, 3]
    true = 10 * float(stage(at((0.0, 0.0, 0.0)))[1].median())
    assert float(local[: W * H, 2].median()) == pytest.approx(true, rel=0.35)  # the unit is swept, depth is a guess
    scene = run(tmp_path / "cameras.json", "--path", tmp_path / "cameras.json", "--preview", "none")
    assert psnr(render(scene, first).rgb, stage(at((0.0, 0.0, 0.0)))[0]) > 28


def test_the_unit_of_a_capture_is_found(stage, tmp_path: Path) -> None:
    from lyra.engine.prior.generation.inputs import View
    from lyra.engine.prior.generation.units import swept_depth
    from lyra.engine.prior.generation.views import low_clips

    views = []
    for eye in ((0.0, 0.0, 0.0), (0.15, 0.05, 0.0), (-0.1, -0.1, 0.05)):
        camera = at(eye)
        rgb, z = stage(camera)
        pose = camera.world_to_camera.clone()
        pose[:3, 3] *= 4
        views.append(View(rgb, torch.ones_like(z), dataclasses.replace(camera, world_to_camera=pose)))
    true = 4 * float(stage(at((0.0, 0.0, 0.0)))[1].median())
    assert swept_depth(low_clips(views, (96, 72), 1.0)) == pytest.approx(true, rel=0.05)
    assert swept_depth(low_clips([views[0], views[0]], (96, 72), 1.0)) == 1.0


def test_fill_is_only_where_the_picture_shows_nothing(untrained: Path, photo: Path, stage) -> None:
    z = torch.from_numpy(np.load(photo / "depth.npy"))
    sources, prior = read_sources(photo / "photo.png", fov=FOV), open_prior(str(untrained))
    made = generate(sources, prior, [("zoom_out", 0.5)], GenerationOptions(), KnownDepth(z, "z"))
    fill = made.splats.means[W * H :]
    assert len(fill) > 50
    x, y = FOCAL * fill[:, 0] / fill[:, 2] + W / 2, FOCAL * fill[:, 1] / fill[:, 2] + H / 2
    inside = (fill[:, 2] > 0) & (x >= 0) & (x < W) & (y >= 0) & (y < H)
    assert bool((fill[inside, 2] > z[y[inside].long(), x[inside].long()]).all())


def test_numbers_of_splats(run, photo: Path) -> None:
    assert len(run(photo / "photo.png", "--preset", "compact", "--preview", "none")) <= 2500
    pictures = 3000
    scene = run(photo / "photo.png", "--splats", pictures, "--path", "zoom_in", "--preview", "none", out="b.ply")
    assert pictures - 2 <= len(scene) <= pictures + 4 * 16 * 16


@pytest.mark.parametrize("name", NAMES)
def test_paths_lead_where_they_say(name: str) -> None:
    poses = path_poses(name, 0.4, 4)
    eyes = -torch.einsum("vji,vj->vi", poses[:, :3, :3], poses[:, :3, 3])
    torch.testing.assert_close(eyes.norm(dim=1).amax(), torch.tensor(0.4, dtype=torch.float64))
    middle = poses[:, :3, :3] @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64) + poses[:, :3, 3]
    assert float(middle[:, :2].abs().max()) < 1e-12 and float(middle[:, 2].min()) > 0.5
    axis, sign = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "zoom_in": (2, 1), "zoom_out": (2, -1)}.get(
        name, (0, 0)
    )
    if sign:
        assert float(eyes[-1, axis]) * sign == pytest.approx(0.4)
    else:  # seen by the camera, with y down, right comes before below
        assert eyes[0, 0] == pytest.approx(0.4) and eyes[1, 1] == pytest.approx(0.4)


@pytest.fixture(scope="module")
def film(stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of 25 frames and the list of their cameras."""
    folder = tmp_path_factory.mktemp("film")
    cameras = [at((0.01 * i, 0.0, 0.0)) for i in range(25)]
    with av.open(folder / "film.mkv", "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = W, H, "bgr0"
        for camera in cameras:
            frame = (stage(camera)[0] * 255).round().byte().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    entries = [{**dataclasses.asdict(c), "world_to_camera": c.world_to_camera.tolist()} for c in cameras]
    (folder / "cameras.json").write_text(json.dumps({"cameras": entries}))
    return folder


def test_frames_of_a_video(film: Path, stage, run) -> None:
    sources = read_sources(film / "film.mkv", cameras=film / "cameras.json", views=3)
    assert [round(100 * float(view.camera.position[0])) for view in sources.views] == [12, 0, 24]
    for view in sources.views:
        torch.testing.assert_close(view.rgb, stage(view.camera)[0], rtol=0, atol=0.51 / 255)
    still = read_sources(film / "film.mkv", still=True)
    torch.testing.assert_close(still.views[0].rgb, stage(at((0.0, 0.0, 0.0)))[0], rtol=0, atol=0.51 / 255)
    assert not still.posed and sources.posed
    run(film / "film.mkv", "--cameras", film / "cameras.json", "--views", 2, "--preview", "none")


@pytest.fixture(scope="module")
def passing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[[float, float], torch.Tensor]]:
    """A video of 9 seconds from one place, in which a red board goes by before a striped wall; and what paints it."""

    def paint(second: float, eye: float) -> torch.Tensor:
        x = (torch.arange(W) + 0.5 - W / 2) / FOCAL
        y = (torch.arange(H) + 0.5 - H / 2) / FOCAL
        wall = 0.5 + 0.3 * torch.sin(18 * (1.4 * x + eye))[None] * torch.sin(15 * 1.4 * y)[:, None]
        board = ((x + eye - 0.06 * (second - 4)).abs() < 0.12)[None] & (y.abs() < 0.15)[:, None]
        red = torch.tensor([0.9, 0.1, 0.1])
        return torch.where(board[..., None], red, wall[..., None].expand(-1, -1, 3))

    folder = tmp_path_factory.mktemp("passing")
    with av.open(folder / "film.mkv", "w") as container:
        stream = container.add_stream("ffv1", rate=1)
        stream.width, stream.height, stream.pix_fmt = W, H, "bgr0"
        for second in range(9):
            frame = (paint(second, 0.0) * 255).round().byte().numpy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    camera = Camera(torch.eye(4, dtype=torch.float64), FOCAL, FOCAL, W / 2, H / 2, W, H)
    entry = {**dataclasses.asdict(camera), "world_to_camera": camera.world_to_camera.tolist()}
    (folder / "cameras.json").write_text(json.dumps({"cameras": [entry] * 9}))
    return folder, paint


@pytest.mark.parametrize("second", [1.0, 6.2])
def test_a_scene_is_that_of_the_time_asked_for(passing, second: float, tmp_path: Path) -> None:
    folder, paint = passing
    sources = read_sources(folder / "film.mkv", cameras=folder / "cameras.json", views=3, time=second)
    times = [view.time for view in sources.views]
    assert times[0] == round(second) and len(set(times)) == 3
    z = torch.where(paint(round(second), 0.0)[..., 1] < 0.11, 1.0, 1.4)  # red is on the board alone
    np.save(tmp_path / "depth.npy", z.numpy())
    given = ["--cameras", folder / "cameras.json", "--depth", tmp_path / "depth.npy", "--time", second]
    words = [folder / "film.mkv", "-o", tmp_path / "out.ply", "--preview", "none", "--path", "right", *given]
    assert main(["generate", *map(str, words)]) == 0
    scene, eye = load(tmp_path / "out.ply"), 0.05
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = -eye
    seen = render(scene, Camera(pose, FOCAL, FOCAL, W / 2, H / 2, W, H)).rgb
    right, others = psnr(seen, paint(round(second), eye)), [psnr(seen, paint(s, eye)) for s in (0, 3, 5, 8)]
    assert right > 20 and right > max(others) + 2


def test_times_are_the_decoders(untrained: Path, passing) -> None:
    """The prior is told when each view was taken, and that what it makes is wanted at the time of the first."""
    from lyra.engine.prior.generation import views

    folder, _ = passing
    sources = read_sources(folder / "film.mkv", cameras=folder / "cameras.json", views=3, time=8)
    assert [view.time for view in sources.views] == [8, 0, 4]
    known = views.low_clips(sources.views, (16, 12), 1.0)
    assert known.times.tolist() == [[1.0, 0.0, 0.5]]
    prior = open_prior(str(untrained))
    poses, K = torch.eye(4)[None].repeat(2, 1, 1), known.K[0, :1].repeat(2, 1, 1)
    (made,) = views.imagine(known, poses, K, prior, 1, torch.Generator().manual_seed(0))
    assert made.clips.times[0].tolist() == [*known.times[0].tolist(), 1.0, 1.0]


def test_cameras_are_not_guessed_without_colmap(film: Path, monkeypatch: pytest.MonkeyPatch, refuses) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    refuses("pip install 'lyra-gs[poses]'", film / "film.mkv")


def test_times_that_a_video_does_not_have(film: Path, photo: Path, refuses) -> None:
    given = film / "film.mkv", "--cameras", film / "cameras.json", "--time"
    refuses("--time 9 is after its last frame at 4.8 s: give less", *given, 9)
    refuses("--time -1 is out of range: give seconds from the first frame on", *given, -1)
    refuses("--cameras, --still and --time are for videos", photo / "photo.png", "--time", 1)
    refuses("has 0 frames in that span, 1 asked for", film / "film.mkv", "--still", "--time", 9)
    still = read_sources(film / "film.mkv", still=True, time=4.8)
    assert not torch.equal(still.views[0].rgb, read_sources(film / "film.mkv", still=True).views[0].rgb)


@pytest.fixture
def refuses(untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Checks that a command line is refused with code 2 in one line, and that nothing is left behind."""

    def check(told: str, *arguments: object, out: str = "refused/out.ply") -> None:
        (tmp_path / "refused").mkdir(exist_ok=True)
        before = sorted(tmp_path.rglob("*"))
        given = ["generate", "--prior", untrained, "-o", tmp_path / out, *arguments]
        assert main([str(argument) for argument in given]) == 2
        said, err = capsys.readouterr()
        assert said == "" and err.count("\n") == 1 and told in err, err
        assert sorted(tmp_path.rglob("*")) == before

    return check


def test_bad_pictures_are_refused(tmp_path: Path, photo: Path, refuses) -> None:
    whole = (photo / "photo.png").read_bytes()
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.mp4").write_bytes(whole)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "list.json").write_text("{}")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    Image.new("CMYK", (64, 64)).save(tmp_path / "print.jpg")
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(tmp_path / "deep.png")
    frames = [Image.new("RGB", (32, 32), (i, 0, 0)) for i in (0, 99)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    Image.new("1", (20000, 16)).save(tmp_path / "wide.png")
    Image.new("RGBA", (32, 32)).save(tmp_path / "clear.png")
    for name, told in (
        ("absent.png", "no such file"),
        ("text.jpg", "is no JPEG, PNG or WebP"),
        ("cut.png", "damaged"),
        ("cut.mp4", "is no video or damaged"),
        ("empty.png", "empty"),
        ("folder", "holds no posed pictures"),
        ("list.json", "list.json"),
        ("dot.png", "1x1"),
        ("print.jpg", "CMYK"),
        ("deep.png", "16 bits"),
        ("moving.webp", "animation"),
        ("wide.png", "20000x16"),
        ("clear.png", "shows nothing"),
    ):
        refuses(told, tmp_path / name)


def test_bad_options_are_refused(photo: Path, film: Path, tmp_path: Path, refuses) -> None:
    picture, video = photo / "photo.png", film / "film.mkv"
    for told, *arguments in (
        ("--steps 5", picture, "--steps", 5),
        ("--splats 10", picture, "--splats", 10),
        ("--seed -1", picture, "--seed", -1),
        ("--scale 0", picture, "--scale", 0),
        ("path 'round'", picture, "--path", "round"),
        ("--reach 3", picture, "--reach", 3),
        ("do not mix", picture, "--path", "left", "--path", film / "cameras.json"),
        ("--fov 200", picture, "--fov", 200),
        ("--views 9", picture, "--views", 9),
        ("--device 'tpu'", picture, "--device", "tpu"),
        ("for videos", picture, "--still"),
        ("give one of them", video, "--still", "--cameras", film / "cameras.json"),
        ("--fov 50", video, "--fov", 50, "--cameras", film / "cameras.json"),
        ("--scale is for a picture", video, "--scale", 2, "--cameras", film / "cameras.json"),
        ("both tell the depth", picture, "--depth", picture, "--depth-model", picture),
        ("both tell the unit", picture, "--depth", photo / "depth.npy", "--scale", 2),
        ("holds RGB", picture, "--depth", picture),
        ("--preview", picture, "--preview", tmp_path / "sheet.jpg"),
        ("invalid choice", picture, "--preset", "huge"),
    ):
        refuses(told, *arguments)
    refuses("names no format", picture, out="refused/out.txt")
    refuses("neither shipped nor a folder", picture, "--prior", tmp_path / "nowhere")
    (tmp_path / "there.ply").write_bytes(b"x")
    refuses("is there already", picture, out="there.ply")
    assert (tmp_path / "there.ply").read_bytes() == b"x"


def test_options_have_the_defaults_of_the_library() -> None:
    ours = {field.name: field.default for field in dataclasses.fields(GenerateOptions)}
    for field in dataclasses.fields(GenerationOptions):
        assert ours[field.name] == field.default
