"""A view as kernels read it: one row of numbers, made by torch so that gradients reach the pose and the intrinsics."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from .constants import FRUSTUM_MARGIN
from .options import Options

ROW = 40
POSE = 0  # 3x4, world to camera, row by row
EYE = 12  # 3, where colours are seen from; the middle of the eyes of a stereo pair
FX, FY, CX, CY, WIDTH, HEIGHT = range(15, 21)
LOW_X, HIGH_X, LOW_Y, HIGH_Y = range(21, 25)  # between which x/z and y/z are clamped in a pinhole's Jacobian
K1, K2, K3, K4, MAX_ANGLE = range(25, 30)  # of a fisheye
NEAR, FAR, BLUR, RADIUS_CLIP = range(30, 34)
SORT = (
    34  # 4: a b c d of the depth by which splats are sorted, a x + b y + c z + d; a fisheye takes the distance to EYE
)

LENSES = {"pinhole": 0, "orthographic": 1, "fisheye": 2}  # as kernels call them
LEAST_FORWARD = 0.1  # length of the mean of the directions in which the eyes of a pair look
FINITE = 3e38  # stands for an endless far plane in float32


def pack_views(world_to_camera: Tensor, K: Tensor, width: int, height: int, options: Options, eyes: int = 1) -> Tensor:
    """Rows [v, 40] of views [v, 4, 4] with K [v, 3, 3], in their float type; each `eyes` neighbours share a sort.

    Raises:
        ValueError: eyes that share a sort look in opposite directions (seen where the views are on the CPU).
    """
    pose, rotation = world_to_camera[:, :3], world_to_camera[:, :3, :3]
    eye = -(rotation.transpose(1, 2) @ world_to_camera[:, :3, 3:])[..., 0]  # [v, 3]
    axis = pose[:, 2]  # [v, 4]
    if eyes > 1:
        eye = eye.unflatten(0, (-1, eyes)).mean(dim=1).repeat_interleave(eyes, dim=0)
        forward = rotation[:, 2].unflatten(0, (-1, eyes)).mean(dim=1).repeat_interleave(eyes, dim=0)
        length = forward.norm(dim=-1, keepdim=True)
        if length.device.type == "cpu" and float(length.detach().min()) < LEAST_FORWARD:
            raise ValueError("the eyes of a stereo pair look in opposite directions: render them apart")
        forward = forward / length
        axis = torch.cat((forward, -(forward * eye).sum(dim=-1, keepdim=True)), dim=-1)
    fx, fy, cx, cy = K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]
    margin_x, margin_y = FRUSTUM_MARGIN * 0.5 * width / fx, FRUSTUM_MARGIN * 0.5 * height / fy
    limits = (-cx / fx - margin_x, (width - cx) / fx + margin_x, -cy / fy - margin_y, (height - cy) / fy + margin_y)
    size, fixed, rest = _constants(width, height, options, K.dtype, K.device).expand(len(K), -1).split((2, 9, 2), dim=1)
    rows = (
        pose.flatten(1),
        eye,
        torch.stack((fx, fy, cx, cy), dim=1),
        size,
        torch.stack(limits, dim=1),
        fixed,
        axis.detach(),
        rest,
    )
    return torch.cat(rows, dim=1)


@lru_cache(maxsize=64)
def _constants(width: int, height: int, options: Options, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What no gradient reaches, [13]; kept, since sending it to a GPU would wait for the GPU."""
    angle = min(options.max_angle, fold_angle(options.distortion))
    lens = (*options.distortion, angle, options.near, min(options.far, FINITE), options.blur, options.radius_clip)
    return torch.tensor((width, height, *lens, 0.0, 0.0), dtype=dtype, device=device)


def fold_angle(distortion: tuple[float, float, float, float]) -> float:
    """The angle from a fisheye's axis, radians, where its picture turns back towards the middle; inf if it never does.

    The least positive root of dr/dtheta = 1 + 3 k1 t + 5 k2 t^2 + 7 k3 t^3 + 9 k4 t^4, t = theta^2.
    """
    k1, k2, k3, k4 = distortion
    square = torch.linspace(0.0, math.pi**2, 1 << 14, dtype=torch.float64)
    folds = 1 + square * (3 * k1 + square * (5 * k2 + square * (7 * k3 + square * 9 * k4))) <= 0
    return math.sqrt(float(square[folds.nonzero()[0, 0]])) if bool(folds.any()) else math.inf
