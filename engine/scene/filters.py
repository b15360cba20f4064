"""Parts of a scene as a person types them: boxes and spheres, and conditions such as `opacity>=0.05`."""

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError
from .gaussians import Gaussians, base_colors
from .regions import Box, Region, Sphere

FIELDS: dict[str, Callable[[Gaussians], Tensor]] = {
    "opacity": lambda scene: scene.opacities,
    "scale": lambda scene: scene.scales.amax(dim=1),
    "x": lambda scene: scene.means[:, 0],
    "y": lambda scene: scene.means[:, 1],
    "z": lambda scene: scene.means[:, 2],
    "red": lambda scene: base_colors(scene)[:, 0],
    "green": lambda scene: base_colors(scene)[:, 1],
    "blue": lambda scene: base_colors(scene)[:, 2],
}
COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Condition:
    """A field of every splat beside a number."""

    field: str
    comparison: str
    value: float


def parse_condition(text: str) -> Condition:
    """A condition from text such as `opacity>=0.05`.

    Raises:
        InputError: no such field or comparison, or no number.
    """
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*", text)
    number = _number(found[3]) if found else math.nan
    if not found or found[1] not in FIELDS or math.isnan(number):
        raise InputError(f"filter {text!r} is none: give {', '.join(FIELDS)}, then < <= > or >=, then a number")
    return Condition(found[1], found[2], number)


def holds(condition: Condition, scene: Gaussians) -> Tensor:
    """[n] for which splats a condition holds."""
    return COMPARISONS[condition.comparison](FIELDS[condition.field](scene), condition.value)


def parse_box(text: str) -> Box:
    """A box from six numbers with commas.

    Raises:
        InputError: other than six numbers, or a box without an inside.
    """
    numbers = tuple(_number(part) for part in text.split(","))
    if len(numbers) != 6 or any(map(math.isnan, numbers)):
        raise InputError(f"box {text!r}: give six numbers x0,y0,z0,x1,y1,z1")
    return Box(numbers[:3], numbers[3:])


def parse_region(text: str) -> Region:
    """A region from text such as `box: x0,y0,z0,x1,y1,z1` or `sphere: x,y,z,radius`.

    Raises:
        InputError: no such text, or a region without an inside.
    """
    kind, _, rest = (part.strip() for part in text.partition(":"))
    if kind == "box":
        return parse_box(rest)  # also with infinite sides
    numbers = tuple(_number(part) for part in rest.split(","))
    if kind != "sphere" or len(numbers) != 4 or any(map(math.isnan, numbers)):
        raise InputError(f"region {text!r}: give box: x0,y0,z0,x1,y1,z1 or sphere: x,y,z,radius")
    return Sphere(numbers[:3], numbers[3])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
