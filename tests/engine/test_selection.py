"""Selections against brute force: every splat asked by itself, clusters by all pairs."""

import math
import time

import numpy as np
import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.scene.camera import Camera, look_at
from lyra.engine.scene.filters import parse_condition
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.regions import Box, Sphere, inside
from lyra.engine.scene.selection import EVERYTHING, And, Cluster, Color, Not, Or, Polygon, select
from lyra.kernels.constants import SH_C0
from lyra.kernels.cpu.clusters import clusters

CAMERA = look_at((0.4, -1.0, -5.0), (0.0, 0.2, 0.0), width=320, height=200)


def some_scene(n: int = 400, means: torch.Tensor | None = None) -> Gaussians:
    rng = torch.Generator().manual_seed(n)
    draw = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    return Gaussians(
        means=draw(n, 3) if means is None else means.float(),
        quats=draw(n, 4),
        scales=draw(n, 3).abs(),
        opacities=torch.rand(n, generator=rng),
        sh=draw(n, 4, 3),
    )


def indices(chosen: torch.Tensor) -> list[int]:
    return chosen.nonzero()[:, 0].tolist()


def pixel(camera: Camera, point: list[float]) -> tuple[float, float, float]:
    x, y, z = (camera.world_to_camera @ torch.tensor([*point, 1.0], dtype=torch.float64))[:3].tolist()
    return camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy, z


def odd_above(corners: list[tuple[float, float]], u: float, v: float) -> bool:
    """Even-odd by a ray along y."""
    crossed = 0
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (x0 > u) != (x1 > u) and y0 + (u - x0) / (x1 - x0) * (y1 - y0) > v:
            crossed += 1
    return crossed % 2 == 1


@pytest.mark.parametrize("seed", range(6))
def test_polygons_hold_what_the_camera_sees_in_them(seed: int) -> None:
    scene, rng = some_scene(), np.random.default_rng(seed)
    corners = [tuple(map(float, rng.uniform((-20, -20), (340, 220)))) for _ in range(3 + 2 * seed)]  # they cross
    expected = []
    for i, mean in enumerate(scene.means.tolist()):
        u, v, depth = pixel(CAMERA, mean)
        if depth > 0.01 and odd_above(corners, u, v):
            expected.append(i)
    assert 3 < len(expected) < 350
    assert indices(select(Polygon(CAMERA, tuple(corners)), scene)) == expected


def test_polygons_end_at_a_depth_and_never_reach_behind_the_camera() -> None:
    ahead = torch.tensor([[0.0, 0, 1], [0, 0, 3], [0, 0, 3.1], [0, 0, -2], [0, 0, 0.01], [0, 0, 0.02]])
    camera = Camera(torch.eye(4), 100, 100, 50, 50, 100, 100)
    square = ((0.0, 0.0), (100.0, 0.0), (100.0, 100.0), (0.0, 100.0))
    scene = some_scene(6, ahead)
    assert indices(select(Polygon(camera, square), scene)) == [0, 1, 2, 5]
    assert indices(select(Polygon(camera, square, far=3.0), scene)) == [0, 1, 5]


def test_colours_are_near_in_every_channel_and_held_to_what_a_screen_shows() -> None:
    scene = some_scene()
    wanted, tolerance = (0.6, 0.4, 1.0), 0.2
    expected = [
        i
        for i, c in enumerate(scene.sh[:, 0].tolist())
        if all(abs(min(max(0.5 + SH_C0 * x, 0), 1) - w) <= tolerance for x, w in zip(c, wanted, strict=True))
    ]
    assert 3 < len(expected) < 200
    assert indices(select(Color(wanted, tolerance), scene)) == expected
    scene.sh[7, 0] = torch.tensor([0.1, -0.1, 20.0]) / SH_C0  # beyond white in blue
    assert select(Color(wanted, 0.01), scene).tolist()[7]


def test_combinations() -> None:
    scene = some_scene()
    box, ball, clear = Box((-1, -1, -1), (1, 1, 0.2)), Sphere((0.5, 0, 0), 0.9), parse_condition("opacity<0.3")
    in_box, in_ball, is_clear = inside(box, scene.means), inside(ball, scene.means), scene.opacities < 0.3
    assert torch.equal(select(box, scene), in_box) and torch.equal(select(clear, scene), is_clear)
    chosen = select(Or((And((box, Not(ball))), clear)), scene)
    assert 20 < int(chosen.sum()) < 380
    assert torch.equal(chosen, (in_box & ~in_ball) | is_clear)
    assert select(EVERYTHING, scene).all() and not select(Or(()), scene).any()


def brute_labels(points: np.ndarray, distance: float) -> np.ndarray:
    """Labels by flooding over all pairs."""
    near = ((points[:, None] - points[None]) ** 2).sum(axis=-1) <= distance * distance
    labels = np.full(len(points), -1)
    for i in range(len(points)):
        front = np.zeros(len(points), dtype=bool)
        front[i] = labels[i] < 0
        while front.any():
            labels[front] = i
            front = near[front].any(axis=0) & (labels < 0)
    return labels


def cloud(kind: str) -> np.ndarray:
    rng = np.random.default_rng(len(kind))
    if kind == "uniform":
        return rng.random((600, 3)) - 0.5
    if kind == "lattice":  # many pairs at exactly the distance
        return np.stack(np.meshgrid(*[np.arange(8.0)] * 3), axis=-1).reshape(-1, 3) * 0.125
    if kind == "blobs":
        return rng.normal(rng.integers(0, 3, (600, 3)).astype(float), 0.05)
    if kind == "line":
        return np.cumsum(rng.random((400, 1)) * 0.2, axis=0) * np.array([[0.6, -0.8, 0.0]])
    if kind == "copies":
        return np.repeat(rng.random((30, 3)), 10, axis=0)
    return rng.normal(size=(500, 3)) * 10.0 ** rng.integers(-6, 7, (500, 1))  # of all sizes


@pytest.mark.parametrize("kind", ["uniform", "lattice", "blobs", "line", "copies", "sizes"])
@pytest.mark.parametrize("distance", [1e-9, 0.04, 0.1, 0.125, 0.15, 0.4, 3.0, 1e6])
def test_clusters_are_those_of_all_pairs(kind: str, distance: float) -> None:
    points = cloud(kind)
    labels, expected = clusters(points, distance), brute_labels(points, distance)
    pairs = set(zip(labels.tolist(), expected.tolist(), strict=True))
    assert len(pairs) == len(set(labels.tolist())) == len(set(expected.tolist()))


def test_no_points_have_no_clusters() -> None:
    assert clusters(np.zeros((0, 3)), 1.0).tolist() == []


def test_a_cluster_is_what_steps_from_the_nearest_splat_reach() -> None:
    row = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3.5, 0, 0], [4, 0, 0], [9, 0, 0]])
    scene = some_scene(6, row)
    scene.opacities[:] = torch.tensor([0.9, 0.2, 0.9, 0.9, 0.9, 0.9])
    assert indices(select(Cluster((0.1, 5, 0), 1.0), scene)) == [0, 1, 2]
    assert indices(select(Cluster((3, 0, 0), 1.5), scene)) == [0, 1, 2, 3, 4]
    assert indices(select(Cluster((20, 0, 0), 1.0), scene)) == [5]
    assert indices(select(Cluster((1, 0, 0), 1.0, opacity=0.5), scene)) == [0]  # the bridge is haze
    assert not select(Cluster((1, 0, 0), 1.0, opacity=0.95), scene).any()
    assert select(Cluster((1, 0, 0), 1.0), scene.select(slice(0))).tolist() == []


def test_a_million_splats_are_clustered_in_seconds() -> None:
    clusters(np.zeros((1, 3)), 1.0)  # compiled
    points = np.random.default_rng(0).normal(size=(1_000_000, 3)).astype(np.float32)
    start = time.perf_counter()
    clusters(points, 0.02)
    assert time.perf_counter() - start < 20  # 2 to 3 s on two idle cores


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Polygon(CAMERA, ((0, 0), (1, 1))), "polygon of 2 corners"),
        (lambda: Polygon(CAMERA, ((0, 0), (1, 1), (2,))), r"corner \[2\]"),
        (lambda: Polygon(CAMERA, ((0, 0), (1, 1), (2, math.nan))), r"corner \[2, nan\]"),
        (lambda: Polygon(CAMERA, ((0, 0), (1, 1), (2, 0)), far=0), "far is 0: give a depth above"),
        (lambda: Color((1, 2), 0.1), r"rgb is \[1, 2\], expected 3 finite numbers"),
        (lambda: Color((1, 1, 1), -0.1), "tolerance is -0.1"),
        (lambda: Color((1, 1, 1), math.nan), "tolerance is nan"),
        (lambda: Cluster((0, 0, math.inf), 1), r"point is \[0, 0, inf\]"),
        (lambda: Cluster((0, 0, 0), 0), "distance is 0: give a positive one"),
        (lambda: Cluster((0, 0, 0), math.inf), "distance is inf"),
        (lambda: Cluster((0, 0, 0), 1, opacity=2), "opacity is 2: give 0 to 1"),
    ],
)
def test_what_is_no_selection_is_refused(made, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made()
