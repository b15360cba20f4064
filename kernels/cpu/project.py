"""Project splats to records, on the CPU: eight at a time, spherical harmonics only for those that are seen.

Reads 44 bytes a splat, 12 k more for one that is seen, and writes for it a 48-byte record (kernels/constants.py) in the
order of the scene, its depth and its id. Same formulas as kernels/reference.py, in float32.
"""

import numpy as np
from numba import prange

from .. import constants as c
from .compiled import compiled
from .simd import LANES, bits, exponent, gather, load, mantissa, most, splat, sqrt, store

f32 = np.float32
_CHUNK = 4096  # splats a work item, a multiple of LANES
_BASIS = 9  # row of the lane buffer where the SH basis starts, after the records' nine other values

_BLUR, _NEAR, _ZERO, _HALF, _ONE, _TWO = f32(c.BLUR), f32(c.NEAR), f32(0), f32(0.5), f32(1), f32(2)
_LOG2_ALPHA_MIN, _ALPHA_MIN, _TO_EXP2 = f32(c.LOG2_ALPHA_MIN), f32(c.ALPHA_MIN), f32(c.SQRT_HALF_LOG2E)
_FOUR, _THREE, _HUGE = f32(4), f32(3), f32(3e38)
_TWO_BY_LN2 = f32(2 / np.log(2))
_C0, _C1 = f32(c.SH_C0), f32(c.SH_C1)
_C20, _C21, _C22, _C23, _C24 = (f32(value) for value in c.SH_C2)
_C30, _C31, _C32, _C33, _C34, _C35, _C36 = (f32(value) for value in c.SH_C3)


@compiled(inline=True)
def _log2(x):
    """Of positive normal numbers, to 2e-7: log2(m) = 2 / ln 2 artanh((m - 1) / (m + 1)), m the mantissa."""
    m = mantissa(x)
    s = (m - splat(_ONE)) / (m + splat(_ONE))
    q = s * s
    series = splat(f32(1 / 9)) + q * (splat(f32(1 / 11)) + q * splat(f32(1 / 13)))
    series = splat(_ONE) + q * (splat(f32(1 / 3)) + q * (splat(f32(1 / 5)) + q * (splat(f32(1 / 7)) + q * series)))
    return exponent(x) + splat(_TWO_BY_LN2) * s * series


@compiled(inline=True)
def _store_basis(x, y, z, count, lanes):
    """SH basis of eight unit directions, without its constant term, to rows of the lane buffer."""
    at = _BASIS * LANES
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
def _project_eight(i, means, quats, scales, opacities, view, lens, count, lanes):
    """Fill the lane buffer from splats i to i + 7 of flat arrays; returns which of them are seen, as bits."""
    zero, one = splat(_ZERO), splat(_ONE)
    mx, my, mz = gather(means, 3 * i, 3), gather(means, 3 * i + 1, 3), gather(means, 3 * i + 2, 3)
    opacity = load(opacities, i)
    z = splat(view[8]) * mx + splat(view[9]) * my + splat(view[10]) * mz + splat(view[11])
    visible = (z > splat(_NEAR)) & (opacity >= splat(_ALPHA_MIN))
    if bits(visible) == 0:
        return 0
    x = splat(view[0]) * mx + splat(view[1]) * my + splat(view[2]) * mz + splat(view[3])
    y = splat(view[4]) * mx + splat(view[5]) * my + splat(view[6]) * mz + splat(view[7])
    fx, fy, cx, cy, width, height, low_x, high_x, low_y, high_y = lens
    inverse_z = one / z
    slope_x, slope_y = x * inverse_z, y * inverse_z
    screen_x, screen_y = splat(fx) * slope_x + splat(cx), splat(fy) * slope_y + splat(cy)
    slope_x = min(max(slope_x, splat(low_x)), splat(high_x))
    slope_y = min(max(slope_y, splat(low_y)), splat(high_y))

    # Rows of the Jacobian times the world-to-camera rotation: [2, 3].
    jx, jy = splat(fx) * inverse_z, splat(fy) * inverse_z
    ax = jx * (splat(view[0]) - slope_x * splat(view[8]))
    ay = jx * (splat(view[1]) - slope_x * splat(view[9]))
    az = jx * (splat(view[2]) - slope_x * splat(view[10]))
    bx = jy * (splat(view[4]) - slope_y * splat(view[8]))
    by = jy * (splat(view[5]) - slope_y * splat(view[9]))
    bz = jy * (splat(view[6]) - slope_y * splat(view[10]))

    qw, qx = gather(quats, 4 * i, 4), gather(quats, 4 * i + 1, 4)
    qy, qz = gather(quats, 4 * i + 2, 4), gather(quats, 4 * i + 3, 4)
    two = splat(_TWO) / (qw * qw + qx * qx + qy * qy + qz * qz)
    sx, sy, sz = gather(scales, 3 * i, 3), gather(scales, 3 * i + 1, 3), gather(scales, 3 * i + 2, 3)
    r00, r10, r20 = one - two * (qy * qy + qz * qz), two * (qx * qy + qw * qz), two * (qx * qz - qw * qy)
    r01, r11, r21 = two * (qx * qy - qw * qz), one - two * (qx * qx + qz * qz), two * (qy * qz + qw * qx)
    r02, r12, r22 = two * (qx * qz + qw * qy), two * (qy * qz - qw * qx), one - two * (qx * qx + qy * qy)
    # The two rows whose products are the 2D covariance.
    a0, b0 = sx * (ax * r00 + ay * r10 + az * r20), sx * (bx * r00 + by * r10 + bz * r20)
    a1, b1 = sy * (ax * r01 + ay * r11 + az * r21), sy * (bx * r01 + by * r11 + bz * r21)
    a2, b2 = sz * (ax * r02 + ay * r12 + az * r22), sz * (bx * r02 + by * r12 + bz * r22)
    xx = a0 * a0 + a1 * a1 + a2 * a2 + splat(_BLUR)
    xy = a0 * b0 + a1 * b1 + a2 * b2
    yy = b0 * b0 + b1 * b1 + b2 * b2 + splat(_BLUR)
    log2_opacity = _log2(max(opacity, splat(_ALPHA_MIN)))
    reach = sqrt(max(log2_opacity - splat(_LOG2_ALPHA_MIN), zero)) * splat(_ONE / _TO_EXP2)  # standard deviations
    extent_x, extent_y = reach * sqrt(xx), reach * sqrt(yy)
    visible = visible & (screen_x + extent_x > zero) & (splat(width) > screen_x - extent_x)
    visible = visible & (screen_y + extent_y > zero) & (splat(height) > screen_y - extent_y)
    # Determinant as a sum of terms that are never negative (see reference.project).
    k0, k1, k2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
    determinant = k0 * k0 + k1 * k1 + k2 * k2 + splat(_BLUR) * (xx + yy - splat(_BLUR))
    l0 = splat(_TO_EXP2) * sqrt(yy / determinant)
    l1 = zero - l0 * xy / yy
    # Infinities and NaN fail these comparisons.
    visible = visible & (l0 > zero) & (splat(_HUGE) > l0) & (splat(_HUGE) > l1) & (l1 > splat(-_HUGE))
    visible = visible & (splat(_HUGE) > extent_x) & (splat(_HUGE) > extent_y)
    seen = bits(visible)
    if seen:
        store(lanes, 0, screen_x)
        store(lanes, LANES, screen_y)
        store(lanes, 2 * LANES, l0)
        store(lanes, 3 * LANES, l1)
        store(lanes, 4 * LANES, splat(_TO_EXP2) / sqrt(yy))
        store(lanes, 5 * LANES, log2_opacity)
        store(lanes, 6 * LANES, z)
        store(lanes, 7 * LANES, extent_x)
        store(lanes, 8 * LANES, extent_y)
        dx, dy, dz = mx - splat(view[12]), my - splat(view[13]), mz - splat(view[14])
        inverse = one / sqrt(dx * dx + dy * dy + dz * dz)
        _store_basis(dx * inverse, dy * inverse, dz * inverse, count, lanes)
    return seen


@compiled(inline=True)
def _color(sh, lanes, lane, channel):
    color = _HALF + _C0 * sh[0, channel]
    for k in range(1, len(sh)):
        color += lanes[(_BASIS + k - 1) * LANES + lane] * sh[k, channel]
    return most(color, _ZERO)


@compiled()
def _write_seen(seen, first, sh, lanes, records_out, depths_out, ids_out, place):
    """Records, depths and ids of the lanes that are seen; returns the next free place in the lists."""
    for lane in range(LANES):
        if (seen >> lane) & 1:
            i = first + lane
            record, coefficients = records_out[i], sh[i]
            for value in range(6):
                record[value] = lanes[value * LANES + lane]
            record[c.RED] = _color(coefficients, lanes, lane, 0)
            record[c.GREEN] = _color(coefficients, lanes, lane, 1)
            record[c.BLUE] = _color(coefficients, lanes, lane, 2)
            record[c.DEPTH] = lanes[6 * LANES + lane]
            record[c.EXTENT_X], record[c.EXTENT_Y] = lanes[7 * LANES + lane], lanes[8 * LANES + lane]
            depths_out[place] = lanes[6 * LANES + lane]
            ids_out[place] = i
            place += 1
    return place


@compiled(parallel=True)
def _project_all(means, quats, scales, opacities, sh, view, lens, records_out, depths_out, ids_out, counts_out):
    n, count = len(opacities), sh.shape[1]
    for chunk in prange(len(counts_out)):
        lanes = np.empty((_BASIS + 15) * LANES, dtype=np.float32)
        start, end = chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n)
        place = start
        for i in range(start, end - LANES + 1, LANES):
            seen = _project_eight(i, means, quats, scales, opacities, view, lens, count, lanes)
            place = _write_seen(seen, i, sh, lanes, records_out, depths_out, ids_out, place)
        if (end - start) % LANES:  # the last few, padded with splats of opacity 0
            i, left = end - (end - start) % LANES, (end - start) % LANES
            padded_means, padded_quats = np.ones(3 * LANES, dtype=np.float32), np.ones(4 * LANES, dtype=np.float32)
            padded_scales, padded_opacities = np.ones(3 * LANES, np.float32), np.zeros(LANES, dtype=np.float32)
            padded_means[: 3 * left], padded_quats[: 4 * left] = means[3 * i : 3 * end], quats[4 * i : 4 * end]
            padded_scales[: 3 * left], padded_opacities[:left] = scales[3 * i : 3 * end], opacities[i:end]
            seen = _project_eight(
                0, padded_means, padded_quats, padded_scales, padded_opacities, view, lens, count, lanes
            )
            place = _write_seen(seen, i, sh, lanes, records_out, depths_out, ids_out, place)
        counts_out[chunk] = place - start


def project(
    # scene:
    means: np.ndarray,  # [n, 3] float32
    quats: np.ndarray,  # [n, 4]
    scales: np.ndarray,  # [n, 3]
    opacities: np.ndarray,  # [n]
    sh: np.ndarray,  # [n, k, 3]
    # camera:
    world_to_camera: np.ndarray,  # [4, 4] float64
    K: np.ndarray,  # [3, 3] float64
    width: int,
    height: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Records [n, 12] float32, filled for visible splats only, and keys [v] uint64: depth bits above, id below."""
    n = len(means)
    fx, fy, cx, cy = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
    margin_x, margin_y = c.FRUSTUM_MARGIN * 0.5 * width / fx, c.FRUSTUM_MARGIN * 0.5 * height / fy
    clamp = (-cx / fx - margin_x, (width - cx) / fx + margin_x, -cy / fy - margin_y, (height - cy) / fy + margin_y)
    lens = tuple(f32(value) for value in (fx, fy, cx, cy, width, height, *clamp))
    eye = -world_to_camera[:3, :3].T @ world_to_camera[:3, 3]
    view = np.concatenate((world_to_camera[:3].ravel(), eye)).astype(f32)
    records = np.empty((n, c.RECORD), dtype=f32)
    depths, ids = np.empty(n, dtype=f32), np.empty(n, dtype=np.uint32)
    counts = np.empty(-(-n // _CHUNK), dtype=np.int64)
    flat = means.reshape(-1), quats.reshape(-1), scales.reshape(-1)
    _project_all(*flat, opacities, sh, view, lens, records, depths, ids, counts)
    seen = [slice(i * _CHUNK, i * _CHUNK + count) for i, count in enumerate(counts.tolist())]
    keys = np.concatenate([depths.view(np.uint32)[part] for part in seen] or [ids]).astype(np.uint64) << np.uint64(32)
    return records, keys | np.concatenate([ids[part] for part in seen] or [ids])
