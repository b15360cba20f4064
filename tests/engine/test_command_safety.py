"""Commands that write spare what they were not asked to replace, and leave nothing of what they replace."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lyra.engine.cli import main
from lyra.engine.formats.registry import about, load, save
from lyra.engine.scene.gaussians import Gaussians


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    rng = torch.Generator().manual_seed(0)
    made = Gaussians(
        means=torch.rand(300, 3, generator=rng) - 0.5,
        quats=torch.randn(300, 4, generator=rng),
        scales=torch.rand(300, 3, generator=rng) * 0.01 + 1e-3,
        opacities=torch.rand(300, generator=rng) * 0.9 + 0.05,
        sh=torch.randn(300, 4, 3, generator=rng) * 0.2,
    )
    save(made, tmp_path / "a.ply")
    return tmp_path / "a.ply"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("output", "precious"),
    [("room.gltf", "room.bin"), ("F/meta.json", "F/means_l.webp"), ("b.spz", "b.spz.provenance.json")],
)
def test_files_beside_an_output_are_not_replaced_unasked(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, precious: str
) -> None:
    (tmp_path / "F").mkdir()
    (tmp_path / precious).write_text("mine")
    assert run("convert", scene, tmp_path / output) == 2
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / precious).read_text() == "mine" and not (tmp_path / output).exists()
    assert run("convert", scene, tmp_path / output, "--overwrite") == 0
    assert len(load(tmp_path / output)) == 300


def test_a_redacted_folder_keeps_nothing_of_the_scene_before(scene: Path, tmp_path: Path) -> None:
    assert run("convert", scene, tmp_path / "F" / "meta.json") == 0
    (tmp_path / "F" / "notes.txt").write_text("mine")
    assert (tmp_path / "F" / "shN_labels.webp").exists()
    assert run("convert", scene, tmp_path / "flat.ply", "--sh", 0) == 0
    region = ("--region", "sphere: 0,0,0,0.2", "--views", 2, "--backend", "cpu")
    assert run("redact", tmp_path / "flat.ply", tmp_path / "F" / "meta.json", "--overwrite", *region) == 0
    assert not list((tmp_path / "F").glob("shN*")) and (tmp_path / "F" / "notes.txt").read_text() == "mine"
    assert len(load(tmp_path / "F")) < 300
    assert run("redact", scene, tmp_path / "new" / "meta.json", *region) == 0
    assert run("redact", tmp_path / "new", tmp_path / "new" / "meta.json", "--overwrite", *region) == 2  # the input


def test_a_record_is_no_other_file_of_the_command(scene: Path, tmp_path: Path) -> None:
    before, do = scene.read_bytes(), ("--do", "delete: {filter: opacity<0.2}")
    for record in (scene, tmp_path / "b.ply"):
        assert run("edit", scene, tmp_path / "b.ply", *do, "--record", record, "--overwrite") == 2
    assert scene.read_bytes() == before and not (tmp_path / "b.ply").exists()


@pytest.mark.parametrize("name", ["out[b].ply", "out[/b].ply", "[red]x.ply"])
def test_names_that_look_like_markup(
    scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    target = tmp_path / name
    target.parent.mkdir(exist_ok=True)
    assert run("convert", scene, target) == 0
    assert f"wrote {target}:" in capsys.readouterr().err
    assert run("info", target, "--no-loss") == 0
    assert target.name in capsys.readouterr().out


def test_a_scene_in_several_files_is_hashed_as_a_whole(scene: Path, tmp_path: Path) -> None:
    def source(path: Path) -> dict:
        assert run("convert", path, tmp_path / "out.glb", "--overwrite") == 0
        return json.loads(about(tmp_path / "out.glb").note or "")["sources"][0]

    assert run("convert", scene, tmp_path / "s.gltf") == 0
    first = source(tmp_path / "s.gltf")
    assert first["bytes"] == sum((tmp_path / f"s.{end}").stat().st_size for end in ("gltf", "bin"))
    data = bytearray((tmp_path / "s.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "s.bin").write_bytes(data)
    assert source(tmp_path / "s.gltf")["sha256"] != first["sha256"]
    assert run("convert", scene, tmp_path / "F" / "meta.json") == 0
    files = sum(file.stat().st_size for file in (tmp_path / "F").iterdir())
    assert source(tmp_path / "F" / "meta.json")["bytes"] == source(tmp_path / "F")["bytes"] == files


def test_notes_nested_deep_are_no_notes(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = scene.read_bytes()
    history = (
        '{"made_by":"x","sources":[{"name":"","bytes":1,"sha256":"","history":' * 300 + '{"made_by":"x"}' + "}]}" * 300
    )
    for note in ('{"made_by":"x","operations":[{"a":' + "[" * 600 + "]" * 600 + "}]}", history):
        scene.write_bytes(whole.replace(b"element", b"comment lyra " + note.encode() + b"\nelement", 1))
        assert run("info", scene, "--no-loss") == 0
        assert "no provenance" in capsys.readouterr().out


def test_many_files_are_merged(scene: Path, tmp_path: Path) -> None:
    small = [tmp_path / f"{i}.splat" for i in range(130)]
    for path in small:
        save(load(scene).select(slice(0, 2)), path)
    assert run("convert", *small, tmp_path / "all.ply") == 0
    assert len(load(tmp_path / "all.ply")) == 260


def test_what_was_written_is_told(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", scene, tmp_path / "b.splat") == 0
    assert "300 splats, SH 0, all that .splat holds of SH 1" in capsys.readouterr().err


def test_a_missing_folder_is_missing_even_before_two_dots(scene: Path, tmp_path: Path) -> None:
    assert run("convert", scene, tmp_path / "none" / ".." / "b.ply") == 2
    assert os.listdir(tmp_path) == ["a.ply"]


def test_regions_without_an_end_are_refused(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("redact", scene, tmp_path / "b.ply", "--region", "box: -inf,-1,-1,1,1,1") == 2
    assert "has no end" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "code", "told"), [("a.ply", 0, "300 splats"), ("b.ply", 2, "no such file")])
def test_the_console_script_says_all_before_it_leaves(scene: Path, name: str, code: int, told: str) -> None:
    program = "import atexit; from lyra.engine.cli import run; atexit.register(print, 'farewell'); run()"
    command = [sys.executable, "-c", program, "info", str(scene.with_name(name))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == code
    assert told in done.stdout + done.stderr
    assert done.stdout.endswith("farewell\n")
