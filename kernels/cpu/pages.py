"""Walks over a level-of-detail tree that its paged file needs: sizes, the fill of a page, codes of errors and radii.

Nodes are indexed as in a tree: parents before children, siblings contiguous; `children` is a first child, `counts` how
many there are. Each walk is one pass on one core.
"""

import math

import numpy as np

from .compiled import compiled

FINEST, PER_OCTAVE = -32, 1024  # a code c > 0 stands for 2^(FINEST + (c - 1) / PER_OCTAVE), 0 for 0
CODES = 1 << 16
_INDEX = 0xFFFFFFFF  # of a key, below the error


def code_values() -> np.ndarray:
    """[CODES] float32: what the codes of errors and radii stand for."""
    values = np.exp2(FINEST + (np.arange(CODES) - 1) / PER_OCTAVE)
    values[0] = 0
    return values.astype(np.float32)


@compiled()
def count_descendants(children, counts, sizes_out):
    """Of each node, itself not among them [n] int64."""
    for node in range(len(children) - 1, -1, -1):
        size = 0
        for child in range(children[node], children[node] + counts[node]):
            size += 1 + sizes_out[child]
        sizes_out[node] = size


@compiled()
def _push(heap, size, key):
    """One more key in a heap with the largest first."""
    place = size
    while place > 0 and heap[(place - 1) // 2] < key:
        heap[place] = heap[(place - 1) // 2]
        place = (place - 1) // 2
    heap[place] = key


@compiled()
def _pop(heap, size):
    """Take the first of `size` keys away."""
    key = heap[size - 1]
    place = 0
    while True:
        below = 2 * place + 1
        if below >= size - 1:
            break
        if below + 1 < size - 1 and heap[below + 1] > heap[below]:
            below += 1
        if heap[below] <= key:
            break
        heap[place] = heap[below]
        place = below
    heap[place] = key


@compiled()
def fill_page(starts, lengths, children, counts, errors, heap, members_out, frontier_out):
    """Fill a page from groups of siblings down, the children of the node with the largest error first.

    Args:
        starts: [g] int32, the groups' first nodes, with `lengths` [g]; together no more than the page holds.
        errors: [n] int32, the bits of float32 of 0 or more.
        heap: [capacity] int64, scratch.
        members_out: [capacity] int32, nodes of the page.
        frontier_out: [capacity] int32, those of them whose children are not.

    Returns:
        How many members, and how many at the frontier. Equal errors go by index.
    """
    filled = 0
    size = 0
    for group in range(len(starts)):
        for node in range(starts[group], starts[group] + lengths[group]):
            members_out[filled] = node
            filled += 1
            if counts[node] > 0:
                _push(heap, size, (np.int64(errors[node]) << 32) | (_INDEX - node))
                size += 1
    while size > 0:
        parent = _INDEX - (heap[0] & _INDEX)
        if filled + counts[parent] > len(members_out):
            break
        _pop(heap, size)
        size -= 1
        for node in range(children[parent], children[parent] + counts[parent]):
            members_out[filled] = node
            filled += 1
            if counts[node] > 0:
                _push(heap, size, (np.int64(errors[node]) << 32) | (_INDEX - node))
                size += 1
    for place in range(size):
        frontier_out[place] = _INDEX - (heap[place] & _INDEX)
    return filled, size


@compiled()
def _code_above(value, values):
    """The least code that stands for `value` or more; CODES where none does."""
    if value <= 0:
        return 0
    code = max(1, 1 + math.ceil((math.log2(value) - FINEST) * PER_OCTAVE))
    if code >= CODES + PER_OCTAVE:
        return CODES
    code = min(code, CODES - 1)
    while code > 1 and values[code - 1] >= value:
        code -= 1
    while code < CODES and values[code] < value:
        code += 1
    return code


@compiled()
def climb(children, counts, means, errors, room, values, error_codes, radius_codes):
    """Codes of errors and of nested spheres for inner nodes, from the leaves up.

    Args:
        means: [n, 3] float32, as they will be read.
        errors: [n] float32.
        room: what a parent's sphere is larger than the hull of its children's.
        values: `code_values`.
        error_codes: [n] int32; given for leaves. A parent's is larger than its children's unless all are 0.
        radius_codes: [n] int32; given for leaves. CODES where no code is large enough, of errors too.
    """
    for node in range(len(children) - 1, -1, -1):
        if counts[node] == 0:
            continue
        reach = 0.0
        error = -1
        for child in range(children[node], children[node] + counts[node]):
            x = np.float64(means[node, 0]) - np.float64(means[child, 0])
            y = np.float64(means[node, 1]) - np.float64(means[child, 1])
            z = np.float64(means[node, 2]) - np.float64(means[child, 2])
            radius = values[min(radius_codes[child], CODES - 1)]
            reach = max(reach, math.sqrt(x * x + y * y + z * z) + np.float64(radius))
            if error_codes[child] > 0:
                error = max(error, error_codes[child])
        error_codes[node] = min(CODES, max(_code_above(np.float64(errors[node]), values), error + 1))
        radius_codes[node] = _code_above(reach + room, values)


@compiled()
def round_rows(values, factors, most, codes_out):
    """values [n, m] float32 times factors [m], rounded to the nearest whole number within +-most."""
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            value = np.rint(values[row, column] * factors[column])
            codes_out[row, column] = np.int8(min(max(value, -most), most))


@compiled()
def largest_magnitudes(values, most_out):
    """Of each column of values [n, m] float32."""
    most_out[:] = 0
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            most_out[column] = max(most_out[column], abs(values[row, column]))


@compiled()
def pack_quats(quats, steps, words_out):
    """Words of quaternions [n, 4] float32 of any length but 0: the index of the largest component in the two highest
    bits, the others in ascending order, 10 bits each: 511 and a number of steps, of which sqrt(1/2) has `steps`.

    Torch (`engine.formats.smallest_three`) takes five times as long, and a hundred times as long where other programs
    hold its threads up; and so it is with `unpack_quats`.
    """
    for node in range(len(quats)):
        largest = 0
        total = 0.0
        for component in range(4):
            value = np.float64(quats[node, component])
            total += value * value
            if abs(quats[node, component]) > abs(quats[node, largest]):
                largest = component
        factor = math.copysign(steps * math.sqrt(2.0) / math.sqrt(total), np.float64(quats[node, largest]))
        word = np.int64(largest)
        for component in range(4):
            if component != largest:
                value = np.int64(np.rint(np.float64(quats[node, component]) * factor))
                word = word << 10 | (511 + min(max(value, -steps), steps))
        words_out[node] = word


@compiled()
def unpack_quats(words, steps, quats_out):
    """The inverse, float32, of unit length, the largest component positive."""
    step = np.float32(math.sqrt(0.5) / steps)
    for node in range(len(words)):
        word = np.int64(words[node])
        largest = word >> 30
        rest = np.float32(1)
        shift = 20
        for component in range(4):
            if component != largest:
                value = np.float32((word >> shift & 1023) - 511) * step
                quats_out[node, component] = value
                rest -= value * value
                shift -= 10
        quats_out[node, largest] = math.sqrt(max(rest, np.float32(0)))
