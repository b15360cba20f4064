"""Parametric surfaces in batches: even sampling by area, and exact intersection with rays.

Every primitive is an affine image of a canonical one, x_world = origin + [a b c] x, so that a ray is carried into the
canonical frame, met there by a closed form, and its parameter t is the same in both:

    rect    z = 0, 0 <= x, y <= 1
    disc    z = 0, p0 <= sqrt(x^2 + y^2) <= 1
    tube    x^2 + y^2 = (1 + p0 z)^2, 0 <= z <= 1          (the side of a cylinder or of a cut cone)
    ball    x^2 + y^2 + z^2 = 1, p0 <= z <= p1             (a cap or a zone of an ellipsoid)
    ground  z = p0 * swell(x, y; phase p1), 0 <= x, y <= 1 (gentle terrain; met by Newton's method)

The outward normal is +z on flat kinds and on the ground, and away from the axis or the centre on the round ones.
Lengths are metres; arrays are float64; `m` counts primitives and `n` samples or rays.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

_WAVES = np.array([[0.9, 0.35, 1.0], [-0.55, 1.3, 0.7], [1.9, 1.2, 0.3], [-2.3, 1.7, 0.2]])  # cycles in x, y; height
_NEWTON_STEPS = 10


@dataclass(frozen=True, eq=False)
class Shape:
    """A batch of m primitives of one kind."""

    kind: str  # rect, disc, tube, ball or ground
    frames: Array  # [m, 3, 4] origin, a, b, c as columns; a, b, c are orthogonal except on a ball
    params: Array  # [m, 2] p0, p1 of the kind
    ids: Array  # [m] int64; primitives with one id look like one piece (the six faces of a board)

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, eq=False)
class Samples:
    """n places on a surface."""

    points: Array  # [n, 3]
    normals: Array  # [n, 3] unit, outward
    tangents: Array  # [n, 3] unit, in the surface, along its grain
    spans: Array  # [n, 2] widths of the primitive along the tangent and across it: a bound for the size of splats
    rooms: Array  # [n, 2] way to the nearest edge, along the tangent and across it
    uv: Array  # [n, 2] metres along the tangent and across it, from the primitive's corner, middle or seam
    stretch: Array  # [n] local area per sample, relative to the mean of the primitive


def rects(corners: ArrayLike, a: ArrayLike, b: ArrayLike, ids: ArrayLike | None = None) -> Shape:
    """Parallelograms corner + u a + v b, u and v in 0..1, that face a x b; each argument is [3] or [m, 3]."""
    corner, a_, b_ = _rows(corners, a, b)
    return _shape("rect", (corner, a_, b_, _unit(np.cross(a_, b_))), ids=ids)


def discs(centers: ArrayLike, a: ArrayLike, b: ArrayLike, inner: float = 0.0, ids: ArrayLike | None = None) -> Shape:
    """Ellipses with the orthogonal half axes a and b that face a x b; a hole of `inner` (0..1) of their size."""
    center, a_, b_ = _rows(centers, a, b)
    return _shape("disc", (center, a_, b_, _unit(np.cross(a_, b_))), inner, ids=ids)


def tubes(starts: ArrayLike, ends: ArrayLike, r0: ArrayLike, r1: ArrayLike, ids: ArrayLike | None = None) -> Shape:
    """Open cut cones from `starts` (radius r0 > 0) to `ends` (radius r1 >= 0); radii are numbers or [m]."""
    start, end = _rows(starts, ends)
    axis = end - start
    side = np.where(np.abs(_unit(axis)[:, 2:]) > 0.9, [[1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0]])
    a = _unit(np.cross(side, axis))
    radius, taper = np.broadcast_to(r0, len(start))[:, None], np.broadcast_to(r1, len(start))[:, None]
    return _shape("tube", (start, a * radius, _unit(np.cross(axis, a)) * radius, axis), taper / radius - 1, ids=ids)


def balls(
    centers: ArrayLike, radii: ArrayLike, low: float = -1.0, high: float = 1.0, ids: ArrayLike | None = None
) -> Shape:
    """Ellipsoids upright in the frame: half axes `radii` (number, [3] or [m, 3]), cut to low <= z / radius <= high."""
    (center,) = _rows(centers)
    half = np.asarray(radii, dtype=np.float64)
    half = np.broadcast_to(half[..., None] if half.ndim == 0 or half.shape == (len(center),) else half, center.shape)
    a, b, c = (half[:, i : i + 1] * np.eye(3)[i] for i in range(3))
    return _shape("ball", (center, a, b, c), low, high, ids=ids)


def ground(corner: ArrayLike, a: ArrayLike, b: ArrayLike, height: float, phase: float) -> Shape:
    """One patch of terrain over the rectangle corner + u a + v b, swelling by about +-2 `height`."""
    corner_, a_, b_ = _rows(corner, a, b)
    return _shape("ground", (corner_, a_, b_, _unit(np.cross(a_, b_))), height, phase)


def joined(*shapes: Shape) -> Shape:
    """One batch from several of the same kind; ids stay apart."""
    ends = np.cumsum([0] + [int(shape.ids.max(initial=-1)) + 1 for shape in shapes])
    ids = np.concatenate([shape.ids + end for shape, end in zip(shapes, ends, strict=False)])
    frames = np.concatenate([shape.frames for shape in shapes])
    return Shape(shapes[0].kind, frames, np.concatenate([shape.params for shape in shapes]), ids)


def moved(shape: Shape, rotation: ArrayLike, shift: ArrayLike = (0.0, 0.0, 0.0)) -> Shape:
    """The batch turned by `rotation` [3, 3] (or scaled evenly), then shifted."""
    frames = np.asarray(rotation, dtype=np.float64) @ shape.frames
    frames[:, :, 0] += np.asarray(shift, dtype=np.float64)
    return Shape(shape.kind, frames, shape.params, shape.ids)


def swell(x: Array, y: Array, height: Array | float, phase: Array | float) -> tuple[Array, Array, Array]:
    """Terrain height over the unit square, and its derivatives in x and y."""
    parts = [(2 * math.pi * kx, 2 * math.pi * ky, w, 1.0 + i) for i, (kx, ky, w) in enumerate(_WAVES)]
    z, dx, dy = (np.zeros(np.broadcast(x, y).shape) for _ in range(3))
    for kx, ky, weight, turn in parts:
        angle = kx * x + ky * y + turn * phase
        sine, cosine = np.sin(angle), np.cos(angle)
        z, dx, dy = z + weight * sine, dx + weight * kx * cosine, dy + weight * ky * cosine
    return height * z, height * dx, height * dy


def areas(shape: Shape) -> Array:
    """Area of every primitive, [m] square metres."""
    a, b, c = (np.linalg.norm(shape.frames[:, :, i], axis=1) for i in (1, 2, 3))
    p0, p1 = shape.params.T
    if shape.kind == "disc":
        return math.pi * a * b * (1 - p0**2)
    if shape.kind == "tube":
        return math.pi * a * (2 + p0) * np.hypot(c, a * p0)
    if shape.kind == "ball":
        return 2 * math.pi * (p1 - p0) * _mean_stretch(shape)
    return np.linalg.norm(np.cross(shape.frames[:, :, 1], shape.frames[:, :, 2]), axis=1)


def sample(shape: Shape, which: Array, u: Array, v: Array) -> Samples:
    """Places on primitives `which` [n] at (u, v) [n] in the unit square; equal areas of it are equal areas there.

    (On an ellipsoid that is no sphere, and on sloping ground, only nearly so: `stretch` says by how much.)
    """
    frames, (p0, p1) = shape.frames[which], shape.params[which].T
    size = np.linalg.norm(shape.frames[:, :, 1:], axis=1)[which]  # [n, 3] lengths of a, b, c
    angle = 2 * math.pi * u
    local, along, stretch = np.zeros((len(u), 3)), np.zeros((len(u), 3)), np.ones(len(u))
    if shape.kind in ("rect", "ground"):
        local[:, 0], local[:, 1], along[:, 0] = u, v, 1.0
        spans, uv = size[:, :2], np.stack((u, v), axis=1) * size[:, :2]
        rooms = np.minimum(uv, size[:, :2] - uv)
        if shape.kind == "ground":
            local[:, 2], along[:, 2], _ = swell(u, v, p0, p1)
    elif shape.kind == "disc":
        radius = np.sqrt(p0**2 + v * (1 - p0**2))
        local[:, 0], local[:, 1], along[:, 0] = radius * np.cos(angle), radius * np.sin(angle), 1.0
        chord = np.sqrt(np.maximum(1 - local[:, 1::-1] ** 2, 0.04))  # half width of the ellipse just here
        spans, uv = 2 * size[:, :2] * chord, local[:, :2] * size[:, :2]
        rooms = np.maximum(chord - np.abs(local[:, :2]), 0.0) * size[:, :2]
        ring = p0 > 0  # the grain of a ring runs round
        along[ring, :2] = np.stack((-np.sin(angle), np.cos(angle)), axis=1)[ring]
        wide = np.stack((radius, np.minimum(radius - p0, 1 - radius)), axis=1) * size[:, :1]
        spans = np.where(ring[:, None], np.stack((radius, 1 - p0), axis=1) * size[:, :1], spans)
        rooms = np.where(ring[:, None], wide, rooms)
    elif shape.kind == "tube":
        c = v * (1 + p0 / 2)
        z = 2 * c / (1 + np.sqrt(1 + 2 * p0 * c))  # inverse of the area below z
        radius = 1 + p0 * z
        local[:] = np.stack((radius * np.cos(angle), radius * np.sin(angle), z), axis=1)
        along[:] = np.stack((p0 * np.cos(angle), p0 * np.sin(angle), np.ones_like(u)), axis=1)
        width = np.maximum(radius, 0.1) * size[:, 0]
        spans, uv = np.stack((size[:, 2], 2 * width), axis=1), np.stack((z * size[:, 2], angle * width), axis=1)
        rooms = np.stack((np.minimum(z, 1 - z) * size[:, 2], width), axis=1)
    else:
        z = p0 + v * (p1 - p0)
        radius = np.sqrt(np.maximum(1 - z * z, 0.0))
        local[:] = np.stack((radius * np.cos(angle), radius * np.sin(angle), z), axis=1)
        along[:] = np.stack((-np.sin(angle), np.cos(angle), np.zeros_like(u)), axis=1)
        spans, uv = 1.8 * size[:, [0, 2]], np.stack((angle * size[:, 0], z * size[:, 2]), axis=1)
        rooms = spans
        stretch = np.linalg.norm(_cofactors(shape)[which] @ local[:, :, None], axis=1)[:, 0]
        stretch = stretch / _mean_stretch(shape)[which]
    points = frames[:, :, 0] + (frames[:, :, 1:] @ local[:, :, None])[:, :, 0]
    tangents = _unit((frames[:, :, 1:] @ along[:, :, None])[:, :, 0])
    return Samples(points, normals_at(shape, which, local), tangents, spans, rooms, uv, stretch)


def normals_at(shape: Shape, which: Array, local: Array) -> Array:
    """Unit outward world normals at canonical places `local` [n, 3] of primitives `which` [n]."""
    x, y, z = local.T
    p0, p1 = shape.params[which].T
    if shape.kind == "tube":
        gradient = np.stack((x, y, -p0 * (1 + p0 * z)), axis=1)
    elif shape.kind == "ball":
        gradient = local
    elif shape.kind == "ground":
        _, dx, dy = swell(x, y, p0, p1)
        gradient = np.stack((-dx, -dy, np.ones_like(x)), axis=1)
    else:
        gradient = np.broadcast_to([0.0, 0.0, 1.0], local.shape)
    return _unit((_cofactors(shape)[which] @ gradient[:, :, None])[:, :, 0])


def meet(
    kind: str, params: tuple[Array, Array], origin: tuple[Array, ...], ray: tuple[Array, ...], near: float
) -> Array:
    """Smallest t > near where origin + t ray meets the canonical primitive; +inf where none does.

    Args:
        params: p0 and p1, broadcast against the rays.
        origin, ray: x, y and z of the rays in the canonical frame; any shapes that broadcast together.
    """
    (ox, oy, oz), (dx, dy, dz), (p0, p1) = origin, ray, params
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if kind in ("rect", "disc"):
            t = -oz / dz
            x, y = ox + t * dx, oy + t * dy
            r2 = x * x + y * y if kind == "disc" else None
            hit = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1) if r2 is None else (r2 <= 1) & (r2 >= p0 * p0)
            return np.where(hit & (t > near), t, np.inf)
        if kind == "ground":
            t = -oz / dz
            for _ in range(_NEWTON_STEPS):
                z, slope_x, slope_y = swell(ox + t * dx, oy + t * dy, p0, p1)
                t = t - (oz + t * dz - z) / (dz - slope_x * dx - slope_y * dy)
            x, y = ox + t * dx, oy + t * dy
            flat = np.abs(oz + t * dz - swell(x, y, p0, p1)[0]) < 1e-5
            return np.where(flat & (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1) & (t > near), t, np.inf)
        if kind == "tube":
            o, d = 1 + p0 * oz, p0 * dz
            qa, qb, qc = dx * dx + dy * dy - d * d, ox * dx + oy * dy - o * d, ox * ox + oy * oy - o * o
            low, high = 0.0, 1.0
        else:
            qa, qb = dx * dx + dy * dy + dz * dz, ox * dx + oy * dy + oz * dz
            qc, low, high = ox * ox + oy * oy + oz * oz - 1, p0, p1
        root = np.sqrt(qb * qb - qa * qc)  # NaN for a miss, which every comparison below then refuses
        q = -(qb + np.copysign(root, qb))
        best = np.inf
        for t in (q / qa, qc / q):
            z = oz + t * dz
            best = np.minimum(best, np.where((z >= low) & (z <= high) & (t > near), t, np.inf))
        return np.asarray(best)


def corners(shape: Shape) -> Array:
    """The eight corners of a box round every primitive, [m, 8, 3]."""
    low, high = np.zeros((len(shape), 3)), np.ones((len(shape), 3))
    if shape.kind in ("disc", "tube", "ball"):
        wide = np.maximum(1.0, 1 + shape.params[:, :1]) if shape.kind == "tube" else np.ones((len(shape), 1))
        low[:, :2], high[:, :2] = -wide, wide
    if shape.kind == "ball":
        low[:, 2], high[:, 2] = shape.params.T
    elif shape.kind == "ground":
        reach = np.abs(shape.params[:, 0]) * _WAVES[:, 2].sum()
        low[:, 2], high[:, 2] = -reach, reach
    elif shape.kind != "tube":
        high[:, 2] = 0.0
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1  # [8, 3]
    local = np.where(bits, high[:, None], low[:, None])
    return shape.frames[:, None, :, 0] + local @ shape.frames[:, :, 1:].transpose(0, 2, 1)


def _shape(
    kind: str, columns: tuple[Array, ...], p0: ArrayLike = 0.0, p1: ArrayLike = 0.0, *, ids: ArrayLike | None = None
) -> Shape:
    frames = np.stack(columns, axis=2)
    params = np.stack([np.broadcast_to(np.ravel(p), len(frames)) for p in (p0, p1)], axis=1).astype(np.float64)
    return Shape(kind, frames, params, np.arange(len(frames)) if ids is None else np.asarray(ids, dtype=np.int64))


def _rows(*vectors: ArrayLike) -> tuple[Array, ...]:
    rows = [np.atleast_2d(np.asarray(vector, dtype=np.float64)) for vector in vectors]
    return tuple(np.broadcast_to(row, (max(map(len, rows)), 3)) for row in rows)


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _cofactors(shape: Shape) -> Array:
    """det(M) M^-T, which carries canonical normals, scaled by area, into the world."""
    a, b, c = (shape.frames[:, :, i] for i in (1, 2, 3))
    return np.stack((np.cross(b, c), np.cross(c, a), np.cross(a, b)), axis=2)


def _mean_stretch(shape: Shape) -> Array:
    """World area per canonical area of every ball, by an even set of directions within its zone."""
    steps = np.arange(96) + 0.5
    z = shape.params[:, :1] + steps / 96 * (shape.params[:, 1:] - shape.params[:, :1])  # [m, 96]
    radius, angle = np.sqrt(np.maximum(1 - z * z, 0.0)), steps * math.pi * (3 - math.sqrt(5))
    spots = np.stack((radius * np.cos(angle), radius * np.sin(angle), z), axis=2)
    return np.linalg.norm(spots @ _cofactors(shape).transpose(0, 2, 1), axis=2).mean(axis=1)
