"""Trees of levels that are there: who is whose parent by brute force, and levels that do not fit."""

import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lyra.engine.formats.format import Reading
from lyra.engine.formats.registry import about, load
from lyra.engine.lod.levels import tree_of_levels
from lyra.engine.lod.tree import Tree, check, parents_of
from lyra.engine.scene.gaussians import Gaussians


def levels_of(stored_trees: ModuleType, *counts: int) -> list[Gaussians]:
    """Level by level other splats of one cube; the SH tell a splat's level and number."""
    levels = [stored_trees.scene_of(n, degree=0, seed=i) for i, n in enumerate(counts)]
    for i, level in enumerate(levels):
        level.sh[:, 0, 0], level.sh[:, 0, 1] = i, torch.arange(len(level)).float()
    return levels


def numbers(tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """Level and number of each node; those of merged nodes mean nothing."""
    return tuple(tree.gaussians.sh[:, 0, :2].long().numpy().T)


def test_a_parent_is_the_nearest_splat_of_the_next_level(stored_trees: ModuleType) -> None:
    levels = levels_of(stored_trees, 900, 300, 60)
    told: list[tuple[int, int]] = []
    tree = tree_of_levels(levels, progress=lambda *done: told.append(done))
    check(tree)
    stored_trees.assert_rules(tree)
    assert told == sorted(told) and told[-1] == (1260, 1260)
    level, number = numbers(tree)
    leaves = tree.counts.numpy() == 0
    assert (level[leaves] == 0).all() and sorted(number[leaves]) == list(range(900))
    parents, depth = parents_of(tree).numpy(), np.full(len(level), 3)
    depth[leaves] = 0
    for node in np.flatnonzero(leaves):
        depth[parents[node]] = 1
        depth[parents[parents[node]]] = 2
    for k in (0, 1):
        nodes = np.flatnonzero(depth == k)
        assert sorted(number[nodes]) == list(range(len(levels[k])))  # all of them, each once
        assert (level[parents[nodes]] == k + 1).all()
        owners = number[parents[nodes]]
        nearest = torch.cdist(levels[k].means[number[nodes]].double(), levels[k + 1].means.double()).argmin(dim=1)
        orphans = len(levels[k + 1]) - len(nearest.unique())
        assert (orphans or k) and (owners != nearest.numpy()).sum() == orphans  # each was given one splat
    for k in (1, 2):  # as they came
        nodes = np.flatnonzero(depth == k)
        for name, tensor in levels[k].tensors().items():
            assert torch.equal(tree.gaussians.tensors()[name][nodes], tensor[number[nodes]]), name


def test_large_families_are_parted(stored_trees: ModuleType) -> None:
    levels = levels_of(stored_trees, 2000, 2)
    levels[1].means[1] = levels[1].means[0] + 1e3
    tree = tree_of_levels(levels)
    check(tree)
    leaves = tree.counts == 0
    assert int(leaves.sum()) == 2000 and len(tree) == 2000 + 2 + 8 + 1  # 1999 to 8 of up to 255, and the root


@pytest.mark.parametrize(
    "counts", [(5,), (1, 1), (1, 3), (3, 5, 2), (40, 40, 40)], ids=lambda counts: "-".join(map(str, counts))
)
def test_levels_that_do_not_shrink(counts: tuple[int, ...], stored_trees: ModuleType) -> None:
    levels = levels_of(stored_trees, *counts)
    tree = tree_of_levels(levels)
    check(tree)
    level, number = numbers(tree)
    leaves = tree.counts.numpy() == 0
    assert (level[leaves] == 0).all() and sorted(number[leaves]) == list(range(counts[0]))


def test_levels_of_one_place_and_other_harmonics(stored_trees: ModuleType) -> None:
    levels = [stored_trees.scene_of(n, degree=degree) for n, degree in ((500, 1), (100, 2))]
    for level in levels:
        level.means[:] = 1
    tree = tree_of_levels(levels)
    check(tree)
    assert tree.gaussians.sh_degree == 2 and int((tree.counts == 0).sum()) == 500


def test_a_real_stream() -> None:
    folder = Path(os.environ.get("LYRA_SHARED", "../shared")) / "scenes" / "playbot"
    if not folder.exists():
        pytest.skip(f"{folder} is not there: set LYRA_SHARED")
    levels = [load(folder, Reading(level=level)) for level in range(2, about(folder).levels)]
    tree = tree_of_levels(levels)
    check(tree)
    assert int((tree.counts == 0).sum()) == 125_000
    assert len(tree) >= sum(map(len, levels)) and int(tree.counts.max()) < 40
