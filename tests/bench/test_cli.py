"""The command as a user types it: what it prints where, what it writes, and how it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lyra.bench.cli import main
from lyra.engine.formats.registry import save
from lyra.engine.renderer import render
from lyra.engine.scene.camera import load_cameras
from lyra.engine.scene.gaussians import Gaussians

STAGES = ["project", "sort", "bin", "blend", "frame"]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A ball of a thousand coloured splats."""
    random = torch.Generator().manual_seed(0)
    n = 1000
    path = tmp_path / "ball.ply"
    gaussians = Gaussians(
        means=torch.nn.functional.normalize(torch.randn(n, 3, generator=random), dim=1),
        quats=torch.randn(n, 4, generator=random),
        scales=torch.rand(n, 3, generator=random) * 0.1 + 0.01,
        opacities=torch.rand(n, generator=random) * 0.8 + 0.1,
        sh=torch.randn(n, 4, 3, generator=random) * 0.4,
    )
    save(gaussians, path)
    return path


@pytest.fixture
def cameras(tmp_path: Path) -> Path:
    pose = [[1, 0, 0, 0.1], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]]
    entry = {"world_to_camera": pose, "fx": 50, "fy": 50, "cx": 32, "cy": 24, "width": 64, "height": 48}
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"cameras": [entry, {**entry, "fx": 70}]}))
    return path


def test_json_on_stdout_is_all_there_is_on_stdout(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scene", str(scene), "--res", "101x67", "--frames", "4", "--warmup", "1", "--json", "-"]) == 0
    printed = capsys.readouterr()
    results = json.loads(printed.out)
    assert "p95 ms" in printed.err
    (result,) = results["scenes"]
    assert (result["splats"], result["sh_degree"], result["width"], result["height"]) == (1000, 1, 101, 67)
    assert (result["frames"], result["cameras"], result["backend"]) == (4, 4, "cpu")
    assert list(result["milliseconds"]) == STAGES
    times = result["milliseconds"]
    assert all(0 < t["p50"] <= t["p95"] <= t["p99"] for t in times.values())
    assert sum(times[stage]["p50"] for stage in STAGES[:-1]) < 1.5 * times["frame"]["p99"]
    assert result["fps"] == pytest.approx(1000 / times["frame"]["p50"])
    assert 0 < result["visible"] <= 1000
    assert result["pairs"] >= result["visible"]
    assert result["splat_pixels"] > 101 * 67
    assert result["calibration_splat_pixels_per_second"] > 1e6
    assert {"cpu", "cores", "gpu", "python", "torch", "commit"} <= set(results["machine"])


def test_table_names_every_stage(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scene", str(scene), "--res", "64x48", "--frames", "2"]) == 0
    out = capsys.readouterr().out
    for word in [
        *STAGES,
        "p50",
        "p95",
        "p99",
        "FPS",
        "peak memory",
        "tile pairs",
        "calibration",
        "commit",
        "1,000 splats",
    ]:
        assert word in out


def test_dump_holds_the_frames_of_the_cameras(scene: Path, cameras: Path, tmp_path: Path) -> None:
    dump, picture, data = tmp_path / "f.npz", tmp_path / "f.png", tmp_path / "f.json"
    arguments = ["--scene", str(scene), "--cameras", str(cameras), "--res", "128x96", "--frames", "3", "--warmup", "0"]
    assert main([*arguments, "--dump", str(dump), "--image", str(picture), "--json", str(data)]) == 0
    frames = np.load(dump)
    assert sorted(frames) == ["alpha_0", "alpha_1", "depth_0", "depth_1", "rgb_0", "rgb_1"]
    from lyra.engine.formats.registry import load

    for i, camera in enumerate(load_cameras(cameras)):
        expected = render(load(scene), camera.resized(128, 96))
        np.testing.assert_array_equal(frames[f"rgb_{i}"], expected.rgb.numpy())
        np.testing.assert_array_equal(frames[f"alpha_{i}"], expected.alpha.numpy())
        np.testing.assert_array_equal(frames[f"depth_{i}"], expected.depth.numpy())
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape == (96, 128, 3)
    assert np.abs(pixels / 255 - frames["rgb_0"].clip(0, 1)).max() <= 0.5 / 255 + 1e-6
    (result,) = json.loads(data.read_text())["scenes"]
    assert (result["frames"], result["cameras"]) == (6, 2)  # each of two cameras three times
    assert list(tmp_path.glob(".*")) == []


def test_several_scenes_are_numbered(scene: Path, tmp_path: Path) -> None:
    arguments = ["--scene", str(scene), "--scene", str(scene), "--res", "32x24", "--frames", "1", "--warmup", "0"]
    assert main([*arguments, "--image", str(tmp_path / "a.png"), "--json", str(tmp_path / "a.json")]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["a-0.png", "a-1.png"]
    assert len(json.loads((tmp_path / "a.json").read_text())["scenes"]) == 2


def test_up_turns_the_path(scene: Path, tmp_path: Path) -> None:
    arguments = ["--scene", str(scene), "--res", "40x30", "--frames", "1", "--warmup", "0"]
    pictures = []
    for up in ("y-", "z+", "y+"):
        picture = tmp_path / f"{up}.png"
        assert main([*arguments, "--up", up, "--image", str(picture)]) == 0
        pictures.append(np.asarray(Image.open(picture)).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() > 20
    assert np.abs(pictures[0] - pictures[2]).max() > 20


def test_config_gives_defaults_that_the_command_line_overrides(scene: Path, tmp_path: Path) -> None:
    config, data = tmp_path / "bench.yaml", tmp_path / "r.json"
    config.write_text(f"scene: ['{scene}']\nres: 40x30\nframes: 3\nwarmup: 0\npath: dolly\n")
    assert main(["--config", str(config), "--frames", "2", "--json", str(data)]) == 0
    (result,) = json.loads(data.read_text())["scenes"]
    assert (result["width"], result["frames"], result["scene"]) == (40, 2, str(scene))


def test_scenes_of_the_command_line_take_the_place_of_the_files(scene: Path, tmp_path: Path) -> None:
    from lyra.bench.options import parse

    config = tmp_path / "bench.yaml"
    config.write_text("scene: ['a.ply', 'b.ply']\nframes: 3\n")
    assert parse(["--config", str(config)]).scene == ("a.ply", "b.ply")
    assert parse(["--config", str(config), "--scene", str(scene)]).scene == (str(scene),)
    assert parse([f"--scene={scene}", "--config", str(config)]).scene == (str(scene),)


def test_cameras_keep_their_own_size_unless_told(scene: Path, cameras: Path, tmp_path: Path) -> None:
    dump = tmp_path / "f.npz"
    arguments = ["--scene", str(scene), "--cameras", str(cameras), "--frames", "1", "--warmup", "0"]
    assert main([*arguments, "--dump", str(dump)]) == 0
    assert np.load(dump)["alpha_1"].shape == (48, 64)


def test_nothing_in_sight_is_told(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    away = tmp_path / "away.json"
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, -50], [0, 0, 0, 1]]
    entry = {"world_to_camera": pose, "fx": 50, "fy": 50, "cx": 32, "cy": 24, "width": 64, "height": 48}
    away.write_text(json.dumps({"cameras": [entry]}))
    assert main(["--scene", str(scene), "--cameras", str(away), "--frames", "1"]) == 0
    assert "no splat is visible" in " ".join(capsys.readouterr().err.split())


def test_the_shipped_presets_are_understood(tmp_path: Path) -> None:
    from lyra.bench.options import parse

    presets = sorted((Path(__file__).parents[2] / "configs" / "bench").glob("*.yaml"))
    assert presets
    for preset in presets:
        assert parse(["--config", str(preset)]).frames >= 1


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a refusal says, after checking that it is one line and exit code 2."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("lyra-bench: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize(
    ("arguments", "value", "cure"),
    [
        (["--res", "1080q"], "1080q", "WIDTHxHEIGHT"),
        (["--res", "0x10"], "0x10", "1 to 16384"),
        (["--res", "99999x99999"], "99999x99999", "1 to 16384"),
        (["--frames", "0"], "0", "1 or more"),
        (["--frames", "x"], "x", "--help"),
        (["--warmup", "-1"], "-1", "0 or more"),
        (["--backend", "vulkan"], "vulkan", "'cpu'"),
        (["--path", "spiral"], "spiral", "'orbit'"),
        (["--up", "w+"], "w+", "'y-'"),
        (["--bogus"], "--bogus", "--help"),
        (["--scene", "nowhere.ply"], "nowhere.ply", "check the path"),
        (["--scene", "procedural:5"], "5", "give 1000"),
        (["--scene", "procedural:1e9"], "1000000000", "give 1000"),
        (["--scene", "procedural:many"], "many", "procedural:300k"),
        (["--scene", "procedural:"], "procedural:", "procedural:300k"),
        (["--cameras", "nowhere.json"], "nowhere.json", "check the path"),
        (["--config", "nowhere.yaml"], "nowhere.yaml", "check the path"),
        (["--image", "no/such/folder/f.png"], "no/such/folder", "can be written"),
        (["--json", "no/such/folder/f.json"], "no/such/folder", "can be written"),
        (["--json", "."], ".", "can be written"),
        (["--json", ""], ".", "can be written"),
        (["--image", "f.jpg"], "f.jpg", ".png"),
        (["--image", "."], ".", ".png"),
        (["--dump", "f.txt"], "f.txt", ".npz"),
        (["--json", "x" * 300 + ".json"], "xxx", "can be written"),
        (["--res", "٣x٣"], "٣x٣", "WIDTHxHEIGHT"),
    ],
)
def test_what_cannot_be_used_is_named_with_the_cure(
    arguments: list[str], value: str, cure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(["--res", "32x24", *arguments], capsys)
    assert value in said
    assert cure in said


def test_a_backend_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "use the backend cpu" in refused(["--backend", "triton"], capsys)


def test_a_missing_c_compiler_is_told_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = pytest.importorskip("triton.runtime")

    class Broken:
        def __getattr__(self, name: str) -> object:
            raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable.")

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(runtime, "driver", Broken())
    said = refused(["--backend", "triton"], capsys)
    assert "Failed to find C compiler" in said
    assert "apt-get install gcc" in said


@pytest.mark.parametrize("damage", ["picture", "truncated", "empty", "no splats", "noise"])
def test_a_file_that_is_no_scene_is_refused(
    damage: str, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.ply"
    whole = scene.read_bytes()
    head, _, body = whole.partition(b"end_header\n")
    path.write_bytes(
        {
            "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
            "truncated": whole[:-100],
            "empty": b"",
            "no splats": head.replace(b"vertex 1000", b"vertex 0") + b"end_header\n",
            "noise": head + b"end_header\n" + np.full(len(body) // 4, np.nan, np.float32).tobytes(),
        }[damage]
    )
    assert "bad.ply" in refused(["--scene", str(path)], capsys) or damage == "noise"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("frames: [", "not YAML"),
        ("- 1", "holds no options"),
        ("colour: red", "'colour' is no option"),
        ("frames: many", "frames"),
        ("frames: 0", "--frames 0"),
        ("frames: 2020-13-45", "not YAML"),
        ("[" * 5000, "not YAML"),
    ],
)
def test_a_bad_config_is_refused(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert said in refused(["--config", str(path)], capsys)


def test_dropped_splats_are_a_warning_on_stderr(scene: Path) -> None:
    """In a process of its own, since the suite turns warnings into errors."""
    whole = bytearray(scene.read_bytes())
    whole[-200:-196] = np.float32(np.nan).tobytes()
    scene.write_bytes(whole)
    command = [
        sys.executable,
        "-m",
        "lyra.bench",
        "--scene",
        str(scene),
        "--res",
        "32x24",
        "--frames",
        "1",
        "--json",
        "-",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "lyra-bench: warning: dropped 1 of 1000 splats" in done.stderr
    assert json.loads(done.stdout)["scenes"][0]["splats"] == 999


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("CUDA out of memory. Tried to allocate 80 GiB", True),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_only_a_lack_of_memory_is_told_as_one(
    said: str, told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr("lyra.bench.cli.run", fail)
    if told:
        assert "out of memory" in refused([], capsys)
    else:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            main([])


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for option in (
        "res",
        "scene",
        "backend",
        "frames",
        "warmup",
        "path",
        "cameras",
        "json",
        "image",
        "dump",
        "config",
        "grid",
        "lod",
        "quality",
        "vs",
        "evidence",
    ):
        assert f"--{option}" in out
