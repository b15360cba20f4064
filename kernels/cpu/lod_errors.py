"""View errors on the CPU: of single nodes, of whole clusters at once, and bounds of those that need not be read.

Formula and precision: kernels/gaze.py. Plain scalar code without branches, which LLVM turns into vectors without
changing a bit, so that every backend finds the same errors.
"""

import numpy as np
from numba import prange

from .. import gaze as g
from ..constants import CLUSTER
from .compiled import compiled
from .simd import element, least, most, put, take

f32 = np.float32
_ZERO, _ONE, _TINY, _HUGE = f32(0), f32(1), f32(1e-30), f32(3e38)
_UP = f32(1.0001)  # pays for the rounding of a node's error and of its cluster's bound
_AWAY = f32(1e-5)  # pays for the rounding of a distance to a side, as a share of that to the eye
_OUTSIDE, _NEARER = f32(1.001), f32(2e-3)  # and for that of the angle to a sphere, which is steep at its surface
AT_ONCE = 16  # clusters that a thread takes
LAST_KEY = 2**31 - 1
SHIFT, BINS = 18, 1 << 13  # of a key of 31 bits: a bin spans 3 % of a view error


@compiled(inline=True)
def _nearest(x, y, z, inverse, half, sine, row, at):
    """Cosine and sine of the angle from a direction in the row to the nearest of a sphere; cosine to its centre."""
    dx, dy, dz = row[at], row[at + 1], row[at + 2]
    along = (x * dx + y * dy + z * dz) * inverse
    a, b, c = y * dz - z * dy, z * dx - x * dz, x * dy - y * dx
    across = np.sqrt(a * a + b * b + c * c) * inverse
    return along * half + across * sine, across * half - along * sine, along


@compiled(inline=True)
def _weight(x, y, z, distance, radius, row):
    """Largest weight of the gaze over a sphere at x, y, z from the eye (kernels/lod_reference.py)."""
    inner, outer, edge, behind = row[g.INNER], row[g.OUTER], row[g.EDGE], row[g.BEHIND]
    inverse = _ONE / most(distance, _TINY)
    half = np.sqrt(most((distance - radius) * (distance + radius), _ZERO)) * inverse
    sine = radius * inverse
    cos, sin, along = _nearest(x, y, z, inverse, half, sine, row, g.DIRECTION)
    ahead, back = sin * sin / (_ONE + most(cos, _ZERO)), _ONE - cos
    away = ahead if cos > _ZERO else back
    away = _ZERO if distance <= radius else away
    away = _ZERO if along >= half else away
    inside = most(_ONE - row[g.FALL] * (away - inner), edge)
    outside = most(edge - row[g.DROP] * (away - outer), behind)
    weight = inside if away <= outer else outside
    weight = _ONE if away <= inner else weight
    first, _, _ = _nearest(x, y, z, inverse, half, sine, row, g.SIDES)
    second, _, _ = _nearest(x, y, z, inverse, half, sine, row, g.SIDES + 3)
    third, _, _ = _nearest(x, y, z, inverse, half, sine, row, g.SIDES + 6)
    fourth, _, _ = _nearest(x, y, z, inverse, half, sine, row, g.SIDES + 9)
    lowest = least(least(least(first, second), least(third, fourth)), _ZERO)
    lowest = _ZERO if distance <= radius else lowest
    return weight * most(_ONE + row[g.SLOPE] * lowest, row[g.BEYOND])


@compiled(inline=True)
def node_error(x, y, z, radius, error, row, gazed):
    """View error of a node with that mean."""
    x, y, z = x - row[g.EYE], y - row[g.EYE + 1], z - row[g.EYE + 2]
    distance = np.sqrt(x * x + y * y + z * z)
    if gazed:
        error = error * _weight(x, y, z, distance, radius, row)
    return error / most(distance - radius, row[g.NEAR])


@compiled(parallel=True)
def bound_clusters(bounds, errors, row, gazed, uppers_out):
    """No node of a cluster has a larger view error than this."""
    for c in prange(len(errors)):
        at = 4 * c
        x, y, z, radius = element(bounds, at), element(bounds, at + 1), element(bounds, at + 2), element(bounds, at + 3)
        uppers_out[c] = least(node_error(x, y, z, radius, errors[c], row, gazed) * _UP, _HUGE)


@compiled()
def _even_weight(x, y, z, radius, row):
    """The weight of all nodes whose spheres lie in one, where that is 1 or `beyond` to the last bit; else 0.

    Only of a gaze whose direction does not count. Centres so far inside of all sides that float32 finds them there have
    1, whatever their spheres. Of spheres inside one that does not hold the eye, none comes nearer to a side.
    """
    if row[g.EDGE] != _ONE or row[g.BEHIND] != _ONE:
        return _ZERO
    x, y, z = x - row[g.EYE], y - row[g.EYE + 1], z - row[g.EYE + 2]
    distance = np.sqrt(x * x + y * y + z * z)
    inverse = _ONE / most(distance, _TINY)
    half = np.sqrt(most((distance - radius) * (distance + radius), _ZERO)) * inverse
    lowest, least_nearest = _ONE, _ONE
    for side in range(g.SIDES, g.SLOPE, 3):
        nearest, _, along = _nearest(x, y, z, inverse, half, radius * inverse, row, side)
        lowest, least_nearest = least(lowest, along), least(least_nearest, nearest)
    if lowest * distance > radius + _AWAY * (distance + radius):
        return _ONE
    away = distance > _OUTSIDE * radius and _ONE + row[g.SLOPE] * (least_nearest + _NEARER) <= row[g.BEYOND]
    return row[g.BEYOND] if away else _ZERO


@compiled()
def _read_cluster(first, at, means, radii, errors, children, row, gazed, even, values_out):
    for j in range(CLUSTER):
        i = first + j
        x, y, z = element(means, 3 * i), element(means, 3 * i + 1), element(means, 3 * i + 2)
        error = node_error(x, y, z, element(radii, i), element(errors, i) * even, row, gazed)
        error = error if error > row[g.FLOOR] else _ZERO
        put(values_out, at + j, error if element(children, i) >= 0 else _ZERO)


@compiled()
def _largest(keys, at):
    top = np.int32(0)
    for j in range(CLUSTER):
        top = most(top, element(keys, at + j))
    return top


@compiled(inline=True)
def list_keys(keys, at, low, high, list_out):
    """List which nodes of a cluster have keys from `low` to `high`; without branches, which would be guesses."""
    count, first, span = 0, np.int32(low), np.uint32(high - low)
    for j in range(CLUSTER):
        put(list_out, count, np.uint8(j))
        count += np.uint32(element(keys, at + j) - first) <= span
    return count


@compiled()
def add_gains(keys, at, counts, first, low, high, mark, listed, gains_out):
    """Sum what expanding each node of a cluster adds to a cut: by the highest bits of its key, and above a mark.

    Keys from `low` to `high` count; the sum of those above `mark` comes last.
    """
    for k in range(list_keys(keys, at, low, high, listed)):
        j = np.int64(element(listed, k))
        key, gain = np.int64(element(keys, at + j)), element(counts, first + j) - 1
        put(gains_out, key >> SHIFT, element(gains_out, key >> SHIFT) + gain)
        put(gains_out, BINS, element(gains_out, BINS) + (gain if key > mark else 0))


@compiled(parallel=True)
def read_clusters(
    clusters, slot, bounds, means, radii, errors, children, counts, row, gazed, low, mark, next_cluster,
    values_out, keys, tops_out, gains_out,
):  # fmt: skip
    """View errors of the nodes that may be expanded, 0 of others, 256 a cluster from `slot` on; largest keys; gains.

    Args:
        low: keys below do not count as gains.
        mark: see `add_gains`.
        keys: the same memory as `values_out`, as integers: floats of 0 and above keep their order.
        gains_out: [threads, BINS + 1], added to.
    """
    constants = (
        row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], row[9], row[10], row[11], row[12],
        row[13], row[14], row[15], row[16], row[17], row[18], row[19], row[20], row[21], row[22], row[23], row[24],
        row[25], row[26], row[27],
    )  # fmt: skip
    for thread in prange(len(gains_out)):
        own, listed = gains_out[thread], np.empty(CLUSTER + 1, dtype=np.uint8)
        begin = take(next_cluster, AT_ONCE)
        while begin < len(clusters):
            for k in range(begin, least(begin + AT_ONCE, len(clusters))):
                at = (slot + k) * CLUSTER
                first = np.int64(clusters[k]) * CLUSTER
                b = 4 * np.int64(clusters[k])
                even = _even_weight(bounds[b], bounds[b + 1], bounds[b + 2], bounds[b + 3], row) if gazed else _ONE
                if even > _ZERO:
                    _read_cluster(first, at, means, radii, errors, children, constants, False, even, values_out)
                else:
                    _read_cluster(first, at, means, radii, errors, children, constants, True, _ONE, values_out)
                top = _largest(keys, at)
                tops_out[slot + k] = top
                if top >= low:
                    add_gains(keys, at, counts, first, low, LAST_KEY, mark, listed, own)
            begin = take(next_cluster, AT_ONCE)
