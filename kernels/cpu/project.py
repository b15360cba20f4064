"""Project splats to records, on the CPU: eight at a time, spherical harmonics only for those that are seen.

Reads 44 bytes a splat and view, 12 k or 3 floats of colour more for one that is seen, and writes for it a 48-byte
record (kernels/constants.py) in the order of the scene, its depth and its id. The eyes of a group share one colour and
one key. Same formulas as kernels/reference.py, in float32.
"""

import numpy as np
from numba import prange

from .. import constants as c
from .. import views as v
from ..arguments import color_count
from ..options import Options
from .compiled import compiled
from .harmonics import C0, store_basis
from .lens import FISHEYE, ORTHOGRAPHIC, fisheye, orthographic, pinhole, to_camera
from .simd import LANES, bits, exponent, gather, load, mantissa, most, splat, sqrt, store

f32 = np.float32

_CHUNK = 4096  # splats a work item, a multiple of LANES
# Rows of the lane buffer: the depth that sorts, the SH basis without its constant, then for each eye its values.
_SORT, _BASIS, _EYE = 0, 1, 16
_VALUES = 9  # of an eye: the record without its colour
_X, _DEPTH, _EXTENT_X, _EXTENT_Y = 0, 6, 7, 8

_ZERO, _HALF, _ONE, _TWO = (f32(value) for value in (0, 0.5, 1, 2))
_LOG2_ALPHA_MIN, _ALPHA_MIN, _TO_EXP2 = f32(c.LOG2_ALPHA_MIN), f32(c.ALPHA_MIN), f32(c.SQRT_HALF_LOG2E)
_HUGE, _TINY, _UNSEEN = f32(3e38), f32(1e-30), f32(-1)
_TWO_BY_LN2 = f32(2 / np.log(2))


@compiled(inline=True)
def _log2(x):
    """Of positive normal numbers, to 2e-7: log2(m) = 2 / ln 2 artanh((m - 1) / (m + 1)), m the mantissa."""
    m = mantissa(x)
    s = (m - splat(_ONE)) / (m + splat(_ONE))
    q = s * s
    series = splat(f32(1 / 9)) + q * (splat(f32(1 / 11)) + q * splat(f32(1 / 13)))
    series = splat(_ONE) + q * (splat(f32(1 / 3)) + q * (splat(f32(1 / 5)) + q * (splat(f32(1 / 7)) + q * series)))
    return exponent(x) + splat(_TWO_BY_LN2) * s * series


@compiled()
def _project_eight(i, means, quats, scales, opacities, row, lens, antialiased, eye, count, lanes):
    """Fill an eye's rows of the lane buffer, and those of all eyes, from splats i to i + 7 of flat arrays.

    Returns which of them are seen, as bits.
    """
    zero, one, blur = splat(_ZERO), splat(_ONE), splat(row[v.BLUR])
    mx, my, mz = gather(means, 3 * i, 3), gather(means, 3 * i + 1, 3), gather(means, 3 * i + 2, 3)
    opacity = load(opacities, i)
    x, y, z = to_camera(row, mx, my, mz)
    depth = z
    if lens == FISHEYE:
        depth = sqrt(x * x + y * y + z * z)
    visible = (depth > splat(row[v.NEAR])) & (splat(row[v.FAR]) > depth)
    visible = visible & (opacity >= splat(_ALPHA_MIN)) & (splat(_HUGE) > opacity)
    if bits(visible) == 0:
        return 0
    if lens == FISHEYE:
        screen, a, b, angle = fisheye(row, x, y, z, depth)
        visible = visible & (splat(row[v.MAX_ANGLE]) >= angle)
    elif lens == ORTHOGRAPHIC:
        screen, a, b = orthographic(row, x, y)
    else:
        screen, a, b = pinhole(row, x, y, z)
    screen_x, screen_y = screen
    ax, ay, az = a
    bx, by, bz = b

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
    xx = a0 * a0 + a1 * a1 + a2 * a2 + blur
    xy = a0 * b0 + a1 * b1 + a2 * b2
    yy = b0 * b0 + b1 * b1 + b2 * b2 + blur
    # Determinant as a sum of terms that are never negative (see reference.project).
    k0, k1, k2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
    sharp = k0 * k0 + k1 * k1 + k2 * k2
    determinant = sharp + blur * (xx + yy - blur)
    if antialiased:
        opacity = opacity * sqrt(sharp / determinant)
        visible = visible & (opacity >= splat(_ALPHA_MIN))
    log2_opacity = _log2(max(opacity, splat(_ALPHA_MIN)))
    reach = sqrt(max(log2_opacity - splat(_LOG2_ALPHA_MIN), zero)) * splat(_ONE / _TO_EXP2)  # standard deviations
    extent_x, extent_y = reach * sqrt(xx), reach * sqrt(yy)
    visible = visible & (screen_x + extent_x > zero) & (splat(row[v.WIDTH]) > screen_x - extent_x)
    visible = visible & (screen_y + extent_y > zero) & (splat(row[v.HEIGHT]) > screen_y - extent_y)
    visible = visible & (max(extent_x, extent_y) > splat(row[v.RADIUS_CLIP] if row[v.RADIUS_CLIP] > _ZERO else _UNSEEN))
    l0 = splat(_TO_EXP2) * sqrt(yy / determinant)
    l1 = zero - l0 * xy / yy
    # Infinities and NaN fail these comparisons.
    visible = visible & (l0 > zero) & (splat(_HUGE) > l0) & (splat(_HUGE) > l1) & (l1 > splat(-_HUGE))
    visible = visible & (splat(_HUGE) > extent_x) & (splat(_HUGE) > extent_y)
    seen = bits(visible)
    if seen:
        at = (_EYE + eye * _VALUES) * LANES
        store(lanes, at, screen_x)
        store(lanes, at + LANES, screen_y)
        store(lanes, at + 2 * LANES, l0)
        store(lanes, at + 3 * LANES, l1)
        store(lanes, at + 4 * LANES, splat(_TO_EXP2) / sqrt(yy))
        store(lanes, at + 5 * LANES, log2_opacity)
        store(lanes, at + _DEPTH * LANES, depth)
        store(lanes, at + _EXTENT_X * LANES, extent_x)
        store(lanes, at + _EXTENT_Y * LANES, extent_y)
        dx, dy, dz = mx - splat(row[v.EYE]), my - splat(row[v.EYE + 1]), mz - splat(row[v.EYE + 2])
        distance = sqrt(dx * dx + dy * dy + dz * dz)
        inverse = one / max(distance, splat(_TINY))
        store_basis(dx * inverse, dy * inverse, dz * inverse, count, lanes, _BASIS * LANES)
        if lens != FISHEYE:
            distance = splat(row[v.SORT]) * mx + splat(row[v.SORT + 1]) * my + splat(row[v.SORT + 2]) * mz
            distance = max(distance + splat(row[v.SORT + 3]), zero)
        store(lanes, _SORT * LANES, distance)
    return seen


@compiled(inline=True)
def _color(sh, lanes, lane, channel):
    color = _HALF + C0 * sh[0, channel]
    for k in range(1, len(sh)):
        color += lanes[(_BASIS + k - 1) * LANES + lane] * sh[k, channel]
    return most(color, _ZERO)


@compiled()
def _write_seen(seen, first, colors, count, lanes, records_out, depths_out, ids_out, place):
    """Records, depths and ids of the lanes that some eye sees; returns the next free place in the lists."""
    seen_by_some = np.int64(0)
    for eye in range(len(seen)):
        seen_by_some |= seen[eye]
    red, green, blue = _ZERO, _ZERO, _ZERO
    for lane in range(LANES):
        if (seen_by_some >> lane) & 1:
            i = first + lane
            if count:
                sh = colors[0, i]
                red, green, blue = _color(sh, lanes, lane, 0), _color(sh, lanes, lane, 1), _color(sh, lanes, lane, 2)
            for eye in range(len(seen)):
                record = records_out[eye, i]
                if not (seen[eye] >> lane) & 1:
                    record[c.EXTENT_X], record[c.EXTENT_Y] = _UNSEEN, _UNSEEN
                    continue
                if count == 0:
                    rgb = colors[min(eye, len(colors) - 1), i, 0]
                    red, green, blue = rgb[0], rgb[1], rgb[2]
                at = (_EYE + eye * _VALUES) * LANES + lane
                for value in range(6):
                    record[value] = lanes[at + value * LANES]
                record[c.RED], record[c.GREEN], record[c.BLUE] = red, green, blue
                record[c.DEPTH] = lanes[at + _DEPTH * LANES]
                record[c.EXTENT_X], record[c.EXTENT_Y] = lanes[at + _EXTENT_X * LANES], lanes[at + _EXTENT_Y * LANES]
            depths_out[place] = lanes[_SORT * LANES + lane]
            ids_out[place] = i
            place += 1
    return place


@compiled(parallel=True)
def _project_all(
    means,
    quats,
    scales,
    opacities,
    colors,
    count,
    rows,
    lens,
    antialiased,
    records_out,
    depths_out,
    ids_out,
    counts_out,
):
    n, eyes = len(opacities), len(rows)
    for chunk in prange(len(counts_out)):
        lanes, seen = np.empty((_EYE + _VALUES * eyes) * LANES, dtype=np.float32), np.empty(eyes, dtype=np.int64)
        start, end = chunk * _CHUNK, min(chunk * _CHUNK + _CHUNK, n)
        place = start
        for i in range(start, end - LANES + 1, LANES):
            for eye in range(eyes):
                seen[eye] = _project_eight(
                    i, means, quats, scales, opacities, rows[eye], lens, antialiased, eye, count, lanes
                )
            place = _write_seen(seen, i, colors, count, lanes, records_out, depths_out, ids_out, place)
        if (end - start) % LANES:  # the last few, padded with splats of opacity 0
            i, left = end - (end - start) % LANES, (end - start) % LANES
            padded_means, padded_quats = np.ones(3 * LANES, dtype=np.float32), np.ones(4 * LANES, dtype=np.float32)
            padded_scales, padded_opacities = np.ones(3 * LANES, np.float32), np.zeros(LANES, dtype=np.float32)
            padded_means[: 3 * left], padded_quats[: 4 * left] = means[3 * i : 3 * end], quats[4 * i : 4 * end]
            padded_scales[: 3 * left], padded_opacities[:left] = scales[3 * i : 3 * end], opacities[i:end]
            padded = padded_means, padded_quats, padded_scales, padded_opacities
            for eye in range(eyes):
                seen[eye] = _project_eight(0, *padded, rows[eye], lens, antialiased, eye, count, lanes)
            place = _write_seen(seen, i, colors, count, lanes, records_out, depths_out, ids_out, place)
        counts_out[chunk] = place - start


def as_coefficients(colors: np.ndarray, views: int, n: int) -> tuple[np.ndarray, int]:
    """Colours as [1, n, k, 3] with k coefficients of SH, or [1 or views, n, 1, 3] with 0 where they are RGB.

    Raises:
        ValueError: they have another shape.
    """
    count = color_count(colors.shape, views, n)
    return (colors[None] if count else colors.reshape(-1, n, 1, 3)), count


def project(
    # scene:
    means: np.ndarray,  # [n, 3] float32, contiguous like the rest
    quats: np.ndarray,  # [n, 4]
    scales: np.ndarray,  # [n, 3]
    opacities: np.ndarray,  # [n]
    colors: np.ndarray,  # [n, k, 3] SH, or RGB: [n, 3] or [v, n, 3]
    # camera:
    rows: np.ndarray,  # [v, 40] float32 (kernels/views.py); each `eyes` neighbours are a group
    *,
    options: Options,
    eyes: int = 1,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Records [v, n, 12] float32 and, for each group, the keys uint64 of what its eyes see: depth bits above, id below.

    Records of splats that no eye of the group sees stay unwritten. Where only the other eye sees one, its extents are
    -1 and the rest is unwritten. [n, k, 3] is read as SH also where it could be RGB a view.

    Raises:
        ValueError: colors of another shape, or views that are no multiple of `eyes`.
    """
    n, views = len(means), len(rows)
    if views % eyes:
        raise ValueError(f"{views} views are no groups of {eyes} eyes")
    coefficients, count = as_coefficients(colors, views, n)
    records = np.empty((views, n, c.RECORD), dtype=f32)
    depths, ids = np.empty(n, dtype=f32), np.empty(n, dtype=np.uint32)
    counts = np.empty(-(-n // _CHUNK), dtype=np.int64)
    flat = means.reshape(-1), quats.reshape(-1), scales.reshape(-1), opacities
    keys = []
    for first in range(0, views, eyes):
        group = slice(first, first + eyes)
        own = coefficients[group] if len(coefficients) > 1 else coefficients
        outputs = records[group], depths, ids, counts
        _project_all(*flat, own, count, rows[group], v.LENSES[options.lens], options.antialiased, *outputs)
        seen = [slice(i * _CHUNK, i * _CHUNK + filled) for i, filled in enumerate(counts.tolist())]
        found = np.concatenate([depths.view(np.uint32)[part] for part in seen] or [ids]).astype(np.uint64)
        keys.append(found << np.uint64(32) | np.concatenate([ids[part] for part in seen] or [ids]))
    return records, keys
