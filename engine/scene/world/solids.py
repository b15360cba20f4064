"""Simple solids in plan coordinates (z up, metres): boards, turned pots, wires, and masonry."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from .shapes import Array, Shape, moved, rects, tubes
from .surfels import Surface

Hole = tuple[float, float, float, float]  # x0, x1, z0, z1 of an opening


def boxes(centers: ArrayLike, sizes: ArrayLike, turns: ArrayLike = 0.0) -> Shape:
    """Boards: centres [m, 3], edge lengths [m, 3] or [3], turned about z by `turns`; grain along the longest edge."""
    center = np.atleast_2d(np.asarray(centers, dtype=np.float64))
    size = np.broadcast_to(np.asarray(sizes, dtype=np.float64), center.shape)
    turn = np.broadcast_to(np.asarray(turns, dtype=np.float64), len(center))
    zero, one = np.zeros(len(center)), np.ones(len(center))
    cosine, sine = np.cos(turn), np.sin(turn)
    axes = np.stack(
        (np.stack((cosine, sine, zero), 1), np.stack((-sine, cosine, zero), 1), np.stack((zero, zero, one), 1)), 1
    )
    edges = axes * size[:, :, None]  # [m, 3 edges, 3]
    corner, a, b = [], [], []
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        long_i = (size[:, i] >= size[:, j])[:, None]
        for sign in (1, -1):
            a_ = np.where(long_i, edges[:, i], edges[:, j])
            b_ = sign * np.where(long_i, edges[:, j], -edges[:, i])
            a, b, corner = [*a, a_], [*b, b_], [*corner, center + sign * edges[:, k] / 2 - (a_ + b_) / 2]
    stack = [np.stack(parts, 1).reshape(-1, 3) for parts in (corner, a, b)]
    return rects(*stack, ids=np.repeat(np.arange(len(center)), 6))


def beams(starts: ArrayLike, ends: ArrayLike, width: float, depth: float) -> Shape:
    """Boards from point to point with a section of `width` (level) by `depth`."""
    start, end = np.atleast_2d(np.asarray(starts, float)), np.atleast_2d(np.asarray(ends, float))
    parts = []
    for p, q in zip(start, end, strict=True):
        axis = (q - p) / np.linalg.norm(q - p)
        side = np.cross([0.0, 0.0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0.0, 0.0], axis)
        side = side / np.linalg.norm(side)
        bar = boxes([0.0, 0.0, 0.0], [float(np.linalg.norm(q - p)), width, depth])
        parts.append(moved(bar, np.stack((axis, side, np.cross(axis, side)), axis=1), (p + q) / 2))
    ids = np.repeat(np.arange(len(parts)), 6)
    frames, params = (np.concatenate([getattr(part, name) for part in parts]) for name in ("frames", "params"))
    return Shape("rect", frames, params, ids)


def turned_on_lathe(profile: Sequence[tuple[float, float]], at: ArrayLike, fine: int = 5) -> Shape:
    """A pot, column or figure: the smooth curve through (radius, height) points, turned about the vertical at `at`."""
    knots = np.array([profile[0], *profile, profile[-1]], dtype=np.float64)
    t = np.arange(fine)[:, None] / fine
    curve = [_catmull_rom(knots[i : i + 4], t) for i in range(len(profile) - 1)]
    points = np.concatenate([*curve, knots[-1:]])
    points[:, 0] = np.maximum(points[:, 0], 1e-3)
    base = np.asarray(at, dtype=np.float64)
    spine = np.stack((np.zeros(len(points)), np.zeros(len(points)), points[:, 1]), axis=1) + base
    keep = np.abs(np.diff(points[:, 1])) > 1e-5
    zeros = np.zeros(int(keep.sum()), np.int64)
    return tubes(spine[:-1][keep], spine[1:][keep], points[:-1, 0][keep], points[1:, 0][keep], ids=zeros)


def wire(points: ArrayLike, radius: float, end_radius: float | None = None) -> Shape:
    """A bent rod through the points [k, 3], tapering to `end_radius`."""
    path = np.asarray(points, dtype=np.float64)
    radii = np.linspace(radius, radius if end_radius is None else end_radius, len(path))
    return tubes(path[:-1], path[1:], radii[:-1], radii[1:], ids=np.zeros(len(path) - 1, np.int64))


def sagging(start: ArrayLike, end: ArrayLike, sag: float, steps: int) -> Array:
    """Points [steps + 1, 3] of a cord that hangs `sag` metres below the straight line in its middle."""
    t = np.linspace(0, 1, steps + 1)[:, None]
    line = np.asarray(start, float) * (1 - t) + np.asarray(end, float) * t
    return line - np.array([0.0, 0.0, 1.0]) * (4 * sag * t * (1 - t))


def coursed(
    width: tuple[float, float],
    rows: Array,
    lengths: tuple[float, float],
    joint: float,
    holes: Sequence[Hole],
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Stones in rows: rectangles of stones and of the joints between them, each [m, 4] as x0, x1, z0, z1.

    Args:
        rows: [r + 1] edges of the rows, rising.
        lengths: shortest and longest stone, metres, joint included.
        holes: openings; stones end there.
    """
    stones, joints = [], []
    for row, (low, high) in enumerate(itertools.pairwise(rows)):
        for left, right in _clear(width, low, high, holes):
            count = max(1, round((right - left) / np.mean(lengths)))
            step = rng.uniform(*lengths, count + 1)
            cuts = left - step[0] * (0.5 if row % 2 else 0.0) + np.concatenate(([0.0], np.cumsum(step)))
            scale = cuts[(cuts > left + 0.3 * lengths[0]) & (cuts < right - 0.3 * lengths[0])]
            cuts = np.concatenate(([left], scale, [right]))
            half = joint / 2
            stones += [(a + half, b - half, low + half, high - half) for a, b in itertools.pairwise(cuts)]
            joints += [(c - half, c + half, low, high) for c in cuts]
            joints += [(left, right, low - half, low + half), (left, right, high - half, high + half)]
    return np.array(stones), np.array(joints)


def placed(surfaces: Sequence[Surface], turn: float = 0.0, shift: ArrayLike = (0.0, 0.0, 0.0)) -> list[Surface]:
    """The surfaces turned about the vertical through the origin by `turn` radians, then shifted."""
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    return [Surface(moved(s.shape, rotation, shift), s.material, s.density, s.continuous) for s in surfaces]


def panes(width: tuple[float, float], height: tuple[float, float], holes: Sequence[Hole]) -> Array:
    """A rectangle less its holes, as few rectangles [m, 4] that join edge to edge."""
    xs = sorted({*width, *(x for hole in holes for x in hole[:2])})
    out = []
    for left, right in itertools.pairwise(xs):
        cuts = sorted((h[2], h[3]) for h in holes if h[0] < (left + right) / 2 < h[1])
        edges = [height[0], *(z for cut in cuts for z in cut), height[1]]
        out += [(left, right, a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]
    return np.array(out)


def upright(rectangles: Array, depth: float = 0.0) -> Shape:
    """Rectangles [m, 4] (x0, x1, z0, z1) in the plane y = depth, facing +y."""
    x0, x1, z0, z1 = rectangles.T
    zero = np.zeros(len(rectangles))
    corner = np.stack((x1, zero + depth, z0), axis=1)
    return rects(corner, np.stack((x0 - x1, zero, zero), 1), np.stack((zero, zero, z1 - z0), 1))


def _clear(width: tuple[float, float], low: float, high: float, holes: Sequence[Hole]) -> list[tuple[float, float]]:
    spans = [width]
    for x0, x1, z0, z1 in holes:
        if z0 < (low + high) / 2 < z1:
            spans = [part for a, b in spans for part in ((a, min(b, x0)), (max(a, x1), b)) if part[1] - part[0] > 0.02]
    return spans


def _catmull_rom(knots: Array, t: Array) -> Array:
    p0, p1, p2, p3 = knots
    return 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
