"""What holds of every pool of linked pages, by brute force from the files themselves."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lyra.engine.cache import PageCache
from lyra.engine.lod.store import Store
from lyra.kernels.constants import CLUSTER
from lyra.kernels.lod import Nodes, cut

FIELDS = ("means", "quats", "scales", "opacities", "sh")


def assert_pool(nodes: Nodes, size: int, stores: Sequence[Store], slots: dict[tuple[int, int], int]) -> np.ndarray:
    """Every column of every linked page, and nothing but 0 errors elsewhere; returns the nodes that can be reached.

    Args:
        slots: where pages are linked, by store and number.
    """
    m = len(nodes.means)
    children, parents = np.full(m, -1), np.full(m, -1)
    used, linked = np.zeros(m, bool), np.zeros(m, bool)
    found = {name: tensor.cpu().numpy() for name, tensor in nodes._asdict().items()}
    errors = np.zeros(m, np.float32)
    for (number, page), slot in slots.items():
        store, begin = stores[number], slot * size
        assert page == 0 or (number, int(store.directory["parent"][page])) in slots
        read = store.decode(page, store.read(page))
        rows = slice(begin, begin + len(read.counts))
        for name in FIELDS[:-1]:
            assert (found[name][rows] == getattr(read.gaussians, name).numpy()).all(), name
        k = read.gaussians.sh.shape[1]
        assert (found["sh"][rows, :k] == read.gaussians.sh.numpy()).all() and (found["sh"][rows, k:] == 0).all()
        assert (found["radii"][rows] == read.radii.numpy()).all()
        assert (found["counts"][rows] == read.counts.numpy()).all()
        errors[rows] = read.errors.numpy()
        used[rows], linked[begin : begin + size] = True, True
        for row, (link, count) in enumerate(zip(read.children.tolist(), read.counts.tolist(), strict=True)):
            target = slots.get((number, page + (link >> 16)))
            if link >= 0 and target is not None:
                first = target * size + (link & 0xFFFF)
                children[begin + row] = first
                parents[first : first + count] = begin + row
    assert (found["errors"] == errors).all()
    assert (found["children"][linked] == children[linked]).all() and (found["parents"][linked] == parents[linked]).all()

    largest = errors.reshape(-1, CLUSTER).max(axis=1)
    assert (found["cluster_errors"] == largest).all()
    inner = np.flatnonzero(errors > 0)
    bounds = found["cluster_bounds"][inner // CLUSTER].astype(np.float64)
    reach = np.linalg.norm(found["means"][inner] - bounds[:, :3], axis=1) + found["radii"][inner]
    assert (reach <= bounds[:, 3]).all()

    reached, level = np.zeros(m, bool), np.array([slot * size for (_, page), slot in slots.items() if page == 0])
    while len(level):
        assert not reached[level].any()
        reached[level] = True
        level = level[found["children"][level] >= 0]
        level = np.concatenate([[], *(np.arange(found["counts"][i]) + found["children"][i] for i in level)]).astype(int)
    assert (reached == used).all()
    return reached


def linked(cache: PageCache) -> dict[tuple[int, int], int]:
    """Where pages of a cache are."""
    table, directories = cache._table, cache._directories
    pages = np.flatnonzero(table.slots >= 0)
    assert sorted(table.pages[table.pages >= 0]) == pages.tolist()
    return {(int(directories.stores[i]), int(directories.pages[i])): int(table.slots[i]) for i in pages}


def assert_cache(cache: PageCache, stores: Sequence[Store]) -> None:
    """The pool of a cache is whole."""
    assert_pool(cache.nodes, cache._pool.size, stores, linked(cache))


def assert_cuts(cache: PageCache, stores: Sequence[Store], eye: Tensor, budget: int) -> float:
    """Cuts draw exactly one of every resident leaf and its ancestors, and nothing of a slot that is not linked.

    Parents that fade, those of drawn nodes, do not count.
    """
    reached = assert_pool(cache.nodes, cache._pool.size, stores, linked(cache))
    children, counts = cache.nodes.children.numpy(), cache.nodes.counts.numpy()
    cuts = [cut(cache.nodes, cache.roots, eye, budget=budget, near=0.01, backend=name) for name in ("cpu", "reference")]
    assert torch.equal(cuts[0].ids, cuts[1].ids) and cuts[0].threshold == cuts[1].threshold
    ids = cuts[0].ids.numpy()
    assert len(ids) == len(set(ids.tolist())) <= max(budget, len(stores)) and reached[ids].all()
    drawn = np.zeros(len(reached), np.int64)
    drawn[ids[~np.isin(ids, cache.nodes.parents.numpy()[ids])]] = 1
    level = cache.roots.numpy()
    while len(level):
        inner = level[children[level] >= 0]
        assert (drawn[level[children[level] < 0]] == 1).all()
        below = [np.arange(children[i], children[i] + counts[i]) for i in inner]
        for i, own in zip(inner, below, strict=True):
            drawn[own] += drawn[i]
        level = np.concatenate([[], *below]).astype(int)
    return float(cuts[0].threshold)


def random_walk(seed: int, frames: int) -> list[Tensor]:
    """Eyes that drift and now and then jump, in and about the cube of `stored_trees.scene_of`."""
    dice = random.Random(seed)
    eye, way = torch.zeros(3), torch.zeros(3)
    eyes = []
    for _ in range(frames):
        if dice.random() < 0.1:
            eye = torch.tensor([dice.uniform(-12, 16) for _ in range(3)])
        way = 0.8 * way + torch.tensor([dice.gauss(0, 0.15) for _ in range(3)])
        eye = eye + way
        eyes.append(eye)
    return eyes
