"""Bring gradients from records back to splats and views, in Triton: one lane a splat, all views in a loop.

Reads 48 bytes a splat and view of gradients and, where they are not all zero, as much of its record, 44 bytes of the
splat and 12 k of its spherical harmonics; what the projection computed is computed again. Writes 44 + 12 k bytes a
splat, once, and 92 a view and block of splats, which are summed in a fixed order: no atomics, the same bits every time.
Formulas: kernels/adjoint.py. Constexpr: COUNT, SH coefficients a channel (0: the colours are RGB); PER_VIEW, whether
each view has its own RGB; LENS; ANTIALIASED.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import adjoint
from .. import views as v
from ..arguments import color_count
from ..options import Options
from .color_backward import ROW_SUMS, SUMS, TINY, add, choose, color_gradients, store_sums
from .compiled import leaf
from .constants import BLUR, DEPTH, EYE, FISHEYE, FX, FY, LOG2_OPACITY, ORTHOGRAPHIC, RECORD, ROW
from .lens import fisheye_shape, pinhole_bounds
from .rows import load_row, store_row

BLOCK = 32  # splats a program, one warp: its sums need no barrier
POSE_AND_LENS, LIMITS = slice(0, v.WIDTH), slice(v.LOW_X, v.HIGH_Y + 1)  # what of a row has a gradient

LIMIT_SUMS, BY_LN2 = tl.constexpr(v.WIDTH), tl.constexpr(1.4426950408889634)

_covariance_adjoint, _pose_adjoint = leaf(adjoint.covariance_adjoint), leaf(adjoint.pose_adjoint)
_pinhole_adjoint, _orthographic_adjoint = leaf(adjoint.pinhole_adjoint), leaf(adjoint.orthographic_adjoint)
_fisheye_jacobian, _fisheye_adjoint = leaf(adjoint.fisheye_jacobian), leaf(adjoint.fisheye_adjoint)


@triton.jit
def _geometry_gradients(
    row, record, gradient, mean, quat, scale, active, LENS: tl.constexpr, ANTIALIASED: tl.constexpr,
):  # fmt: skip
    """Gradients of mean, quaternion, scale, pose [12], lens [4] and limits [4] from one view; zeros if not active.

    A splat that is not active has gradients of zero, and here harmless values: what it has may be infinite.
    """
    mean, scale = choose(active, mean, 0.0), choose(active, scale, 1.0)
    mx, my, mz = mean
    qw, qx, qy, qz = quat
    qx, qy, qz = choose(active, (qx, qy, qz), 0.0)
    quat = (tl.where(active, qw, 1.0), qx, qy, qz)
    zero = tl.zeros_like(mx)
    w00, w01, w02 = tl.load(row), tl.load(row + 1), tl.load(row + 2)
    w10, w11, w12 = tl.load(row + 4), tl.load(row + 5), tl.load(row + 6)
    w20, w21, w22 = tl.load(row + 8), tl.load(row + 9), tl.load(row + 10)
    rotation = (w00, w01, w02, w10, w11, w12, w20, w21, w22)
    x = w00 * mx + w01 * my + w02 * mz + tl.load(row + 3)
    y = w10 * mx + w11 * my + w12 * mz + tl.load(row + 7)
    z = w20 * mx + w21 * my + w22 * mz + tl.load(row + 11)
    z = tl.where(active, z, 1.0)
    focal = (tl.load(row + FX), tl.load(row + FY))
    fx, fy = focal
    distance, shape = tl.where(active, record[DEPTH], 1.0), (zero, zero, zero, zero, zero, zero)
    if LENS == FISHEYE:
        shape = fisheye_shape(row, x, y, z, distance)
        jacobian = _fisheye_jacobian(x, y, focal, shape[0], shape[1], shape[2])
    elif LENS == ORTHOGRAPHIC:
        jacobian = (fx + zero, zero, zero, zero, fy + zero, zero)
    else:
        bounded, free, below = pinhole_bounds(row, x, y, z)
        jacobian = (fx / z, zero, -fx / z * bounded[0], zero, fy / z, -fy / z * bounded[1])

    g_ratio = zero
    if ANTIALIASED:
        g_ratio = gradient[LOG2_OPACITY] * BY_LN2
    g_quat, g_scale, g_jacobian, g_rotation = _covariance_adjoint(
        quat, scale, jacobian, rotation, tl.load(row + BLUR), record[2], record[4],
        (gradient[2], gradient[3], gradient[4]), g_ratio, TINY, 1.0,
    )  # fmt: skip

    g_screen, g_limits = (gradient[0], gradient[1]), (zero, zero, zero, zero)
    if LENS == FISHEYE:
        g_lensed, g_lens = _fisheye_adjoint(x, y, focal, shape, g_screen, g_jacobian)
        outwards = gradient[DEPTH] / distance
        g_point = (g_lensed[0] + x * outwards, g_lensed[1] + y * outwards, g_lensed[2] + z * outwards)
    elif LENS == ORTHOGRAPHIC:
        g_lensed, g_lens = _orthographic_adjoint((x, y), focal, g_screen, g_jacobian)
        g_point = (g_lensed[0], g_lensed[1], gradient[DEPTH])
    else:
        bounded, free, below = pinhole_bounds(row, x, y, z)
        g_lensed, g_lens, g_limits = _pinhole_adjoint((x, y, z), focal, bounded, free, below, g_screen, g_jacobian, 1.0)
        g_point = (g_lensed[0], g_lensed[1], g_lensed[2] + gradient[DEPTH])
    g_mean, g_pose = _pose_adjoint(mean, rotation, g_point, g_rotation)
    return g_mean, g_quat, g_scale, g_pose, g_lens, g_limits


@triton.jit
def project_backward_kernel(
    # scene:
    means, quats, scales, opacities, colors,  # [n, 3] [n, 4] [n, 3] [n] [n, k, 3] or [n, 3] or [v, n, 3]
    # camera:
    rows,  # [v, 40] kernels/views.py
    # frame:
    records, gradients,  # [v, n, 12]
    # out:
    grad_means_out, grad_quats_out, grad_scales_out, grad_opacities_out, grad_colors_out,  # as the scene
    sums_out,  # [blocks, v, 23]
    n, views,
    COUNT: tl.constexpr, PER_VIEW: tl.constexpr, LENS: tl.constexpr, ANTIALIASED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0).to(tl.int64)
    i = block * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    sums_out += block * views * ROW_SUMS
    g_mean = color_gradients(
        means, colors, rows, records, gradients, grad_colors_out, sums_out,
        i, mask, n, views, COUNT, 3 * COUNT if COUNT > 0 else 3, PER_VIEW,
    )  # fmt: skip
    mean, scale = load_row(means + 3 * i, mask, 3), load_row(scales + 3 * i, mask, 3)
    quat, opacity = load_row(quats + 4 * i, mask, 4), tl.load(opacities + i, mask=mask, other=1.0)
    zero = tl.zeros_like(opacity)
    g_quat, g_scale, g_opacity = (zero, zero, zero, zero), (zero, zero, zero), zero
    view = tl.full((), 0, tl.int64)
    while view < views:
        place = RECORD * (view * n + i)
        gradient = load_row(gradients + place, mask, RECORD)
        active = mask & (gradient[DEPTH] != 0.0)
        for k in tl.static_range(LOG2_OPACITY + 1):
            active |= gradient[k] != 0.0
        record = load_row(records + place, active, RECORD)
        more_mean, more_quat, more_scale, g_pose, g_lens, g_limits = _geometry_gradients(
            rows + view * ROW, record, gradient, mean, quat, scale, active, LENS, ANTIALIASED
        )
        g_mean, g_quat, g_scale = add(g_mean, more_mean, 3), add(g_quat, more_quat, 4), add(g_scale, more_scale, 3)
        g_opacity += gradient[LOG2_OPACITY] * BY_LN2 / tl.where(active, opacity, 1.0)
        sums = sums_out + view * ROW_SUMS
        store_sums(sums, g_pose, 12)
        if COUNT == 0:
            store_sums(sums + EYE, (zero, zero, zero), 3)
        store_sums(sums + FX, g_lens, 4)
        store_sums(sums + LIMIT_SUMS, g_limits, 4)
        view += 1
    store_row(grad_means_out + 3 * i, g_mean, mask, 3)
    store_row(grad_quats_out + 4 * i, g_quat, mask, 4)
    store_row(grad_scales_out + 3 * i, g_scale, mask, 3)
    tl.store(grad_opacities_out + i, g_opacity, mask=mask)


def project_backward(
    # scene:
    means: Tensor,  # [n, 3] float32, on the device, contiguous like the rest
    quats: Tensor,  # [n, 4]
    scales: Tensor,  # [n, 3]
    opacities: Tensor,  # [n]
    colors: Tensor,  # [n, k, 3] SH, or RGB: [n, 3] or [v, n, 3]
    # camera:
    rows: Tensor,  # [v, 40] float32
    # frame:
    records: Tensor,  # [v, n, 12] float32, of `project` with the same arguments
    grad_records: Tensor,  # [v, n, 12] float32; zeros for a splat that a view does not see
    *,
    options: Options,
) -> tuple[Tensor, ...]:
    """Gradients of means, quats, scales, opacities, colors and rows, in their shapes, float32.

    A splat whose gradients are zero in a view gets nothing from it; its record is not looked at. Slots 10 and 11 of
    `grad_records` are not read: extents have no gradient. Of a row, `POSE_AND_LENS` and `LIMITS` have one.

    Raises:
        ValueError: colors of another shape.
    """
    n, views = len(means), len(rows)
    count = color_count(tuple(colors.shape), views, n)
    grads = [torch.empty_like(tensor) for tensor in (means, quats, scales, opacities, colors)]
    grad_rows = torch.zeros_like(rows)
    if n == 0 or views == 0:
        return *grads, grad_rows
    blocks = triton.cdiv(n, BLOCK)
    sums = torch.empty(blocks, views, SUMS, dtype=torch.float32, device=means.device)
    project_backward_kernel[(blocks,)](
        means, quats, scales, opacities, colors, rows, records, grad_records, *grads, sums, n, views,
        COUNT=count, PER_VIEW=count == 0 and colors.dim() == 3, LENS=v.LENSES[options.lens],
        ANTIALIASED=options.antialiased, BLOCK=BLOCK, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    totals = sums.sum(dim=0, dtype=torch.float64).float()
    grad_rows[:, POSE_AND_LENS], grad_rows[:, LIMITS] = totals[:, : v.WIDTH], totals[:, v.WIDTH :]
    return *grads, grad_rows
