"""`lyra lod build` as typed, in the process."""

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lyra.engine.cli import main
from lyra.engine.formats.registry import about, load, save
from lyra.engine.lod import parts
from lyra.engine.lod.store import open_store
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.provenance import read_note

SMALLEST = 1000  # chunk


@pytest.fixture
def scene(stored_trees: ModuleType) -> Gaussians:
    return stored_trees.scene_of(3500, degree=1)


@pytest.fixture
def source(scene: Gaussians, tmp_path: Path) -> Path:
    save(scene, tmp_path / "a.ply")
    return tmp_path / "a.ply"


@pytest.fixture
def stream(stored_trees: ModuleType, tmp_path: Path) -> Path:
    """A streamed SOG of two levels."""
    folder, counts = tmp_path / "stream", (600, 150)
    lods = {}
    for level, count in enumerate(counts):
        (folder / f"{level}_0").mkdir(parents=True, exist_ok=True)
        save(stored_trees.scene_of(count, seed=level), folder / f"{level}_0" / "meta.json")
        lods[str(level)] = {"file": level, "offset": 0, "count": count}
    tree = {"bound": {"min": [0, 0, 0], "max": [1, 1, 1]}, "lods": lods}
    names = [f"{level}_0/meta.json" for level in range(2)]
    (folder / "lod-meta.json").write_text(json.dumps({"lodLevels": 2, "filenames": names, "tree": tree}))
    return folder / "lod-meta.json"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What it says, of a run that went well."""
    assert main(["lod", "build", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_small_and_large_scenes(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = tmp_path / "small.lyra", tmp_path / "large.lyra"
    assert run(capsys, source, small, "--licence", "CC0-1.0").startswith(f"wrote {small}: 3,500 splats, ")
    run(capsys, source, large, "--chunk", SMALLEST)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.ply", "large.lyra", "small.lyra"]
    means = [load(path).means.double() for path in (small, large)]
    distances = torch.cdist(*means).min(dim=1).values
    assert len(means[0]) == len(means[1]) == 3500 and distances.max() < 1e-5
    with open_store(small) as one, open_store(large) as two:
        assert len(two) == len(one) == 1 and two.metadata.nodes != one.metadata.nodes
        assert one.metadata.labels.options == {"quality": False, "views": 40, "chunk": 1 << 20}
    note = read_note(about(small).note)
    assert note is not None and note.licence == "CC0-1.0" and note.sources[0].name == "a.ply"
    assert note.operations == ({"lod": {"quality": False, "views": 40, "chunk": 1 << 20}},)


def test_convert_builds_the_same_tree(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, source, tmp_path / "a.lyra")
    assert main(["convert", str(source), str(tmp_path / "b.lyra")]) == 0
    assert main(["convert", str(tmp_path / "b.lyra"), str(tmp_path / "c.ply")]) == 0
    with open_store(tmp_path / "a.lyra") as one, open_store(tmp_path / "b.lyra") as two:
        assert [one.read(page) for page in range(len(one))] == [two.read(page) for page in range(len(two))]
    back = load(tmp_path / "c.ply")
    assert torch.equal(back.means, load(tmp_path / "a.lyra").means)


def test_info_tells_nodes_and_pages(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, source, tmp_path / "a.lyra")
    with open_store(tmp_path / "a.lyra") as store:
        told = f".lyra version 1, {store.metadata.nodes} nodes in {len(store)} pages"
    assert main(["info", str(tmp_path / "a.lyra"), "--no-loss"]) == 0
    assert told in capsys.readouterr().out


def test_a_build_that_was_stopped_goes_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, target, part = tmp_path / "whole.lyra", tmp_path / "b.lyra", tmp_path / "b.lyra.part"
    run(capsys, source, whole, "--chunk", SMALLEST)
    build_tree, left = parts.build_tree, [2]

    def stops(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return build_tree(*arguments, **options)

    def stopped(*options: object) -> str:
        monkeypatch.setattr(parts, "build_tree", stops)
        assert main(["lod", "build", str(source), str(target), *map(str, options)]) == 130
        monkeypatch.setattr(parts, "build_tree", build_tree)
        assert part.is_dir() and not target.exists()
        return capsys.readouterr().err

    assert stopped("--chunk", SMALLEST) == "lyra lod: stopped\n"
    left[0] = 1
    assert f"going on with {part}, 2 of" in stopped("--chunk", SMALLEST)
    assert f"going on with {part}, 3 of" in run(capsys, source, target, "--chunk", SMALLEST)
    assert not part.exists() and target.read_bytes() == whole.read_bytes()

    target.unlink()
    left[0] = 1
    stopped("--chunk", SMALLEST)
    left[0] = 1
    assert f"{part} is of another scene, other options or another version: starting anew" in stopped("--chunk", 1200)
    save(load(source).select(slice(0, 3400)), source)
    assert "starting anew" in run(capsys, source, target, "--chunk", 1200)
    assert about(target).splats == 3400 and not part.exists()
    target.unlink()
    left[0] = 1
    stopped("--chunk", 1200)
    assert "starting anew" in run(capsys, source, target)  # whole this time
    assert not part.exists()


def test_levels_of_a_stream_stay(stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, anew, parted = (tmp_path / f"{name}.lyra" for name in ("kept", "anew", "parted"))
    run(capsys, stream, kept)
    run(capsys, stream, anew, "--rebuild")
    run(capsys, stream.parent, parted, "--rebuild", "--chunk", SMALLEST)
    with open_store(kept) as store:
        assert store.metadata.labels.levels == ("600 splats", "150 splats")
        assert store.metadata.labels.options == {"levels": 2} and store.metadata.splats == 600
        assert 600 + 150 < store.metadata.nodes < 600 + 150 + 150
    with open_store(anew) as store, open_store(parted) as other:
        assert store.metadata.labels.levels == () and store.metadata.splats == other.metadata.splats == 600


def test_options_from_a_file(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "lod.yaml"
    config.write_text("quality: true\nviews: 0\nchunk: 2000\n")
    run(capsys, source, tmp_path / "a.lyra", "--config", config, "--chunk", 1500)
    with open_store(tmp_path / "a.lyra") as store:
        assert store.metadata.labels.options == {"quality": True, "views": 0, "chunk": 1500}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "lyra lod: give build"),
        (("prune",), "lyra lod: 'prune' is no command of lyra lod: give build"),
        (("build",), "0 files given: give the scene and then the output"),
        (("build", "no.ply", "a.lyra"), "no.ply: no such file, check the path"),
        (("build", "a.ply", "a.ply"), "a.ply: a tree is written as .lyra alone, give a name that ends in .lyra"),
        (("build", "a.ply", "b.lyra"), "b.lyra: is there already: give another name or --overwrite"),
        (("build", "a.ply", "no/a.lyra"), "no/a.lyra: No such file or directory, give a name in a folder"),
        (("build", "a.ply", "c.lyra", "--chunk", "3"), "--chunk 3 is out of range: give 1000 to 100000000"),
        (("build", "a.ply", "c.lyra", "--views", "-1"), "--views -1 is out of range: give 0 to 1000"),
        (("build", "a.ply", "c.lyra", "--colour"), "see lyra lod build --help"),
        (("build", "a.ply", "c.lyra", "--config", "c.yaml"), "c.yaml: 'fast' is no option, give some of"),
        (("build", "b.lyra", "c.lyra"), "b.lyra: "),
        (("build", "nan.ply", "c.lyra"), "nan.ply: no valid splats among 20"),
        (("build", "a.ply", "d.lyra"), "d.lyra.part: is in the way and no unfinished build: move it away"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else "",
)
def test_bad_input_is_told_in_one_line(
    arguments: tuple[str, ...],
    told: str,
    stored_trees: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    some = stored_trees.scene_of(20)
    save(some, Path("a.ply"))
    save(some, Path("nan.ply"))
    data = Path("nan.ply").read_bytes()
    end = data.index(b"end_header\n") + len(b"end_header\n")
    Path("nan.ply").write_bytes(data[:end] + b"\xff" * (len(data) - end))
    Path("b.lyra").write_bytes(b"LYRA")
    Path("c.yaml").write_text("fast: true\n")
    Path("d.lyra.part").mkdir()
    Path("d.lyra.part/mine").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(["lod", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and told in err, err
    assert sorted(tmp_path.rglob("*")) == before
