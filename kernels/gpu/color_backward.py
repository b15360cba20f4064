"""Bring gradients from records back to colours, in Triton, and what the backward pass of the projection rests on.

One lane a splat, all views in a loop; see kernels/project_backward.py.
"""

from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

from .. import adjoint
from .. import constants as c
from .. import views as v

SUMS = 23  # numbers of a view's row that have a gradient

RECORD, RED = tl.constexpr(c.RECORD), tl.constexpr(c.RED)
ROW, EYE, ROW_SUMS, TINY = tl.constexpr(v.ROW), tl.constexpr(v.EYE), tl.constexpr(SUMS), tl.constexpr(1e-30)
C0, C1 = tl.constexpr(c.SH_C0), tl.constexpr(c.SH_C1)
C20, C21, C22, C23, C24 = (tl.constexpr(value) for value in c.SH_C2)
C30, C31, C32, C33, C34, C35, C36 = (tl.constexpr(value) for value in c.SH_C3)


def leaf(function: Callable[..., Any]) -> Any:
    """Plain arithmetic as a device function; the interpreter runs it as it is."""
    compiled = triton.jit(function)
    return compiled if isinstance(compiled, triton.JITFunction) else function


_sh_slope_1, _sh_slope_2 = leaf(adjoint.sh_slope_1), leaf(adjoint.sh_slope_2)
_sh_slope_3, _direction_adjoint = leaf(adjoint.sh_slope_3), leaf(adjoint.direction_adjoint)


@triton.jit
def load_row(pointers, mask, LENGTH: tl.constexpr):
    """LENGTH neighbouring floats a lane, as a tuple; in 16-byte loads where they come by fours."""
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
    if LENGTH % 4 == 0:
        for first in tl.static_range(0, LENGTH, 4):
            even, odd = tl.join(values[first], values[first + 2]), tl.join(values[first + 1], values[first + 3])
            fours = tl.reshape(tl.join(even, odd), (pointers.shape[0], 4))
            tl.store((pointers + first)[:, None] + tl.arange(0, 4)[None, :], fours, mask=mask[:, None])
    else:
        for k in tl.static_range(LENGTH):
            tl.store(pointers + k, values[k], mask=mask)


@triton.jit
def choose(mask, values, other):
    """Three values where the mask holds, else the other."""
    return tl.where(mask, values[0], other), tl.where(mask, values[1], other), tl.where(mask, values[2], other)


@triton.jit
def add(sums, values, LENGTH: tl.constexpr):
    added = ()
    for k in tl.static_range(LENGTH):
        added = added + (sums[k] + values[k],)
    return added


@triton.jit
def store_sums(pointer, values, LENGTH: tl.constexpr):
    """Each value summed over the program's splats."""
    for k in tl.static_range(LENGTH):
        tl.store(pointer + k, tl.sum(values[k], axis=0))


@triton.jit
def _sh_basis(x, y, z, COUNT: tl.constexpr):
    basis = (tl.full(x.shape, C0, tl.float32),)
    if COUNT > 1:
        basis = basis + (-C1 * y, C1 * z, -C1 * x)
    if COUNT > 4:
        xx, yy, zz = x * x, y * y, z * z
        basis = basis + (C20 * x * y, C21 * y * z, C22 * (2.0 * zz - xx - yy), C23 * x * z, C24 * (xx - yy))
        if COUNT > 9:
            ring = 4.0 * zz - xx - yy
            basis = basis + (C30 * y * (3.0 * xx - yy), C31 * x * y * z, C32 * y * ring)
            basis = basis + (C33 * z * (2.0 * zz - 3.0 * (xx + yy)), C34 * x * ring)
            basis = basis + (C35 * z * (xx - yy), C36 * x * (xx - 3.0 * yy))
    return basis


@triton.jit
def _add_sh(sums, basis, rgb, COUNT: tl.constexpr):
    """Gradients of the coefficients; number 3 k + c is that of coefficient k of channel c."""
    added = ()
    for k in tl.static_range(3 * COUNT):
        added = added + (sums[k] + basis[k // 3] * rgb[k % 3],)
    return added


@triton.jit
def _sh_direction(sh, x, y, z, rgb, COUNT: tl.constexpr):
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


@triton.jit
def color_gradients(
    means, colors, rows, records, gradients, grad_colors_out, sums_out,
    i, mask, n, views, COUNT: tl.constexpr, WIDTH: tl.constexpr, PER_VIEW: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the colours, WIDTH floats a splat, and the eyes' sums; returns those of the means."""
    mean = load_row(means + 3 * i, mask, 3)
    zero = tl.zeros_like(mean[0])
    found, g_mean = (zero,) * WIDTH, (zero, zero, zero)
    view = tl.full((), 0, tl.int64)
    while view < views:
        place = view * n + i
        rgb = load_row(gradients + RECORD * place + RED, mask, 3)
        if COUNT == 0:
            if PER_VIEW:
                store_row(grad_colors_out + 3 * place, rgb, mask, 3)
            else:
                found = add(found, rgb, 3)
        else:
            active = (rgb[0] != 0.0) | (rgb[1] != 0.0) | (rgb[2] != 0.0)
            shown = load_row(records + RECORD * place + RED, active, 3)
            rgb = (  # nothing where the colour was cut off at 0
                tl.where(shown[0] > 0.0, rgb[0], 0.0),
                tl.where(shown[1] > 0.0, rgb[1], 0.0),
                tl.where(shown[2] > 0.0, rgb[2], 0.0),
            )
            eye = rows + view * ROW + EYE
            offset = (mean[0] - tl.load(eye), mean[1] - tl.load(eye + 1), mean[2] - tl.load(eye + 2))
            x, y, z = choose(active, offset, 0.0)
            inverse = 1.0 / tl.sqrt(tl.maximum(x * x + y * y + z * z, TINY))
            dx, dy, dz = x * inverse, y * inverse, z * inverse
            found = _add_sh(found, _sh_basis(dx, dy, dz, COUNT), rgb, COUNT)
            g_offset = (zero, zero, zero)
            if COUNT > 1:
                sh = load_row(colors + 3 * COUNT * i, active, 3 * COUNT)
                g_direction = _sh_direction(sh, dx, dy, dz, rgb, COUNT)
                g_offset = _direction_adjoint((x, y, z), inverse, g_direction)
                g_mean = add(g_mean, g_offset, 3)
            store_sums(sums_out + view * ROW_SUMS + EYE, (-g_offset[0], -g_offset[1], -g_offset[2]), 3)
        view += 1
    if not PER_VIEW:
        store_row(grad_colors_out + WIDTH * i, found, mask, WIDTH)
    return g_mean
