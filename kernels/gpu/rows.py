"""Rows of neighbouring floats, one a lane, in Triton: by fours where their number allows it, a quarter of the accesses.

A row by fours is one 16-byte access each where the pointers are seen to be divisible by 16. Constexpr: LENGTH of a row.
"""

import triton
import triton.language as tl


@triton.jit
def load_row(pointers, mask, LENGTH: tl.constexpr):
    """LENGTH neighbouring floats a lane, as a tuple; 0 where the mask is False."""
    values = ()
    if LENGTH % 4 == 0:
        for first in tl.static_range(0, LENGTH, 4):
            fours = tl.load((pointers + first)[:, None] + tl.arange(0, 4)[None, :], mask=mask[:, None], other=0.0)
            even, odd = tl.split(tl.reshape(fours, (pointers.shape[0], 2, 2)))
            e0, e1 = tl.split(even)
            o0, o1 = tl.split(odd)
            values = values + (e0, o0, e1, o1)
    else:
        for k in tl.static_range(LENGTH):
            values = values + (tl.load(pointers + k, mask=mask, other=0.0),)
    return values


@triton.jit
def store_row(pointers, values, mask, LENGTH: tl.constexpr):
    """The way back."""
    if LENGTH % 4 == 0:
        for first in tl.static_range(0, LENGTH, 4):
            even, odd = tl.join(values[first], values[first + 2]), tl.join(values[first + 1], values[first + 3])
            fours = tl.reshape(tl.join(even, odd), (pointers.shape[0], 4))
            tl.store((pointers + first)[:, None] + tl.arange(0, 4)[None, :], fours, mask=mask[:, None])
    else:
        for k in tl.static_range(LENGTH):
            tl.store(pointers + k, values[k], mask=mask)
