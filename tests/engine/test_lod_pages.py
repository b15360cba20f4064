"""Trees in pages: the rules that readers rely on, by brute force, and how full the pages are."""

import heapq
import math
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

from lyra.engine.lod import pages as pages_module
from lyra.engine.lod.pages import Pages, by_error, paginate
from lyra.engine.lod.tree import Tree, check


def assert_pages(tree: Tree, pages: Pages, capacity: int, root: bool = True) -> None:
    children, counts = tree.children.numpy(), tree.counts.numpy()
    n = len(counts)
    assert sorted(pages.order) == list(range(0 if root else 1, n))
    sizes = np.diff(pages.starts)
    assert (
        pages.starts[0] == 0 and pages.starts[-1] == len(pages.order) and (sizes > 0).all() and sizes.max() <= capacity
    )
    page_of, slot_of = np.full(n, -1), np.full(n, -1)
    for page in range(len(sizes)):
        nodes = pages.order[pages.starts[page] : pages.starts[page + 1]]
        page_of[nodes], slot_of[nodes] = page, np.arange(len(nodes))
    assert pages.parents[0] == -1 and (pages.parents[1:] >= 0).all()
    assert (pages.parents < np.arange(len(sizes))).all()
    for node in np.flatnonzero(counts):
        family = np.arange(children[node], children[node] + counts[node])
        assert len(set(page_of[family])) == 1 and (np.diff(slot_of[family]) == 1).all()
        page = page_of[family[0]]
        if page == page_of[node]:
            assert slot_of[family[0]] > slot_of[node]
        else:
            assert pages.parents[page] == page_of[node]


def assert_sorted(tree: Tree, pages: Pages) -> None:
    """By the power of two of the parent's error, the largest first; the root before all; then as in the tree."""
    powers = np.full(len(tree.counts), 1000)
    for node in np.flatnonzero(tree.counts.numpy()):
        first, end = int(tree.children[node]), int(tree.children[node] + tree.counts[node])
        powers[first:end] = math.frexp(float(tree.errors[node]))[1]
    for start, end in zip(pages.starts[:-1], pages.starts[1:], strict=True):
        nodes = pages.order[start:end]
        assert (nodes == sorted(nodes, key=lambda node: (-powers[node], node))).all()


@pytest.mark.parametrize("capacity", [255, 700, 1 << 16])
@pytest.mark.parametrize("n", [1, 2, 300, 4000, 20_000])
def test_every_rule(stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch, n: int, capacity: int) -> None:
    monkeypatch.setattr(pages_module, "CAPACITY", capacity)
    tree = stored_trees.merged_tree(stored_trees.scene_of(n, 0), seed=n)
    stored_trees.assert_rules(tree)
    assert_pages(tree, paginate(tree), capacity)
    assert_sorted(tree, paginate(tree))
    if n > 1:
        assert_pages(tree, paginate(tree, np.zeros(1, np.int32)), capacity, root=False)


def test_large_families(stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_trees, "MOST", 255)
    monkeypatch.setattr(pages_module, "CAPACITY", 300)
    tree = stored_trees.merged_tree(stored_trees.scene_of(5000, 0))
    assert int(tree.counts.max()) > 200
    assert_pages(tree, paginate(tree), 300)


def test_the_first_page_takes_the_largest_errors(stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "CAPACITY", 500)
    tree = stored_trees.merged_tree(stored_trees.scene_of(3000, 0))
    children, counts, errors = tree.children.tolist(), tree.counts.tolist(), tree.errors.tolist()
    members, heap = {0}, [(-errors[0], 0)]
    while len(members) + counts[heap[0][1]] <= 500:
        node = heapq.heappop(heap)[1]
        for child in range(children[node], children[node] + counts[node]):
            members.add(child)
            if counts[child]:
                heapq.heappush(heap, (-errors[child], child))
    pages = paginate(tree)
    assert set(pages.order[: pages.starts[1]].tolist()) == members


@pytest.mark.parametrize("n", [9000, 60_000, 200_000])
def test_pages_are_mostly_full(stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(pages_module, "CAPACITY", 1024)
    tree = stored_trees.merged_tree(stored_trees.scene_of(n, 0))
    fill = np.diff(paginate(tree).starts) / 1024
    assert fill.mean() > 0.8 and (fill < 0.5).mean() < 0.1


@pytest.mark.parametrize("seed", range(4))
def test_a_whole_tree_by_error(lod_trees: ModuleType, seed: int) -> None:
    """The order of a page, and the same tree: each node hangs from the one that it hung from."""
    tree = lod_trees.random_tree((1, 30, 700, 900)[seed], seed, ties=seed % 2 == 0)
    named = replace(tree.gaussians, opacities=torch.arange(len(tree), dtype=torch.float32))
    check(found := by_error(tree := replace(tree, gaussians=named)))
    order = found.gaussians.opacities.numpy().astype(np.int32)
    assert_sorted(tree, Pages(order, np.array([0, len(order)]), np.array([-1], np.int32)))
    for name in ("counts", "errors", "radii"):
        assert (getattr(found, name) == getattr(tree, name)[order]).all()
    for node in np.flatnonzero(found.counts.numpy()):
        family = order[int(found.children[node]) : int(found.children[node] + found.counts[node])]
        first = int(tree.children[order[node]])
        assert family.tolist() == list(range(first, first + len(family)))
    for name, tensor in found.gaussians.tensors().items():
        assert (tensor == tree.gaussians.tensors()[name][order]).all()
