"""Where an eye is and where it looks, for level of detail: a frozen record, and the row of numbers that kernels read.

The view error of a node is  error * w / max(|mean - eye| - radius, near),  w the largest weight of the gaze over the
node's sphere. A cut needs it to be monotone: no node may have a larger one than its parent, in float32 on any backend.
Exactly computed it is, for a parent's sphere contains its children's. Rounding is paid for by the slack of a tree:
errors grow by 5e-4 of themselves from child to parent, and radii by 2e-6 of the root's radius R more than they must.
- |mean - eye| and the differences here are off by some 3e-7 of the distance d. Up to d = 3 R that is less than the
  slack of the radii. Beyond, d - radius is at least 2/3 d, so that the quotient is off by less than 1e-6 of itself.
- The angle a between the gaze and the nearest direction to the sphere is the centre's less asin(radius / d), which is
  steep where the eye is at the surface; but there (d - radius) (d + radius) keeps full precision, so that what is
  computed is the angle of a sphere whose radius is off by the same 3e-7 d. Besides, sine and cosine of a are off by
  some 3e-7. The weight is linear in cos a, and taken from 1 - cos a = sin^2 a / (1 + cos a), which does not cancel
  where a is small: as a function of a the weight is off by what an error of 6e-7 rad gives. `Gaze` refuses weights
  that change by more than STEEPEST of themselves a radian, which bounds this by 2e-4; the same for its sides.
All together stay below 5e-4. View errors below LEAST would lose digits to denormal numbers and count as 0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROW = 28
EYE, DIRECTION = 0, 3  # 3 each
NEAR, FLOOR = 6, 7
INNER, OUTER = 8, 9  # 1 - cos of the angles
FALL, EDGE, DROP, BEHIND = range(10, 14)  # slopes from inner to outer and from outer to behind, and where they end
SIDES, SLOPE, BEYOND = 14, 26, 27  # four normals, 3 each; how the weight falls with the sine of the angle beyond

LEAST = 1e-30
SIDES_MOST = 4
STEEPEST = 320.0  # relative change of the weight, a radian


@dataclass(frozen=True)
class Gaze:
    """How much detail each direction deserves: all of it round the gaze and inside the picture, less outside.

    With a the angle between gaze and direction, the weight is 1 up to `inner`, then falls, linear in cos a, to `edge`
    at `outer` and to `behind` opposite to the gaze. It is multiplied by that of the sides: 1 inside all of them, and
    beyond one by an angle b 1 less a part of sin b, down to `beyond` at `margin`.

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
    sides: tuple[tuple[float, float, float], ...] = ()
    """Inward normals of planes through the eye, up to four, those of a picture: world axes, any length but 0."""
    margin: float = 0.1
    """Radians, up to pi / 2."""
    beyond: float = 0.08

    def __post_init__(self) -> None:
        for name, vector in (("direction", self.direction), *(("a side", side) for side in self.sides)):
            length = math.hypot(*vector) if len(vector) == 3 else math.nan
            if not 0.0 < length < math.inf:
                raise ValueError(f"{name} is {vector}, expected three finite numbers that are not all 0")
        if len(self.sides) > SIDES_MOST:
            raise ValueError(f"{len(self.sides)} sides, expected up to {SIDES_MOST}")
        if not 0.0 < self.margin <= math.pi / 2 or not 0.0 < self.beyond <= 1.0:
            told = "expected an angle above 0, up to pi / 2, and a weight above 0, up to 1"
            raise ValueError(f"margin, beyond are {self.margin}, {self.beyond}, {told}")
        if (1.0 / self.beyond - 1.0) / math.sin(self.margin) > STEEPEST:
            raise ValueError(
                f"beyond a side the weight falls to {self.beyond} within {self.margin} rad, more than {STEEPEST:g} of"
                " itself a radian: raise beyond, or margin"
            )
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
    """The row [28] float32 of an eye [3], on its device; without a gaze the weights stay unused.

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
    weights = [0.0] * (ROW - 5)
    if gaze is not None:
        length = math.hypot(*gaze.direction)
        inner, outer = (2 * math.sin(angle / 2) ** 2 for angle in (gaze.inner, gaze.outer))
        fall = (1.0 - gaze.edge) / (outer - inner) if outer > inner else 0.0
        drop = (gaze.edge - gaze.behind) / (2.0 - outer) if outer < 2.0 else 0.0
        normals = [axis / math.hypot(*side) for side in gaze.sides for axis in side]
        normals += [0.0] * (3 * SIDES_MOST - len(normals))  # nothing lies beyond such a side
        slope = (1.0 - gaze.beyond) / math.sin(gaze.margin)
        direction = [axis / length for axis in gaze.direction]
        weights = [*direction, inner, outer, fall, gaze.edge, drop, gaze.behind, *normals, slope, gaze.beyond]
    numbers = [*weights[:3], near, max(floor, LEAST), *weights[3:]]
    return torch.cat((eye.detach().float(), torch.tensor(numbers).to(eye.device, non_blocking=True)))
