"""How much of each splat can be seen at all: the light that reaches it, in the best of many pictures.

What lies under a surface costs nothing when it is merged. Two thirds of the cameras stand evenly around the scene and
look in, the others stand inside and look around. What a splat gives to a picture, over what it would give alone, is
the light that reaches it there.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ...kernels.options import Options
from ...kernels.rasterize import rasterize
from ..scene.camera import Camera, look_at
from ..scene.gaussians import Gaussians
from ..scene.paths import frame_scene

SIZE = 512  # pixels of a side
FLOOR = 0.05  # what nobody sees counts a little: someone may look from elsewhere
_AROUND, _INSIDE = math.radians(65), math.radians(90)  # fields of view
_GOLDEN = math.pi * (1 + math.sqrt(5))
_OPTIONS = Options(contribution=True, depth=False)


def visibility(gaussians: Gaussians, views: int) -> np.ndarray:
    """[n] float32 in FLOOR..1: the largest share of light that reaches each splat in so many pictures."""
    best = torch.full((len(gaussians),), FLOOR)
    for camera in _cameras(gaussians, views):
        best = torch.maximum(best, _light(gaussians, camera))
    return best.clamp(max=1).numpy()


def _cameras(gaussians: Gaussians, views: int) -> list[Camera]:
    framing = frame_scene(gaussians)
    center, radius = torch.tensor(framing.center, dtype=torch.float64), framing.radius
    around = math.ceil(views * 2 / 3)
    found = [
        look_at(center + radius * way, center, fov=_AROUND, width=SIZE, height=SIZE) for way in _directions(around)
    ]
    for i, way in enumerate(_directions(views - around)):
        eye = center + 0.4 * radius * _in_cube(i)
        found.append(look_at(eye, eye + way, fov=_INSIDE, width=SIZE, height=SIZE))
    return found


def _directions(count: int) -> list[Tensor]:
    """Unit vectors, evenly spread: the golden spiral."""
    found = []
    for i in range(count):
        y, turn = 1 - (2 * i + 1) / count, _GOLDEN * (i + 0.5)
        across = math.sqrt(1 - y * y)
        found.append(torch.tensor((across * math.cos(turn), y, across * math.sin(turn)), dtype=torch.float64))
    return found


def _in_cube(i: int) -> Tensor:
    """Point i in -1..1 of a sequence that fills a cube evenly: Roberts' R3, 2018."""
    root = 1.22074408460575947536  # of x^4 = x + 1
    return torch.tensor([(0.5 + (i + 1) / root**k) % 1 * 2 - 1 for k in (1, 2, 3)], dtype=torch.float64)


def _light(gaussians: Gaussians, camera: Camera) -> Tensor:
    """[n] share of each splat's ink that arrives; 0 for what is not in the picture."""
    frame = rasterize(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.sh[:, 0] * 0,
        camera.world_to_camera, camera.K, camera.width, camera.height,
        options=_OPTIONS, backend="cpu", keep_projected=True,
    )  # fmt: skip
    assert frame.contribution is not None and frame.projected is not None
    xx, xy, yy = frame.projected.conics.unbind(dim=-1)
    alone = 2 * math.pi * frame.projected.opacities * torch.rsqrt((xx * yy - xy * xy).clamp(min=1e-30))
    return torch.where(xx > 0, frame.contribution / alone.clamp(min=1e-6), 0.0)
