"""Points joined by short steps: the connected parts of the graph of all pairs at most a distance apart.

Points are put into cubes so small that all points of a cube are within the distance of each other. A cube is then one
part, and only pairs of cubes are left to try, each until a first pair of points is found: dense clouds cost no more
than thin ones (Gunawan and de Berg, "A faster algorithm for DBSCAN", 2013, by the same cubes).
"""

import math

import numpy as np

from .compiled import compiled

REACH = 2  # cubes: points that are further apart along any axis are further apart than the distance
_TIGHT = 1 - 1e-6  # keeps the diagonal of a cube below the distance in spite of rounding


def clusters(points: np.ndarray, distance: float) -> np.ndarray:
    """[n] int64, equal for points that are joined by steps of at most `distance`, and for no others.

    Linear in the points, but for pairs of crowded cubes that nearly touch: there all pairs of points are tried.

    Args:
        points: [n, 3] finite.
        distance: above 0, in units of the points.
    """
    cubes = np.floor(points.astype(np.float64) / (distance / math.sqrt(3) * _TIGHT))  # as floats: any number fits
    order = np.lexsort((cubes[:, 2], cubes[:, 1], cubes[:, 0]))
    cubes, ordered = cubes[order], points[order].astype(np.float64)
    new = np.ones(len(points), dtype=bool)
    new[1:] = (cubes[1:] != cubes[:-1]).any(axis=1)
    starts = np.append(np.flatnonzero(new), len(points))
    parents = np.arange(len(starts) - 1)
    if len(parents):
        low, high = (extreme.reduceat(ordered, starts[:-1]) for extreme in (np.minimum, np.maximum))
        _join(cubes[starts[:-1]], starts, ordered, low, high, distance, parents)
    labels = np.empty(len(points), dtype=np.int64)
    labels[order] = np.repeat(parents, np.diff(starts))
    return labels


@compiled()
def _join(cubes, starts, points, low, high, distance, parents):
    """Make the parent of each cube the first cube of its part.

    Cubes are in order of x, y, z. Those beside a column of others are one run, and the runs of a sweep come in order.
    """
    limit = distance * distance
    count = len(cubes)
    for dx in range(REACH + 1):
        for dy in range(-REACH if dx else 0, REACH + 1):
            dz = -REACH if dx or dy else 1
            first = 0
            for i in range(count):
                x, y, z = cubes[i, 0] + dx, cubes[i, 1] + dy, cubes[i, 2] + dz
                while first < count and _before(cubes[first], x, y, z):
                    first += 1
                j = first
                while j < count and cubes[j, 0] == x and cubes[j, 1] == y and cubes[j, 2] <= cubes[i, 2] + REACH:
                    a, b = _root(parents, i), _root(parents, j)
                    if a != b and _touch(starts, points, low, high, i, j, limit):
                        parents[max(a, b)] = min(a, b)
                    j += 1
    for i in range(count):
        parents[i] = _root(parents, i)


@compiled()
def _before(cube, x, y, z):
    if cube[0] != x:
        return cube[0] < x
    if cube[1] != y:
        return cube[1] < y
    return cube[2] < z


@compiled()
def _root(parents, i):
    while parents[i] != i:
        parents[i] = parents[parents[i]]
        i = parents[i]
    return i


@compiled()
def _touch(starts, points, low, high, i, j, limit):
    """Whether two cubes hold points at most the square root of `limit` apart; low and high bound what is in a cube."""
    for a in range(starts[i], starts[i + 1]):
        away = 0.0
        for axis in range(3):
            beside = max(low[j, axis] - points[a, axis], points[a, axis] - high[j, axis], 0.0)
            away += beside * beside
        if away > limit:
            continue
        for b in range(starts[j], starts[j + 1]):
            square = 0.0
            for axis in range(3):
                step = points[a, axis] - points[b, axis]
                square += step * step
            if square <= limit:
                return True
    return False
