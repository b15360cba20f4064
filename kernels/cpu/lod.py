"""The cut on the CPU: clusters whose bound is low are not read, histograms find the threshold, parents emit children.

Reads 20 bytes a cluster, 24 a node of those clusters that reach below a guess of the threshold, and of the drawn nodes
what their view errors take. A guess that leaves room is lowered; what has been read is kept.
"""

import math

import numpy as np
import torch
from numba import get_num_threads, prange
from torch import Tensor

from .. import gaze as g
from ..constants import CLUSTER, FADING
from ..lod import Nodes
from .compiled import compiled
from .lod_drawn import count_drawn, emit, emit_roots
from .lod_errors import AT_ONCE, BINS, LAST_KEY, SHIFT, add_gains, bound_clusters, list_keys, read_clusters
from .simd import element, least, put, take
from .threads import all_cores

f32 = np.float32

_LOWER = f32(0.95)  # of the last threshold: where to look first
_AIM = 1.2  # of the room: what a guess should use up; one that falls short costs another look
_LEAST, _MOST = 1 / 16, 2.0  # octaves that a guess is below the last
_OCTAVE = 1 << (23 - SHIFT)  # bins
_CLUSTERS_A_NODE = 2 / CLUSTER  # of the first guess, for every node of the budget


@compiled(parallel=True)
def _add_old_gains(keys, tops, clusters, counts, low, high, next_slot, gains_out):
    """Gains of keys from `low` to `high` in clusters that were read before such keys counted."""
    for thread in prange(len(gains_out)):
        own, listed = gains_out[thread], np.empty(CLUSTER + 1, dtype=np.uint8)
        begin = take(next_slot, AT_ONCE)
        while begin < len(clusters):
            for slot in range(begin, least(begin + AT_ONCE, len(clusters))):
                if tops[slot] >= low:
                    first = np.int64(clusters[slot]) * CLUSTER
                    add_gains(keys, slot * CLUSTER, counts, first, low, high, LAST_KEY, listed, own)
            begin = take(next_slot, AT_ONCE)


@compiled(parallel=True)
def _collect(keys, tops, clusters, low, high, next_slot, threads, next_place, ranks_out):
    """Nodes with keys from `low` to `high`, in any order: the key above, all bits but the index below."""
    for _ in prange(threads):
        listed = np.empty(CLUSTER + 1, dtype=np.uint8)
        begin = take(next_slot, AT_ONCE)
        while begin < len(clusters):
            for slot in range(begin, least(begin + AT_ONCE, len(clusters))):
                if tops[slot] < low:
                    continue
                first, at = np.int64(clusters[slot]) * CLUSTER, slot * CLUSTER
                count = list_keys(keys, at, low, high, listed)
                place = take(next_place, count)
                for k in range(count):
                    j = np.int64(element(listed, k))
                    put(ranks_out, place + k, np.int64(element(keys, at + j)) << 31 | (LAST_KEY - first - j))
            begin = take(next_slot, AT_ONCE)


class _Reading:
    """Keys of the clusters that have been read so far, what expanding their nodes adds, and how to read more."""

    def __init__(self, nodes: list[np.ndarray], bounds: np.ndarray, largest: np.ndarray, row: np.ndarray, gazed: bool):
        self.nodes, self.row, self.gazed, self.threads = nodes, row, gazed, get_num_threads()
        self.bounds = bounds
        self.uppers = np.empty(len(largest), dtype=f32)
        bound_clusters(bounds, largest, row, gazed, self.uppers)
        self.values = np.empty(len(largest) * CLUSTER, dtype=f32)  # memory that is never touched costs nothing
        self.keys = self.values.view(np.int32)
        self.clusters = np.empty(len(largest), dtype=np.int32)  # in the order in which they were read
        self.slots = np.full(len(largest), -1, dtype=np.int32)  # where each lies in that order
        self.tops = np.empty(len(largest), dtype=np.int32)
        self.gains = np.zeros((self.threads, BINS + 1), dtype=np.int64)
        self.read, self.above = 0, f32(np.inf)

    def lower(self, guess: np.float32, mark: int = LAST_KEY) -> None:
        """Read all clusters that may hold view errors from `guess` on, so that the gains are right from there on."""
        if guess >= self.above:
            return
        more = np.flatnonzero((self.uppers >= guess) & (self.uppers < self.above)).astype(np.int32)
        if self.read:
            span = _key(guess), _key(self.above) - 1
            old = self.clusters[: self.read]
            _add_old_gains(self.keys, self.tops, old, self.nodes[4], *span, _counter(), self.gains)
        end = self.read + len(more)
        read_clusters(
            more, self.read, self.bounds, *self.nodes, self.row, self.gazed, _key(guess), mark, _counter(),
            self.values, self.keys, self.tops, self.gains,
        )  # fmt: skip
        self.clusters[self.read : end], self.slots[more] = more, np.arange(self.read, end, dtype=np.int32)
        self.read, self.above = end, guess

    def ranks(self, low: int, high: int) -> np.ndarray:
        """Nodes with keys from low to high, in the order in which they are expanded: key << 31 | 2^31 - 1 - index."""
        ranks, count = np.empty(self.read * CLUSTER, dtype=np.int64), _counter()
        own = self.clusters[: self.read]
        _collect(self.keys, self.tops, own, low, high, _counter(), self.threads, count, ranks)
        return np.sort(ranks[: count[0]])[::-1]


def _counter() -> np.ndarray:
    return np.zeros(1, dtype=np.int64)


def _key(value: np.float32) -> int:
    return int(value.view(np.int32))


def _lower_guess(above: np.float32, gains: np.ndarray, total: int, room: int) -> np.float32:
    """From where on gains should come to the room, if they go on to grow by as much an octave as in the last."""
    higher = int(gains[(_key(above) >> SHIFT) + _OCTAVE :].sum())
    growth = math.log2(total / higher) if 0 < higher < total else 0.0
    octaves = math.log2(_AIM * room / total) / growth if growth else _MOST
    return above * f32(2.0 ** -min(max(octaves, _LEAST), _MOST))


def _find(reading: _Reading, roots: int, budget: int, previous: np.float32 | None) -> tuple:
    """What decides about each node: the choice of kernels/cpu/lod_drawn.py."""
    reserve = budget // FADING
    room = target = max(budget - reserve - roots, 0)
    floor, threshold, last = f32(reading.row[g.FLOOR]), None, 0
    if previous is not None:
        previous = max(previous, floor)
        reading.lower(max(previous * _LOWER, floor), _key(previous))
        enough = max(-(-99 * (budget - reserve) // 100) - roots, 0)
        added = int(reading.gains[:, BINS].sum())
        if enough <= added <= room:
            threshold = previous
        elif added < enough:
            target = enough
    if threshold is None and (previous is None or previous <= floor):  # the more so since all has been read
        threshold = floor if not _exceeds(reading, max(budget - roots, 0)) else None
    if threshold is None:
        threshold, last = _first_above(reading, target)
    fading, _ = _first_above(reading, max(room - reserve, 0)) if reserve else (threshold, 0)
    share = threshold / fading if fading > threshold else 1
    return f32(threshold), np.int64(_key(threshold)), np.int64(last), f32(fading), f32(share)


def _exceeds(reading: _Reading, room: int) -> bool:
    """Read down to where expanding all nodes adds more than the room, if it does."""
    floor = f32(reading.row[g.FLOOR])
    if not reading.read:
        wanted, ordered = int(room * _CLUSTERS_A_NODE), np.sort(reading.uppers)[::-1]
        reading.lower(max(ordered[wanted], floor) if wanted < len(ordered) else floor)
    while True:
        gains = reading.gains[:, :BINS].sum(axis=0)
        total = int(gains.sum())
        if total > room or reading.above <= floor:
            return total > room
        reading.lower(max(_lower_guess(reading.above, gains, total, room), floor))


def _first_above(reading: _Reading, room: int) -> tuple[np.float32, int]:
    """View error and index of the first node that does not fit; the floor and 0 where all do."""
    if not _exceeds(reading, room):
        return f32(reading.row[g.FLOOR]), 0
    totals = reading.gains[:, :BINS].sum(axis=0)[::-1].cumsum()  # from the highest bin on
    place = int((totals > room).argmax())
    low = (BINS - 1 - place) << SHIFT
    ranks = reading.ranks(max(low, _key(reading.above)), low + (1 << SHIFT) - 1)
    before = int(totals[place - 1]) if place else 0
    nodes = LAST_KEY - (ranks & LAST_KEY)
    first = int((before + (reading.nodes[4][nodes] - 1).cumsum(dtype=np.int64) > room).argmax())
    return (ranks[first : first + 1] >> 31).astype(np.int32).view(f32)[0], int(nodes[first])


def cut(
    nodes: Nodes, roots: Tensor, row: Tensor, gazed: bool, budget: int, previous: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, exponents, view errors and threshold, as `lod.cut`; `row` is that of kernels/gaze.py."""
    read = nodes.means, nodes.radii, nodes.errors, nodes.children, nodes.counts
    flat = [tensor.detach().numpy().reshape(-1) for tensor in read]
    bounds, largest = nodes.cluster_bounds.numpy().reshape(-1), nodes.cluster_errors.numpy()
    tops, numbers = roots.numpy(), row.numpy()
    with all_cores():
        reading = _Reading(flat, bounds, largest, numbers, gazed)
        choice = _find(reading, len(tops), budget, None if previous is None else f32(previous.item()))
        known = reading.keys, reading.values
        given = np.zeros((reading.threads, len(largest)), dtype=np.int64)
        count_drawn(
            *known, reading.tops, reading.slots, *flat, nodes.parents.numpy(), numbers, gazed, choice, _counter(), given
        )  # fmt: skip
        starts = np.zeros(len(largest) + 1, dtype=np.int64)
        np.cumsum(given.sum(axis=0), out=starts[1:])
        total = len(tops) + int(starts[-1])
        ids, exponents, errors = (np.empty(total, dtype=kind) for kind in (np.int32, f32, f32))
        own = emit_roots(
            tops, reading.keys, reading.slots, *flat[:3], numbers, gazed, choice, ids, exponents, errors
        )  # fmt: skip
        count = own + int(starts[-1])
        emit(
            *known, reading.slots, starts + own, *flat, numbers, gazed, choice, _counter(), reading.threads,
            ids, exponents, errors,
        )  # fmt: skip
    ids, exponents, errors = (torch.from_numpy(array[:count]) for array in (ids, exponents, errors))
    return ids, exponents, errors, torch.tensor(choice[0])
