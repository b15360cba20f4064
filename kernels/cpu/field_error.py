"""What a merged splat costs: the squared difference of the fields before and after, on the CPU.

A splat is taken for a field of its colour and, as a fourth channel, its coverage. Seen along the x, y and z axes, the
square of the difference of two such fields integrates in closed form, since a product of Gaussians is a Gaussian; the
sum of the three views is the error, in world units squared times colour squared. Fields add here, where pixels blend:
exact for thin layers, and enough to tell merges apart.
"""

import math

import numpy as np
from numba import prange

from .compiled import compiled

CHANNELS = 4  # red, green, blue, coverage
_TINY = 1e-37
_FAR = 60.0  # squared distance in standard deviations from which an overlap counts for nothing


@compiled(inline=True)
def _face(xx, xy, yy):
    """Square root of a 2D covariance's determinant: the splat's area over 2 pi, from one side."""
    return math.sqrt(max(xx * yy - xy * xy, 0.0))


@compiled(inline=True)
def _overlap(face_a, face_b, xx, xy, yy, x, y):
    """Integral of the product of two 2D Gaussians of height 1, whose covariances sum to xx, xy, yy, x, y apart."""
    determinant = xx * yy - xy * xy
    if determinant <= _TINY:
        return 0.0
    square = (x * x * yy - 2.0 * x * y * xy + y * y * xx) / determinant
    if square > _FAR:
        return 0.0
    return 2.0 * math.pi * face_a * face_b / math.sqrt(determinant) * math.exp(-0.5 * square)


@compiled(inline=True)
def _faces(s):
    return _face(s[0], s[1], s[3]), _face(s[0], s[2], s[5]), _face(s[3], s[4], s[5])


@compiled(inline=True)
def _overlaps(s, faces_s, t, faces_t, d):
    """Of splats with the covariances s and t, d apart: the sum of the three views."""
    xx, xy, xz, yy, yz, zz = s[0] + t[0], s[1] + t[1], s[2] + t[2], s[3] + t[3], s[4] + t[4], s[5] + t[5]
    return (
        _overlap(faces_s[0], faces_t[0], xx, xy, yy, d[0], d[1])
        + _overlap(faces_s[1], faces_t[1], xx, xz, zz, d[0], d[2])
        + _overlap(faces_s[2], faces_t[2], yy, yz, zz, d[1], d[2])
    )


@compiled(inline=True)
def _covariance(covariances, i):
    return (
        covariances[i, 0], covariances[i, 1], covariances[i, 2],
        covariances[i, 3], covariances[i, 4], covariances[i, 5],
    )  # fmt: skip


@compiled(inline=True)
def _apart(means, i, j):
    return means[j, 0] - means[i, 0], means[j, 1] - means[i, 1], means[j, 2] - means[i, 2]


@compiled(inline=True)
def _color_product(colors, i, j):
    total = 0.0
    for k in range(CHANNELS):
        total += colors[i, k] * colors[j, k]
    return total


@compiled()
def _pair_error(means, covariances, opacities, colors, i, j):
    """Of merging two splats; see `group_errors`."""
    s, t, d = _covariance(covariances, i), _covariance(covariances, j), _apart(means, i, j)
    faces_s, faces_t = _faces(s), _faces(t)
    a, b = opacities[i], opacities[j]
    ink_a, ink_b = a * (faces_s[0] + faces_s[1] + faces_s[2]), b * (faces_t[0] + faces_t[1] + faces_t[2])
    if ink_a + ink_b <= 0.0:
        return 0.0
    p = ink_a / (ink_a + ink_b)
    q = 1.0 - p
    both = p * q
    u = (
        p * s[0] + q * t[0] + both * d[0] * d[0],
        p * s[1] + q * t[1] + both * d[0] * d[1],
        p * s[2] + q * t[2] + both * d[0] * d[2],
        p * s[3] + q * t[3] + both * d[1] * d[1],
        p * s[4] + q * t[4] + both * d[1] * d[2],
        p * s[5] + q * t[5] + both * d[2] * d[2],
    )
    faces_u = _faces(u)
    total = faces_u[0] + faces_u[1] + faces_u[2]
    if total <= 0.0:
        return 0.0
    c = (ink_a + ink_b) / total
    cross = 2.0 * a * b * _overlaps(s, faces_s, t, faces_t, d)
    to_a = c * a * 2.0 * _overlaps(s, faces_s, u, faces_u, (q * d[0], q * d[1], q * d[2]))
    to_b = c * b * 2.0 * _overlaps(t, faces_t, u, faces_u, (p * d[0], p * d[1], p * d[2]))
    own_a, own_b, own = math.pi * a * ink_a, math.pi * b * ink_b, math.pi * c * c * total
    aa, bb, ab = _color_product(colors, i, i), _color_product(colors, j, j), _color_product(colors, i, j)
    mixed_a, mixed_b = p * aa + q * ab, p * ab + q * bb  # the merged colour times each
    found = own_a * aa + own_b * bb + own * (p * mixed_a + q * mixed_b)
    return max(found + cross * ab - to_a * mixed_a - to_b * mixed_b, 0.0)


@compiled(parallel=True)
def best_partners(
    order,  # [m] int64: splats, neighbours in space mostly near each other
    reach,  # places to look at, before and after
    means,  # [n, 3] float64
    covariances,  # [n, 6] float64
    opacities,  # [n]
    colors,  # [n, CHANNELS]
    weights,  # [n] of a splat's errors; a pair has the larger
    # read and written:
    errors,  # [n] float64, of the best pair so far
    partners,  # [n] int64
):
    """For each splat the neighbour in the order that is cheapest to merge with, if cheaper than what it has."""
    for chunk in prange((len(order) + 1023) // 1024):
        for place in range(chunk * 1024, min(chunk * 1024 + 1024, len(order))):
            i = order[place]
            for other in range(max(place - reach, 0), min(place + reach + 1, len(order))):
                j = order[other]
                if j != i:
                    low, high = min(i, j), max(i, j)  # one way round, so that both find the same number
                    error = _pair_error(means, covariances, opacities, colors, low, high)
                    error *= max(weights[i], weights[j]) ** 2
                    if error < errors[i] or (error == errors[i] and j < partners[i]):
                        errors[i], partners[i] = error, j


@compiled(parallel=True)
def group_errors(
    # groups:
    parts,  # [p] int64 members, group by group
    starts,  # [g + 1] int64
    first,  # the number of the first group's splat
    # splats:
    means,  # [n, 3] float64
    covariances,  # [n, 6] float64
    opacities,  # [n]
    colors,  # [n, CHANNELS]
    weights,  # [n]
    # out:
    errors_out,  # [g] float64
):
    """The error of each group's merged splat, at `first` plus its number, instead of its members.

    The merged splat's height is the one that keeps what the members show to the three views.
    """
    for group in prange(len(starts) - 1):
        i, start, stop = first + group, starts[group], starts[group + 1]
        s = _covariance(covariances, i)
        faces_s = _faces(s)
        total, height = faces_s[0] + faces_s[1] + faces_s[2], 0.0
        for a in range(start, stop):
            faces = _faces(_covariance(covariances, parts[a]))
            height += opacities[parts[a]] * (faces[0] + faces[1] + faces[2])
        height = height / total if total > 0.0 else 0.0
        found = math.pi * height * height * total * _color_product(colors, i, i)
        for a in range(start, stop):
            j = parts[a]
            t = _covariance(covariances, j)
            faces_t = _faces(t)
            own = faces_t[0] + faces_t[1] + faces_t[2]
            found += math.pi * opacities[j] ** 2 * own * _color_product(colors, j, j)
            to_merged = _overlaps(s, faces_s, t, faces_t, _apart(means, i, j))
            found -= 2.0 * height * opacities[j] * to_merged * _color_product(colors, i, j)
            for b in range(a + 1, stop):
                k = parts[b]
                r = _covariance(covariances, k)
                cross = _overlaps(t, faces_t, r, _faces(r), _apart(means, j, k))
                found += 2.0 * opacities[j] * opacities[k] * cross * _color_product(colors, j, k)
        errors_out[group] = max(found, 0.0) * weights[i] ** 2


def channels(sh: np.ndarray) -> np.ndarray:
    """Colours [n, CHANNELS] float32 of harmonics [n, 3 k]: their constant part, and what stands for coverage."""
    return np.concatenate(
        (np.clip(0.5 + 0.28209479 * sh[:, :3], 0, None), np.full((len(sh), 1), 0.5, sh.dtype)), axis=1
    )
