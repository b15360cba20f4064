"""Camera paths round a picture, in units of its median depth and the axes of its camera."""

import math

import torch
from torch import Tensor

from ...errors import InputError
from ...scene.camera import look_at

# Where the eye is at the end of a path, times the reach: those of Lyra (arXiv 2509.19296) without its circle.
ENDS = {
    "left": (-1.0, 0.0, 0.0),
    "right": (1.0, 0.0, 0.0),
    "up": (0.0, -1.0, 0.0),
    "zoom_in": (0.0, 0.0, 1.0),
    "zoom_out": (0.0, 0.0, -1.0),
}
CIRCLE = "clockwise"
NAMES = (*ENDS, CIRCLE)
MIDDLE = (0.0, 0.0, 1.0)  # what all look at: the middle of the picture at its median depth
MOST_REACH = 0.8  # beyond which a zoom would pass what the picture shows


def path_poses(name: str, reach: float, count: int) -> Tensor:
    """[count, 4, 4] float64 world_to_camera, from the first step away from the picture to the end.

    Raises:
        InputError: no such path, or a reach out of range.
    """
    if name not in NAMES:
        raise InputError(f"path {name!r} is unknown: give {', '.join(NAMES)} or a camera list (.json)")
    if not 0.01 <= reach <= MOST_REACH:
        raise InputError(f"--reach {reach:g} is out of range: give 0.01 to {MOST_REACH} times the median depth")
    poses = []
    for i in range(count):
        if name == CIRCLE:
            angle = 2 * math.pi * i / count
            eye = (reach * math.cos(angle), reach * math.sin(angle), 0.0)
        else:
            x, y, z = ENDS[name]
            share = reach * (i + 1) / count
            eye = (x * share, y * share, z * share)
        poses.append(look_at(eye, MIDDLE, width=1, height=1).world_to_camera)
    return torch.stack(poses)
