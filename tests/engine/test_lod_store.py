"""Files of pages: what is written is read, by the rules of a tree; what is damaged is noticed, by name."""

import dataclasses
import json
import os
import re
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats.loss import errors
from lyra.engine.lod import pages as pages_module
from lyra.engine.lod.columns import layout
from lyra.engine.lod.layout import ENTRY, HEADER, Header, Labels, header_bytes, read_header
from lyra.engine.lod.pages import paginate
from lyra.engine.lod.store import DamagedPage, UnreachablePage, leaves, open_store
from lyra.engine.lod.tree import Tree
from lyra.engine.lod.writer import StoreWriter, write_store
from lyra.engine.scene.gaussians import Gaussians

LABELS = Labels({"base": 1.5}, ("far", "near"), '{"made_by": "test"}', True)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "CAPACITY", 256)


@pytest.fixture(scope="module")
def tree(stored_trees: ModuleType) -> Tree:
    return stored_trees.merged_tree(stored_trees.scene_of(3000, 2), seed=1)


@pytest.fixture
def file(tree: Tree, tmp_path: Path) -> Path:
    write_store(tmp_path / "scene.lyra", tree, LABELS)
    return tmp_path / "scene.lyra"


def assert_leaves(tree: Tree, scene: Gaussians) -> None:
    """The leaves of a tree in any order; each is nearest to itself."""
    kept = tree.gaussians.select(tree.counts == 0)
    index = torch.cdist(kept.means, scene.means, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
    assert len(scene) == len(kept) == len(index.unique())
    assert_same(kept, scene.select(index))


def assert_same(first: Gaussians, second: Gaussians) -> None:
    assert len(first) == len(second)
    found = errors(first, second)
    limits = {"position": 2e-6, "scale": 2e-4, "rotation": 0.25, "color": 6e-4, "sh": 0.006}
    for name, limit in limits.items():
        assert found[name]["max"] <= limit, name
    assert torch.allclose(first.opacities, second.opacities, rtol=1.1e-4, atol=1.6e-5)


def test_a_tree_comes_back(tree: Tree, file: Path, stored_trees: ModuleType) -> None:
    with open_store(file) as store:
        assert len(store) > 12
        again, order = stored_trees.whole(store), torch.from_numpy(paginate(tree).order).long()
        stored_trees.assert_rules(again)
        assert_same(tree.gaussians.select(order), again.gaussians)
        assert torch.equal(tree.counts[order], again.counts)
        means = tree.gaussians.means[tree.children[order].clamp(min=0).long()]
        inner = again.counts > 0
        assert torch.allclose(means[inner], again.gaussians.means[again.children.long()][inner], atol=2e-6)
        for told, made in ((tree.errors, again.errors), (tree.radii, again.radii)):
            assert torch.allclose(told[order], made, rtol=0.02)
        assert (again.errors >= tree.errors[order]).all()
        for name, tensor in again.gaussians.tensors().items():
            assert tensor.dtype == torch.float32, name

        said = store.metadata
        assert (said.splats, said.nodes, said.sh_degree, said.labels) == (3000, len(tree.counts), 2, LABELS)
        assert np.allclose([said.low, said.high], torch.stack(tree.gaussians.means.aminmax(dim=0)))
        scene = leaves(store)
    assert_leaves(tree, scene)


def test_spheres_of_pages_hold_what_they_hang_from(file: Path, stored_trees: ModuleType) -> None:
    with open_store(file) as store:
        pages = [store.decode(page, store.read(page)) for page in range(len(store))]
        for number, entry in enumerate(store.directory):
            parent = pages[max(int(entry["parent"]), 0)]
            above = parent.children >> 16 == number - entry["parent"]
            above = above if number else torch.arange(len(parent.counts)) == 0
            assert above.any()
            means, radii = parent.gaussians.means[above].double(), parent.radii[above].double()
            reach = (means - torch.tensor(entry["centre"]).double()).norm(dim=1) + radii
            assert float(reach.max()) <= entry["radius"] <= 1.8 * float(reach.max())
            assert entry["error"] == parent.errors[above].max()
            low, high = torch.stack(pages[number].gaussians.means.aminmax(dim=0)).numpy()
            assert np.allclose(entry["low"], low) and np.allclose(entry["high"], high)


@pytest.mark.parametrize("n", [1, 2, 9])
def test_small_trees(tmp_path: Path, stored_trees: ModuleType, n: int) -> None:
    tree = stored_trees.merged_tree(stored_trees.scene_of(n, 3))
    write_store(tmp_path / "a.lyra", tree)
    with open_store(tmp_path / "a.lyra") as store:
        stored_trees.assert_rules(stored_trees.whole(store))
        assert_leaves(tree, leaves(store))
        assert store.metadata.labels == Labels()


def test_the_same_bytes_and_nothing_else(tree: Tree, file: Path) -> None:
    write_store(file.with_name("again.lyra"), tree, LABELS)
    assert file.read_bytes() == file.with_name("again.lyra").read_bytes()
    assert sorted(os.listdir(file.parent)) == ["again.lyra", "scene.lyra"]
    told: list[tuple[int, int]] = []
    write_store(file, tree, progress=lambda *at: told.append(at))
    assert told == sorted(told) and told[-1] == (len(tree.counts),) * 2


def test_deep_chains_and_far_scenes(tmp_path: Path, stored_trees: ModuleType) -> None:
    """Each node the parent of a leaf and of the next; errors that hardly grow; a thousand units from the origin."""
    n = 401
    scene = stored_trees.scene_of(n, 0)
    scene.means[:] = scene.means * 0.1 + 1000
    level = (torch.arange(n) + 1) // 2
    children = torch.where((torch.arange(n) % 2 == 0) & (torch.arange(n) < n - 1), torch.arange(n) + 1, -1).int()
    counts = torch.where(children >= 0, 2, 0).int()
    depth = int(level.max())
    tree_errors = torch.where(counts > 0, 1.00011 ** (depth - level).double(), 0.0).float()
    radii = torch.where(counts > 0, 5.0 * (1 + depth - level), 0.0).float()
    tree = Tree(scene, children, counts, tree_errors, radii)
    write_store(tmp_path / "a.lyra", tree)
    with open_store(tmp_path / "a.lyra") as store:
        stored_trees.assert_rules(stored_trees.whole(store))


def test_too_wide(tmp_path: Path, stored_trees: ModuleType) -> None:
    tree = stored_trees.merged_tree(stored_trees.scene_of(20, 0))
    tree = dataclasses.replace(tree, gaussians=dataclasses.replace(tree.gaussians, means=tree.gaussians.means * 1e10))
    with pytest.raises(InputError, match="a.lyra: the scene is wider than the 4.29e.09 of .lyra: scale or crop it"):
        write_store(tmp_path / "a.lyra", tree)
    assert not os.listdir(tmp_path)


def cut(tree: Tree, stored_trees: ModuleType) -> tuple[Tree, dict[int, Tree]]:
    """A top tree and what hangs from those of its leaves that had children."""
    top = np.arange(40)
    children, counts = tree.children.numpy(), tree.counts.numpy()
    end = max(int((children + counts)[top][counts[top] > 0].max()), 40)
    whole = [node for node in range(40) if counts[node] and children[node] + counts[node] <= 40]
    keep = np.concatenate([[0], *(np.arange(children[node], children[node] + counts[node]) for node in whole)])
    assert end > 40 and (np.sort(keep) == np.arange(len(keep))).all()
    hanging = {
        int(node): stored_trees.subtree(tree, int(node))[0] for node in keep if counts[node] and node not in whole
    }
    return stored_trees.part(tree, keep), hanging


def write_parts(path: Path, top: Tree, hanging: dict[int, Tree], radius: float, twice: dict[int, int]) -> None:
    with StoreWriter(path, radius=radius, labels=LABELS) as writer:
        parts = {leaf: writer.add(subtree) for leaf, subtree in hanging.items()}
        writer.finish(top, parts | {leaf: parts[other] for leaf, other in twice.items()})


def test_parts_are_one_tree(tree: Tree, tmp_path: Path, stored_trees: ModuleType) -> None:
    top, hanging = cut(tree, stored_trees)
    assert len(hanging) > 5
    path, radius = tmp_path / "a.lyra", 1.5 * float(tree.radii[0])
    write_parts(path, top, hanging, radius, {})
    assert os.listdir(tmp_path) == ["a.lyra"]
    with open_store(path) as store:
        again = stored_trees.whole(store)
        stored_trees.assert_rules(again)
        assert store.metadata.splats == 3000 and store.metadata.nodes == len(again.counts) == len(tree.counts)
        assert_leaves(tree, leaves(store))
        assert torch.allclose(again.errors[0], tree.errors[0], rtol=0.02)
        starts = store.directory["offset"].tolist()
        assert starts == sorted(starts) and len(set(starts)) == len(starts)
    write_parts(tmp_path / "b.lyra", top, hanging, radius, {})
    assert path.read_bytes() == (tmp_path / "b.lyra").read_bytes()


def test_instances_share_their_bytes(tree: Tree, tmp_path: Path, stored_trees: ModuleType) -> None:
    """The largest part once more at other leaves, each time moved to where that leaf is."""
    top, hanging = cut(tree, stored_trees)
    most = max(hanging, key=lambda leaf: len(hanging[leaf].counts))
    lone = {most: hanging[most]}
    twice = {int(leaf): most for leaf in np.flatnonzero(top.counts.numpy() == 0)[:6] if leaf != most}
    write_parts(tmp_path / "one.lyra", top, lone, 4 * float(tree.radii[0]), {})
    write_parts(tmp_path / "all.lyra", top, lone, 4 * float(tree.radii[0]), twice)
    with open_store(tmp_path / "one.lyra") as one, open_store(tmp_path / "all.lyra") as all_:
        more = len(one) - 1
        assert more > 1 and len(all_) == len(one) + len(twice) * more
        assert (tmp_path / "all.lyra").stat().st_size < (tmp_path / "one.lyra").stat().st_size + len(all_) * 130
        assert len(np.unique(all_.directory["offset"])) == len(one)
        everything = stored_trees.whole(all_)
        stored_trees.assert_rules(everything)
        for leaf in (most, *twice):
            away = (everything.gaussians.means[: len(top)] - top.gaussians.means[leaf]).norm(dim=1)
            page = int(everything.children[away.argmin()])
            first = next(p for p in range(1, len(all_)) if all_.directory["nodes"][:p].sum() == page)
            shift = top.gaussians.means[leaf] - top.gaussians.means[most]
            for offset in range(more):
                here = all_.decode(first + offset, all_.read(first + offset))
                there = one.decode(1 + offset, one.read(1 + offset))
                assert torch.allclose(here.gaussians.means, there.gaussians.means + shift, atol=1e-5)
                assert torch.equal(here.children, there.children) and torch.equal(here.errors, there.errors)


def test_parts_in_wrong_places(tree: Tree, tmp_path: Path, stored_trees: ModuleType) -> None:
    top, hanging = cut(tree, stored_trees)
    leaf, some = next(iter(hanging.items()))
    path, radius = tmp_path / "a.lyra", 2 * float(tree.radii[0])
    with StoreWriter(path, radius=radius) as writer, StoreWriter(path, radius=0.1) as other:
        part, foreign = writer.add(some), other.add(some)
        with pytest.raises(InputError, match="a part comes from another writer"):
            writer.finish(top, {leaf: foreign})
        with pytest.raises(InputError, match="part 0 stands nowhere in the top tree"):
            writer.finish(top, {})
        for wrong in (0, len(top.counts)):
            with pytest.raises(InputError, match=f"node {wrong} of the top tree is no leaf"):
                writer.finish(top, {wrong: part})
        with pytest.raises(InputError, match="a.lyra: the root's sphere has radius .*, 0.1 was promised"):
            other.finish(top, {leaf: foreign})
    with pytest.raises(InputError, match="give a name in a folder that can be written"):
        StoreWriter(tmp_path / "no" / "a.lyra", radius=1)
    assert not os.listdir(tmp_path)


def test_every_byte_of_the_head_counts(file: Path) -> None:
    whole = file.read_bytes()
    header = read_header("a", whole)
    for place in [*range(HEADER.size + 40), *range(HEADER.size + 40, header.end, 7)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="scene.lyra: ") as caught:
            open_store(file)
        assert "\n" not in str(caught.value)


def test_every_byte_of_a_page_counts(tree: Tree, file: Path, stored_trees: ModuleType) -> None:
    whole = file.read_bytes()
    with open_store(file) as store:
        directory, scene = store.directory.copy(), leaves(store)
    rng = np.random.default_rng(0)
    for page in rng.permutation(np.arange(1, len(directory)))[:10]:
        offset, size = int(directory["offset"][page]), int(directory["bytes"][page])
        damaged = bytearray(whole)
        damaged[offset + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        with open_store(file) as store:
            for other in range(len(store)):
                if other != page:
                    store.read(other)
            with pytest.raises(DamagedPage, match=rf"scene.lyra: page {page}: its checksum is wrong$") as caught:
                store.read(int(page))
            assert (caught.value.file, caught.value.page) == (str(file), page)
            with pytest.warns(UserWarning, match=rf"page {page} \(its checksum is wrong\); coarser nodes stand"):
                rest = leaves(store)
        gone = {int(page)}
        for below in range(len(directory)):
            if directory["parent"][below] in gone:
                gone.add(below)
        lost = int(directory["leaves"][list(gone)].sum())
        stand_ins = len(rest) - (len(scene) - lost)
        assert 0 < stand_ins < lost
    place = int(directory["offset"][0])
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with (
        open_store(file) as store,
        pytest.raises(InputError, match="page 0: its checksum is wrong: nothing can"),
    ):
        leaves(store)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"pages": 0}, "0 pages"),
        ({"pages": 65536}, "65536 pages"),
        ({"metadata_bytes": 1 << 21}, "2097152 bytes of metadata"),
        ({"file_bytes": 1 << 63}, "its parts do not lie"),
        ({"file_bytes": 100}, "its parts do not lie"),
        ({"metadata_place": 8}, "its parts do not lie"),
        ({"directory_place": 64}, "its parts do not lie"),
        ({"directory_place": 1 << 62}, "its parts do not lie"),
        ({"directory_place": 1 << 62, "file_bytes": (1 << 63) - 1}, "bytes where 9223372036854775807 belong"),
        ({"pages": 60_000, "file_bytes": 1 << 40}, "bytes where 1099511627776 belong"),
        ({"pages": 1}, "its directory is damaged"),
    ],
)
def test_forged_headers(file: Path, changes: dict[str, int], told: str) -> None:
    """Nothing is read, or made room for, that the file cannot hold."""
    whole = file.read_bytes()
    header = read_header("a", whole)
    file.write_bytes(header_bytes(header._replace(**changes)) + whole[HEADER.size :])
    with pytest.raises(InputError, match=f"scene.lyra: .*{told}"):
        open_store(file)


def test_cut_short(file: Path) -> None:
    whole = file.read_bytes()
    with open_store(file) as store:
        directory = store.directory.copy()
    header = read_header("a", whole)
    ends = [
        0,
        3,
        4,
        HEADER.size,
        header.metadata_place + header.metadata_bytes,
        header.directory_place + ENTRY.itemsize,
    ]
    for end in {max(0, end + step) for end in (*ends, header.end) for step in (-1, 0, 1)} - {
        header.end,
        header.end + 1,
    }:
        file.write_bytes(whole[:end])
        with pytest.raises(InputError, match="scene.lyra: "):
            open_store(file)
    for page in (0, 1, 7, len(directory) - 1):
        for step in (-1, 0, 1):
            end = int(directory["offset"][page] + directory["bytes"][page]) + step
            if end >= len(whole):
                continue
            file.write_bytes(whole[:end])
            there = page + (step >= 0)
            told = rf"truncated, {len(whole) - end} bytes and {len(directory) - there} of {len(directory)} pages lost"
            with pytest.warns(UserWarning, match=told):
                store = open_store(file)
            with store:
                for number in range(len(store)):
                    if number < there:
                        store.decode(number, store.read(number))
                    else:
                        with pytest.raises(DamagedPage, match=rf"page {number}: truncated, \d+ of \d+ bytes"):
                            store.read(number)
                if there:
                    with pytest.warns(UserWarning, match="coarser nodes stand in"):
                        assert len(leaves(store)) > 0
    file.write_bytes(whole + b"x")
    with pytest.raises(InputError, match=f"has {len(whole) + 1} bytes where {len(whole)} belong"):
        open_store(file)


def test_a_file_that_changes_while_it_is_open(file: Path) -> None:
    whole = file.read_bytes()
    with open_store(file) as store:
        last = len(store) - 1
        with file.open("r+b") as stream:
            stream.truncate(len(whole) // 2)
        store.read(1)
        with pytest.raises(DamagedPage, match=f"page {last}: truncated, 0 of"):
            store.read(last)
        file.write_bytes(whole)
        file.unlink()
        store.read(last)
    with pytest.raises(UnreachablePage, match="page 1: "):
        store.read(1)


def test_many_threads(file: Path) -> None:
    with open_store(file) as store, ThreadPoolExecutor(8) as pool:
        wanted = [page for _ in range(20) for page in range(len(store))]
        crcs = list(pool.map(lambda page: zlib.crc32(store.read(page)), wanted))
        assert crcs == store.directory["crc"][wanted].tolist()


def forged(whole: bytes, change: Callable[[np.ndarray, dict], None]) -> bytes:
    """The file with another directory or metadata, its checksums made right."""
    header = read_header("a", whole)
    directory = np.frombuffer(whole, ENTRY, header.pages, header.directory_place).copy()
    metadata = json.loads(whole[HEADER.size : header.directory_place])
    change(directory, metadata)
    text = json.dumps(metadata, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    longer = len(text) - header.metadata_bytes
    directory["offset"] += np.uint64(max(longer, 0)) if directory["offset"][3] else np.uint64(0)
    crcs, place = (zlib.crc32(text), zlib.crc32(directory.tobytes())), header.directory_place + longer
    made = Header(len(whole) + longer, HEADER.size, len(text), crcs[0], place, header.pages, crcs[1])
    return header_bytes(made) + text + directory.tobytes() + whole[header.end :]


@pytest.mark.parametrize(
    "field, value, told",
    [
        ("offset", 0, "the place of page 3"),
        ("offset", 1 << 63, "the place of page 3"),
        ("bytes", 1 << 31, "the place of page 3"),
        ("nodes", 0, "the size of page 3"),
        ("nodes", 1 << 31, "the size of page 3"),
        ("nodes", 5, "the size of page 3"),
        ("leaves", 70_000, "the size of page 3"),
        ("parent", -1, "the parent of page 3"),
        ("parent", 3, "the parent of page 3"),
        ("error", -1, "the range of page 3"),
        ("error", np.nan, "the range of page 3"),
        ("radius", np.inf, "the range of page 3"),
        ("centre", np.nan, "the range of page 3"),
        ("low", np.nan, "the range of page 3"),
        ("low", 1e30, "the range of page 3"),
        ("high", np.inf, "the range of page 3"),
        ("scales", 1e30, "the range of page 3"),
        ("sh_steps", np.inf, "the range of page 3"),
    ],
)
def test_forged_directories(file: Path, field: str, value: float, told: str) -> None:
    def change(directory: np.ndarray, metadata: dict) -> None:
        directory[field][3] = value

    file.write_bytes(forged(file.read_bytes(), change))
    with pytest.raises(InputError, match=f"scene.lyra: {told} does not fit, build it again"):
        open_store(file)


@pytest.mark.parametrize(
    "key, value, told",
    [
        ("splats", 10**9, "its pages have 3000 leaves where 1000000000 are declared"),
        ("nodes", 5, "its pages have .* nodes where 5 are declared"),
        ("sh_degree", 4, "SH degree 4"),
        ("bounds", [[0, 0], [1, 1]], "metadata does not fit"),
        ("bounds", [[0, 0, 0], [1, 1, float("nan")]], "metadata does not fit"),
        ("levels", 7, "metadata does not fit"),
        ("options", 7, "metadata does not fit"),
    ],
)
def test_forged_metadata(file: Path, key: str, value: object, told: str) -> None:
    file.write_bytes(forged(file.read_bytes(), lambda directory, metadata: metadata.update({key: value})))
    with pytest.raises(InputError, match=f"scene.lyra: .*{told}"):
        open_store(file)


def test_forged_pages(file: Path) -> None:
    with open_store(file) as store:
        assert (store.decode(0, store.read(0)).children.numpy()[0] == 1) and len(store) > 3
        data = bytearray(store.read(0))
        counts = 4 * 256
        links = np.frombuffer(bytes(data), "<u4", 256).copy()
        inner = np.flatnonzero((links < 1 << 16) & (links > 0))[1]
        cases = {
            "before their parents": {4 * int(inner): (int(inner)).to_bytes(4, "little")},
            "children beyond the end of their page": {4 * int(inner): (255).to_bytes(4, "little")},
            "children in page 40000 of": {4 * int(inner): (40000 << 16).to_bytes(4, "little")},
            "a page that does not hang from this one": {4 * int(inner): ((len(store) - 1) << 16).to_bytes(4, "little")},
            "a node has two parents": {4 * int(inner): int(links[inner] - 1).to_bytes(4, "little")},
            "a place without children": {counts: b"\0"},
            "leaves where": {0: b"\xff" * 4, counts: b"\0"},
        }
        for told, changes in cases.items():
            forged_page = bytearray(data)
            for place, value in changes.items():
                forged_page[place : place + len(value)] = value
            with pytest.raises(DamagedPage, match=f"scene.lyra: page 0: .*{told}"):
                store.decode(0, bytes(forged_page))
        place = layout(256, 2)["colors"][0]
        forged_page = bytearray(data)
        forged_page[place : place + 2] = np.float16("nan").tobytes()
        with pytest.raises(DamagedPage, match="a colour is no number"):
            store.decode(0, bytes(forged_page))


def test_not_a_store(tmp_path: Path) -> None:
    foreign = (b"PLY\n" * 99, "begins with 50 4c 59 0a instead of LYRA")
    for data, told in (foreign, (b"LYRA" + bytes(99), "version 0, only 1")):
        (tmp_path / "a.lyra").write_bytes(data)
        with pytest.raises(InputError, match=told):
            open_store(tmp_path / "a.lyra")
    for path, told in ((tmp_path / "no.lyra", "no such file"), (tmp_path, "not a regular file")):
        with pytest.raises(InputError, match=told):
            open_store(path)


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    scene = Gaussians(
        means=torch.tensor([[0.0, 0, 0], [-1, 0, 0], [1, 0, 0]]),
        quats=torch.tensor([[1.0, 0, 0, 0]] * 3),
        scales=torch.tensor([[1, 0.5, 0.5], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]),
        opacities=torch.tensor([2, 1, 0.5]),
        sh=torch.tensor([[[0.5, 0, 0]], [[1, 0, 0]], [[0, 0, 0]]]),
    )
    links, counts = torch.tensor([1, -1, -1]).int(), torch.tensor([2, 0, 0]).int()
    tree = Tree(scene, links, counts, torch.tensor([0.5, 0, 0]), torch.tensor([1.001, 0, 0]))
    write_store(tmp_path / "a.lyra", tree)
    text = (Path(__file__).resolve().parents[2] / "docs" / "store.md").read_text()
    rows = re.findall(r"^ *(\d+)((?:  ?[0-9a-f]{2}){16})$", text, re.MULTILINE)
    assert [int(place) for place, _ in rows] == list(range(0, 480, 16))
    assert bytes.fromhex("".join(row for _, row in rows)) == (tmp_path / "a.lyra").read_bytes()
