"""The cut on the CPU: clusters whose bound is low are not read, histograms find the threshold, parents emit children.

Reads 20 bytes a cluster, 24 a node of those clusters that reach below a guess of the threshold, and of the drawn nodes
what their view errors take. A guess that leaves room is lowered; what has been read is kept.

What decides about a node is handed to kernels as `choice`: the threshold, its key, the index before which nodes with
exactly that key are expanded too, the view error below which groups fade, and the threshold as a share of that.
"""

import numpy as np
import torch
from numba import get_num_threads, prange
from torch import Tensor

from .. import gaze as g
from ..constants import CLUSTER, FADING, FAINTEST
from ..lod import Nodes
from .compiled import compiled
from .lod_errors import AT_ONCE, BINS, LAST_KEY, SHIFT, add_gains, bound_clusters, list_keys, node_error, read_clusters
from .simd import element, least, most, put, take
from .threads import all_cores

f32 = np.float32
_ZERO, _ONE = f32(0), f32(1)
_FAINTEST = f32(FAINTEST)

_LOWER = f32(0.95)  # of the last threshold: where to look first
_AIM, _FEWEST, _MOST_MORE = 1.2, 1.2, 4.0  # a guess takes in so many times the clusters of the last, by what that left
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


@compiled()
def _own_error(i, values, slots, means, radii, errors, row, gazed):
    """View error of a node; those of clusters that were read are there, 0 for what cannot be expanded."""
    slot, error = np.int64(element(slots, i // CLUSTER)), element(errors, i)
    found = element(values, slot * CLUSTER + i % CLUSTER) if slot >= 0 else _ZERO
    if found > _ZERO or error == _ZERO:
        return found
    x, y, z = element(means, 3 * i), element(means, 3 * i + 1), element(means, 3 * i + 2)
    return node_error(x, y, z, element(radii, i), error, row, gazed)


@compiled()
def _arrival(above, child, count, keys, values, slots, means, radii, errors, row, gazed, choice):
    """t of a group of children, from their parent's view error and their own; 1 where that does not fade."""
    threshold, last_key, last, fading, share = choice
    if not above < fading or count < 2:
        return _ONE
    largest = _ZERO
    for i in range(child, child + count):
        if not _is_drawn(i, slots, keys, last_key, last):
            return _ONE
        largest = most(largest, _own_error(i, values, slots, means, radii, errors, row, gazed))
    start = most(above * share, largest)
    return most(_FAINTEST, least(_ONE, (above - threshold) / (above - start))) if above > start else _ONE


@compiled(parallel=True)
def _count_drawn(
    keys, values, tops, slots, means, radii, errors, children, counts, parents, row, gazed, choice, next_cluster,
    given_out,
):  # fmt: skip
    """How many rows each cluster's expanded nodes give to the cut: [threads, clusters], to be summed.

    That is all of their children, less those that are expanded themselves, which take themselves off, and themselves
    where they fade. That a parent is expanded too is certain only where errors are monotone; it is looked up, for the
    sums decide what is written where.
    """
    _, last_key, last, _, _ = choice
    for thread in prange(len(given_out)):
        given, listed = given_out[thread], np.empty(CLUSTER + 1, dtype=np.uint8)
        begin = take(next_cluster, AT_ONCE)
        while begin < len(slots):
            for c in range(begin, least(begin + AT_ONCE, len(slots))):
                slot = np.int64(slots[c])
                if slot < 0 or tops[slot] < last_key:
                    continue
                first, at = c * CLUSTER, slot * CLUSTER
                for k in range(_list_expanded(keys, at, first, last_key, last, listed)):
                    j = np.int64(element(listed, k))
                    i, count = first + j, np.int64(element(counts, first + j))
                    t = _arrival(
                        element(values, at + j), np.int64(element(children, i)), count, keys, values, slots, means,
                        radii, errors, row, gazed, choice,
                    )  # fmt: skip
                    given[c] += count + (t < _ONE)
                    parent = np.int64(element(parents, i))
                    if parent >= 0 and not _is_drawn(parent, slots, keys, last_key, last):
                        home = parent // CLUSTER
                        put(given, home, element(given, home) - 1)
            begin = take(next_cluster, AT_ONCE)


@compiled(parallel=True)
def _emit(
    keys, values, slots, starts, means, radii, errors, children, counts, row, gazed, choice, next_cluster, threads,
    ids_out, exponents_out, errors_out,
):  # fmt: skip
    _, last_key, last, _, _ = choice
    for _ in prange(threads):
        listed = np.empty(CLUSTER + 1, dtype=np.uint8)
        begin = take(next_cluster, AT_ONCE)
        while begin < len(slots):
            for c in range(begin, least(begin + AT_ONCE, len(slots))):
                place = starts[c]
                if starts[c + 1] == place:
                    continue
                first, at = c * CLUSTER, np.int64(slots[c]) * CLUSTER
                for k in range(_list_expanded(keys, at, first, last_key, last, listed)):
                    j = np.int64(element(listed, k))
                    above, child = element(values, at + j), np.int64(element(children, first + j))
                    count = np.int64(element(counts, first + j))
                    t = _arrival(
                        above, child, count, keys, values, slots, means, radii, errors, row, gazed, choice
                    )  # fmt: skip
                    for i in range(child, child + count):
                        if _is_drawn(i, slots, keys, last_key, last):
                            own = _own_error(i, values, slots, means, radii, errors, row, gazed)
                            put(ids_out, place, np.int32(i))
                            put(errors_out, place, own)
                            put(exponents_out, place, t)
                            place += 1
                    if t < _ONE:
                        put(ids_out, place, np.int32(first + j))
                        put(errors_out, place, above)
                        put(exponents_out, place, _ONE - t)
                        place += 1
            begin = take(next_cluster, AT_ONCE)


@compiled()
def _emit_roots(
    roots, keys, slots, means, radii, errors, row, gazed, choice, ids_out, exponents_out, errors_out
):  # fmt: skip
    """How many roots are drawn themselves."""
    _, last_key, last, _, _ = choice
    count = 0
    for k in range(len(roots)):
        i = np.int64(roots[k])
        if _is_drawn(i, slots, keys, last_key, last):
            ids_out[count], exponents_out[count] = roots[k], _ONE
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


def _find(reading: _Reading, roots: int, budget: int, previous: np.float32 | None) -> tuple:
    """What decides about each node; see above."""
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
        found = _first_above(reading, max(budget - roots, 0))
        threshold = floor if found[0] <= floor else None
    if threshold is None:
        threshold, last = _first_above(reading, target)
    fading, _ = _first_above(reading, max(room - reserve, 0)) if reserve else (threshold, 0)
    share = threshold / fading if fading > threshold else _ONE
    return f32(threshold), np.int64(_key(threshold)), np.int64(last), f32(fading), f32(share)


def _first_above(reading: _Reading, room: int) -> tuple[np.float32, int]:
    """View error and index of the first node that does not fit; the floor and 0 where all do."""
    floor = f32(reading.row[g.FLOOR])
    wanted, ordered = room * _CLUSTERS_A_NODE, None
    while True:
        gains = reading.gains[:, :BINS].sum(axis=0)
        total = int(gains.sum())
        if total > room:
            break
        if reading.above <= floor:
            return floor, 0
        if ordered is None:
            ordered = np.sort(reading.uppers)[::-1]
        if reading.read:
            wanted = max(wanted, reading.read) * min(max(_AIM * room / max(total, 1), _FEWEST), _MOST_MORE)
        reading.lower(max(ordered[int(wanted)], floor) if wanted < len(ordered) else floor)

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
        _count_drawn(
            *known, reading.tops, reading.slots, *flat, nodes.parents.numpy(), numbers, gazed, choice, _counter(), given
        )  # fmt: skip
        starts = np.zeros(len(largest) + 1, dtype=np.int64)
        np.cumsum(given.sum(axis=0), out=starts[1:])
        total = len(tops) + int(starts[-1])
        ids, exponents, errors = (np.empty(total, dtype=kind) for kind in (np.int32, f32, f32))
        own = _emit_roots(
            tops, reading.keys, reading.slots, *flat[:3], numbers, gazed, choice, ids, exponents, errors
        )  # fmt: skip
        count = own + int(starts[-1])
        _emit(
            *known, reading.slots, starts + own, *flat, numbers, gazed, choice, _counter(), reading.threads,
            ids, exponents, errors,
        )  # fmt: skip
    ids, exponents, errors = (torch.from_numpy(array[:count]) for array in (ids, exponents, errors))
    return ids, exponents, errors, torch.tensor(choice[0])
