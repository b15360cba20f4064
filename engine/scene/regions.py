"""Parts of space: what lies inside them, and how far away the rest is."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

Point = tuple[float, ...]  # three numbers


@dataclass(frozen=True)
class Box:
    """Between two corners, along the axes, faces included.

    Raises:
        InputError: not three numbers each, or no inside.
    """

    low: Point
    high: Point

    def __post_init__(self) -> None:
        _check_point("low", self.low)
        _check_point("high", self.high)
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise InputError(
                f"box from {list(self.low)} to {list(self.high)} has no inside: give the lower corner first"
            )


@dataclass(frozen=True)
class Sphere:
    """Around a centre, surface included.

    Raises:
        InputError: not three numbers, or a radius that is not positive.
    """

    center: Point
    radius: float

    def __post_init__(self) -> None:
        _check_point("center", self.center)
        if not 0 < self.radius < math.inf:
            raise InputError(f"sphere with radius {self.radius}: give a positive one")


Region = Box | Sphere


def distance(region: Region, points: Tensor) -> Tensor:
    """[n] world units from points [n, 3] to the nearest point of a region; 0 inside."""
    if isinstance(region, Sphere):
        return ((points - points.new_tensor(region.center)).norm(dim=1) - region.radius).clamp(min=0)
    low, high = points.new_tensor(region.low), points.new_tensor(region.high)
    return torch.maximum(low - points, points - high).clamp(min=0).norm(dim=1)


def inside(region: Region, points: Tensor) -> Tensor:
    """[n] which of the points [n, 3] lie in a region."""
    return distance(region, points) == 0


def bounds(region: Region) -> tuple[Point, Point]:
    """Lower and upper corner of the box round a region."""
    if isinstance(region, Box):
        return region.low, region.high
    return tuple(x - region.radius for x in region.center), tuple(x + region.radius for x in region.center)


def grown(region: Region, length: float) -> Region:
    """The region with its border moved outward by a length in world units."""
    if isinstance(region, Sphere):
        return Sphere(region.center, region.radius + length)
    return Box(tuple(x - length for x in region.low), tuple(x + length for x in region.high))


def _check_point(name: str, point: Point) -> None:
    if len(point) != 3 or any(math.isnan(value) for value in point):
        raise InputError(f"{name} is {list(point)}, expected three numbers")
