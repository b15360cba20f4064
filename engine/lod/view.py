"""What a camera, or a pair of eyes, asks of a level of detail: where from, and where it looks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels.gaze import Gaze
from ..scene.camera import Camera

EVERYWHERE = math.pi


def eye_of(cameras: Sequence[Camera]) -> Tensor:
    """The middle of the cameras' centres, [3] float64 on the CPU."""
    poses = torch.stack([camera.world_to_camera for camera in cameras]).double().cpu()
    return -(poses[:, :3, :3].transpose(1, 2) @ poses[:, :3, 3:])[:, :, 0].mean(dim=0)


def gaze_of(camera: Camera) -> Gaze:
    """Detail inside a pinhole camera's picture, all of it alike, and less beyond its sides."""
    rotation = camera.world_to_camera[:3, :3].double().cpu()
    sides = torch.tensor(
        [
            (camera.fx, 0.0, camera.cx),
            (-camera.fx, 0.0, camera.width - camera.cx),
            (0.0, camera.fy, camera.cy),
            (0.0, -camera.fy, camera.height - camera.cy),
        ],
        dtype=torch.float64,
    )
    forward = tuple(rotation[2].tolist())
    normals = tuple(tuple(normal) for normal in (sides @ rotation).tolist())
    return Gaze(forward, inner=EVERYWHERE, outer=EVERYWHERE, edge=1.0, behind=1.0, sides=normals)
