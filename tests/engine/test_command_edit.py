"""`lyra edit` as typed, in the process, and what docs/editing.md shows."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lyra.engine.cli import main
from lyra.engine.errors import InputError
from lyra.engine.formats.format import Writing
from lyra.engine.formats.registry import about, load, save
from lyra.engine.scene.edit import NAMES
from lyra.engine.scene.gaussians import Gaussians, merge
from lyra.engine.scene.provenance import SIDECAR, read_note, source_of

PAGE = Path(__file__).parents[2] / "docs" / "editing.md"


def made(n: int, degree: int = 0, seed: int = 0) -> Gaussians:
    rng = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(n, 3, generator=rng),
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=rng)),
        scales=torch.rand(n, 3, generator=rng) * 0.1 + 1e-3,
        opacities=torch.rand(n, generator=rng) * 0.9 + 0.05,
        sh=torch.randn(n, (degree + 1) ** 2, 3, generator=rng) * 0.3,
    )


@pytest.fixture
def refuses(capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Checks that a command line is refused with code 2 in one line on stderr and nothing on stdout."""

    def check(told: str, *arguments: object) -> None:
        assert main(["edit", *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("lyra edit: ") and told in err, err

    return check


def run(*arguments: object) -> None:
    assert main(["edit", *map(str, arguments)]) == 0


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def a(tmp_path: Path) -> Path:
    save(made(300, degree=1), tmp_path / "a.ply")
    return tmp_path / "a.ply"


def test_a_script_and_then_the_command_line(a: Path, tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text("- keep: {filter: x>0}\n- transform: {translate: [10, 0, 0]}\n")
    more = ("--do", "delete: {filter: x>11}", "--do", "keep: {filter: y<0}")
    run(a, tmp_path / "script.yaml", tmp_path / "b.ply", *more)
    scene = load(a)
    x, y = scene.means[:, 0], scene.means[:, 1]
    expected = scene.means[(x > 0) & (x + 10 <= 11) & (y < 0)] + torch.tensor([10.0, 0, 0])
    assert 20 < len(expected) < 100
    torch.testing.assert_close(load(tmp_path / "b.ply").means, expected)


def test_a_recorded_script_replays_to_the_same_bytes(a: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save(made(20, seed=1), tmp_path / "in" / "other.ply")
    (tmp_path / "in" / "script.yaml").write_text(
        "- transform: {rotate: {axis: [1, 2, 3], degrees: 33}, pivot: [0.1, 0, 0], where: {filter: z<0.3}}\n"
        "- merge: {file: other.ply}\n- recolor: {brightness: 1.1}\n"
    )
    run(a, tmp_path / "in" / "script.yaml", tmp_path / "b.ply", "--record", tmp_path / "done.json")
    run(a, tmp_path / "in" / "script.yaml", tmp_path / "c.ply")
    run(a, tmp_path / "done.json", tmp_path / "d.ply")
    written = (tmp_path / "b.ply").read_bytes()
    assert written == (tmp_path / "c.ply").read_bytes() == (tmp_path / "d.ply").read_bytes()
    assert len(load(tmp_path / "b.ply")) == 320


def test_provenance_names_operations_and_hashes_every_file(a: Path, tmp_path: Path) -> None:
    save(made(5, seed=1), tmp_path / "other.ply")
    (tmp_path / "script.yaml").write_text("- merge: {file: other.ply}\n- split: {right: {filter: x>0}}\n")
    run(a, tmp_path / "script.yaml", tmp_path / "b.ply", "--licence", "CC0-1.0")
    for part in ("right", "rest"):
        note = read_note(about(tmp_path / f"b-{part}.ply").note)
        assert note is not None and note.licence == "CC0-1.0"
        right = {"filter": "x>0.0"}
        steps = [{"merge": {"file": "other.ply"}}, {"split": {"right": right}}]
        assert note.operations == ({"edit": steps}, {"part": part})
        assert note.sources == (source_of(a, None), source_of(tmp_path / "other.ply", None))


def test_of_long_scripts_provenance_keeps_the_hash(a: Path, tmp_path: Path) -> None:
    steps = ["scale_opacity: {factor: 0.999}"] * 1000
    (tmp_path / "script.yaml").write_text("\n".join(f"- {step}" for step in steps))
    run(a, tmp_path / "script.yaml", tmp_path / "b.ply")
    note = read_note(about(tmp_path / "b.ply").note)
    assert note is not None and note.operations[0]["edit"]["steps"] == 1000
    assert len(note.operations[0]["edit"]["sha256"]) == 64


def test_a_split_writes_its_parts_and_not_the_whole(a: Path, tmp_path: Path, capsys) -> None:
    run(a, tmp_path / "b.ply", "--do", "split: {left: {filter: x<=0}, high: {filter: y>0}}")
    scene = load(a)
    left, high = scene.means[:, 0] <= 0, scene.means[:, 1] > 0
    for part, chosen in (("left", left), ("high", ~left & high), ("rest", ~left & ~high)):
        torch.testing.assert_close(load(tmp_path / f"b-{part}.ply").means, scene.means[chosen])
    scenes = [name for name in names(tmp_path) if not name.endswith(SIDECAR)]
    assert scenes == ["a.ply", "b-high.ply", "b-left.ply", "b-rest.ply"]
    assert capsys.readouterr().err.count("wrote") == 3
    run(a, tmp_path / "c.ply", "--do", "split: {all: {all: []}}")
    assert "c-rest.ply" not in names(tmp_path)


def test_parts_come_all_or_none(a: Path, tmp_path: Path, refuses, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b-high.ply").write_bytes(b"mine")
    two = ("--do", "split: {left: {filter: x<=0}, high: {filter: y>0}}")
    refuses("b-high.ply: is there already", a, tmp_path / "b.ply", *two)
    refuses("part 'none' has no splat", a, tmp_path / "c.ply", "--do", "split: {l: {filter: x<0}, none: {filter: x>9}}")

    def full(scene: Gaussians, path: Path, writing: Writing) -> None:
        save(scene, path, writing)
        if "high" in path.name:
            raise InputError(f"{path}: No space left on device")

    monkeypatch.setattr("lyra.engine.commands.scene_files.save", full)
    refuses(f"{tmp_path}/b-high.ply: No space left on device", a, tmp_path / "b.ply", "--overwrite", *two)
    assert names(tmp_path) == ["a.ply", "b-high.ply"] and (tmp_path / "b-high.ply").read_bytes() == b"mine"


def test_an_output_may_take_the_place_of_its_input(a: Path, tmp_path: Path, refuses) -> None:
    before, done = load(a), tmp_path / "done.json"
    done.write_text("mine")
    refuses("done.json: is there already", a, tmp_path / "b.ply", "--do", "keep: {all: []}", "--record", done)
    refuses("is there already", a, a, "--do", "delete: {filter: x>0}")
    run(a, a, "--do", "delete: {filter: x>0}", "--overwrite")
    torch.testing.assert_close(load(a).means, before.means[before.means[:, 0] <= 0])


@pytest.mark.filterwarnings("default:delete means none")
def test_nothing_selected_is_a_warning(a: Path, tmp_path: Path, capsys) -> None:
    run(a, tmp_path / "b.ply", "--do", "delete: {filter: x>99}")
    assert "lyra edit: warning: delete means none of 300 splats" in capsys.readouterr().err


def test_refusals(a: Path, tmp_path: Path, refuses) -> None:
    b, script = tmp_path / "b.ply", tmp_path / "script.yaml"
    script.write_text("- delete: {filter: x<0}\n- merge: {file: none.ply}\n")
    refuses("1 files given", a, "--do", "keep: {all: []}")
    refuses("4 files given", a, script, script, b)
    refuses("no operation is given", a, b)
    refuses("script.yaml: operation 2: merge: file: ", a, script, b)
    refuses("none.yaml: no such file", a, tmp_path / "none.yaml", b)
    refuses("--do 'keep: 1': operation 1: keep: 1 given", a, b, "--do", "keep: 1")
    refuses("operations follow a split", a, b, "--do", "split: {a: {all: []}}", "--do", "keep: {all: []}")
    refuses("names no format", a, tmp_path / "b.xyz", "--do", "keep: {all: []}")
    refuses("no such file", tmp_path / "none.ply", b, "--do", "keep: {all: []}")
    refuses("no splat is left after the operations", a, b, "--do", "delete: {all: []}")
    refuses("--spz-version 7", a, b, "--do", "keep: {all: []}", "--spz-version", 7)
    refuses("give a name in a folder", a, tmp_path / "none" / "b.ply", "--do", "keep: {all: []}")
    (tmp_path / "not.ply").write_bytes(b"hello")
    refuses("operation 1, merge: ", a, b, "--do", f"merge: {{file: {tmp_path}/not.ply}}")
    assert names(tmp_path) == ["a.ply", "not.ply", "script.yaml"]


def test_help_tells_the_options(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["edit", "--help"])
    told = capsys.readouterr().out
    assert all(f"--{name}" in told for name in ("do", "record", "licence", "consent", "overwrite", "spz-version"))


def test_the_page_shows_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGE.read_text()
    yaml, shell = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)[0] for kind in ("yaml", "sh"))
    room, plant = made(2000, degree=2), made(30, seed=1)
    room.opacities[::20] = 0.03
    save(room, tmp_path / "room.ply")
    save(plant, tmp_path / "plant.ply")
    (tmp_path / "tidy.yaml").write_text(yaml)
    monkeypatch.chdir(tmp_path)
    for line in shell.strip().splitlines():
        assert main(shlex.split(line)[1:]) == 0
    top, bottom = load("tidy-top.ply"), load("tidy-bottom.ply")
    assert 30 < len(top) + len(bottom) < 2000 and float(top.means[:, 1].max()) <= 0.9 < float(bottom.means[:, 1].min())
    assert len(load("light.ply")) == int((room.opacities >= 0.2).sum())
    assert torch.equal(load("again.ply").means, load("light.ply").means)
    assert merge([top, bottom]).sh_degree == 2


def test_the_page_names_every_operation_and_selection() -> None:
    page = PAGE.read_text()
    named = re.findall(r"^\| `(\w+):", page, re.MULTILINE)
    selections = {"box", "sphere", "polygon", "color", "filter", "cluster", "all"}
    assert set(named) == {*NAMES.values(), "split"} | selections
