"""A pinhole camera in OpenCV axes (x right, y down, z forward), and its JSON file."""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.arguments import check_view
from ..errors import InputError
from ..files import cause, read_bytes

SKEW = 1e-3  # how far the rotation of a pose may be from orthonormal


@dataclass(frozen=True, eq=False)
class Camera:
    """Where the viewer stands and what it sees; pixel centres lie at +0.5.

    Raises:
        InputError: the size is not 1 to 16384 whole pixels a side, a focal length is not positive, a number is not
            finite, or the pose is no rotation and translation.
    """

    world_to_camera: Tensor  # [4, 4] float64, on the CPU
    fx: float  # pixels
    fy: float
    cx: float
    cy: float
    width: int
    height: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "world_to_camera", torch.as_tensor(self.world_to_camera, dtype=torch.float64).cpu())
        for name in ("fx", "fy", "cx", "cy"):
            object.__setattr__(self, name, float(getattr(self, name)))
        try:
            width, height = check_view(self.world_to_camera, self.K, self.width, self.height)
        except ValueError as error:
            raise InputError(str(error)) from None
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "height", height)
        rotation = self.world_to_camera[:3, :3]
        skew = float((rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max())
        if skew > SKEW or self.world_to_camera[3].tolist() != [0.0, 0.0, 0.0, 1.0]:
            raise InputError(f"world_to_camera is no rotation and translation, off by {skew:.3g}: give a rigid pose")

    @property
    def K(self) -> Tensor:
        """Intrinsic matrix, [3, 3] float64."""
        rows = [[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=torch.float64)

    @property
    def position(self) -> Tensor:
        """Centre of projection in the world, [3] float64."""
        return -self.world_to_camera[:3, :3].T @ self.world_to_camera[:3, 3]

    def resized(self, width: int, height: int) -> "Camera":
        """The same view in other pixels: the vertical field of view stays, pixels stay as square as they were."""
        ratio = height / self.height
        return dataclasses.replace(
            self,
            fx=self.fx * ratio,
            fy=self.fy * ratio,
            cx=width / 2 + (self.cx - self.width / 2) * ratio,
            cy=self.cy * ratio,
            width=width,
            height=height,
        )


def look_at(
    eye: Sequence[float] | Tensor,
    target: Sequence[float] | Tensor,
    *,
    up: Sequence[float] | Tensor = (0.0, -1.0, 0.0),
    fov: float = math.radians(50.0),
    width: int = 1920,
    height: int = 1080,
) -> Camera:
    """A camera at `eye` that sees `target` in the middle of its picture.

    Args:
        up: direction that points up in the picture; scenes from structure-from-motion have y down, hence the default.
        fov: vertical field of view, radians.

    Raises:
        InputError: a vector is no three finite numbers, `eye` equals `target`, or the field of view is not between 0
            and pi.
    """
    eye_, target_, up_ = (torch.as_tensor(v, dtype=torch.float64) for v in (eye, target, up))
    for name, vector in (("eye", eye_), ("target", target_), ("up", up_)):
        if vector.shape != (3,) or not torch.isfinite(vector).all():
            raise InputError(f"{name} is {vector.tolist()}, expected three finite numbers")
    forward = target_ - eye_
    if float(forward.norm()) == 0.0:
        raise InputError(f"eye and target are both {eye_.tolist()}: move one of them")
    if not 0.0 < fov < math.pi:
        raise InputError(f"field of view {fov} rad is out of range: give 0 to pi, exclusive")
    forward = forward / forward.norm()
    right = torch.linalg.cross(forward, up_)
    if float(right.norm()) <= 1e-9 * float(up_.norm()):  # looking along up, or no up: any right will do
        right = torch.linalg.cross(forward, torch.eye(3, dtype=torch.float64)[int(forward.abs().argmin())])
    right = right / right.norm()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.stack((right, torch.linalg.cross(forward, right), forward))
    pose[:3, 3] = -pose[:3, :3] @ eye_
    focal = height / 2 / math.tan(fov / 2)
    return Camera(pose, focal, focal, width / 2, height / 2, width, height)


def load_cameras(path: Path) -> list[Camera]:
    """Cameras from a JSON file: `{"cameras": [{"world_to_camera", "fx", "fy", "cx", "cy", "width", "height"}, ...]}`.

    Raises:
        InputError: the file is missing, is not such a JSON file, or lists no camera.
    """
    try:
        entries = json.loads(read_bytes(Path(path)))["cameras"]
        names = [field.name for field in dataclasses.fields(Camera)]
        cameras = [Camera(**{name: entry[name] for name in names}) for entry in entries]
    except InputError as error:
        raise InputError(f"camera file {path}: {str(error).removeprefix(f'{path}: ')}") from None
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"camera file {path} is no camera list ({cause(error)}): see docs/conventions.md") from None
    if not cameras:
        raise InputError(f"camera file {path} lists no camera: give at least one")
    return cameras
