"""Spherical harmonics of eight unit directions, on the CPU, and the gradients of the directions."""

import numpy as np

from .. import adjoint
from .. import constants as c
from .compiled import compiled
from .lanes import DOTS, splats, three
from .simd import LANES, load, splat, store

f32 = np.float32
C0 = f32(c.SH_C0)

_C1, _SH_2, _SH_3 = f32(c.SH_C1), tuple(map(f32, c.SH_C2)), tuple(map(f32, c.SH_C3))
_SH_1 = -_C1, _C1, -_C1
_C20, _C21, _C22, _C23, _C24 = _SH_2
_C30, _C31, _C32, _C33, _C34, _C35, _C36 = _SH_3
_TWO, _THREE, _FOUR = f32(2), f32(3), f32(4)

_sh_slope_1, _sh_slope_2, _sh_slope_3 = (
    compiled()(slope) for slope in (adjoint.sh_slope_1, adjoint.sh_slope_2, adjoint.sh_slope_3)
)


@compiled(inline=True)
def store_basis(x, y, z, count, lanes, at):
    """SH basis of eight unit directions, without its constant term, to rows of the lane buffer from `at`."""
    if count > 1:
        store(lanes, at, splat(-_C1) * y)
        store(lanes, at + LANES, splat(_C1) * z)
        store(lanes, at + 2 * LANES, splat(-_C1) * x)
    if count > 4:
        xx, yy, zz, xy = x * x, y * y, z * z, x * y
        store(lanes, at + 3 * LANES, splat(_C20) * xy)
        store(lanes, at + 4 * LANES, splat(_C21) * y * z)
        store(lanes, at + 5 * LANES, splat(_C22) * (splat(_TWO) * zz - xx - yy))
        store(lanes, at + 6 * LANES, splat(_C23) * x * z)
        store(lanes, at + 7 * LANES, splat(_C24) * (xx - yy))
        if count > 9:
            ring = splat(_FOUR) * zz - xx - yy
            store(lanes, at + 8 * LANES, splat(_C30) * y * (splat(_THREE) * xx - yy))
            store(lanes, at + 9 * LANES, splat(_C31) * xy * z)
            store(lanes, at + 10 * LANES, splat(_C32) * y * ring)
            store(lanes, at + 11 * LANES, splat(_C33) * z * (splat(_TWO) * zz - splat(_THREE) * (xx + yy)))
            store(lanes, at + 12 * LANES, splat(_C34) * x * ring)
            store(lanes, at + 13 * LANES, splat(_C35) * z * (xx - yy))
            store(lanes, at + 14 * LANES, splat(_C36) * x * (xx - splat(_THREE) * yy))


@compiled()
def sh_slope(x, y, z, count, lanes):
    """Gradients of the directions, from those of the basis in the lane buffer (lanes.py); count is 4, 9 or 16."""
    gx, gy, gz = _sh_slope_1(splats(_SH_1, 0), three(lanes, DOTS))
    if count > 4:
        dots = three(lanes, DOTS + 3) + (load(lanes, (DOTS + 6) * LANES), load(lanes, (DOTS + 7) * LANES))
        hx, hy, hz = _sh_slope_2(x, y, z, splats(_SH_2, 0) + (splat(_C23), splat(_C24)), dots)
        gx, gy, gz = gx + hx, gy + hy, gz + hz
    if count > 9:
        dots = three(lanes, DOTS + 8) + three(lanes, DOTS + 11) + (load(lanes, (DOTS + 14) * LANES),)
        hx, hy, hz = _sh_slope_3(x, y, z, splats(_SH_3, 0) + splats(_SH_3, 3) + (splat(_C36),), dots)
        gx, gy, gz = gx + hx, gy + hy, gz + hz
    return gx, gy, gz
