"""Groups of splats to one splat each, with their moments, on the CPU: a group at a time, groups shared by the cores.

Reads each member's 13 numbers of geometry and its spherical harmonics once, writes those of the merged splat. The
harmonics of leaves, most of the memory, stay in an array of their own. Weights are area times opacity, the ink of a
splat; mean, covariance and harmonics are the members' means by these weights, so ink, mean and covariance of a group
are kept. The opacity that keeps the ink may exceed 1. Formula: "Hierarchical 3D Gaussian", Kerbl et al. 2024, section
4.1, with the area of an ellipsoid by Knud Thomsen.
"""

import math

import numpy as np
from numba import prange

from .compiled import compiled

OPACITY_MAX = 1000.0  # of a merged splat
_P = 1.6075  # Thomsen's exponent: areas within 1.1 %
_SWEEPS = 8  # of Jacobi's method; 3x3 matrices settle in five
_TINY = 1e-300


@compiled()
def _area(a, b, c):
    """Surface of an ellipsoid with these half-axes."""
    mean = ((a * b) ** _P + (a * c) ** _P + (b * c) ** _P) / 3.0
    return 4.0 * math.pi * mean ** (1.0 / _P)


@compiled(parallel=True)
def areas(scales, areas_out):
    """Of splats with the scales [n, 3]."""
    for i in prange(len(scales)):
        areas_out[i] = _area(np.float64(scales[i, 0]), np.float64(scales[i, 1]), np.float64(scales[i, 2]))


@compiled(parallel=True)
def covariances(quats, scales, covariances_out):
    """Upper triangles [n, 6] float64: xx xy xz yy yz zz."""
    for i in prange(len(quats)):
        w, x, y, z = np.float64(quats[i, 0]), np.float64(quats[i, 1]), np.float64(quats[i, 2]), np.float64(quats[i, 3])
        norm = 1.0 / math.sqrt(w * w + x * x + y * y + z * z)
        w, x, y, z = w * norm, x * norm, y * norm, z * norm
        a, b, c = np.float64(scales[i, 0]), np.float64(scales[i, 1]), np.float64(scales[i, 2])
        a, b, c = a * a, b * b, c * c
        xx, xy, xz = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
        yx, yy, yz = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
        zx, zy, zz = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
        covariances_out[i, 0] = a * xx * xx + b * xy * xy + c * xz * xz
        covariances_out[i, 1] = a * xx * yx + b * xy * yy + c * xz * yz
        covariances_out[i, 2] = a * xx * zx + b * xy * zy + c * xz * zz
        covariances_out[i, 3] = a * yx * yx + b * yy * yy + c * yz * yz
        covariances_out[i, 4] = a * yx * zx + b * yy * zy + c * yz * zz
        covariances_out[i, 5] = a * zx * zx + b * zy * zy + c * zz * zz


@compiled()
def _turn(p, q, m, v):
    """One rotation of Jacobi's method: the entry (p, q) of the symmetric matrix m [9] becomes 0; v follows."""
    off = m[3 * p + q]
    if abs(off) <= _TINY:
        return
    theta = (m[4 * q] - m[4 * p]) / (2.0 * off)
    t = (1.0 if theta >= 0 else -1.0) / (abs(theta) + math.sqrt(theta * theta + 1.0))
    c = 1.0 / math.sqrt(t * t + 1.0)
    s = t * c
    for k in range(3):
        a, b = m[3 * k + p], m[3 * k + q]
        m[3 * k + p], m[3 * k + q] = c * a - s * b, s * a + c * b
    for k in range(3):
        a, b = m[3 * p + k], m[3 * q + k]
        m[3 * p + k], m[3 * q + k] = c * a - s * b, s * a + c * b
    for k in range(3):
        a, b = v[3 * k + p], v[3 * k + q]
        v[3 * k + p], v[3 * k + q] = c * a - s * b, s * a + c * b


@compiled()
def _axes(m, v):
    """Eigenvectors, as the columns of a rotation v [9], and eigenvalues, on the diagonal of m."""
    for k in range(9):
        v[k] = 1.0 if k % 4 == 0 else 0.0
    for _ in range(_SWEEPS):
        _turn(0, 1, m, v)
        _turn(0, 2, m, v)
        _turn(1, 2, m, v)


@compiled()
def _write_quat(v, quat_out):
    """Of a rotation [9], wxyz; by its largest component, so that nothing cancels."""
    traces = (v[0] + v[4] + v[8], v[0] - v[4] - v[8], v[4] - v[0] - v[8], v[8] - v[0] - v[4])
    best = 0
    for k in range(1, 4):
        if traces[k] > traces[best]:
            best = k
    s = 2.0 * math.sqrt(1.0 + traces[best])
    if best == 0:
        quat_out[0], quat_out[1] = 0.25 * s, (v[7] - v[5]) / s
        quat_out[2], quat_out[3] = (v[2] - v[6]) / s, (v[3] - v[1]) / s
    elif best == 1:
        quat_out[0], quat_out[1] = (v[7] - v[5]) / s, 0.25 * s
        quat_out[2], quat_out[3] = (v[1] + v[3]) / s, (v[2] + v[6]) / s
    elif best == 2:
        quat_out[0], quat_out[1] = (v[2] - v[6]) / s, (v[1] + v[3]) / s
        quat_out[2], quat_out[3] = 0.25 * s, (v[5] + v[7]) / s
    else:
        quat_out[0], quat_out[1] = (v[3] - v[1]) / s, (v[2] + v[6]) / s
        quat_out[2], quat_out[3] = (v[5] + v[7]) / s, 0.25 * s


@compiled()
def _merge(parts, means, covariances, inks, scales, quats, opacities, leaf_sh, sh, i, m, v):
    """The splats `parts` to splat i; m and v are scratch [9]."""
    leaves = len(leaf_sh)
    row = sh[i - leaves]
    total = 0.0
    for part in parts:
        total += inks[part]
    for k in range(3):
        means[i, k] = 0.0
    for k in range(6):
        covariances[i, k] = 0.0
    for k in range(len(row)):
        row[k] = 0.0
    for part in parts:
        share = inks[part] / total if total > 0 else 1.0 / len(parts)
        for k in range(3):
            means[i, k] += share * means[part, k]
        own = leaf_sh[part] if part < leaves else sh[part - leaves]
        for k in range(len(row)):
            row[k] += np.float32(share) * own[k]
    for part in parts:
        share = inks[part] / total if total > 0 else 1.0 / len(parts)
        x, y, z = means[part, 0] - means[i, 0], means[part, 1] - means[i, 1], means[part, 2] - means[i, 2]
        covariances[i, 0] += share * (covariances[part, 0] + x * x)
        covariances[i, 1] += share * (covariances[part, 1] + x * y)
        covariances[i, 2] += share * (covariances[part, 2] + x * z)
        covariances[i, 3] += share * (covariances[part, 3] + y * y)
        covariances[i, 4] += share * (covariances[part, 4] + y * z)
        covariances[i, 5] += share * (covariances[part, 5] + z * z)
    m[0], m[1], m[2] = covariances[i, 0], covariances[i, 1], covariances[i, 2]
    m[3], m[4], m[5] = covariances[i, 1], covariances[i, 3], covariances[i, 4]
    m[6], m[7], m[8] = covariances[i, 2], covariances[i, 4], covariances[i, 5]
    _axes(m, v)
    _write_quat(v, quats[i])
    a, b, c = math.sqrt(max(m[0], 0.0)), math.sqrt(max(m[4], 0.0)), math.sqrt(max(m[8], 0.0))
    scales[i, 0], scales[i, 1], scales[i, 2] = a, b, c
    opacity = min(total / max(_area(a, b, c), _TINY), OPACITY_MAX)
    opacities[i] = opacity
    inks[i] = total


@compiled(parallel=True)
def merge_groups(
    # groups:
    parts,  # [p] int64 members, group by group
    starts,  # [g + 1] int64
    first,  # the number of the first group's splat
    # splats, read and written:
    means,  # [n, 3] float64
    covariances,  # [n, 6] float64
    inks,  # [n] float64, area times opacity
    scales,  # [n, 3] float32
    quats,  # [n, 4]
    opacities,  # [n]
    leaf_sh,  # [l, 3 k] float32, of the first splats; read only
    sh,  # [n - l, 3 k] float32, of the others
):
    """Write each group's merged splat at `first` plus its number. Groups without ink weigh their members alike."""
    for chunk in prange((len(starts) + 254) // 256):
        m, v = np.empty(9, dtype=np.float64), np.empty(9, dtype=np.float64)
        for group in range(chunk * 256, min(chunk * 256 + 256, len(starts) - 1)):
            own = parts[starts[group] : starts[group + 1]]
            _merge(own, means, covariances, inks, scales, quats, opacities, leaf_sh, sh, first + group, m, v)
