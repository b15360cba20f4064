"""What rays meet, in bundles: [b, v, k, m] are scenes, views, bundles of a view, rays of a bundle.

Most objects are far from most bundles. Each bundle is a cone from an eye or a lamp to a ball, and only pairs of a
bundle and an object whose ball it meets are looked at closely. Vectors have their components on the axis before last.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import shapes
from .record import FAR, FLOOR, WALL, Objects, Surround, Worlds
from .shapes import applied, dot, parts, turned


@dataclass(frozen=True, eq=False)
class Frames:
    """Where the objects are in each view."""

    kind: Tensor  # [b, o]
    to_unit: Tensor  # [b, v, o, 3, 3] world to unit shape
    centre: Tensor  # [b, v, o, 3]
    radius: Tensor  # [b, o] of the ball that holds the object


def frames(objects: Objects, times: Tensor) -> Frames:
    """The objects at times [b, v]."""
    since = times[..., None] - 0.5
    spun = turned(objects.axis[:, None], objects.spin[:, None] * since)
    to_unit = applied(spun, objects.rotation[:, None]).mT / objects.scale[:, None, :, :, None]
    centre = objects.centre[:, None] + objects.velocity[:, None] * since[..., None]
    extent = torch.where(objects.kind == shapes.ELLIPSOID, objects.scale.amax(-1), objects.scale.norm(dim=-1))
    return Frames(objects.kind, to_unit, centre, extent)


def first(worlds: Worlds, things: Frames, eye: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """What rays [b, v, k, 3, m] from the eyes [b, v, 1, 3, 1] meet first.

    Returns t [b, v, k, m] and the surface there: an object's number, or o + FLOOR, WALL or FAR.
    """
    o = things.kind.shape[1]
    best, which = _behind(worlds.surround, eye, ray)
    which += o
    found = best.new_full((*best.shape[:3], o, best.shape[3]), torch.inf)
    ends = eye + ray * best[..., None, :]
    for bundle, slot, (low, high) in _intervals(
        things, eye[..., 0], ends, eye.expand(-1, -1, ray.shape[2], -1, -1), ray
    ):
        found[(*bundle, slot)] = low.clamp(min=0).sub_(high).mul_(shapes.HUGE).clamp_(min=0).add_(low)
    for slot in range(o):
        which.masked_fill_(found[..., slot, :] < best, slot)
        best = torch.minimum(best, found[..., slot, :])
    return best, which


def hidden(things: Frames, point: Tensor, lamp: Tensor) -> Tensor:
    """How many objects are between points [b, v, k, 3, m] and the lamp [b, 1, 1, 3, 1]: float [b, v, k, m]."""
    count = torch.zeros_like(point[..., 0, :])
    rows, (_, v, k) = count.flatten(0, 2), count.shape[:3]
    for (scene, view, bundle), _, (low, high) in _intervals(things, lamp[..., 0], point, point, lamp - point):
        between = high.clamp(max=1).sub_(low.clamp(min=0)).mul_(shapes.HUGE).clamp_(0, 1)
        rows.index_add_(0, (scene * v + view) * k + bundle, between)
    return count


def _intervals(
    things: Frames, apex: Tensor, ends: Tensor, origin: Tensor, ray: Tensor
) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor], Tensor, shapes.Interval]]:
    """For each kind: the places of bundles, their objects, and where the rays are inside of them, [p, m] twice."""
    centre, radius = _ball(ends)
    axis = (centre - apex)[:, :, :, None]
    beside = things.centre[:, :, None] - apex[..., None, :]
    wide, thick = radius[..., None], things.radius[:, None, None]
    # Of balls from the apex (s = 0) to the end (s = 1), the one that comes nearest to the object's.
    slope = ((axis * axis).sum(-1) - wide * wide).clamp(min=1e-12)
    s = (((beside * axis).sum(-1) + wide * thick) / slope).clamp(0, 1)
    met = (beside - s[..., None] * axis).norm(dim=-1) <= (thick + wide * s) * (1 + 1e-4)
    for kind in range(len(shapes.KINDS)):
        scene, view, bundle, slot = (met & (things.kind == kind)[:, None, None]).nonzero(as_tuple=True)
        if len(scene):
            unit = things.to_unit[scene, view, slot]  # [p, 3, 3]
            o = applied(unit, origin[scene, view, bundle] - things.centre[scene, view, slot, :, None])
            d = applied(unit, ray[scene, view, bundle])
            yield (scene, view, bundle), slot, shapes.inside(kind, parts(o), parts(d))


def _ball(points: Tensor) -> tuple[Tensor, Tensor]:
    """A ball round points [.., 3, m]: its centre [.., 3] and radius [..]."""
    low, high = points.amin(-1), points.amax(-1)
    return (low + high) / 2, (high - low).norm(dim=-1) / 2


def _behind(surround: Surround, eye: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays meet the room, or the ground and the dome, and which of them."""
    half = ((surround.high - surround.low) / 2)[:, None, None, :, None]
    middle = ((surround.high + surround.low) / 2)[:, None, None, :, None]
    x, y, z = ((half.copysign(ray) - (eye - middle)) / (ray + shapes.TINY)).unbind(-2)
    room = torch.minimum(torch.minimum(x, y), z)
    which = torch.where(y <= room, torch.where(ray[..., 1, :] > 0, FLOOR, FAR), WALL)
    o, d = parts(eye), parts(ray)
    dome = surround.dome[:, None, None, None]
    _, sky = shapes.between(dot(d, d), dot(o, d), dot(o, o) - dome.square())
    outside = surround.open[:, None, None, None] & (sky < room)
    return torch.where(outside, sky, room), torch.where(outside, FAR, which)
