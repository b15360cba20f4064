"""Unit shapes, in batches: where a ray is inside of them, and their normals.

Everything is convex and lies in [-1, 1] on each axis, with -y up. Coordinates are tuples x, y, z of tensors that
broadcast, for whole tensors of one component are what vectorises.
"""

import torch
from torch import Tensor

KINDS = ("ellipsoid", "box", "cone", "cylinder")
HELD_OUT = "cylinder"  # never in training
ELLIPSOID, BOX, CONE, CYLINDER = range(4)

TINY = 1e-20  # added to what may be zero below a line; nothing else is changed by it
BEYOND = 1e9  # beyond everything
HUGE = 1e20  # times all that is not next to zero exceeds BEYOND

Vector = tuple[Tensor, Tensor, Tensor]
Interval = tuple[Tensor, Tensor]


def parts(vectors: Tensor) -> Vector:
    """The components of [.., 3, m]."""
    x, y, z = vectors.unbind(-2)
    return x, y, z


def dot(a: Vector, b: Vector) -> Tensor:
    """The scalar product."""
    return torch.addcmul(torch.addcmul(a[0] * b[0], a[1], b[1]), a[2], b[2])


def applied(matrix: Tensor, vectors: Tensor) -> Tensor:
    """The product of [.., 3, 3] and [.., 3, m], in full precision also where matrices are multiplied with less."""
    v = parts(vectors)
    return torch.stack([dot(parts(row[..., None]), v) for row in matrix.unbind(-2)], -2)


def turned(axis: Tensor, angle: Tensor) -> Tensor:
    """Rotations [.., 3, 3] about unit axes [.., 3] by angles [..] (Rodrigues)."""
    x, y, z = axis.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).unflatten(-1, (3, 3))
    unit, square = torch.eye(3, device=axis.device), axis[..., :, None] * axis[..., None, :]
    sin, cos = angle.sin()[..., None, None], angle.cos()[..., None, None]
    return cos * unit + sin * cross + (1 - cos) * square


def inside(kind: int, o: Vector, d: Vector) -> Interval:
    """The t between which o + t d is inside of a unit shape; the first is above the second where it is missed."""
    if kind == ELLIPSOID:
        return between(dot(d, d), dot(o, d), dot(o, o) - 1)
    if kind == BOX:
        (x0, x1), (y0, y1), (z0, z1) = (_slab(*axis) for axis in zip(o, d, strict=True))
        return torch.maximum(torch.maximum(x0, y0), z0), torch.minimum(torch.minimum(x1, y1), z1)
    low, high = _slab(o[1], d[1])
    side_low, side_high = (_cone if kind == CONE else _tube)(o, d)
    return torch.maximum(low, side_low), torch.minimum(high, side_high)


def _slab(o: Tensor, d: Tensor) -> Interval:
    inverse = (d + TINY).reciprocal_()
    middle, half = o * -inverse, inverse.abs()
    return middle - half, middle + half


def between(a: Tensor, b: Tensor, c: Tensor) -> Interval:
    """The t between which a t² + 2 b t + c < 0, for a > 0; the first is above the second where it never is."""
    inverse = (a + TINY).reciprocal_()
    middle = b * -inverse
    half = _root(torch.addcmul(middle * middle, c, inverse, value=-1))
    return middle - half, middle + half


def _root(x: Tensor) -> Tensor:
    """With the sign of x: on a CPU it is many times faster than to choose between cases, or than NaN."""
    return x.abs().sqrt_().copysign_(x)


def _tube(o: Vector, d: Vector) -> Interval:
    return between(_flat(d, d), _flat(o, d), _flat(o, o) - 1)


def _flat(a: Vector, b: Vector) -> Tensor:
    return torch.addcmul(a[0] * b[0], a[2], b[2])


def _cone(o: Vector, d: Vector) -> Interval:
    """The half of x² + z² < h², h = (1 + y) / 2, that opens downwards from its tip at y = -1, where h > 0."""
    h, g = (o[1] + 1) / 2, d[1] / 2
    a = torch.addcmul(_flat(d, d), g, g, value=-1)
    b = torch.addcmul(_flat(o, d), h, g, value=-1)
    c = torch.addcmul(_flat(o, o), h, h, value=-1)
    inverse = (a + TINY).reciprocal_()
    middle, half = b * -inverse, _root(torch.addcmul(b * b, a, c, value=-1)) * inverse
    # A ray steeper than the side, a < 0, meets both halves, at middle + half and later at middle - half. Downwards it
    # ends up inside, upwards it began inside.
    steep = _step(-a)
    return middle - half - torch.minimum(steep, _step(-g)), middle + half + torch.minimum(steep, _step(g))


def _step(x: Tensor) -> Tensor:
    """0 where x is not above 0, else BEYOND."""
    return (x * HUGE).clamp_(0, BEYOND)


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
    """How far a shape reaches below its centre (y is down), [..] of [.., 3, 3] and [.., 3]; a bound if a cone tilts."""
    x, y, z = (rotation[..., 1, :] * scale).unbind(-1)
    ball = (x * x + y * y + z * z).sqrt()
    round_ = y.abs() + (x * x + z * z).sqrt()
    box = x.abs() + y.abs() + z.abs()
    return torch.where(kind == ELLIPSOID, ball, torch.where(kind == BOX, box, round_))
