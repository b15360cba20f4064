"""What is seen first along every ray of a picture: exact depth of parametric surfaces, by primitive, with a z-buffer.

Each primitive is tested only in the pixels inside the picture rectangle of its bounding box. Small primitives are
tested together as flat lists of (primitive, pixel) pairs, large ones each as one block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .shapes import Array, Shape, corners, joined, meet, normals_at

_PAIRS = 1 << 19  # tested at once: bounds the memory
_LARGE = 4096  # pixels from which a primitive is a block of its own
_EDGES = np.array([(i, i | 1 << k) for i in range(8) for k in range(3) if not i >> k & 1])  # [12, 2] of a box


@dataclass(frozen=True, eq=False)
class View:
    """A picture plane: perspective or parallel rays, with depth measured along its axis."""

    rotation: Array  # [3, 3] world to view; rows are right, down and forward
    origin: Array  # [3] eye, or the middle of the plane
    focal: tuple[float, float]  # pixels (per metre where rays are parallel)
    middle: tuple[float, float]  # pixels
    width: int
    height: int
    parallel: bool = False
    near: float = 0.01  # metres
    precision: type = np.float64


@dataclass(frozen=True, eq=False)
class Hits:
    """Nearest surfaces; `shape` is -1 and `depth` +inf where there is none."""

    depth: Array  # [h, w] float64
    shape: Array  # [h, w] int32 index into the shapes
    primitive: Array  # [h, w] int32 index into that shape


@dataclass(frozen=True, eq=False)
class Target:
    """A shape with what every view of it needs."""

    shape: Shape
    inverse: Array  # [m, 3, 3] world offsets to the canonical frame
    corners: Array  # [8, 3, m] of a box round each primitive, float32


def targets(shapes: Sequence[Shape]) -> tuple[Target, ...]:
    """Shapes, joined by kind and made ready to be looked at any number of times."""
    kinds = dict.fromkeys(shape.kind for shape in shapes)
    batches = [joined(*(shape for shape in shapes if shape.kind == kind)) for kind in kinds]
    boxes = [np.ascontiguousarray(corners(batch).transpose(1, 2, 0), dtype=np.float32) for batch in batches]
    return tuple(
        Target(batch, np.linalg.inv(batch.frames[:, :, 1:]), box) for batch, box in zip(batches, boxes, strict=True)
    )


def first_hits(targets: Sequence[Target], view: View) -> Hits:
    """The nearest primitive and its depth at the centre of every pixel."""
    pixels = view.width * view.height
    hits = Hits(np.full(pixels, np.inf, view.precision), np.full(pixels, -1, np.int32), np.full(pixels, -1, np.int32))
    for index, target in enumerate(targets):
        box = _rectangles(target.corners, view)
        size = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        into_local = _into_local(target, view, np.flatnonzero(size))
        for primitive in np.flatnonzero(size >= _LARGE).tolist():
            _test_block(hits, index, target.shape, into_local, view, primitive, box[primitive])
        small = np.flatnonzero((size > 0) & (size < _LARGE))
        for part in _runs(small, size[small]):
            pairs, x, y = _pairs(box, part)
            _test_pairs(hits, index, target.shape, into_local, view, pairs, x, y)
    size = (view.height, view.width)
    return Hits(hits.depth.reshape(size), hits.shape.reshape(size), hits.primitive.reshape(size))


def normals_of(targets: Sequence[Target], view: View, hits: Hits) -> Array:
    """Unit world normals [h, w, 3] at the hits, on the side that the ray comes from; zero where there is no hit."""
    out = np.zeros((view.height, view.width, 3))
    for index in np.unique(hits.shape[hits.shape >= 0]):
        y, x = np.nonzero(hits.shape == index)
        which = hits.primitive[y, x]
        into_local = _into_local(targets[index], view, np.unique(which))
        origin, ray = _local_rays(into_local, view, which, x, y)
        local = np.stack([o + hits.depth[y, x] * d for o, d in zip(origin, ray, strict=True)], axis=1)
        normals = normals_at(targets[index].shape, which, local)
        plane = [(p + 0.5 - m) / f for p, m, f in zip((x, y), view.middle, view.focal, strict=True)]
        flat = [np.zeros(len(x))] * 2 if view.parallel else plane
        world = np.stack((*flat, np.ones(len(x))), axis=1) @ view.rotation
        away = (normals * world).sum(axis=1) > 0
        out[y, x] = np.where(away[:, None], -normals, normals)
    return out


def _into_local(target: Target, view: View, some: Array) -> Array:
    """View space to the canonical frames, [3, 4, m]: a 3x3 matrix and the view's origin; only `some` are filled in."""
    out = np.zeros((3, 4, len(target.shape)), view.precision)
    inverse = target.inverse[some]
    out[:, :3, some] = (inverse @ view.rotation.T).transpose(1, 2, 0)
    out[:, 3, some] = (inverse @ (view.origin - target.shape.frames[some, :, 0])[:, :, None])[:, :, 0].T
    return out


def _local_rays(
    into_local: Array, view: View, which: Array | int, x: Array, y: Array
) -> tuple[list[Array], list[Array]]:
    """Origins and directions of the rays of pixels (x, y) in the canonical frames of primitives `which`."""
    px, py = ((p + 0.5 - m) / f for p, m, f in zip((x, y), view.middle, view.focal, strict=True))
    px, py = px.astype(view.precision), py.astype(view.precision)
    right, down, forward, start = ([into_local[i, j][which] for i in range(3)] for j in range(4))
    across = [r * px + d * py for r, d in zip(right, down, strict=True)]
    if view.parallel:
        return [s + a for s, a in zip(start, across, strict=True)], forward
    return start, [a + f for a, f in zip(across, forward, strict=True)]


def _depths(shape: Shape, into_local: Array, view: View, which: Array | int, x: Array, y: Array) -> Array:
    origin, ray = _local_rays(into_local, view, which, x, y)
    params = shape.params[which].astype(view.precision)
    return meet(shape.kind, (params[..., 0], params[..., 1]), tuple(origin), tuple(ray), view.near)


def _test_pairs(
    hits: Hits, index: int, shape: Shape, into_local: Array, view: View, which: Array, x: Array, y: Array
) -> None:
    """Small primitives against pixels, as flat lists of pairs."""
    depth = _depths(shape, into_local, view, which, x, y)
    hit = np.flatnonzero(depth < np.inf)
    depth, pixel, which = depth[hit], y[hit] * view.width + x[hit], which[hit]
    np.minimum.at(hits.depth, pixel, depth)
    won = depth == hits.depth[pixel]
    hits.shape[pixel[won]] = index
    hits.primitive[pixel[won]] = which[won]


def _test_block(
    hits: Hits, index: int, shape: Shape, into_local: Array, view: View, primitive: int, box: Array
) -> None:
    """One large primitive against all pixels of its rectangle."""
    x0, y0, x1, y1 = box
    depth = _depths(shape, into_local, view, primitive, np.arange(x0, x1)[None], np.arange(y0, y1)[:, None])
    block = (slice(y0, y1), slice(x0, x1))
    size = (view.height, view.width)
    held = hits.depth.reshape(size)[block]
    won = depth < held
    held[won] = depth[won]
    hits.shape.reshape(size)[block][won] = index
    hits.primitive.reshape(size)[block][won] = primitive


def _rectangles(boxes: Array, view: View) -> Array:
    """Pixel rectangles [m, 4] (x0, y0, x1, y1; the ends excluded) that hold the primitives; empty ones out of sight."""
    points = view.rotation.astype(np.float32) @ (boxes - view.origin.astype(np.float32)[:, None])  # [8, 3, m]
    if view.parallel:
        low, high = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    else:
        low, high = _seen(points, view.near)
    focal, middle, size = (np.array(pair)[:, None] for pair in (view.focal, view.middle, (view.width, view.height)))
    low = np.clip(np.floor(low * focal + middle - 0.5), 0, size)
    high = np.clip(np.ceil(high * focal + middle + 0.5), 0, size)
    return np.concatenate((low, np.maximum(low, high))).astype(np.int32).T


def _seen(points: Array, near: float) -> tuple[Array, Array]:
    """Least and greatest x/z and y/z [2, m] of the part of each box [8, 3, m] beyond the near plane."""
    low, high = np.full((2, points.shape[2]), np.inf), np.full((2, points.shape[2]), -np.inf)
    deep = points[:, 2] >= near
    whole, some = deep.all(axis=0), deep.any(axis=0)
    slopes = points[:, :2, whole] / points[:, 2:, whole]
    low[:, whole], high[:, whole] = slopes.min(axis=0), slopes.max(axis=0)
    cut = np.flatnonzero(some & ~whole)
    start, end = points[_EDGES[:, 0]][:, :, cut], points[_EDGES[:, 1]][:, :, cut]
    with np.errstate(divide="ignore", invalid="ignore"):
        step = (near - start[:, 2:]) / (end - start)[:, 2:]
        crossing = start + np.where((step > 0) & (step < 1), step, np.nan) * (end - start)
    spots = np.concatenate((np.where(deep[:, None, cut], points[:, :, cut], np.nan), crossing))
    slopes = spots[:, :2] / spots[:, 2:]
    low[:, cut], high[:, cut] = np.nanmin(slopes, axis=0), np.nanmax(slopes, axis=0)
    return low, high


def _runs(small: Array, size: Array) -> list[Array]:
    """Consecutive primitives in lots of about `_PAIRS` pixels."""
    ends = np.cumsum(size)
    return [part for part in np.split(small, np.flatnonzero(np.diff(ends // _PAIRS)) + 1) if len(part)]


def _pairs(box: Array, part: Array) -> tuple[Array, Array, Array]:
    x0, y0, x1, y1 = box[part].T
    size = (x1 - x0) * (y1 - y0)
    lane = np.repeat(np.arange(len(part), dtype=np.int32), size)
    step = np.arange(len(lane), dtype=np.int32) - (np.cumsum(size, dtype=np.int32) - size)[lane]
    row, column = np.divmod(step, (x1 - x0)[lane])
    return part[lane], x0[lane] + column, y0[lane] + row
