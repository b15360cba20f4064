"""What a cut draws, on the CPU: expanded nodes give their children, and themselves while they fade.

What decides about a node is handed on as `choice`: the threshold, its key, the index before which nodes with exactly
that key are expanded too, the view error below which groups fade, and the threshold as a share of that. Other names are
those of kernels/cpu/lod.py: view errors `values`, in the order of reading, `keys`, the same as integers, the largest of
each cluster `tops`, and where a cluster lies `slots`.
"""

import numpy as np
from numba import prange

from ..constants import CLUSTER, FAINTEST
from .compiled import compiled
from .lod_errors import AT_ONCE, LAST_KEY, list_keys, node_error
from .simd import element, least, most, put, take

f32 = np.float32
_ZERO, _ONE, _FAINTEST = f32(0), f32(1), f32(FAINTEST)


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


@compiled(inline=True)
def _look(i, keys, values, slots, means, radii, errors, row, gazed, last_key, last):
    """Whether a node is drawn, and its view error: it is there for what can be expanded in clusters that were read."""
    slot = np.int64(element(slots, i // CLUSTER))
    place = slot * CLUSTER + i % CLUSTER
    own = element(values, place) if slot >= 0 else _ZERO
    drawn = own == _ZERO or not _is_expanded(i, element(keys, place), last_key, last)
    if own == _ZERO and element(errors, i) > _ZERO:
        x, y, z = element(means, 3 * i), element(means, 3 * i + 1), element(means, 3 * i + 2)
        own = node_error(x, y, z, element(radii, i), element(errors, i), row, gazed)
    return drawn, own


@compiled()
def _arrival(above, child, count, keys, values, slots, means, radii, errors, row, gazed, choice):
    """t of a group of children, from their parent's view error and their own; 1 where that does not fade."""
    threshold, last_key, last, fading, share = choice
    if not above < fading or count < 2:
        return _ONE
    largest = _ZERO
    for i in range(child, child + count):
        drawn, own = _look(i, keys, values, slots, means, radii, errors, row, gazed, last_key, last)
        if not drawn:
            return _ONE
        largest = most(largest, own)
    start = most(above * share, largest)
    return most(_FAINTEST, least(_ONE, (above - threshold) / (above - start))) if above > start else _ONE


@compiled(parallel=True)
def count_drawn(
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
def emit(
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
                        drawn, own = _look(i, keys, values, slots, means, radii, errors, row, gazed, last_key, last)
                        if drawn:
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
def emit_roots(
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
