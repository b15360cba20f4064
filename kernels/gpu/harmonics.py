"""Spherical harmonics of one splat a lane, in Triton. Constexpr: COUNT, coefficients a channel."""

import triton
import triton.language as tl

from .. import adjoint
from .. import constants as c
from .compiled import leaf
from .rows import load_row

C0, C1 = tl.constexpr(c.SH_C0), tl.constexpr(c.SH_C1)
C20, C21, C22, C23, C24 = (tl.constexpr(value) for value in c.SH_C2)
C30, C31, C32, C33, C34, C35, C36 = (tl.constexpr(value) for value in c.SH_C3)

_sh_slope_1, _sh_slope_2 = leaf(adjoint.sh_slope_1), leaf(adjoint.sh_slope_2)
_sh_slope_3 = leaf(adjoint.sh_slope_3)


@triton.jit
def sh_basis(x, y, z, COUNT: tl.constexpr):
    """COUNT real spherical harmonics at a unit vector."""
    basis = (tl.full(x.shape, C0, tl.float32),)
    if COUNT > 1:
        basis = basis + (-C1 * y, C1 * z, -C1 * x)
    if COUNT > 4:
        xx, yy, zz, xy = x * x, y * y, z * z, x * y
        basis = basis + (C20 * xy, C21 * (y * z), C22 * (2.0 * zz - xx - yy), C23 * (x * z), C24 * (xx - yy))
        if COUNT > 9:
            ring = 4.0 * zz - xx - yy
            basis = basis + (C30 * y * (3.0 * xx - yy), C31 * xy * z, C32 * y * ring)
            basis = basis + (C33 * z * (2.0 * zz - 3.0 * (xx + yy)), C34 * x * ring)
            basis = basis + (C35 * z * (xx - yy), C36 * x * (xx - 3.0 * yy))
    return basis


@triton.jit
def sh_color(sh, i, mask, x, y, z, COUNT: tl.constexpr):
    """RGB, 0 or above, coefficients times basis summed as they come: coefficient k of channel c is number 3 k + c."""
    WIDTH: tl.constexpr = 4 if COUNT % 4 == 0 else 1  # loaded at once
    half = tl.full(x.shape, 0.5, tl.float32)
    red, green, blue = half, half, half
    basis = sh_basis(x, y, z, COUNT)
    for first in tl.static_range(0, 3 * COUNT, WIDTH):
        values = load_row(sh + 3 * COUNT * i + first, mask, WIDTH)
        for j in tl.static_range(WIDTH):
            term = basis[(first + j) // 3] * values[j]
            if (first + j) % 3 == 0:
                red += term
            elif (first + j) % 3 == 1:
                green += term
            else:
                blue += term
    return tl.maximum(red, 0.0), tl.maximum(green, 0.0), tl.maximum(blue, 0.0)


@triton.jit
def sh_direction(sh, x, y, z, rgb, COUNT: tl.constexpr):
    """Gradient of the direction (x, y, z)."""
    dots = ()
    for k in tl.static_range(1, COUNT):
        dots = dots + (sh[3 * k] * rgb[0] + sh[3 * k + 1] * rgb[1] + sh[3 * k + 2] * rgb[2],)
    gx, gy, gz = _sh_slope_1((-C1, C1, -C1), (dots[0], dots[1], dots[2]))
    if COUNT > 4:
        seconds = (dots[3], dots[4], dots[5], dots[6], dots[7])
        hx, hy, hz = _sh_slope_2(x, y, z, (C20, C21, C22, C23, C24), seconds)
        gx, gy, gz = gx + hx, gy + hy, gz + hz
        if COUNT > 9:
            thirds = (dots[8], dots[9], dots[10], dots[11], dots[12], dots[13], dots[14])
            hx, hy, hz = _sh_slope_3(x, y, z, (C30, C31, C32, C33, C34, C35, C36), thirds)
            gx, gy, gz = gx + hx, gy + hy, gz + hz
    return gx, gy, gz
