"""Daylight: a sun with cast shadows, a sky that walls and leaves cover in part, and the picture's tone curve.

Shadows and sky cover are baked with depth pictures taken along parallel rays: one fine one from the sun, and one coarse
one from each of a set of even directions of the sky. A point is lit when it lies no deeper than the picture says.
Plan coordinates: z up, metres; light is linear.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from .shapes import Array, Shape
from .visibility import View, first_hits, targets

_SUN_PIXELS, _SKY_PIXELS = 960, 128
_SKY_DIRECTIONS = 20
_EXPOSURE = 0.62
_BOUNCE = np.array([0.42, 0.35, 0.28])  # light thrown back by sunlit ground and walls, in the open


@dataclass(frozen=True)
class Sky:
    """The light of one hour of day."""

    sun: tuple[float, float, float]  # unit vector towards it
    sunlight: tuple[float, float, float]  # irradiance on a plane that faces it, over pi
    zenith: tuple[float, float, float]  # radiance overhead
    horizon: tuple[float, float, float]  # and at the horizon


@dataclass(frozen=True, eq=False)
class Daylight:
    """A sky together with what stands in its way."""

    sky: Sky
    sun_view: View
    sun_depth: Array  # [h, w]
    views: tuple[View, ...]
    depths: tuple[Array, ...]


def sky_radiance(sky: Sky, directions: Array) -> Array:
    """Linear light [n, 3] of the open sky towards unit `directions` [n, 3], without clouds or the sun's disc."""
    rise = np.clip(directions[:, 2], 0, 1)[:, None] ** 0.55
    glow = np.clip(directions @ np.array(sky.sun), 0, 1)[:, None] ** 6
    return np.array(sky.horizon) * (1 - rise) + np.array(sky.zenith) * rise + 0.22 * glow * np.array(sky.sunlight) / 3


def bake(sky: Sky, shapes: Sequence[Shape], reach: float) -> Daylight:
    """Daylight among `shapes` that lie within `reach` metres of the origin."""
    casters = targets(shapes)
    sun_view = _parallel_view(np.array(sky.sun), reach, _SUN_PIXELS)
    views = tuple(_parallel_view(direction, reach, _SKY_PIXELS) for direction in sky_directions())
    with ThreadPoolExecutor(2) as pool:  # each task fills its own picture: the order does not matter
        sun, *depths = pool.map(lambda view: first_hits(casters, view).depth, (sun_view, *views))
    return Daylight(sky, sun_view, sun, views, tuple(depths))


def sky_directions() -> Array:
    """Unit vectors [k, 3] spread over the upper half sphere so that each stands for the same cosine-weighted share."""
    i = np.arange(_SKY_DIRECTIONS) + 0.5
    rise = np.sqrt(1 - i / _SKY_DIRECTIONS)
    angle, level = i * math.pi * (3 - math.sqrt(5)), np.sqrt(1 - rise * rise)
    return np.stack((level * np.cos(angle), level * np.sin(angle), rise), axis=1)


def irradiance(light: Daylight, points: Array, normals: Array, thin: bool) -> tuple[Array, Array]:
    """Light that arrives at surfaces: linear RGB [n, 3], and the share 0..1 of the sun's disc that is seen [n].

    Args:
        thin: light comes through the surface (leaves, cloth), so that both sides are lit.
    """
    facing = _facing(normals @ np.array(light.sky.sun), thin)
    sun = _lit(light.sun_view, light.sun_depth, points, normals, radius=2)
    total = np.outer(facing * sun, light.sky.sunlight)
    directions = sky_directions()
    weights = 1.0 / directions[:, 2] / _SKY_DIRECTIONS  # samples are cosine-weighted round the zenith
    radiance = sky_radiance(light.sky, directions) * weights[:, None]
    openness = np.zeros(len(points), np.float32)
    for direction, view, depth, color in zip(directions, light.views, light.depths, radiance, strict=True):
        open_ = _lit(view, depth, points, normals, radius=0)
        openness += open_ / _SKY_DIRECTIONS
        total += np.outer(_facing(normals @ direction, thin) * open_, color)
    total += np.outer((1 - 0.5 * normals[:, 2]) * (0.3 + 0.7 * openness), _BOUNCE)
    return total, sun


def display(light: Array) -> Array:
    """Display sRGB in 0..1 of linear light, by a filmic curve with a soft shoulder (Narkowicz's fit of ACES)."""
    x = np.maximum(light * _EXPOSURE, 0)
    y = np.clip(x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14), 0, 1)
    return np.where(y <= 0.0031308, 12.92 * y, 1.055 * np.maximum(y, 1e-9) ** (1 / 2.4) - 0.055)


def _facing(cosine: Array, thin: bool) -> Array:
    if thin:
        return np.where(cosine > 0, 0.22 + 0.6 * cosine, 0.22 - 0.3 * cosine)
    return np.maximum(cosine, 0)


def _parallel_view(toward: Array, reach: float, pixels: int) -> View:
    forward = -toward
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right)
    rotation = np.stack((right, np.cross(forward, right), forward))
    focal = pixels / (2 * reach)
    return View(
        rotation,
        toward * 2 * reach,
        (focal, focal),
        (pixels / 2, pixels / 2),
        pixels,
        pixels,
        parallel=True,
        precision=np.float32,
    )


def _lit(view: View, depth: Array, points: Array, normals: Array, radius: int) -> Array:
    """Share of a square of (2 radius + 1)^2 texels round each point that the light reaches, smooth between texels."""
    texel = 1 / view.focal[0]
    spot = ((points + (0.9 * texel) * normals - view.origin) @ view.rotation.T).astype(np.float32)
    deep = spot[:, 2] - np.float32((1.2 + radius) * texel)
    place = spot[:, :2] * np.float32(view.focal[0]) + np.float32(view.middle[0] - 0.5)
    base = np.floor(place)
    fx, fy = (place - base).T
    x, y = np.clip(base.astype(np.int32), radius, view.width - 2 - radius).T
    flat, start = depth.ravel(), y * view.width + x
    total = np.zeros(len(points), np.float32)
    span = range(-radius, radius + 2)
    for row in span:
        across = np.zeros(len(points), np.float32)
        for column in span:
            seen = flat[start + (row * view.width + column)] >= deep
            edge = 1 - fx if column == -radius else fx if column == radius + 1 else 1
            across += seen * edge
        total += across * (1 - fy if row == -radius else fy if row == radius + 1 else 1)
    return total / np.float32((2 * radius + 1) ** 2)
