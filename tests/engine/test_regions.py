"""Boxes and spheres against arithmetic by hand and against points laid out on purpose."""

import math

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.scene.regions import Box, Region, Sphere, distance, inside

POINTS = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
REGIONS = [Box((-1.0, -0.5, -2.0), (0.5, 1.0, 0.25)), Sphere((0.3, -0.2, 0.1), 1.2)]


def nearest(region: Region, point: list[float]) -> list[float]:
    """The point of a region nearest to a point."""
    if isinstance(region, Box):
        return [min(max(x, low), high) for x, low, high in zip(point, region.low, region.high, strict=True)]
    away = math.dist(point, region.center)
    share = min(1.0, region.radius / away)
    return [c + (x - c) * share for x, c in zip(point, region.center, strict=True)]


@pytest.mark.parametrize("region", REGIONS)
def test_distance_is_that_to_the_nearest_point(region: Region) -> None:
    expected = [math.dist(point, nearest(region, point)) for point in POINTS.tolist()]
    assert 50 < sum(away == 0 for away in expected) < 450
    torch.testing.assert_close(distance(region, POINTS), torch.tensor(expected, dtype=torch.float64))


def test_inside_a_box_is_between_its_corners() -> None:
    box = REGIONS[0]
    assert isinstance(box, Box)
    expected = [
        all(low <= x <= high for x, low, high in zip(point, box.low, box.high, strict=True))
        for point in POINTS.tolist()
    ]
    assert inside(box, POINTS).tolist() == expected


def test_faces_and_surfaces_are_inside() -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 2, 3], [1, 0, 3], [0.5, 2, 1], [1.0001, 1, 1]])
    assert inside(Box((0, 0, 0), (1, 2, 3)), corners).tolist() == [True, True, True, True, False]
    around = torch.tensor([[2.0, 0, 0], [0, -2, 0], [0, 0, 2.0001]])
    assert inside(Sphere((0, 0, 0), 2), around).tolist() == [True, True, False]


def test_a_box_may_be_open() -> None:
    half = Box((-math.inf, 0, -math.inf), (math.inf, math.inf, 1))
    points = torch.tensor([[1e9, 5, -1e9], [0, -1, 0], [0, 3, 3]])
    assert distance(half, points).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Box((0, 0, 0), (1, 1, 0)), r"box from \[0, 0, 0\] to \[1, 1, 0\] has no inside: give the lower"),
        (lambda: Box((0, 0), (1, 1, 1)), r"low is \[0, 0\], expected three numbers"),
        (lambda: Box((0, 0, 0), (1, 1, math.nan)), r"high is \[1, 1, nan\]"),
        (lambda: Sphere((0, 0, 0), 0), "sphere with radius 0: give a positive one"),
        (lambda: Sphere((0, 0, 0), math.inf), "radius inf"),
        (lambda: Sphere((0, 0, 0, 0), 1), r"center is \[0, 0, 0, 0\]"),
    ],
)
def test_what_is_no_region_is_refused(made, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made()
