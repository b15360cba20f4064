"""What the student of a prior is compared with: networks that training leaves beside it."""

from dataclasses import dataclass

import torch

from ...errors import InputError
from ..denoiser import DenoiserNetwork
from ..weights import load_network, prior_folder


@dataclass(frozen=True, eq=False)
class Rivals:
    """What the student is compared with."""

    teacher: DenoiserNetwork
    regression: DenoiserNetwork


def open_rivals(name: str, device: torch.device) -> Rivals:
    """The teacher and the regression net of a prior, which is shipped or in a folder.

    Raises:
        InputError: a part is missing or damaged.
    """
    folder = prior_folder(name)
    teacher, regression = load_network(folder / "teacher", device), load_network(folder / "regression", device)
    if not isinstance(teacher, DenoiserNetwork) or not isinstance(regression, DenoiserNetwork):
        raise InputError(f"{folder}: teacher and regression hold other networks: give a folder that training wrote")
    return Rivals(teacher, regression)
