"""Names of axes: three letters that say where x, y and z point, of Right or Left, Up or Down, Front or Back.

`rdf` is x right, y down, z forward (OpenCV, COLMAP, most .ply files), `rub` that of OpenGL and three.js, `luf` that of
glTF, `ruf` that of Unity (left-handed). Scenes are kept in the axes of their file; what follows is for those who ask.
"""

import torch
from torch import Tensor

from ..errors import InputError

DIRECTIONS = {  # in rdf
    "r": (1.0, 0.0, 0.0), "l": (-1.0, 0.0, 0.0),
    "d": (0.0, 1.0, 0.0), "u": (0.0, -1.0, 0.0),
    "f": (0.0, 0.0, 1.0), "b": (0.0, 0.0, -1.0),
}  # fmt: skip


def axes_change(source: str, target: str) -> Tensor:
    """[3, 3] float64 that takes coordinates in `source` axes to coordinates in `target` axes.

    Raises:
        InputError: three letters that name no axes.
    """
    return _basis(target).T @ _basis(source)


def _basis(name: str) -> Tensor:
    """[3, 3] whose columns are the named axes in rdf."""
    letters = name.lower()
    pairs = {frozenset(pair) & set(letters) for pair in ("rl", "ud", "fb")}
    if len(letters) != 3 or len(pairs) != 3 or frozenset() in pairs or not set(letters) <= set(DIRECTIONS):
        raise InputError(f"axes {name!r} are unknown: give three of right/left, up/down, front/back such as rdf or rub")
    return torch.tensor([DIRECTIONS[letter] for letter in letters], dtype=torch.float64).T
