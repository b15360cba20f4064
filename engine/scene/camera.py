"""A pinhole camera in OpenCV axes (x right, y down, z forward), and its JSON file."""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError

MAX_SIDE = 16384  # pixels


@dataclass(frozen=True, eq=False)
class Camera:
    """Where the viewer stands and what it sees; pixel centres lie at +0.5.

    Raises:
        InputError: the size is not 1..16384 pixels a side, a focal length is not positive, or the pose is no 4x4 of
            finite numbers.
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
        if self.world_to_camera.shape != (4, 4) or not torch.isfinite(self.world_to_camera).all():
            raise InputError(f"world_to_camera has shape {list(self.world_to_camera.shape)}, expected finite [4, 4]")
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise InputError(f"resolution {self.width}x{self.height} is out of range: give 1 to {MAX_SIDE} a side")
        if not all(math.isfinite(value) for value in (self.fx, self.fy, self.cx, self.cy)):
            raise InputError(f"intrinsics {self.fx}, {self.fy}, {self.cx}, {self.cy} must be finite numbers of pixels")
        if self.fx <= 0 or self.fy <= 0:
            raise InputError(f"focal length {self.fx}, {self.fy} must be positive, in pixels")

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
        InputError: `eye` equals `target`, or the field of view is not between 0 and pi.
    """
    eye_, target_, up_ = (torch.as_tensor(v, dtype=torch.float64) for v in (eye, target, up))
    forward = target_ - eye_
    if float(forward.norm()) == 0.0:
        raise InputError(f"eye and target are both {eye_.tolist()}: move one of them")
    if not 0.0 < fov < math.pi:
        raise InputError(f"field of view {fov} rad is out of range: give 0 to pi, exclusive")
    forward = forward / forward.norm()
    right = torch.linalg.cross(forward, up_)
    if float(right.norm()) < 1e-9 * float(up_.norm()):  # looking along up: any right will do
        right = torch.linalg.cross(forward, up_.roll(1))
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
        entries = json.loads(Path(path).read_text())["cameras"]
        names = [field.name for field in dataclasses.fields(Camera)]
        cameras = [Camera(**{name: entry[name] for name in names}) for entry in entries]
    except InputError as error:
        raise InputError(f"camera file {path}: {error}") from None
    except OSError as error:
        raise InputError(f"camera file {path} cannot be read ({error.strerror}): give a JSON file") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"camera file {path} is no camera list ({error!r}): see docs/conventions.md") from None
    if not cameras:
        raise InputError(f"camera file {path} lists no camera: give at least one")
    return cameras
