"""Camera paths round, into and through a scene."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.constants import NEAR
from .camera import Camera, look_at
from .gaussians import Gaussians


@dataclass(frozen=True)
class Framing:
    """What a path keeps in view."""

    center: tuple[float, float, float]
    radius: float  # world units, distance of an orbiting eye from the centre
    up: tuple[float, float, float] = (0.0, -1.0, 0.0)
    elevation: float = math.radians(15.0)  # of the eye above the centre, radians
    fov: float = math.radians(50.0)  # vertical, radians


def frame_scene(gaussians: Gaussians) -> Framing:
    """Framing of what a scene is about: all of an object, the dense middle of a capture with a far background.

    Only opaque splats count, and few outliers count little.
    """
    opaque = gaussians.means[gaussians.opacities > 0.1]
    means = (opaque if len(opaque) else gaussians.means).double().cpu()
    means = means[:: max(1, len(means) // 100_000)]
    middle = means.median(dim=0).values
    near, far = torch.quantile((means - middle).norm(dim=1), torch.tensor([0.5, 0.98], dtype=torch.float64)).tolist()
    radius = 4.6 * near
    if far < 5 * near:  # an object: all of it, from the middle of its box
        middle = torch.quantile(means, torch.tensor([0.01, 0.99], dtype=torch.float64), dim=0).mean(dim=0)
        radius = 2.6 * float(torch.quantile((means - middle).norm(dim=1), 0.98))
    x, y, z = middle.tolist()
    size = float(gaussians.scales.amax(dim=1).double().median())  # counts where splats lie close together
    return Framing((x, y, z), radius=max(radius, 5 * size, 4 * NEAR))


def orbit(framing: Framing, count: int, *, width: int, height: int) -> list[Camera]:
    """One full turn round the centre."""
    eyes = [eye_at(framing, 2 * math.pi * i / count, 1.0) for i in range(count)]
    return [_toward(framing, eye, width, height) for eye in eyes]


def dolly(framing: Framing, count: int, *, width: int, height: int) -> list[Camera]:
    """Straight in, from 1.5 radii to 0.3 radii."""
    steps = torch.linspace(1.5, 0.3, count).tolist()
    return [_toward(framing, eye_at(framing, 0.5, step), width, height) for step in steps]


def walk(framing: Framing, count: int, *, width: int, height: int) -> list[Camera]:
    """A walk past the centre with a turning head: the eye crosses the scene from side to side, bobbing slightly."""
    right, forward, up = (axis * framing.radius for axis in _axes(framing))
    cameras = []
    for i in range(count):
        t = i / max(1, count - 1)
        center = torch.tensor(framing.center, dtype=torch.float64)
        eye = center - 0.6 * forward + (1.2 * t - 0.6) * right + (0.15 + 0.01 * math.sin(8 * math.pi * t)) * up
        target = center + 0.3 * math.sin(2 * math.pi * t) * right
        cameras.append(look_at(eye, target, up=framing.up, fov=framing.fov, width=width, height=height))
    return cameras


def eye_at(framing: Framing, angle: float, distance: float) -> Tensor:
    """Where an orbiting eye stands, [3] float64: at an angle round `up`, so many radii from the centre."""
    right, forward, up = _axes(framing)
    level = math.cos(framing.elevation) * (math.sin(angle) * right - math.cos(angle) * forward)
    center = torch.tensor(framing.center, dtype=torch.float64)
    return center + framing.radius * distance * (level + math.sin(framing.elevation) * up)


UPS = {  # by the name of an axis and its sign
    "x+": (1.0, 0.0, 0.0),
    "x-": (-1.0, 0.0, 0.0),
    "y+": (0.0, 1.0, 0.0),
    "y-": (0.0, -1.0, 0.0),
    "z+": (0.0, 0.0, 1.0),
    "z-": (0.0, 0.0, -1.0),
}
PATHS: dict[str, Callable[..., list[Camera]]] = {"orbit": orbit, "dolly": dolly, "walk": walk}


def _axes(framing: Framing) -> tuple[Tensor, Tensor, Tensor]:
    """Right, forward and up of the scene, unit vectors; forward is horizontal."""
    up = torch.tensor(framing.up, dtype=torch.float64)
    up = up / up.norm()
    seed = torch.eye(3, dtype=torch.float64)[int(up.abs().argmin())]
    right = torch.linalg.cross(seed, up)
    right = right / right.norm()
    return right, torch.linalg.cross(up, right), up


def _toward(framing: Framing, eye: Tensor, width: int, height: int) -> Camera:
    return look_at(eye, framing.center, up=framing.up, fov=framing.fov, width=width, height=height)
