"""The cut on the CPU: clusters whose bound is low are not read, histograms find the threshold, parents emit children.

Reads 20 bytes a cluster, 24 a node of those clusters that reach below a guess of the threshold, and of the drawn nodes
what their view errors take. A guess that leaves room is lowered; what has been read is kept.
"""

import numpy as np
import torch
from numba import get_num_threads, prange
from torch import Tensor

from .. import gaze as g
from ..constants import CLUSTER
from ..lod import Nodes
from .compiled import compiled
from .lod_errors import AT_ONCE, bound_clusters, node_error, read_clusters
from .simd import element, least, most, put, take
from .threads import all_cores

f32 = np.float32
_ZERO, _HALF, _ONE, _TWO = f32(0), f32(0.5), f32(1), f32(2)

_DIGITS = ((18, 13), (9, 9), (0, 9))  # of a key of 31 bits: shift and width
_ENDLESS = 1 << 31  # above every key
_LOWER = f32(0.95)  # of the last threshold: where to look first
_FEWEST, _MOST_MORE = 1.3, 4.0  # how many times as many clusters the next guess takes in
_CLUSTERS_A_NODE = 2 / CLUSTER  # of the first guess, for every node of the budget


@compiled(parallel=True)
def _add_gains(keys, tops, clusters, counts, read, low, high, shift, mask, next_slot, gains_out):
    """Sum what expanding each node adds to a cut, by a digit of its key, for keys from `low` to below `high`."""
    for thread in prange(len(gains_out)):
        own = gains_out[thread]
        begin = take(next_slot, AT_ONCE)
        while begin < read:
            for slot in range(begin, least(begin + AT_ONCE, read)):
                if tops[slot] < low:
                    continue
                first, at = np.int64(clusters[slot]) * CLUSTER, slot * CLUSTER
                for j in range(CLUSTER):
                    key = np.int64(element(keys, at + j))
                    if low <= key and key < high:
                        own[(key >> shift) & mask] += element(counts, first + j) - 1
            begin = take(next_slot, AT_ONCE)


@compiled()
def _first_unfit(keys, tops, slots, counts, key, room):
    """Of the nodes with this key the first, by index, that does not fit."""
    for c in range(len(slots)):
        slot = slots[c]
        if slot < 0 or tops[slot] < key:
            continue
        for j in range(CLUSTER):
            if element(keys, slot * CLUSTER + j) == key:
                room -= element(counts, c * CLUSTER + j) - 1
                if room < 0:
                    return c * CLUSTER + j
    return len(slots) * CLUSTER


@compiled(inline=True)
def _is_expanded(i, key, last_key, last):
    return key > last_key or (key == last_key and i < last)


@compiled(inline=True)
def _is_drawn(i, slots, keys, last_key, last):
    """Whether a child of an expanded node is not expanded itself."""
    slot = np.int64(element(slots, i // CLUSTER))
    return slot < 0 or not _is_expanded(i, element(keys, slot * CLUSTER + i % CLUSTER), last_key, last)


@compiled(parallel=True)
def _count_drawn(keys, tops, slots, children, counts, last_key, last, next_cluster, threads, drawn_out):
    """How many nodes each cluster's expanded nodes give to the cut."""
    for _ in prange(threads):
        begin = take(next_cluster, AT_ONCE)
        while begin < len(slots):
            for c in range(begin, least(begin + AT_ONCE, len(slots))):
                slot, drawn = np.int64(slots[c]), 0
                if slot >= 0 and tops[slot] >= last_key:
                    for j in range(CLUSTER):
                        i = c * CLUSTER + j
                        if _is_expanded(i, element(keys, slot * CLUSTER + j), last_key, last):
                            first = np.int64(element(children, i))
                            for child in range(first, first + element(counts, i)):
                                drawn += _is_drawn(child, slots, keys, last_key, last)
                drawn_out[c] = drawn
            begin = take(next_cluster, AT_ONCE)


@compiled(inline=True)
def _arrival(above, own, threshold):
    """t of a node, from its parent's view error and its own."""
    start = most(above * _HALF, own)
    if above >= _TWO * threshold or above <= start:
        return _ONE
    return most(_ZERO, least(_ONE, (above - threshold) / (above - start)))


@compiled(parallel=True)
def _emit(
    keys, values, tops, slots, starts, means, radii, errors, children, counts, row, gazed, threshold, last_key, last,
    next_cluster, threads, ids_out, t_out, errors_out,
):  # fmt: skip
    for _ in prange(threads):
        begin = take(next_cluster, AT_ONCE)
        while begin < len(slots):
            for c in range(begin, least(begin + AT_ONCE, len(slots))):
                place, slot = starts[c], np.int64(slots[c])
                if starts[c + 1] == place:
                    continue
                for j in range(CLUSTER):
                    i = c * CLUSTER + j
                    if not _is_expanded(i, element(keys, slot * CLUSTER + j), last_key, last):
                        continue
                    above = element(values, slot * CLUSTER + j)
                    first = np.int64(element(children, i))
                    for child in range(first, first + element(counts, i)):
                        if _is_drawn(child, slots, keys, last_key, last):
                            own = element(errors, child)
                            if own > _ZERO:
                                x, y = element(means, 3 * child), element(means, 3 * child + 1)
                                z, radius = element(means, 3 * child + 2), element(radii, child)
                                own = node_error(x, y, z, radius, own, row, gazed)
                            put(ids_out, place, np.int32(child))
                            put(errors_out, place, own)
                            put(t_out, place, _arrival(above, own, threshold))
                            place += 1
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
    """Keys of the clusters that have been read so far, and how to read more."""

    def __init__(self, nodes: list[np.ndarray], bounds: np.ndarray, largest: np.ndarray, row: np.ndarray, gazed: bool):
        self.means, self.radii, self.errors, self.children, self.counts = nodes
        self.row, self.gazed, self.threads = row, gazed, get_num_threads()
        self.uppers = np.empty(len(largest), dtype=f32)
        bound_clusters(bounds, largest, row, gazed, self.uppers)
        self.values = np.empty(len(self.errors), dtype=f32)  # memory that is never touched costs nothing
        self.keys = self.values.view(np.int32)
        self.clusters = np.empty(len(largest), dtype=np.int32)  # in the order in which they were read
        self.slots = np.full(len(largest), -1, dtype=np.int32)  # where each lies in that order
        self.tops = np.empty(len(largest), dtype=np.int32)
        self.read, self.above = 0, f32(np.inf)

    def lower(self, guess: np.float32) -> None:
        """Read all clusters that may hold view errors from `guess` on."""
        more = np.flatnonzero((self.uppers >= guess) & (self.uppers < self.above)).astype(np.int32)
        end = self.read + len(more)
        read_clusters(
            more, self.read, self.means, self.radii, self.errors, self.children, self.row, self.gazed, _counter(),
            self.threads, self.values, self.keys, self.tops,
        )  # fmt: skip
        self.clusters[self.read : end], self.slots[more] = more, np.arange(self.read, end, dtype=np.int32)
        self.read, self.above = end, guess

    def gains(self, low: int, high: int, shift: int, width: int) -> np.ndarray:
        """[2^width] nodes that expanding adds to the cut, by a digit of the key, for keys from low to below high."""
        gains = np.zeros((self.threads, 1 << width), dtype=np.int64)
        _add_gains(
            self.keys, self.tops, self.clusters, self.counts, self.read, low, high, shift, (1 << width) - 1,
            _counter(), gains,
        )  # fmt: skip
        return gains.sum(axis=0)


def _counter() -> np.ndarray:
    return np.zeros(1, dtype=np.int64)


def _key(value: np.float32) -> int:
    return int(value.view(np.int32))


def _pick(gains: np.ndarray, room: int) -> tuple[int, int]:
    """The highest bin that does not fit together with all above it, and the room that those leave."""
    totals = gains[::-1].cumsum()
    place = int((totals > room).argmax())
    return len(gains) - 1 - place, room - int(totals[place] - gains[::-1][place])


def _find(reading: _Reading, roots: int, budget: int, previous: np.float32 | None) -> tuple[np.float32, int]:
    """Threshold, and the index before which nodes with exactly that view error are expanded too."""
    floor, room = f32(reading.row[g.FLOOR]), max(budget - roots, 0)
    guess, wanted = floor, budget * _CLUSTERS_A_NODE
    ordered = np.sort(reading.uppers)[::-1]
    if previous is not None:
        previous = max(previous, floor)
        reading.lower(max(previous * _LOWER, floor))
        count = roots + int(reading.gains(_key(previous) + 1, _ENDLESS, 31, 0)[0])
        if 99 * budget <= 100 * count <= 100 * budget:
            return previous, 0
    (shift, width), *rest = _DIGITS
    gains, high = np.zeros(1 << width, dtype=np.int64), _ENDLESS
    while True:
        if reading.above < np.inf and high == _ENDLESS:
            guess = reading.above  # what the last threshold had read
        else:
            guess = max(ordered[int(wanted)], floor) if wanted < len(ordered) else floor
            reading.lower(guess)
        gains += reading.gains(_key(guess), high, shift, width)
        high, total = _key(guess), int(gains.sum())
        if total > room:
            break
        if guess <= floor:
            return floor, 0
        wanted = max(wanted, reading.read) * min(max(1.2 * room / max(total, 1), _FEWEST), _MOST_MORE)

    key, room = _pick(gains, room)
    for finer, width in rest:
        low = key << shift
        key, left = _pick(reading.gains(max(low, high), low + (1 << shift), finer, width), room)
        key, room, shift = low >> finer | key, left, finer
    last = _first_unfit(reading.keys, reading.tops, reading.slots, reading.counts, key, room)
    return np.int32(key).view(f32), last


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
        drawn = np.empty(len(largest), dtype=np.int64)
        tree = reading.keys, reading.tops, reading.slots
        _count_drawn(*tree, *flat[3:], *choice, _counter(), reading.threads, drawn)
        starts = np.zeros(len(drawn) + 1, dtype=np.int64)
        np.cumsum(drawn, out=starts[1:])
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
    found = (torch.from_numpy(array[:count]) for array in (ids, t, errors))
    return *found, torch.tensor(threshold)
