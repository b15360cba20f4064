"""The .lyra as a scene file: leaves out, a tree in."""

import dataclasses
import random
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats.format import Reading, Writing
from lyra.engine.formats.loss import conversion_loss
from lyra.engine.formats.registry import about, format_of_name, load, outputs, recognise, save
from lyra.engine.lod import pages as pages_module
from lyra.engine.lod.build import BuildOptions
from lyra.engine.lod.store import open_store
from lyra.engine.lod.writer import StoreWriter
from lyra.engine.scene.gaussians import Gaussians


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "CAPACITY", 256)


@pytest.fixture
def scene(stored_trees: ModuleType) -> Gaussians:
    return stored_trees.scene_of(2000, 2)


def test_there_and_back(scene: Gaussians, tmp_path: Path) -> None:
    path = tmp_path / "a.lyra"
    told: list[tuple[int, int]] = []
    assert save(scene, path, Writing(antialiased=True, note='{"made_by": "test"}')) == 2000
    assert recognise(path).name == "lyra" and outputs(path) == [path]
    said = about(path)
    assert (said.splats, said.levels, said.antialiased, said.note) == (2000, 1, True, '{"made_by": "test"}')
    with open_store(path) as store:
        assert said.kind == f".lyra version 1, {store.metadata.nodes} nodes in {len(store)} pages" and len(store) > 5
        assert store.metadata.labels.options == dataclasses.asdict(BuildOptions())
    back = load(path, Reading(progress=lambda *at: told.append(at)))
    assert len(back) == 2000 and told[-1] == (2000, 2000) and told == sorted(told)
    with pytest.raises(InputError, match="level 1 is out of range"):
        load(path, Reading(level=1))


def test_losses_splat_by_splat(scene: Gaussians) -> None:
    scene.opacities[:7], scene.means[:7] = 0.5, torch.tensor([1.0, 2.0, 3.0])  # in one place, and two alike
    scene.scales[1], scene.sh[1] = scene.scales[0].clone(), scene.sh[0].clone()
    scene.quats[1] = scene.quats[0].clone()
    found = conversion_loss(scene, format_of_name(Path("a.lyra")))
    limits = {"position": 2e-6, "scale": 2e-4, "rotation": 0.25, "opacity": 2e-5, "color": 3e-4, "sh": 0.006}
    assert {name: found[name]["max"] <= limit for name, limit in limits.items()} == dict.fromkeys(limits, True)


def test_stand_ins_are_opaque_at_most(scene: Gaussians, tmp_path: Path) -> None:
    path = tmp_path / "a.lyra"
    scene.opacities[:], scene.means[:] = 0.9, scene.means * 0.2  # so that merged splats hold more ink than they cover
    save(scene, path)
    data = bytearray(path.read_bytes())
    with open_store(path) as store:
        for entry in store.directory[1:]:
            data[int(entry["offset"])] ^= 1
        assert (store.decode(0, store.read(0)).gaussians.opacities > 1).any()
    path.write_bytes(data)
    with pytest.warns(UserWarning, match=r"damaged: page 1 \(its checksum is wrong\), .*; coarser nodes stand in"):
        back = load(path)
    assert 0 < len(back) <= 256 and float(back.opacities.max()) <= 1


def test_a_bomb_of_instances(tmp_path: Path, stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "CAPACITY", 1 << 16)
    tree = stored_trees.merged_tree(stored_trees.scene_of(3000, 0))
    top = stored_trees.merged_tree(stored_trees.scene_of(4000, 0))
    with StoreWriter(tmp_path / "a.lyra", radius=100) as writer:
        part = writer.add(tree)
        writer.finish(top, {int(leaf): part for leaf in (top.counts == 0).nonzero()[:3000]})
    assert about(tmp_path / "a.lyra").splats == 3000 * 3000 + 1000
    with pytest.raises(InputError, match="9001000 splats expand to 504056000 bytes, its size allows .*: render"):
        load(tmp_path / "a.lyra")


def test_damage_anywhere(scene: Gaussians, tmp_path: Path) -> None:
    path = tmp_path / "a.lyra"
    save(scene, path)
    whole, loaded = path.read_bytes(), 0
    rng = random.Random(3)
    for case in range(60):
        place = rng.randrange(3000 if case % 2 else len(whole))
        damaged = bytearray(whole if case % 3 else whole[: place + 1])
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(coarser nodes stand in|pages lost)")
            try:
                loaded += len(load(path)) > 0
            except InputError as error:
                assert "\n" not in str(error) and str(error).startswith(str(path))
    assert 10 < loaded < 50
