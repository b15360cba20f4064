"""Bring gradients from records back to colours, in Triton, and what the backward pass of the projection rests on.

One lane a splat, all views in a loop; see kernels/project_backward.py.
"""

import triton
import triton.language as tl

from .. import adjoint
from .compiled import leaf
from .constants import EYE, RECORD, RED, ROW
from .harmonics import sh_basis, sh_direction
from .rows import load_row, store_row

SUMS = 23  # numbers of a view's row that have a gradient

ROW_SUMS, TINY = tl.constexpr(SUMS), tl.constexpr(1e-30)

_direction_adjoint = leaf(adjoint.direction_adjoint)


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
def _add_sh(sums, basis, rgb, COUNT: tl.constexpr):
    """Gradients of the coefficients; number 3 k + c is that of coefficient k of channel c."""
    added = ()
    for k in tl.static_range(3 * COUNT):
        added = added + (sums[k] + basis[k // 3] * rgb[k % 3],)
    return added


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
            found = _add_sh(found, sh_basis(dx, dy, dz, COUNT), rgb, COUNT)
            g_offset = (zero, zero, zero)
            if COUNT > 1:
                sh = load_row(colors + 3 * COUNT * i, active, 3 * COUNT)
                g_direction = sh_direction(sh, dx, dy, dz, rgb, COUNT)
                g_offset = _direction_adjoint((x, y, z), inverse, g_direction)
                g_mean = add(g_mean, g_offset, 3)
            store_sums(sums_out + view * ROW_SUMS + EYE, (-g_offset[0], -g_offset[1], -g_offset[2]), 3)
        view += 1
    if not PER_VIEW:
        store_row(grad_colors_out + WIDTH * i, found, mask, WIDTH)
    return g_mean
