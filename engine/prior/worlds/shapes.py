"""Unit shapes, in batches: where a ray is inside of them, and their normals.

Everything is convex and lies in [-1, 1] on each axis, with -y up. Coordinates are tuples x, y, z of tensors that
broadcast, for whole tensors of one component are what vectorises.
"""

import torch
from torch import Tensor

KINDS = ("ellipsoid", "box", "cone", "cylinder")
HELD_OUT = "cylinder"  # never in training
ELLIPSOID, BOX, CONE, CYLINDER = range(4)

Vector = tuple[Tensor, Tensor, Tensor]
Interval = tuple[Tensor, Tensor]


def dot(a: Vector, b: Vector) -> Tensor:
    """The scalar product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def inside(kind: int, o: Vector, d: Vector) -> Interval:
    """The t between which o + t d is inside of a unit shape; the first is not below the second where it is missed."""
    if kind == ELLIPSOID:
        return between(dot(d, d), dot(o, d), dot(o, o) - 1)
    if kind == BOX:
        (x0, x1), (y0, y1), (z0, z1) = (_slab(*axis) for axis in zip(o, d, strict=True))
        return torch.maximum(torch.maximum(x0, y0), z0), torch.minimum(torch.minimum(x1, y1), z1)
    low, high = _slab(o[1], d[1])
    side_low, side_high = (_cone if kind == CONE else _tube)(o, d)
    return torch.maximum(low, side_low), torch.minimum(high, side_high)


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1e-12, 1e-12, x)


def _slab(o: Tensor, d: Tensor) -> Interval:
    inverse = _nonzero(d).reciprocal()
    middle, half = -o * inverse, inverse.abs()
    return middle - half, middle + half


def between(a: Tensor, b: Tensor, c: Tensor) -> Interval:
    """Where a t² + 2 b t + c < 0, for a > 0."""
    inverse = a.clamp(min=1e-12).reciprocal()
    middle = -b * inverse
    rest = middle * middle - c * inverse
    half = torch.where(rest > 0, rest, torch.nan).sqrt()
    half = half.nan_to_num(-1.0)  # missed: the interval is turned round
    return middle - half, middle + half


def _tube(o: Vector, d: Vector) -> Interval:
    return between(d[0] * d[0] + d[2] * d[2], o[0] * d[0] + o[2] * d[2], o[0] * o[0] + o[2] * o[2] - 1)


def _cone(o: Vector, d: Vector) -> Interval:
    """The half of x² + z² < h², h = (1 + y) / 2, that opens downwards from its tip at y = -1, where h > 0."""
    h, g = (o[1] + 1) / 2, d[1] / 2
    a = d[0] * d[0] + d[2] * d[2] - g * g
    b = o[0] * d[0] + o[2] * d[2] - h * g
    c = o[0] * o[0] + o[2] * o[2] - h * h
    rest = b * b - a * c
    q = -(b + torch.where(b < 0, -1.0, 1.0) * rest.clamp(min=0).sqrt())
    one, two = q / _nonzero(a), c / _nonzero(q)
    low, high = torch.minimum(one, two), torch.maximum(one, two)
    # A ray steeper than the side is in one half before the first root, in the other after the second one.
    steep, down = a < 0, g > 0
    start = torch.where(steep, torch.where(down, high, -torch.inf), torch.where(rest > 0, low, torch.inf))
    return start, torch.where(steep, torch.where(down, torch.inf, low), high)


def normal(kind: Tensor, p: Vector) -> Vector:
    """The outward normal, not of unit length, at points p of the surfaces of unit shapes of these kinds."""
    x, y, z = p
    ax, ay, az = x.abs(), y.abs(), z.abs()
    radius = (x * x + z * z).sqrt()
    box, cone, tube = kind == BOX, kind == CONE, kind == CYLINDER
    # On a cap where the cap is the nearer surface.
    cap = (tube & (ay > radius)) | (cone & (1 - y < (1 + y) / 2 - radius))
    over_x, over_z = box & ((ax < ay) | (ax < az)), box & ((az <= ax) | (az <= ay))
    nx = torch.where(cap | over_x, 0.0, x)
    nz = torch.where(cap | over_z, 0.0, z)
    ny = torch.where((box & ((ay <= ax) | (ay < az))) | (tube & ~cap), 0.0, y)
    return nx, torch.where(cone & ~cap, -radius / 2, ny), nz


def height(kind: Tensor, rotation: Tensor, scale: Tensor) -> Tensor:
    """How far below its centre a shape reaches (y is down), a bound for a tilted cone. [..] of [.., 3, 3] and [.., 3]."""
    x, y, z = (rotation[..., 1, :] * scale).unbind(-1)
    ball = (x * x + y * y + z * z).sqrt()
    round_ = y.abs() + (x * x + z * z).sqrt()
    box = x.abs() + y.abs() + z.abs()
    return torch.where(kind == ELLIPSOID, ball, torch.where(kind == BOX, box, round_))
