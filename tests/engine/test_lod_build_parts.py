"""Scenes in chunks: how they are divided, that nothing is lost, and that work that was stopped goes on."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats.registry import load, save
from lyra.engine.lod import chunks, parts
from lyra.engine.lod.build import BuildOptions
from lyra.engine.lod.chunks import divide, divided
from lyra.engine.lod.layout import Labels
from lyra.engine.lod.parts import write_division, write_scene
from lyra.engine.lod.store import Store, open_store
from lyra.engine.lod.work import Work
from lyra.engine.scene.gaussians import Gaussians, merge
from lyra.engine.scene.morton import morton_codes

CHUNK = 300
OPTIONS = BuildOptions(chunk=CHUNK)


def same(one: Gaussians, two: Gaussians) -> bool:
    return all(torch.equal(tensor, getattr(two, name)) for name, tensor in one.tensors().items())


def sorted_by_means(scene: Gaussians) -> Gaussians:
    return scene.select(torch.from_numpy(np.lexsort(scene.means.numpy().T)))


@pytest.mark.parametrize("sample", [1 << 22, 128])
def test_chunks_are_runs_of_the_curve(
    sample: int, tmp_path: Path, stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "SAMPLE", sample)
    monkeypatch.setattr("lyra.engine.formats.format.BLOCK", 700)
    scene = stored_trees.scene_of(5000, degree=1)
    division = divide(scene, tmp_path, CHUNK)
    assert divided(tmp_path) == division
    read = [division.read(piece) for piece in division.pieces()]
    assert max(map(len, read)) <= CHUNK and len(read) < 3 * 5000 / CHUNK
    assert same(sorted_by_means(merge(read)), sorted_by_means(scene))
    low, high = (part.double().numpy() for part in (scene.means.amin(dim=0), scene.means.amax(dim=0)))
    codes = [morton_codes(part.means, low, high) for part in read]
    several = np.flatnonzero(np.diff([file for file, _, _ in division.pieces()]))  # pieces of one file share a run
    assert all(codes[i].max() < codes[i + 1].min() for i in several)
    order = {row.tobytes(): i for i, row in enumerate(scene.means.numpy())}
    for part in read:
        places = [order[row.tobytes()] for row in part.means.numpy()]
        assert places == sorted(places)


def test_what_is_at_one_point_is_cut_too(tmp_path: Path, stored_trees: ModuleType) -> None:
    """Where Morton's curve cannot tell splats apart: a heap, seen from very far away."""
    scene = stored_trees.scene_of(2000)
    scene.means[:] = scene.means * 1e-9
    scene.means[0] = 1e6
    division = divide(scene, tmp_path, CHUNK)
    read = [division.read(piece) for piece in division.pieces()]
    assert max(map(len, read)) <= CHUNK and sum(map(len, read)) == 2000


def test_invalid_splats_are_left_out(tmp_path: Path, stored_trees: ModuleType) -> None:
    scene = stored_trees.scene_of(1000)
    scene.means[3, 1], scene.scales[500, 0] = float("nan"), -1.0
    with pytest.warns(UserWarning, match="dropped 2 of 1000 splats: NaN, Inf or out of range"):
        division = divide(scene, tmp_path, CHUNK)
    assert sum(division.counts) == 998
    scene.means[:] = float("inf")
    with pytest.raises(InputError, match="no valid splats among 1000"):
        divide(scene, tmp_path, CHUNK)


def assert_spheres(store: Store) -> None:
    """A page's sphere holds those of all nodes from which it hangs, and its error is their largest."""
    pages = [store.decode(page, store.read(page)) for page in range(len(store))]
    for number, entry in enumerate(store.directory[1:], 1):
        page = pages[entry["parent"]]
        above = (page.children >> 16) == number - int(entry["parent"])
        away = (page.gaussians.means[above].double() - torch.from_numpy(entry["centre"].astype(float))).norm(dim=1)
        assert bool(above.any()) and float((away + page.radii[above]).max()) <= float(entry["radius"]) * (1 + 1e-6)
        assert float(page.errors[above].max()) == float(entry["error"])


@pytest.mark.parametrize("quality", [False, True])
@pytest.mark.parametrize("kept", [1, 400, 1 << 16])
def test_the_leaves_of_a_file_in_chunks_are_the_scene(
    kept: int, quality: bool, tmp_path: Path, stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many nodes of the chunks go to the first page: their roots, some, all."""
    monkeypatch.setattr(parts, "CAPACITY", kept)
    scene, path = stored_trees.scene_of(2500, degree=2), tmp_path / "a.lyra"
    told: list[tuple[int, int]] = []
    options = BuildOptions(quality, 0, CHUNK)
    write_scene(scene, path, options, Labels(), progress=lambda *done: told.append(done))
    assert told == sorted(told) and told[-1] == (2500, 2500)
    assert [file.name for file in tmp_path.iterdir()] == ["a.lyra"]
    with open_store(path) as store:
        stored_trees.assert_rules(stored_trees.whole(store))
        assert_spheres(store)
        first = int(store.directory["nodes"][0])
        assert len(store) == 1 if kept == 1 << 16 else len(store) > 9 and kept / 2 < first <= max(kept, 30)
    back = load(path)
    nearest = torch.cdist(scene.means.double(), back.means.double()).argmin(dim=1)
    assert (nearest.bincount(minlength=2500) == 1).all()
    found = back.select(nearest)
    torch.testing.assert_close(found.means, scene.means, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.scales, scene.scales, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.opacities, scene.opacities, rtol=0, atol=2e-5)
    torch.testing.assert_close(found.sh, scene.sh, rtol=1e-3, atol=8e-3)


def test_small_scenes_are_built_whole(tmp_path: Path, stored_trees: ModuleType) -> None:
    """The file does not depend on the size of a chunk that is not reached."""
    scene = stored_trees.scene_of(600)
    for name, chunk in (("a", 600), ("b", 1 << 20)):
        write_scene(scene, tmp_path / name, BuildOptions(chunk=chunk), Labels())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


class Stopped(Exception):
    """As if the process were killed."""


def test_stopped_work_goes_on(tmp_path: Path, stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "CAPACITY", 300)
    scene, options = stored_trees.scene_of(2500), OPTIONS
    write_scene(scene, tmp_path / "a.lyra", options, Labels())
    work = Work(tmp_path / "b.lyra", {"key": 1})
    assert (work.found, work.division()) == ("nothing", None)
    work.begin()
    division = work.divide(scene, CHUNK, lambda done, total: None)
    built, build_tree = [], parts.build_tree

    def stops(*arguments, **options):
        if len(built) % 4 == 3:
            built.append(0)
            raise Stopped
        built.append(1)
        return build_tree(*arguments, **options)

    monkeypatch.setattr(parts, "build_tree", stops)
    for tries in range(1, 10):
        work = Work(tmp_path / "b.lyra", {"key": 1})
        assert work.found == "same" and work.division() == division and work.parts == 3 * (tries - 1) + (tries > 1)
        try:
            write_division(division, tmp_path / "b.lyra", options, Labels())
            break
        except Stopped:
            assert not (tmp_path / "b.lyra").exists()
            with (work.folder / "pages").open("ab") as stream:
                stream.write(b"half a page")  # it was killed while it wrote the next
            (work.folder / f"part-{work.parts:06d}.npz").write_bytes(b"half a record")
    assert tries > 2 and sum(built) == len(division.pieces())
    work.finish()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.lyra", "b.lyra"]
    assert (tmp_path / "a.lyra").read_bytes() == (tmp_path / "b.lyra").read_bytes()


def test_other_work_is_told_apart(tmp_path: Path) -> None:
    Work(tmp_path / "a.lyra", {"key": 1}).begin()
    other = Work(tmp_path / "a.lyra", {"key": 2})
    assert (other.found, other.division()) == ("other", None)
    other.begin()
    assert Work(tmp_path / "a.lyra", {"key": 2}).found == "same"
    (tmp_path / "b.lyra.part").mkdir()
    assert Work(tmp_path / "b.lyra", {}).found == "nothing"
    (tmp_path / "b.lyra.part" / "precious").write_bytes(b"1")
    with pytest.raises(InputError, match=r"b.lyra.part: is in the way and no unfinished build: move it away"):
        Work(tmp_path / "b.lyra", {})


def test_damaged_chunks_are_told(tmp_path: Path, stored_trees: ModuleType) -> None:
    division = divide(stored_trees.scene_of(1000), tmp_path, CHUNK)
    file = tmp_path / "chunk-000001"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(InputError, match="chunk-000001: truncated, delete .* and begin anew"):
        write_division(division, tmp_path / "a.lyra", OPTIONS, Labels())


@pytest.mark.parametrize("name", ["a.ply", "a.compressed.ply", "a.spz", "a.sog", "a.glb", "a.splat"])
def test_readers_write_where_they_are_told(name: str, tmp_path: Path, stored_trees: ModuleType) -> None:
    from lyra.engine.formats.format import Reading

    save(stored_trees.scene_of(1000, degree=1), tmp_path / name)
    work = Work(tmp_path / "b.lyra", {})
    work.begin()
    mapped = load(tmp_path / name, Reading(allocate=work.allocate, progress=lambda done, total: work.release()))
    assert sum(file.stat().st_size for file in work.folder.glob("scene-*")) == sum(
        tensor.nbytes for tensor in mapped.tensors().values()
    )
    assert same(mapped, load(tmp_path / name))
