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
from ..constants import CLUSTER, TRANSITION
from ..lod import Nodes
from .compiled import compiled
from .lod_errors import AT_ONCE, BINS, LAST_KEY, SHIFT, add_gains, bound_clusters, list_keys, node_error, read_clusters
from .simd import element, least, most, put, take
from .threads import all_cores

f32 = np.float32
_ZERO, _ONE = f32(0), f32(1)
_TRANSITION = f32(TRANSITION)

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


@compiled(inline=True)
def _is_expanded(i, key, last_key, last):
    return key > last_key or (key == last_key and i < last)


@compiled(inline=True)
def _is_drawn(i, slots, keys, last_key, last):
    """Whether a node is not expanded."""
    slot = np.int64(element(slots, i // CLUSTER))
    return slot < 0 or not _is_expanded(i, element(keys, slot * CLUSTER + i % CLUSTER), last_key, last)


@compiled()
def _list_expanded(keys, at, first, last_key, last, list_out):
    """List which nodes of a cluster are expanded, and say how many."""
    listed, count = list_keys(keys, at, last_key, LAST_KEY, list_out), 0
    for k in range(listed):
        j = np.int64(element(list_out, k))
        put(list_out, count, np.uint8(j))
        count += _is_expanded(first + j, element(keys, at + j), last_key, last)
    return count


@compiled(parallel=True)
def _count_drawn(keys, tops, slots, counts, parents, last_key, last, next_cluster, given_out):
    """How many nodes each cluster's expanded nodes give to the cut: [threads, clusters], to be summed.

    That is all of their children, less those that are expanded themselves, which take themselves off. That a parent is
    expanded too is certain only where errors are monotone; it is looked up, for the sums decide what is written where.
    """
    for thread in prange(len(given_out)):
        given, listed = given_out[thread], np.empty(CLUSTER + 1, dtype=np.uint8)
        begin = take(next_cluster, AT_ONCE)
        while begin < len(slots):
            for c in range(begin, least(begin + AT_ONCE, len(slots))):
                slot = np.int64(slots[c])
                if slot < 0 or tops[slot] < last_key:
                    continue
                first = c * CLUSTER
                for k in range(_list_expanded(keys, slot * CLUSTER, first, last_key, last, listed)):
                    i = first + np.int64(element(listed, k))
                    given[c] += element(counts, i)
                    parent = np.int64(element(parents, i))
                    if parent >= 0 and not _is_drawn(parent, slots, keys, last_key, last):
                        home = parent // CLUSTER
                        put(given, home, element(given, home) - 1)
            begin = take(next_cluster, AT_ONCE)


@compiled(inline=True)
def _arrival(above, own, threshold):
    """t of a node, from its parent's view error and its own."""
    start = most(above / _TRANSITION, own)
    t = most(_ZERO, least(_ONE, (above - threshold) / (above - start)))
    t = _ONE if above >= _TRANSITION * threshold else t
    return _ONE if above <= start else t


@compiled()
def _list_drawn(
    keys, values, slots, children, counts, slot, first, last_key, last, listed, ids_out, above_out, own_out
):  # fmt: skip
    """List the nodes that a cluster's expanded nodes give to the cut, with their parents' view errors and their own.

    An own of 0 says that it is not known: of leaves, of what cannot be expanded, and of clusters that were not read.
    """
    count, at = 0, slot * CLUSTER
    for k in range(_list_expanded(keys, at, first, last_key, last, listed)):
        j = np.int64(element(listed, k))
        child, above = np.int64(element(children, first + j)), element(values, at + j)
        for i in range(child, child + np.int64(element(counts, first + j))):
            place = np.int64(element(slots, i // CLUSTER)) * CLUSTER + i % CLUSTER
            put(ids_out, count, np.int32(i))
            put(above_out, count, above)
            put(own_out, count, element(values, place) if place >= 0 else _ZERO)
            count += place < 0 or not _is_expanded(i, element(keys, place), last_key, last)
    return count


@compiled(parallel=True)
def _emit(
    keys, values, tops, slots, starts, means, radii, errors, children, counts, row, gazed, threshold, last_key, last,
    next_cluster, threads, ids_out, t_out, errors_out,
):  # fmt: skip
    for _ in prange(threads):
        listed = np.empty(CLUSTER + 1, dtype=np.uint8)
        ids = np.empty(CLUSTER * 255 + 1, dtype=np.int32)
        aboves, owns = np.empty(CLUSTER * 255 + 1, dtype=f32), np.empty(CLUSTER * 255 + 1, dtype=f32)
        begin = take(next_cluster, AT_ONCE)
        while begin < len(slots):
            for c in range(begin, least(begin + AT_ONCE, len(slots))):
                if starts[c + 1] == starts[c]:
                    continue
                place = starts[c]
                drawn = _list_drawn(
                    keys, values, slots, children, counts, np.int64(slots[c]), c * CLUSTER, last_key, last, listed,
                    ids, aboves, owns,
                )  # fmt: skip
                for k in range(drawn):
                    i, own = np.int64(element(ids, k)), element(owns, k)
                    if own == _ZERO and element(errors, i) > _ZERO:
                        x, y, z = element(means, 3 * i), element(means, 3 * i + 1), element(means, 3 * i + 2)
                        own = node_error(x, y, z, element(radii, i), element(errors, i), row, gazed)
                    put(ids_out, place + k, np.int32(i))
                    put(errors_out, place + k, own)
                    put(t_out, place + k, _arrival(element(aboves, k), own, threshold))
            begin = take(next_cluster, AT_ONCE)


@compiled()
def _emit_roots(
    roots, keys, slots, means, radii, errors, row, gazed, last_key, last, ids_out, t_out, errors_out
):  # fmt: skip
    """How many roots are drawn themselves."""
    count = 0
    for k in range(len(roots)):
        i = np.int64(roots[k])
        if _is_drawn(i, slots, keys, last_key, last):
            ids_out[count], t_out[count] = roots[k], _ONE
            errors_out[count] = node_error(
                means[3 * i], means[3 * i + 1], means[3 * i + 2], radii[i], errors[i], row, gazed
            )
            count += 1
    return count


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


def _find(reading: _Reading, roots: int, budget: int, previous: np.float32 | None) -> tuple[np.float32, int]:
    """Threshold, and the index before which nodes with exactly that view error are expanded too."""
    floor, room = f32(reading.row[g.FLOOR]), max(budget - roots, 0)
    if previous is not None:
        previous = max(previous, floor)
        reading.lower(max(previous * _LOWER, floor), _key(previous))
        count = roots + int(reading.gains[:, BINS].sum())
        if 99 * budget <= 100 * count <= 100 * budget:
            return previous, 0
    if not reading.read:
        wanted, ordered = int(budget * _CLUSTERS_A_NODE), np.sort(reading.uppers)[::-1]
        reading.lower(max(ordered[wanted], floor) if wanted < len(ordered) else floor)
    while True:
        gains = reading.gains[:, :BINS].sum(axis=0)
        total = int(gains.sum())
        if total > room:
            break
        if reading.above <= floor:
            return floor, 0
        reading.lower(max(_lower_guess(reading.above, gains, total, room), floor))

    totals = gains[::-1].cumsum()  # from the highest bin on
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
    """Ids, t, view errors and threshold, as `lod.cut`; `row` is that of kernels/gaze.py."""
    read = nodes.means, nodes.radii, nodes.errors, nodes.children, nodes.counts
    flat = [tensor.detach().numpy().reshape(-1) for tensor in read]
    bounds, largest = nodes.cluster_bounds.numpy().reshape(-1), nodes.cluster_errors.numpy()
    tops, numbers = roots.numpy(), row.numpy()
    with all_cores():
        reading = _Reading(flat, bounds, largest, numbers, gazed)
        last_threshold = None if previous is None else f32(previous.item())
        threshold, last = _find(reading, len(tops), budget, last_threshold)
        choice = _key(threshold), last
        given = np.zeros((reading.threads, len(largest)), dtype=np.int64)
        tree = reading.keys, reading.tops, reading.slots
        _count_drawn(*tree, flat[4], nodes.parents.numpy(), *choice, _counter(), given)
        starts = np.zeros(len(largest) + 1, dtype=np.int64)
        np.cumsum(given.sum(axis=0), out=starts[1:])
        total = len(tops) + int(starts[-1])
        ids, t, errors = np.empty(total, dtype=np.int32), np.empty(total, dtype=f32), np.empty(total, dtype=f32)
        own = _emit_roots(
            tops, reading.keys, reading.slots, *flat[:3], numbers, gazed, *choice, ids, t, errors
        )  # fmt: skip
        count = own + int(starts[-1])
        _emit(
            reading.keys, reading.values, reading.tops, reading.slots, starts + own, *flat, numbers, gazed, threshold,
            *choice, _counter(), reading.threads, ids, t, errors,
        )  # fmt: skip
    ids, t, errors = (torch.from_numpy(array[:count]) for array in (ids, t, errors))
    return ids, t, errors, torch.tensor(threshold)
