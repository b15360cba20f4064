"""How a frame is to be rendered: one frozen record for all backends."""

import dataclasses
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from .constants import BLUR, NEAR

Lens = Literal["pinhole", "orthographic", "fisheye"]
Precision = Literal["parity", "fast", "half"]

MAX_ANGLE = 3.0  # radians from the axis; at pi a fisheye's picture of a point is a circle


@dataclass(frozen=True)
class Options:
    """What `rasterize` draws, and by which rules.

    Raises:
        ValueError: a value is out of range; the message names it and says what to give.
    """

    lens: Lens = "pinhole"
    """pinhole; orthographic, fx and fy in pixels a world unit; fisheye, Kannala-Brandt, beyond 180 degrees too."""
    distortion: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """k1 to k4 of a fisheye: r = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8), in focal lengths."""
    max_angle: float = MAX_ANGLE
    """A fisheye culls splats farther from its axis, radians; also where the distortion folds back."""
    antialiased: bool = False
    """Opacity loses what the blur adds in area (Yu et al., "Mip-Splatting", 2024)."""
    near: float = NEAR
    """World units; splats whose centre is not beyond are culled (along the axis; for a fisheye, the ray)."""
    far: float = math.inf
    """World units; splats whose centre is not nearer are culled."""
    blur: float = BLUR
    """px^2, added to the diagonal of the 2D covariance."""
    radius_clip: float = 0.0
    """Pixels; splats that reach no farther either way are culled."""
    precision: Precision = "parity"
    """parity: the rules of 3DGS in float32; fast: the splat that stops a pixel still counts; half: float16 blending.
    The backends cpu and reference keep to parity."""
    depth: bool = True
    """Whether the frame has expected depth."""
    median: bool = False
    """Whether it has median depth: that of the splat at which the transmittance falls to a half."""
    normals: bool = False
    """Whether it has normals: each splat's shortest axis, turned to the camera, in world axes, blended like colour."""
    contribution: bool = False
    """Whether it says what each splat gave to the picture: its blending weight, summed over the pixels."""
    absgrad: bool = False
    """Whether the backward pass sums absolute positional gradients (Ye et al., "AbsGS", 2024)."""
    deterministic: bool = False
    """Whether gradients repeat bit for bit on a GPU, at some cost; frames, and gradients on the CPU, always do."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise ValueError(f"{field.name} is {value!r}, expected True or False")
            if isinstance(field.default, float):
                object.__setattr__(self, field.name, _number(field.name, value))
        if not isinstance(self.distortion, Sequence):
            raise ValueError(f"distortion is {self.distortion!r}, expected four finite numbers")
        object.__setattr__(self, "distortion", tuple(_number("distortion", value) for value in self.distortion))
        if self.lens not in get_args(Lens):
            raise ValueError(f"lens {self.lens!r} is unknown: give {', '.join(get_args(Lens))}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision {self.precision!r} is unknown: give {', '.join(get_args(Precision))}")
        if len(self.distortion) != 4 or not all(map(math.isfinite, self.distortion)):
            raise ValueError(f"distortion is {self.distortion}, expected four finite numbers")
        if any(self.distortion) and self.lens != "fisheye":
            raise ValueError(f"distortion {self.distortion} is for a fisheye, the lens is {self.lens}: undistort first")
        ranges = {
            "max_angle": 0.0 < self.max_angle <= MAX_ANGLE,
            "near": 0.0 <= self.near < math.inf,
            "far": self.far > self.near,
            "blur": 0.0 <= self.blur < math.inf,
            "radius_clip": 0.0 <= self.radius_clip < math.inf,
        }
        for name, fits in ranges.items():
            if not fits:
                raise ValueError(f"{name} is {getattr(self, name)}: {_CURES[name]}")


def _number(name: str, value: object) -> float:
    """A plain float, so that equal options are one record to every cache."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, expected a number")
    return float(value)


_CURES = {
    "max_angle": f"give radians, above 0, at most {MAX_ANGLE}",
    "near": "give world units, 0 or more",
    "far": "give world units, more than near",
    "blur": "give px^2, 0 or more",
    "radius_clip": "give pixels, 0 or more",
}
