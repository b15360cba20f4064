"""What a camera, or a pair of eyes, asks of a level of detail: where from, and where it looks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels.gaze import Gaze
from ..scene.camera import Camera

EVERYWHERE = math.pi
ALIKE = 1e-3  # of rotations: eyes that look the same way


def eye_of(cameras: Sequence[Camera]) -> Tensor:
    """The middle of the cameras' centres, [3] float64 on the CPU."""
    poses = torch.stack([camera.world_to_camera for camera in cameras]).double().cpu()
    return -(poses[:, :3, :3].transpose(1, 2) @ poses[:, :3, 3:])[:, :, 0].mean(dim=0)


def gaze_of(cameras: Sequence[Camera]) -> Gaze | None:
    """Detail inside the picture of pinhole cameras that look the same way, all of it alike, and less beyond its sides.

    None, detail everywhere, for cameras that look different ways.
    """
    rotations = torch.stack([camera.world_to_camera[:3, :3] for camera in cameras]).double().cpu()
    if (rotations - rotations[0]).abs().max() > ALIKE:
        return None
    left, right = (
        max(values) for values in zip(*((c.cx / c.fx, (c.width - c.cx) / c.fx) for c in cameras), strict=True)
    )
    top, bottom = (
        max(values) for values in zip(*((c.cy / c.fy, (c.height - c.cy) / c.fy) for c in cameras), strict=True)
    )
    inward = torch.tensor([(1, 0, left), (-1, 0, right), (0, 1, top), (0, -1, bottom)], dtype=torch.float64)
    forward = tuple(rotations[0, 2].tolist())
    sides = tuple(tuple(normal) for normal in (inward @ rotations[0]).tolist())
    return Gaze(forward, inner=EVERYWHERE, outer=EVERYWHERE, edge=1.0, behind=1.0, sides=sides)
