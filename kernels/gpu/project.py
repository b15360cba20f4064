"""Project splats to records, in Triton: one lane a splat and group of views, colours in the same pass.

Reads 44 bytes a splat and its colour, 12 k or 3 floats (only 16 bytes of those out of the depth range), and writes a
48-byte record (kernels/constants.py) a view, in three 16-byte stores, and a 4-byte depth key a group. The eyes of a
group share the turned and scaled axes of the splat, its colour and its key. Same formulas as kernels/reference.py, in
float32. Constexpr: COUNT, SH coefficients a channel (0: the colours are RGB); LENS; ANTIALIASED; EYES of a group.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import constants as c
from ..arguments import color_count
from ..options import Options
from ..views import LENSES
from .constants import (
    ALPHA_MIN,
    BLUR,
    EYE,
    FAR,
    FISHEYE,
    HEIGHT,
    LOG2_ALPHA_MIN,
    NEAR,
    ORTHOGRAPHIC,
    RADIUS_CLIP,
    RECORD,
    ROW,
    SORT,
    TO_EXP2,
    WIDTH,
)
from .harmonics import sh_color
from .lens import depth_of, project_point, to_camera
from .rows import load_row, store_row

CULLED = 0x7FFFFFFF  # depth key of a splat that is not seen; larger than any depth's bits
BLOCK = 128

CULLED_KEY, HUGE = tl.constexpr(CULLED), tl.constexpr(3.0e38)


@triton.jit
def _scaled_axes(quats, scales, i, mask):
    """Columns of rotation times scale, x, y, z of the first axis, then of the others; and where there is a rotation."""
    qw, qx, qy, qz = load_row(quats + 4 * i, mask, 4)
    square = qw * qw + qx * qx + qy * qy + qz * qz
    turned = mask & (square > 0.0)
    two = 2.0 / tl.where(turned, square, 1.0)
    s0, s1, s2 = load_row(scales + 3 * i, mask, 3)
    m00, m10, m20 = 1.0 - two * (qy * qy + qz * qz), two * (qx * qy + qw * qz), two * (qx * qz - qw * qy)
    m01, m11, m21 = two * (qx * qy - qw * qz), 1.0 - two * (qx * qx + qz * qz), two * (qy * qz + qw * qx)
    m02, m12, m22 = two * (qx * qz + qw * qy), two * (qy * qz - qw * qx), 1.0 - two * (qx * qx + qy * qy)
    return m00 * s0, m10 * s0, m20 * s0, m01 * s1, m11 * s1, m21 * s1, m02 * s2, m12 * s2, m22 * s2, turned


@triton.jit
def _direction(row, mx, my, mz):
    """From the eye to the splat: a unit vector, and the distance."""
    dx, dy, dz = mx - tl.load(row + EYE), my - tl.load(row + EYE + 1), mz - tl.load(row + EYE + 2)
    square = tl.maximum(dx * dx + dy * dy + dz * dz, 1e-30)
    inverse = tl.rsqrt(square)
    return dx * inverse, dy * inverse, dz * inverse, square * inverse


@triton.jit
def _jacobian_row(row, AXIS: tl.constexpr, own, cross, along, LENS: tl.constexpr):
    """One row of the Jacobian times the world-to-camera rotation; terms that a lens has not are left out."""
    a, b, c = (
        own * tl.load(row + 4 * AXIS),
        own * tl.load(row + 4 * AXIS + 1),
        own * tl.load(row + 4 * AXIS + 2),
    )
    if LENS == FISHEYE:
        a += cross * tl.load(row + 4 - 4 * AXIS)
        b += cross * tl.load(row + 5 - 4 * AXIS)
        c += cross * tl.load(row + 6 - 4 * AXIS)
    if LENS != ORTHOGRAPHIC:
        a += along * tl.load(row + 8)
        b += along * tl.load(row + 9)
        c += along * tl.load(row + 10)
    return a, b, c


@triton.jit
def _footprint(
    row, x, y, z, depth, visible, opacity,
    m00, m10, m20, m01, m11, m21, m02, m12, m22,
    LENS: tl.constexpr, ANTIALIASED: tl.constexpr,
):  # fmt: skip
    """The splat in one view: mean, factor of the conic, log2 of the opacity, extents, and whether it is seen."""
    mean_x, mean_y, xx, xy, xz, yx, yy, yz, visible = project_point(row, x, y, z, depth, visible, LENS)
    ax, ay, az = _jacobian_row(row, 0, xx, xy, xz, LENS)
    bx, by, bz = _jacobian_row(row, 1, yy, yx, yz, LENS)
    # The two rows whose products are the 2D covariance.
    a0, b0 = ax * m00 + ay * m10 + az * m20, bx * m00 + by * m10 + bz * m20
    a1, b1 = ax * m01 + ay * m11 + az * m21, bx * m01 + by * m11 + bz * m21
    a2, b2 = ax * m02 + ay * m12 + az * m22, bx * m02 + by * m12 + bz * m22
    blur = tl.load(row + BLUR)
    xx = a0 * a0 + a1 * a1 + a2 * a2 + blur
    xy = a0 * b0 + a1 * b1 + a2 * b2
    yy = b0 * b0 + b1 * b1 + b2 * b2 + blur
    # Determinant as a sum of terms that are never negative (see reference.project).
    k0, k1, k2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
    sharp = k0 * k0 + k1 * k1 + k2 * k2
    determinant = sharp + blur * (xx + yy - blur)
    visible &= (determinant > 0.0) & (determinant < HUGE)  # infinities and NaN fail such comparisons
    determinant, yy = tl.where(visible, determinant, 1.0), tl.where(visible, yy, 1.0)
    if ANTIALIASED:
        opacity *= tl.sqrt(sharp / determinant)
        visible &= opacity >= ALPHA_MIN
    log2_opacity = tl.log2(tl.where(visible, opacity, 1.0))
    l0 = TO_EXP2 * tl.sqrt(yy / determinant)
    l1 = -l0 * xy / yy
    l2 = tl.rsqrt(yy) * TO_EXP2
    reach = tl.sqrt(tl.maximum(log2_opacity - LOG2_ALPHA_MIN, 0.0)) * (1.0 / TO_EXP2)  # standard deviations
    extent_x, extent_y = reach * tl.sqrt(xx), reach * tl.sqrt(yy)
    visible &= (mean_x + extent_x > 0.0) & (mean_x - extent_x < tl.load(row + WIDTH))
    visible &= (mean_y + extent_y > 0.0) & (mean_y - extent_y < tl.load(row + HEIGHT))
    clip = tl.load(row + RADIUS_CLIP)
    visible &= tl.maximum(extent_x, extent_y) > tl.where(clip > 0.0, clip, -1.0)
    visible &= (l0 > 0.0) & (l0 < HUGE) & (tl.abs(l1) < HUGE) & (extent_x < HUGE) & (extent_y < HUGE)
    return mean_x, mean_y, l0, l1, l2, log2_opacity, extent_x, extent_y, visible


@triton.jit
def project_kernel(
    # scene:
    means, quats, scales, opacities, colors,  # [n, 3] [n, 4] [n, 3] [n] [n, k, 3] or [n, 3] or [v, n, 3]
    # camera:
    rows,  # [v, 40] kernels/views.py
    # out:
    records_out, keys_out,  # [v, n, 12] [g, n]
    n,
    colors_stride,  # floats from one view's RGB to the next; 0 where they share it
    COUNT: tl.constexpr, LENS: tl.constexpr, ANTIALIASED: tl.constexpr, EYES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1).to(tl.int64)
    rows += group * EYES * ROW
    mask = i < n
    mx, my, mz = load_row(means + 3 * i, mask, 3)
    opacity = tl.load(opacities + i, mask=mask, other=0.0)
    in_range = i < 0
    for eye in tl.static_range(EYES):
        x, y, z = to_camera(rows + eye * ROW, mx, my, mz)
        depth = depth_of(x, y, z, LENS)
        in_range |= (depth > tl.load(rows + eye * ROW + NEAR)) & (depth < tl.load(rows + eye * ROW + FAR))
    candidate = mask & (opacity >= ALPHA_MIN) & (opacity < HUGE) & in_range
    m00, m10, m20, m01, m11, m21, m02, m12, m22, candidate = _scaled_axes(quats, scales, i, candidate)

    seen = i < 0
    l2s, logs, depths, extents_x, extents_y, sees = (), (), (), (), (), ()
    for eye in tl.static_range(EYES):
        row = rows + eye * ROW
        x, y, z = to_camera(row, mx, my, mz)
        depth = depth_of(x, y, z, LENS)
        visible = candidate & (depth > tl.load(row + NEAR)) & (depth < tl.load(row + FAR))
        mean_x, mean_y, l0, l1, l2, log2_opacity, extent_x, extent_y, visible = _footprint(
            row, x, y, z, depth, visible, opacity, m00, m10, m20, m01, m11, m21, m02, m12, m22, LENS, ANTIALIASED
        )
        seen |= visible
        store_row(records_out + RECORD * ((group * EYES + eye) * n + i), (mean_x, mean_y, l0, l1), visible, 4)
        l2s, logs, depths, sees = l2s + (l2,), logs + (log2_opacity,), depths + (depth,), sees + (visible,)
        extents_x += (tl.where(visible, extent_x, -1.0),)  # what it is where only another eye sees the splat
        extents_y += (tl.where(visible, extent_y, -1.0),)

    dx, dy, dz, distance = _direction(rows, mx, my, mz)
    red, green, blue = sh_color(colors, i, seen, dx, dy, dz, COUNT)
    for eye in tl.static_range(EYES):
        view = group * EYES + eye
        if COUNT == 0:  # and no coefficient was read
            red, green, blue = load_row(colors + view * colors_stride + 3 * i, sees[eye], 3)
        record = records_out + RECORD * (view * n + i)
        store_row(record + 4, (l2s[eye], logs[eye], red, green), sees[eye], 4)
        store_row(record + 8, (blue, depths[eye], extents_x[eye], extents_y[eye]), seen, 4)

    if LENS == FISHEYE:
        key = distance
    else:
        key = (
            tl.load(rows + SORT) * mx
            + tl.load(rows + SORT + 1) * my
            + tl.load(rows + SORT + 2) * mz
            + tl.load(rows + SORT + 3)
        )
    bits = tl.maximum(key, 0.0).to(tl.int32, bitcast=True)
    tl.store(keys_out + group * n + i, tl.where(seen, bits, CULLED_KEY), mask=mask)


def project(
    # scene:
    means: Tensor,  # [n, 3] float32, on the device, contiguous like the rest
    quats: Tensor,  # [n, 4]
    scales: Tensor,  # [n, 3]
    opacities: Tensor,  # [n]
    colors: Tensor,  # [n, k, 3] SH, or RGB: [n, 3] or [v, n, 3]
    # camera:
    rows: Tensor,  # [v, 40] float32 (kernels/views.py); each `eyes` neighbours are a group
    *,
    options: Options,
    eyes: int = 1,
) -> tuple[Tensor, Tensor]:
    """Records [v, n, 12] float32 and depth keys [v / eyes, n] int32, `CULLED` where no eye of the group sees the splat.

    Records of splats that no eye sees stay unwritten. Where only the other eye sees it, a record's extents are -1 and
    the rest of it says nothing. [n, k, 3] is read as SH also where it could be RGB a view.

    Raises:
        ValueError: colors of another shape, views that are no multiple of `eyes`, or 2^31 records or more.
    """
    n, views = len(means), len(rows)
    if views % eyes:
        raise ValueError(f"{views} views are no groups of {eyes} eyes")
    if views * n >= 1 << 31:
        raise ValueError(f"{views} views of {n} splats are 2^31 records or more: render fewer views at a time")
    count = color_count(tuple(colors.shape), views, n)
    records = torch.empty(views, n, c.RECORD, dtype=torch.float32, device=means.device)
    keys = torch.empty(views // eyes, n, dtype=torch.int32, device=means.device)
    if keys.numel() == 0:
        return records, keys
    project_kernel[(triton.cdiv(n, BLOCK), views // eyes)](
        means, quats, scales, opacities, colors, rows, records, keys, n,
        3 * n if count == 0 and colors.dim() == 3 else 0,
        COUNT=count, LENS=LENSES[options.lens], ANTIALIASED=options.antialiased, EYES=eyes, BLOCK=BLOCK,
        enable_fp_fusion=True,
    )  # fmt: skip
    return records, keys
