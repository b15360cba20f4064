"""Operations on a scene. Each gives a new scene, which shares the tensors that it leaves alone; none changes its input.

The same operations on the same scene give the same bytes, on one machine.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.constants import SH_C0
from ..errors import InputError
from .gaussians import Gaussians, merge
from .regions import Point
from .selection import EVERYTHING, Selection, check_numbers, select
from .transform import similarity, transform

Matrix = tuple[tuple[float, ...], ...]  # rows
Load = Callable[[Path], Gaussians]  # reads a scene file; raises InputError

REST = "rest"  # what no part of a split takes
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class Delete:
    """Without the splats meant."""

    where: Selection


@dataclass(frozen=True)
class Keep:
    """The splats meant and no others."""

    where: Selection


@dataclass(frozen=True)
class Transform:
    """Turned, mirrored, scaled and moved, spherical harmonics too.

    Raises:
        InputError: a matrix that `scene.transform.transform` refuses.
    """

    matrix: Matrix  # [4, 4]
    where: Selection = EVERYTHING

    def __post_init__(self) -> None:
        _check_placement(self.matrix)


@dataclass(frozen=True)
class Recolor:
    """Seen from anywhere, a colour c becomes matrix c + offset.

    A colour is linear in its coefficients: those of every degree are multiplied by the matrix, and the constant part
    takes the rest. It is exact where the colour is not cut off at 0, before or after.

    Raises:
        InputError: other than 3 x 3 and 3 finite numbers.
    """

    matrix: Matrix = IDENTITY  # [3, 3]
    offset: Point = (0.0, 0.0, 0.0)  # 1 is white
    where: Selection = EVERYTHING

    def __post_init__(self) -> None:
        if len(self.matrix) != 3:
            raise InputError(f"matrix of a colour has {len(self.matrix)} rows, expected 3")
        for row in self.matrix:
            check_numbers("row of a colour matrix", row, 3)
        check_numbers("offset", self.offset, 3)


@dataclass(frozen=True)
class ScaleOpacity:
    """Opacities times a factor, held to 1.

    Raises:
        InputError: a factor that is negative or not finite.
    """

    factor: float
    where: Selection = EVERYTHING

    def __post_init__(self) -> None:
        check_numbers("factor", (self.factor,), 1)
        if self.factor < 0:
            raise InputError(f"factor {self.factor} is negative: give 0 or more")


@dataclass(frozen=True)
class Duplicate:
    """Copies of the splats meant, transformed, after all others.

    Raises:
        InputError: as `Transform`.
    """

    matrix: Matrix  # [4, 4]
    where: Selection = EVERYTHING

    def __post_init__(self) -> None:
        _check_placement(self.matrix)


@dataclass(frozen=True)
class Merge:
    """The splats of a scene file after all others."""

    file: Path


Operation = Delete | Keep | Transform | Recolor | ScaleOpacity | Duplicate | Merge
NAMES: dict[type[Operation], str] = {
    Delete: "delete",
    Keep: "keep",
    Transform: "transform",
    Recolor: "recolor",
    ScaleOpacity: "scale_opacity",
    Duplicate: "duplicate",
    Merge: "merge",
}


@dataclass(frozen=True)
class Split:
    """Named parts of a scene. A splat belongs to the first part that means it, or else to the rest.

    Raises:
        InputError: no part, or a name that cannot stand in a file's name, comes twice, or is "rest".
    """

    parts: tuple[tuple[str, Selection], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise InputError("split without a part: give a name and a selection")
        taken = {REST}
        for name, _ in self.parts:
            if not re.fullmatch(r"[\w-]+", name) or name.casefold() in taken:
                raise InputError(f"part {name!r}: give letters, digits, _ and -, each name once, and not {REST!r}")
            taken.add(name.casefold())


def apply(scene: Gaussians, operations: Sequence[Operation], load: Load) -> Gaussians:
    """The scene after all operations, in order; it may be empty.

    Raises:
        InputError: an operation cannot be done; which one is told.
    """
    for number, operation in enumerate(operations, 1):
        try:
            scene = edited(scene, operation, load)
        except InputError as error:
            raise InputError(f"operation {number}, {NAMES[type(operation)]}: {error}") from None
    return scene


def edited(scene: Gaussians, operation: Operation, load: Load) -> Gaussians:
    """The scene after one operation. Warns when it means no splat.

    Raises:
        InputError: a file to merge cannot be read.
    """
    if isinstance(operation, Merge):
        return merge([scene, load(operation.file)])
    chosen = select(operation.where, scene)
    if not chosen.any():
        warnings.warn(f"{NAMES[type(operation)]} means none of {len(scene)} splats", stacklevel=2)
    match operation:
        case Delete():
            return scene.select(~chosen)
        case Keep():
            return scene.select(chosen)
        case Transform(matrix):
            return _changed(scene, chosen, lambda part: transform(part, _tensor(matrix)))
        case Recolor(matrix, offset):
            return _changed(scene, chosen, lambda part: _with(part, sh=recolor_sh(part.sh, matrix, offset)))
        case ScaleOpacity(factor):
            return _changed(scene, chosen, lambda part: _with(part, opacities=(part.opacities * factor).clamp(max=1)))
        case Duplicate(matrix):
            return merge([scene, transform(scene.select(chosen), _tensor(matrix))])


def split(scene: Gaussians, parts: Split) -> dict[str, Gaussians]:
    """The parts by name, in their order, and the rest where there is any; each keeps the order of its splats.

    Raises:
        InputError: a part without splats.
    """
    left = torch.ones(len(scene), dtype=torch.bool, device=scene.means.device)
    found = {}
    for name, where in parts.parts:
        chosen = left & select(where, scene)
        if not chosen.any():
            raise InputError(f"part {name!r} has no splat: change its selection, or those of the parts before it")
        found[name] = scene.select(chosen)
        left &= ~chosen
    return found | ({REST: scene.select(left)} if left.any() else {})


def recolor_sh(sh: Tensor, matrix: Matrix, offset: Point) -> Tensor:
    """Coefficients [n, k, 3] of the colours matrix c + offset, where c = 0.5 + the sum of coefficients times basis."""
    changed = sh @ sh.new_tensor(matrix).T
    turned, shift = torch.tensor(matrix, dtype=torch.float64), torch.tensor(offset, dtype=torch.float64)
    changed[:, 0] += ((turned.sum(dim=1) * 0.5 + shift - 0.5) / SH_C0).to(sh)
    return changed


def _changed(scene: Gaussians, chosen: Tensor, change: Callable[[Gaussians], Gaussians]) -> Gaussians:
    """The scene with its chosen splats changed in place; what `change` shares, the scene goes on sharing."""
    if chosen.all():
        return change(scene)
    before = scene.select(chosen).tensors()
    tensors = scene.tensors()
    for name, after in change(Gaussians(**before)).tensors().items():
        if after is not before[name]:
            tensors[name] = tensors[name].clone()
            tensors[name][chosen] = after
    return Gaussians(**tensors)


def _with(scene: Gaussians, **tensors: Tensor) -> Gaussians:
    return Gaussians(**(scene.tensors() | tensors))


def _check_placement(matrix: Matrix) -> None:
    if len(matrix) != 4:
        raise InputError(f"a transform has {len(matrix)} rows, expected four of four numbers")
    similarity(_tensor(matrix))


def _tensor(matrix: Matrix) -> Tensor:
    try:
        return torch.tensor(matrix, dtype=torch.float64)
    except (ValueError, TypeError):
        raise InputError(f"a transform is {matrix}, expected four rows of four numbers") from None
