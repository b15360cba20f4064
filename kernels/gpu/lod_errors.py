"""View errors of nodes and of clusters, in Triton. Formula and precision: kernels/gaze.py.

Constexpr: GAZED, whether the row's gaze counts.
"""

import triton
import triton.language as tl

from .. import gaze as g

EYE, DIRECTION = tl.constexpr(g.EYE), tl.constexpr(g.DIRECTION)
NEAR, FLOOR = tl.constexpr(g.NEAR), tl.constexpr(g.FLOOR)
INNER, OUTER, FALL = tl.constexpr(g.INNER), tl.constexpr(g.OUTER), tl.constexpr(g.FALL)
EDGE, DROP, BEHIND = tl.constexpr(g.EDGE), tl.constexpr(g.DROP), tl.constexpr(g.BEHIND)
SIDES, SLOPE, BEYOND = tl.constexpr(g.SIDES), tl.constexpr(g.SLOPE), tl.constexpr(g.BEYOND)


@triton.jit
def _nearest(x, y, z, inverse, half, sine, direction):
    """Cosine and sine of the angle from a direction to the nearest of spheres; cosine to their centres."""
    dx, dy, dz = tl.load(direction), tl.load(direction + 1), tl.load(direction + 2)
    along = (x * dx + y * dy + z * dz) * inverse
    a, b, c = y * dz - z * dy, z * dx - x * dz, x * dy - y * dx
    across = tl.sqrt(a * a + b * b + c * c) * inverse
    return along * half + across * sine, across * half - along * sine, along


@triton.jit
def _weight(x, y, z, distance, radius, row):
    """Largest weight of the gaze over spheres at x, y, z from the eye (kernels/lod_reference.py)."""
    inner, outer = tl.load(row + INNER), tl.load(row + OUTER)
    edge, behind = tl.load(row + EDGE), tl.load(row + BEHIND)
    inverse = 1.0 / tl.maximum(distance, 1e-30)
    half = tl.sqrt(tl.maximum((distance - radius) * (distance + radius), 0.0)) * inverse
    sine = radius * inverse
    cos, sin, along = _nearest(x, y, z, inverse, half, sine, row + DIRECTION)
    away = tl.where(cos > 0.0, sin * sin / (1.0 + tl.maximum(cos, 0.0)), 1.0 - cos)
    away = tl.where((distance <= radius) | (along >= half), 0.0, away)
    inside = tl.maximum(1.0 - tl.load(row + FALL) * (away - inner), edge)
    outside = tl.maximum(edge - tl.load(row + DROP) * (away - outer), behind)
    weight = tl.where(away <= inner, 1.0, tl.where(away <= outer, inside, outside))
    lowest = tl.zeros_like(cos)
    for side in tl.static_range(4):
        above, _, _ = _nearest(x, y, z, inverse, half, sine, row + SIDES + 3 * side)
        lowest = tl.minimum(lowest, above)
    lowest = tl.where(distance <= radius, 0.0, lowest)
    return weight * tl.maximum(1.0 + tl.load(row + SLOPE) * lowest, tl.load(row + BEYOND))


@triton.jit
def view_error(x, y, z, radius, error, row, GAZED: tl.constexpr):
    """Of nodes, or bounds of nodes, with those means."""
    x, y, z = x - tl.load(row + EYE), y - tl.load(row + EYE + 1), z - tl.load(row + EYE + 2)
    distance = tl.sqrt(x * x + y * y + z * z)
    if GAZED:
        error = error * _weight(x, y, z, distance, radius, row)
    return error / tl.maximum(distance - radius, tl.load(row + NEAR))


@triton.jit
def node_error(i, mask, means, radii, errors, row, GAZED: tl.constexpr):
    """Of nodes of a pool, 0 where the mask is False."""
    at = i.to(tl.int64) * 3
    x, y = tl.load(means + at, mask=mask, other=0.0), tl.load(means + at + 1, mask=mask, other=0.0)
    z, radius = tl.load(means + at + 2, mask=mask, other=0.0), tl.load(radii + i, mask=mask, other=0.0)
    return view_error(x, y, z, radius, tl.load(errors + i, mask=mask, other=0.0), row, GAZED)
