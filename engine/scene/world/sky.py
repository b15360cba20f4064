"""The sky: large far splats with a gradient and soft clouds."""

import math

import numpy as np

from ....kernels.constants import SH_C0
from .lighting import Sky, display, sky_radiance
from .shapes import Array
from .surfels import PLAN_TO_WORLD, Splats, quaternions
from .textures import fbm

_RADIUS = 60.0  # metres
_LOWEST = -0.12  # sine of the elevation where the dome ends, below the horizon
_CLOUD = np.array([1.05, 1.03, 1.0])


def dome(sky: Sky, seed: int, out: Splats) -> None:
    """Fill every row of `out` with splats of the dome."""
    count = len(out.means)
    i = np.arange(count) + 0.5
    rise = _LOWEST + (1 - _LOWEST) * i / count
    angle, level = i * math.pi * (3 - math.sqrt(5)), np.sqrt(np.maximum(1 - rise * rise, 0))
    ways = np.stack((level * np.cos(angle), level * np.sin(angle), rise), axis=1)
    spacing = _RADIUS * math.sqrt(2 * math.pi * (1 - _LOWEST) / count)
    light = sky_radiance(sky, ways)
    cover = _clouds(ways, seed)[:, None]
    color = display(light * (1 - cover) + cover * _CLOUD)
    world = ways @ PLAN_TO_WORLD.T
    side = np.cross(world, [0.0, 1.0, 0.0]) + [1e-9, 0.0, 0.0]
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    out.means[:], out.normals[:] = _RADIUS * world, -world
    out.quats[:] = quaternions(np.stack((side, np.cross(-world, side), -world), axis=2))
    out.scales[:] = np.array([0.75, 0.75, 0.05]) * spacing
    out.opacities[:] = 0.97
    out.sh[:] = 0
    out.sh[:, 0] = (color - 0.5) / SH_C0


def _clouds(ways: Array, seed: int) -> Array:
    """Share of cloud, 0..1: flat-bottomed heaps that grow denser towards the horizon."""
    height = np.maximum(ways[:, 2:], 0.0) + 0.22
    plane = ways[:, :2] / height * 1.1
    shape = fbm(np.concatenate((plane, np.full((len(ways), 1), 7.7 + seed)), axis=1), 41, 4)
    return 0.9 * np.clip(3.6 * (shape - 0.55), 0, 1) ** 0.8
