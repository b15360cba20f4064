"""Sort splats by depth, on the CPU: a radix sort of four passes, stable, so that equal depths keep their order.

Reads and writes 16 bytes a splat and pass. On one core: shared out, each pass would wait for the slowest twice, which
costs more than it saves wherever another program has a core.
"""

import numpy as np

from .compiled import compiled
from .simd import element, put

_BITS = 8  # a pass: as many places to write to as the first-level cache has room for
_DIGITS = 1 << _BITS
_PASSES = 32 // _BITS
_ID_BITS = 32  # of a key, below the depth


@compiled()
def _count_digits(keys, counts_out):
    """How often each value of each digit occurs [_PASSES, _DIGITS]."""
    counts_out[:] = 0
    for k in range(len(keys)):
        for digit in range(_PASSES):
            value = (element(keys, k) >> (_ID_BITS + digit * _BITS)) & (_DIGITS - 1)
            counts_out[digit, value] += 1


@compiled()
def _sort_by_digit(keys, shift, places, keys_out):
    """Move each key to the next place of its digit's value."""
    for k in range(len(keys)):
        key = element(keys, k)
        value = (key >> shift) & (_DIGITS - 1)
        put(keys_out, places[value], key)
        places[value] += 1


def depth_order(keys: np.ndarray) -> np.ndarray:
    """Splats, nearest first, ties by id: [v] uint32.

    Args:
        keys: [v] uint64, the bits of a depth, 0 or more, above; the id below, which grows along the array.
    """
    here, there = keys.view(np.int64), np.empty(len(keys), dtype=np.int64)
    free = np.empty(len(keys), dtype=np.int64)
    counts = np.empty((_PASSES, _DIGITS), dtype=np.int64)
    _count_digits(here, counts)
    places = np.cumsum(counts, axis=1) - counts
    for digit in range(_PASSES):
        _sort_by_digit(here, _ID_BITS + digit * _BITS, places[digit], there)
        here, there, free = there, free, there
    return here.astype(np.uint32)
