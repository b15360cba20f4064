"""Which splats merge next: those in a cell of a growing grid, or, with more care, the pairs that cost least."""

import math
from collections.abc import Iterator

import numpy as np
import torch

from ...kernels.cpu import field_error
from ...kernels.cpu.threads import all_cores
from ..scene.morton import morton_order
from .growing import Groups, Growing

BASE = 1.5  # of a grid's step over that before it
CELL = 8  # members of a group, at most
REACH = 4  # neighbours in Morton order that a pair is looked for among, on either side
SHIFT = np.array([0.37, 0.61, 0.83])  # of the origin of Morton's cubes from one look to the next, in extents
LOOKS = 2  # a round: what one order parts, another joins
FEW = 16  # splats that are left to the last groups


def voxels(growing: Growing, active: np.ndarray) -> Iterator[Groups]:
    """Cell by cell of a grid whose step grows; a splat takes part from where it is no larger than a cell.

    Args:
        active: [m] numbers of the splats to merge, ascending.
    """
    sizes = growing.sizes[active]
    low = growing.means[active].min(axis=0)
    extent = float(np.ptp(growing.means[active], axis=0).max())
    step = max(float(np.quantile(sizes, 0.02)), extent / 2**20, 1e-30)
    while len(active) > FEW:
        small = sizes <= step
        groups = _cells(growing, active[small], low, step)
        if len(groups):
            merged = growing.merge(groups)
            active = _left(growing, active, groups, merged)
            sizes = growing.sizes[active]
            yield groups
        if step > extent and small.all() and not len(groups):
            break
        step *= BASE
    yield from _rest(growing, active)


def _cells(growing: Growing, ids: np.ndarray, low: np.ndarray, step: float) -> Groups:
    """The splats of each cell, in order of the cells, at most `CELL` together."""
    cells = np.floor((growing.means[ids] - low) / step).astype(np.int64)
    keys = (cells[:, 0] << 42) | (cells[:, 1] << 21) | cells[:, 2]
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    begins = np.concatenate(([True], keys[1:] != keys[:-1])) if len(keys) else np.empty(0, bool)
    cell = np.flatnonzero(begins)[np.cumsum(begins) - 1] if len(keys) else keys
    begins |= (np.arange(len(keys)) - cell) % CELL == 0
    return _several(ids[order], np.append(np.flatnonzero(begins), len(keys)))


def _several(parts: np.ndarray, starts: np.ndarray) -> Groups:
    """Without the groups of one."""
    sizes = np.diff(starts)
    keep = np.repeat(sizes > 1, sizes)
    return Groups(parts[keep], np.concatenate(([0], np.cumsum(sizes[sizes > 1]))))


def pairs(growing: Growing, active: np.ndarray) -> Iterator[Groups]:
    """Pairs that are each other's cheapest.

    Args:
        active: [m] numbers of the splats to merge, ascending.
    """
    look = 0
    while len(active) > FEW:
        groups = _pairs(growing, active, look)
        look += LOOKS
        merged = growing.merge(groups)
        active = _left(growing, active, groups, merged)
        yield groups
    yield from _rest(growing, active)


def _pairs(growing: Growing, active: np.ndarray, look: int) -> Groups:
    means = growing.means[active]
    low, extent = means.min(axis=0), max(float(np.ptp(means, axis=0).max()), 1e-30)
    errors, partners = np.full(growing.count, np.inf), np.full(growing.count, np.iinfo(np.int64).max)
    for turn in range(look, look + LOOKS):
        corner = low - turn * SHIFT % 1.0 * extent
        frame = np.stack((corner, corner + 2 * extent))  # the cubes' own bounds
        order = morton_order(torch.from_numpy(np.concatenate((means, frame)))).numpy()
        order = active[order[order < len(active)]]
        with all_cores():
            field_error.best_partners(
                order, REACH, growing.means, growing.covariances, growing.opacities, growing.colors, growing.weights,
                errors, partners,
            )  # fmt: skip
    chosen = partners[active]
    mutual = (partners[chosen] == active) & (active < chosen)
    first = active[mutual]
    return Groups(np.stack((first, partners[first]), axis=1).reshape(-1), np.arange(0, 2 * len(first) + 1, 2))


def _rest(growing: Growing, active: np.ndarray) -> Iterator[Groups]:
    """A few neighbours at a time, until one is left."""
    while len(active) > 1:
        order = active[morton_order(torch.from_numpy(growing.means[active])).numpy()]
        count = math.ceil(len(order) / CELL)
        starts = np.arange(count + 1) * len(order) // count
        groups = _several(order, starts)
        merged = growing.merge(groups)
        active = _left(growing, active, groups, merged)
        yield groups


def _left(growing: Growing, active: np.ndarray, groups: Groups, merged: np.ndarray) -> np.ndarray:
    """Those that are not in a group, then the merged ones: still in ascending order."""
    gone = np.zeros(growing.count, bool)
    gone[groups.parts] = True
    return np.concatenate((active[~gone[active]], merged))
