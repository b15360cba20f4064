"""The networks that are measured, as training left them in a folder."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import InputError
from ...files import cause, read_bytes
from ..decoder import DecoderNetwork
from ..denoiser import DenoiserNetwork
from ..weights import load_network


@dataclass(frozen=True, eq=False)
class Networks:
    """What makes views and Gaussians of them."""

    student: DenoiserNetwork
    decoder: DecoderNetwork
    rays: bool  # False: trained without Pluecker rays
    fused: bool  # False: the decoder's views do not look at each other


@dataclass(frozen=True, eq=False)
class Rivals:
    """What the student is compared with."""

    teacher: DenoiserNetwork
    regression: DenoiserNetwork


def open_networks(folder: Path, device: torch.device) -> Networks:
    """The student and the decoder in a prior's folder.

    Raises:
        InputError: there is no such folder, or a part of it is missing or damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, give the folder `prior` that training wrote")
    student, decoder = load_network(folder / "student", device), load_network(folder / "decoder", device)
    if not isinstance(student, DenoiserNetwork) or not isinstance(decoder, DecoderNetwork):
        raise InputError(f"{folder}: student and decoder hold other networks: give a folder that training wrote")
    try:
        note = json.loads(read_bytes(folder / "prior.json"))
        rays, fused = bool(note.get("rays", True)), bool(note.get("fused", True))
    except InputError:
        raise
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder / 'prior.json'}: {cause(error)}, give a folder that training wrote") from None
    return Networks(student, decoder, rays, fused)


def open_rivals(folder: Path, device: torch.device) -> Rivals:
    """The teacher and the regression net in a prior's folder.

    Raises:
        InputError: a part is missing or damaged.
    """
    teacher, regression = load_network(folder / "teacher", device), load_network(folder / "regression", device)
    if not isinstance(teacher, DenoiserNetwork) or not isinstance(regression, DenoiserNetwork):
        raise InputError(f"{folder}: teacher and regression hold other networks: give a folder that training wrote")
    return Rivals(teacher, regression)
