"""Spherical harmonics of one splat a lane, in Triton: coefficients times basis, summed as they come.

Device functions for kernels/project.py. A splat's 12 k bytes lie together, so lanes read far apart; by fours, where
their number allows it, that is a quarter of the loads. Constexpr: COUNT, coefficients a channel.
"""

import triton
import triton.language as tl

from .. import constants as c

C0, C1 = tl.constexpr(c.SH_C0), tl.constexpr(c.SH_C1)
C20, C21, C22, C23, C24 = (tl.constexpr(value) for value in c.SH_C2)
C30, C31, C32, C33, C34, C35, C36 = (tl.constexpr(value) for value in c.SH_C3)


@triton.jit
def load_four(pointers, mask):
    """Four neighbouring floats a lane; one 16-byte load where the pointers are seen to be divisible by 16."""
    fours = tl.load(pointers[:, None] + tl.arange(0, 4)[None, :], mask=mask[:, None], other=0.0)
    even, odd = tl.split(tl.reshape(fours, (pointers.shape[0], 2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def _basis(K: tl.constexpr, x, y, z):
    """One real spherical harmonic at a unit vector; what neighbours share, the compiler finds."""
    if K == 0:
        value = tl.full(x.shape, C0, tl.float32)
    elif K == 1:
        value = -C1 * y
    elif K == 2:
        value = C1 * z
    elif K == 3:
        value = -C1 * x
    elif K == 4:
        value = C20 * (x * y)
    elif K == 5:
        value = C21 * (y * z)
    elif K == 6:
        value = C22 * (2.0 * z * z - x * x - y * y)
    elif K == 7:
        value = C23 * (x * z)
    elif K == 8:
        value = C24 * (x * x - y * y)
    elif K == 9:
        value = C30 * y * (3.0 * x * x - y * y)
    elif K == 10:
        value = C31 * (x * y) * z
    elif K == 11:
        value = C32 * y * (4.0 * z * z - x * x - y * y)
    elif K == 12:
        value = C33 * z * (2.0 * z * z - 3.0 * (x * x + y * y))
    elif K == 13:
        value = C34 * x * (4.0 * z * z - x * x - y * y)
    elif K == 14:
        value = C35 * z * (x * x - y * y)
    else:
        value = C36 * x * (x * x - 3.0 * y * y)
    return value


@triton.jit
def sh_color(sh, i, mask, x, y, z, COUNT: tl.constexpr, WIDTH: tl.constexpr):
    """RGB, 0 or above. Coefficient k of channel c is number 3 k + c; WIDTH of them are loaded at once."""
    half = tl.full(x.shape, 0.5, tl.float32)
    red, green, blue = half, half, half
    for first in tl.static_range(0, 3 * COUNT, WIDTH):
        if WIDTH == 4:
            values = load_four(sh + 3 * COUNT * i + first, mask)
        else:
            values = (tl.load(sh + 3 * COUNT * i + first, mask=mask, other=0.0),)
        for j in tl.static_range(WIDTH):
            term = _basis((first + j) // 3, x, y, z) * values[j]
            if (first + j) % 3 == 0:
                red += term
            elif (first + j) % 3 == 1:
                green += term
            else:
                blue += term
    return tl.maximum(red, 0.0), tl.maximum(green, 0.0), tl.maximum(blue, 0.0)
