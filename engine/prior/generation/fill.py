"""What is kept of the prior's Gaussians: those that no picture speaks of, or the few that show the most."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....kernels.options import Options
from ...renderer import render
from ...scene.camera import Camera
from ...scene.gaussians import Gaussians, base_colors, merge

BEHIND = 1.08  # times the depth of a picture, from which on a splat is hidden there
LEAST_Z = 1e-3
LEAST_OPACITY = 0.1
BLACK = 0.06  # brightest channel of a splat that shows nothing
WIDEST = 2.0  # standard deviation of a splat that is kept, low-resolution pixels
REACH = 1.5  # standard deviations of a splat that a view must not see


@dataclass(frozen=True, eq=False)
class Shown:
    """What a view shows: all that lies before its depth is empty, all behind it is hidden."""

    camera: Camera
    depth: Tensor  # [h, w] of the camera's pixels; infinite where nothing is


def hidden(splats: Gaussians, shown: Shown) -> Tensor:
    """[n] bool: whether a view says nothing of a splat, since it lies beside the picture or behind what it shows.

    Its middle is looked at, and the ends of its longest axis to all four sides.
    """
    camera = shown.camera
    pose = camera.world_to_camera.float()
    local = splats.means @ pose[:3, :3].T + pose[:3, 3]
    z = local[:, 2].clamp(min=LEAST_Z)
    reach = REACH * splats.scales.amax(dim=1)
    unseen = torch.ones(len(splats), dtype=torch.bool)
    for right, down in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        x = camera.fx * (local[:, 0] + right * reach) / z + camera.cx
        y = camera.fy * (local[:, 1] + down * reach) / z + camera.cy
        beside = (x < 0) | (y < 0) | (x >= camera.width) | (y >= camera.height)
        row, column = y.long().clamp(0, camera.height - 1), x.long().clamp(0, camera.width - 1)
        unseen &= beside | (z > BEHIND * shown.depth[row, column])
    return unseen | (local[:, 2] <= LEAST_Z)


def kept(splats: Gaussians, views: Sequence[Shown], footprint: float, cutout: bool) -> Gaussians:
    """The splats of which no view says anything, and that are neither thin air nor smeared wide.

    Args:
        footprint: of a pixel of the prior at depth 1.
        cutout: whether the views show an object on nothing, which the prior sees as black.
    """
    z = splats.means.norm(dim=1)
    wanted = (splats.opacities >= LEAST_OPACITY) & (splats.scales.amax(dim=1) <= WIDEST * footprint * z.clamp(min=0.1))
    if cutout:
        wanted &= base_colors(splats).amax(dim=1) >= BLACK
    for shown in views:
        wanted &= hidden(splats, shown)
    return splats.select(wanted)


def most_seen(before: Gaussians, splats: Gaussians, cameras: Sequence[Camera], count: int) -> Gaussians:
    """At most so many: those with the largest weights in renderings together with `before`, in their order."""
    if len(splats) <= count:
        return splats
    together = merge([before, splats])
    total = torch.zeros(len(together))
    for camera in cameras:
        found = render(together, camera, options=Options(contribution=True, depth=False)).contribution
        assert found is not None
        total += found
    chosen = total[len(before) :].sort(descending=True, stable=True).indices[:count]
    return splats.select(chosen.sort().values)
