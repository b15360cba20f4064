"""Where an eye is and where it looks, for level of detail: a frozen record, and the row of numbers that kernels read.

The view error of a node is  error * w / max(|mean - eye| - radius, near),  w the largest weight of the gaze over the
node's sphere. A cut needs it to be monotone: no node may have a larger one than its parent, in float32 on any backend.
Exactly computed it is, for a parent's sphere contains its children's. Rounding is paid for by the slack of a tree:
errors grow by 1e-4 of themselves from child to parent, and radii by 2e-6 of the root's radius R more than they must.
- |mean - eye| and the differences here are off by some 3e-7 of the distance d. Up to d = 3 R that is less than the
  slack of the radii. Beyond, d - radius is at least 2/3 d, so that the quotient is off by less than 1e-6 of itself.
- The angle a between the gaze and the nearest direction to the sphere is the centre's less asin(radius / d), which is
  steep where the eye is at the surface; but there (d - radius) (d + radius) keeps full precision, so that what is
  computed is the angle of a sphere whose radius is off by the same 3e-7 d. Besides, sine and cosine of a are off by
  some 3e-7. The weight is linear in cos a, and taken from 1 - cos a = sin^2 a / (1 + cos a), which does not cancel
  where a is small: as a function of a the weight is off by what an error of 6e-7 rad gives. `Gaze` refuses weights
  that change by more than STEEPEST of themselves a radian, which bounds this by 4e-5.
Both together stay below 1e-4. View errors below LEAST would lose digits to denormal numbers and count as 0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROW = 14
EYE, DIRECTION = 0, 3  # 3 each
NEAR, FLOOR = 6, 7
INNER, OUTER = 8, 9  # 1 - cos of the angles
FALL, EDGE, DROP, BEHIND = range(10, 14)  # slopes from inner to outer and from outer to behind, and where they end

LEAST = 1e-30
STEEPEST = 64.0  # relative change of the weight, a radian


@dataclass(frozen=True)
class Gaze:
    """How much detail each direction deserves: all of it round the gaze, less outside.

    With a the angle between gaze and direction, the weight is 1 up to `inner`, then falls, linear in cos a, to `edge`
    at `outer` and to `behind` opposite to the gaze.

    Raises:
        ValueError: a value is out of range, or the weight falls too steeply; the message says what to give.
    """

    direction: tuple[float, float, float]
    """World axes, any length but 0."""
    inner: float = math.radians(45.0)
    outer: float = math.radians(60.0)
    """Radians, inner <= outer."""
    edge: float = 0.4
    behind: float = 0.2

    def __post_init__(self) -> None:
        length = math.hypot(*self.direction) if len(self.direction) == 3 else math.nan
        if not 0.0 < length < math.inf:
            raise ValueError(f"direction is {self.direction}, expected three finite numbers that are not all 0")
        if not 0.0 <= self.inner <= self.outer <= math.pi:
            raise ValueError(f"inner, outer are {self.inner}, {self.outer}: give radians, 0 <= inner <= outer <= pi")
        if not 0.0 < self.behind <= self.edge <= 1.0:
            raise ValueError(f"behind, edge are {self.behind}, {self.edge}: give weights, 0 < behind <= edge <= 1")
        if self._slope(1.0, self.edge, self.inner, self.outer) > STEEPEST:
            raise ValueError(
                f"the weight falls from 1 to {self.edge} within {self.outer - self.inner} rad, more than {STEEPEST:g}"
                " of itself a radian: raise edge, or outer"
            )
        if self._slope(self.edge, self.behind, self.outer, math.pi) > STEEPEST:
            raise ValueError(
                f"the weight falls from {self.edge} to {self.behind}, more than {STEEPEST:g} of itself a radian:"
                " raise behind"
            )

    @staticmethod
    def _slope(high: float, low: float, first: float, last: float) -> float:
        """Most that the weight falls between two angles, a radian, as a share of the lower weight."""
        steepest = 1.0 if first <= math.pi / 2 <= last else max(math.sin(first), math.sin(last))
        fall, width = high - low, math.cos(first) - math.cos(last)
        return steepest * fall / low / width if width > 0.0 else math.inf if fall > 0.0 and first < math.pi else 0.0


def pack_eye(eye: Tensor, gaze: Gaze | None, near: float, floor: float) -> Tensor:
    """The row [14] float32 of an eye [3], on its device; without a gaze the weights stay unused.

    Raises:
        ValueError: a value is out of range.
    """
    if tuple(eye.shape) != (3,):
        raise ValueError(f"eye has shape {list(eye.shape)}, expected [3]")
    if eye.device.type == "cpu" and not all(map(math.isfinite, eye.tolist())):
        raise ValueError(f"eye is {eye.tolist()}, expected finite numbers")
    if not 0.0 < near < math.inf:
        raise ValueError(f"near is {near}: give world units, above 0, such as a thousandth of the scene's radius")
    if not 0.0 <= floor < math.inf:
        raise ValueError(f"floor is {floor}: give a view error, 0 or more")
    weights = [0.0] * 9
    if gaze is not None:
        length = math.hypot(*gaze.direction)
        inner, outer = (2 * math.sin(angle / 2) ** 2 for angle in (gaze.inner, gaze.outer))
        fall = (1.0 - gaze.edge) / (outer - inner) if outer > inner else 0.0
        drop = (gaze.edge - gaze.behind) / (2.0 - outer) if outer < 2.0 else 0.0
        weights = [*(axis / length for axis in gaze.direction), inner, outer, fall, gaze.edge, drop, gaze.behind]
    numbers = [*weights[:3], near, max(floor, LEAST), *weights[3:]]
    return torch.cat((eye.detach().float(), torch.tensor(numbers).to(eye.device, non_blocking=True)))
