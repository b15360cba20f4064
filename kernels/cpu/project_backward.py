"""Bring gradients from records back to splats and views, on the CPU: eight splats at a time, only those that have any.

Reads 40 bytes a splat and view for the gradients of its record, and for a splat where they are not all zero its 44
bytes, 12 k of spherical harmonics and 32 of the record; what the projection computed is computed again. Writes the
gradients of every splat once, and for each chunk of splats the sums for the views, which are added up in the order of
the scene: the result does not depend on the number of threads. Formulas: kernels/adjoint.py.
"""

import numpy as np
from numba import prange

from .. import adjoint
from .. import constants as c
from .. import views as v
from ..options import Options
from .compiled import compiled
from .harmonics import C0, sh_slope, store_basis
from .lanes import (
    ACTIVE,
    BASIS,
    DOTS,
    GRADIENT,
    GRADIENTS,
    LANE_ROWS,
    MEAN,
    OPACITY,
    QUAT,
    RECORD,
    SCALE,
    SPLAT,
    SUMS,
    add,
    add_three,
    read_splats,
    read_view,
    splats,
    three,
    write_splats,
)  # fmt: skip
from .lens import FISHEYE, ORTHOGRAPHIC, fisheye_jacobian, fisheye_shape, pinhole_bounds, to_camera
from .project import as_coefficients
from .simd import LANES, load, splat, sqrt

f32 = np.float32
ROW_GRADIENTS = (*range(v.WIDTH), *range(v.LOW_X, v.HIGH_Y + 1))  # entries of a view's row that have one

_CHUNK = 4096  # splats a work item
_ROWS = len(ROW_GRADIENTS)
_LENS, _LIMITS = v.FX, v.WIDTH  # places among ROW_GRADIENTS; the others keep theirs

_ZERO, _ONE, _TINY = f32(0), f32(1), f32(1e-30)
_BY_LN2 = f32(1 / np.log(2))

_covariance_adjoint, _pose_adjoint = compiled()(adjoint.covariance_adjoint), compiled()(adjoint.pose_adjoint)
_pinhole_adjoint, _orthographic_adjoint = compiled()(adjoint.pinhole_adjoint), compiled()(adjoint.orthographic_adjoint)
_fisheye_adjoint = compiled()(adjoint.fisheye_adjoint)
_direction_adjoint = compiled()(adjoint.direction_adjoint)


@compiled()
def _geometry(row, lens, antialiased, active, lanes, row_sums):
    """Add what one view gives to the gradients of means, quaternions, scales and opacities, and of its row."""
    zero, one = splat(_ZERO), splat(_ONE)
    mx, my, mz = three(lanes, MEAN)
    x, y, z = to_camera(row, mx, my, mz)
    focal = splat(row[v.FX]), splat(row[v.FY])
    distance = load(lanes, (RECORD + c.DEPTH) * LANES)
    shape = (zero, zero, zero, zero, zero, zero)
    if lens == FISHEYE:
        shape = fisheye_shape(row, x, y, z, distance)
        jacobian = fisheye_jacobian(x, y, focal, shape[0], shape[1], shape[2])
    elif lens == ORTHOGRAPHIC:
        jacobian = (focal[0], zero, zero, zero, focal[1], zero)
    else:
        bounded, _, _ = pinhole_bounds(row, x, y, z)
        jx, jy = focal[0] / z, focal[1] / z
        jacobian = (jx, zero, zero - jx * bounded[0], zero, jy, zero - jy * bounded[1])

    w00, w01, w02 = splats(row, 0)
    w10, w11, w12 = splats(row, 4)
    w20, w21, w22 = splats(row, 8)
    rotation = (w00, w01, w02, w10, w11, w12, w20, w21, w22)
    g_log2 = load(lanes, (GRADIENT + c.LOG2_OPACITY) * LANES) * splat(_BY_LN2)
    quat = (load(lanes, QUAT * LANES),) + three(lanes, QUAT + 1)
    l0, l2 = load(lanes, (RECORD + c.L0) * LANES), load(lanes, (RECORD + c.L2) * LANES)
    g_quat, g_scale, g_jacobian, g_rotation = _covariance_adjoint(
        quat, three(lanes, SCALE), jacobian, rotation, splat(row[v.BLUR]), l0, l2,
        three(lanes, GRADIENT + c.L0), g_log2 if antialiased else zero, splat(_TINY), one,
    )  # fmt: skip

    g_screen = load(lanes, GRADIENT * LANES), load(lanes, (GRADIENT + 1) * LANES)
    g_depth = load(lanes, (GRADIENT + c.DEPTH) * LANES)
    if lens == FISHEYE:
        (gx, gy, gz), g_lens = _fisheye_adjoint(x, y, focal, shape, g_screen, g_jacobian)
        g_depth = g_depth / distance
        g_point = (gx + x * g_depth, gy + y * g_depth, gz + z * g_depth)
    elif lens == ORTHOGRAPHIC:
        (gx, gy), g_lens = _orthographic_adjoint((x, y), focal, g_screen, g_jacobian)
        g_point = (gx, gy, g_depth)
    else:
        bounded, free, low = pinhole_bounds(row, x, y, z)
        (gx, gy, gz), g_lens, g_limits = _pinhole_adjoint(
            (x, y, z), focal, bounded, free, low, g_screen, g_jacobian, one
        )
        g_point = (gx, gy, gz + g_depth)
        for i in range(4):
            add(row_sums, _LIMITS + i, active, g_limits[i])
    g_mean, g_pose = _pose_adjoint((mx, my, mz), rotation, g_point, g_rotation)

    add_three(lanes, SUMS + MEAN, active, g_mean)
    add_three(lanes, SUMS + SCALE, active, g_scale)
    add(lanes, SUMS + OPACITY, active, g_log2 / load(lanes, OPACITY * LANES))
    for i in range(4):
        add(lanes, SUMS + QUAT + i, active, g_quat[i])
        add(row_sums, _LENS + i, active, g_lens[i])
    for i in range(12):
        add(row_sums, i, active, g_pose[i])


@compiled()
def _towards(row, lanes):
    """Offset from the eye, one over its length, direction."""
    mx, my, mz = three(lanes, MEAN)
    ex, ey, ez = splats(row, v.EYE)
    x, y, z = mx - ex, my - ey, mz - ez
    inverse = splat(_ONE) / max(sqrt(x * x + y * y + z * z), splat(_TINY))
    return (x, y, z), inverse, (x * inverse, y * inverse, z * inverse)


@compiled()
def _direction(row, count, active, lanes, row_sums):
    """Add what the direction of spherical harmonics gives to the gradients of means and of the eye."""
    offset, inverse, (x, y, z) = _towards(row, lanes)
    gx, gy, gz = sh_slope(x, y, z, count, lanes)
    gx, gy, gz = _direction_adjoint(offset, inverse, (gx, gy, gz))
    add_three(lanes, SUMS + MEAN, active, (gx, gy, gz))
    zero = splat(_ZERO)
    add_three(row_sums, v.EYE, active, (zero - gx, zero - gy, zero - gz))


@compiled()
def _harmonics(ids, filled, sh, count, lanes, grad_sh):
    """Add to the gradients of coefficients; leave those of the basis in the lane buffer."""
    for lane in range(filled):
        if lanes[ACTIVE * LANES + lane] == _ZERO:
            continue
        own, out = sh[ids[lane]], grad_sh[ids[lane]]
        red, green, blue = _ZERO, _ZERO, _ZERO  # where the colour was cut off at 0
        if lanes[(RECORD + c.RED) * LANES + lane] > _ZERO:
            red = lanes[(GRADIENT + c.RED) * LANES + lane]
        if lanes[(RECORD + c.GREEN) * LANES + lane] > _ZERO:
            green = lanes[(GRADIENT + c.GREEN) * LANES + lane]
        if lanes[(RECORD + c.BLUE) * LANES + lane] > _ZERO:
            blue = lanes[(GRADIENT + c.BLUE) * LANES + lane]
        out[0, 0] += C0 * red
        out[0, 1] += C0 * green
        out[0, 2] += C0 * blue
        for k in range(1, count):
            basis = lanes[(BASIS + k - 1) * LANES + lane]
            out[k, 0] += basis * red
            out[k, 1] += basis * green
            out[k, 2] += basis * blue
            lanes[(DOTS + k - 1) * LANES + lane] = own[k, 0] * red + own[k, 1] * green + own[k, 2] * blue


@compiled()
def _backward_eight(
    ids, filled, means, quats, scales, opacities, colors, count, rows, lens, antialiased, records, gradients,
    lanes, grad_means, grad_quats, grad_scales, grad_opacities, grad_colors, row_sums,
):  # fmt: skip
    """All views of the splats `ids` [8], of which the first `filled` count."""
    read_splats(ids, means, quats, scales, opacities, lanes)
    lanes[SUMS * LANES : (SUMS + SPLAT) * LANES] = _ZERO
    for view in range(len(rows)):
        if not read_view(ids, filled, records[view], gradients[view], lanes):
            continue
        row, sums = rows[view], row_sums[view]
        active = load(lanes, ACTIVE * LANES) > splat(_ZERO)
        _geometry(row, lens, antialiased, active, lanes, sums)
        if count == 0:
            out = grad_colors[min(view, len(grad_colors) - 1)]
            for lane in range(filled):
                for k in range(3):
                    out[ids[lane], 0, k] += lanes[(GRADIENT + c.RED + k) * LANES + lane]
            continue
        _, _, (x, y, z) = _towards(row, lanes)
        store_basis(x, y, z, count, lanes, BASIS * LANES)
        _harmonics(ids, filled, colors[0], count, lanes, grad_colors[0])
        if count > 1:
            _direction(row, count, active, lanes, sums)
    write_splats(ids, filled, lanes, grad_means, grad_quats, grad_scales, grad_opacities)


@compiled(parallel=True)
def _backward_all(
    means, quats, scales, opacities, colors, count, rows, lens, antialiased, records, gradients,
    grad_means, grad_quats, grad_scales, grad_opacities, grad_colors, row_sums,
):  # fmt: skip
    n, views = len(opacities), len(rows)
    for chunk in prange(len(row_sums)):
        lanes, ids = np.zeros(LANE_ROWS * LANES, dtype=np.float32), np.zeros(LANES, dtype=np.int64)
        row_sums[chunk] = _ZERO
        start, end = chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n)
        grad_means[start:end], grad_quats[start:end], grad_scales[start:end] = _ZERO, _ZERO, _ZERO
        grad_opacities[start:end], grad_colors[:, start:end] = _ZERO, _ZERO
        filled = 0
        for i in range(start, end):
            some = False
            for view in range(views):
                for k in range(GRADIENTS):
                    some = some or gradients[view, i, k] != _ZERO
            if some:
                ids[filled] = i
                filled += 1
            if filled == LANES or (filled and i == end - 1):
                ids[filled:] = ids[0]
                _backward_eight(
                    ids, filled, means, quats, scales, opacities, colors, count, rows, lens, antialiased, records,
                    gradients, lanes, grad_means, grad_quats, grad_scales, grad_opacities, grad_colors, row_sums[chunk],
                )  # fmt: skip
                filled = 0


def project_backward(
    # scene:
    means: np.ndarray,  # [n, 3] float32, contiguous like the rest
    quats: np.ndarray,  # [n, 4]
    scales: np.ndarray,  # [n, 3]
    opacities: np.ndarray,  # [n]
    colors: np.ndarray,  # [n, k, 3] SH, or RGB: [n, 3] or [v, n, 3]
    # camera:
    rows: np.ndarray,  # [v, 40] float32
    # frame:
    records: np.ndarray,  # [v, n, 12] float32, of `project` with the same arguments
    grad_records: np.ndarray,  # [v, n, 12] float32; zeros for a splat that a view does not see
    *,
    options: Options,
) -> tuple[np.ndarray, ...]:
    """Gradients of means, quats, scales, opacities, colors and rows, in their shapes, float32.

    A splat whose gradients are zero in all views has zeros; its records are not looked at. Slots 10 and 11 of
    `grad_records` are not read: extents have no gradient. Of a row, the entries `ROW_GRADIENTS` have one.

    Raises:
        ValueError: colors of another shape.
    """
    n, views = len(means), len(rows)
    coefficients, count = as_coefficients(colors, views, n)
    grads = [np.empty(array.shape, dtype=f32) for array in (means, quats, scales, opacities, coefficients)]
    row_sums = np.empty((-(-n // _CHUNK), views, _ROWS * LANES), dtype=f32)
    lens = v.LENSES[options.lens]
    scene = means, quats, scales, opacities, coefficients, count
    _backward_all(*scene, rows, lens, options.antialiased, records, grad_records, *grads, row_sums)
    grad_rows = np.zeros(rows.shape, dtype=f32)
    grad_rows[:, ROW_GRADIENTS] = row_sums.reshape(-1, views, _ROWS, LANES).sum(axis=(0, 3), dtype=np.float64)
    return *grads[:4], grads[4].reshape(colors.shape), grad_rows
