"""What a prior is compared with: networks that training leaves beside its student, and priors of ablations."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import InputError
from ..denoiser import DenoiserNetwork
from ..training.ablations import ABLATIONS
from ..training.stages import PRIOR
from ..weights import Prior, load_network, open_prior, prior_folder


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


def open_ablations(folder: Path, device: torch.device) -> dict[str, Prior]:
    """The priors that `lyra prior ablate` has finished in a folder, by the names of what they leave out.

    Raises:
        InputError: there is none, or one is damaged.
    """
    there = {name: folder / name / PRIOR for name in ABLATIONS}
    found = {name: open_prior(str(path), device) for name, path in there.items() if (path / "prior.json").is_file()}
    if not found:
        raise InputError(f"{folder} holds no finished ablation: give a folder that lyra prior ablate wrote")
    return found
