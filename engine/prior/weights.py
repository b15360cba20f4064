"""A prior on disk: a folder with one folder for each network, as diffusers writes them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from ..errors import InputError
from ..files import cause, read_bytes
from .decoder import DecoderNetwork
from .denoiser import DenoiserNetwork, Planes
from .network import NetworkOptions

CONFIG, TENSORS = "config.json", "diffusion_pytorch_model.safetensors"
KINDS = {"Denoiser": DenoiserNetwork, "GaussianDecoder": DecoderNetwork}
SHIPPED = Path(__file__).with_name("shipped")  # the priors that come with Lyra


@dataclass(frozen=True, eq=False)
class Prior:
    """What generates scenes."""

    name: str
    student: DenoiserNetwork  # sampled in 1, 2 or 4 steps
    decoder: DecoderNetwork
    size: tuple[int, int]  # of the views that they were trained with, pixels
    rays: bool = True  # whether they were trained with rays
    fused: bool = True  # whether the decoder's views were shown each other


def prior_folder(name: str) -> Path:
    """Where the networks of a prior lie: one that is shipped, by its name, or the folder of this name.

    Raises:
        InputError: there is none.
    """
    shipped = sorted(path.name for path in SHIPPED.iterdir() if path.is_dir()) if SHIPPED.is_dir() else []
    folder = SHIPPED / name if name in shipped else Path(name)
    if not folder.is_dir():
        choices = ", ".join([*shipped, "or a folder that training wrote"])
        raise InputError(f"prior {name!r} is neither shipped nor a folder: give {choices}")
    return folder


def open_prior(name: str, device: torch.device | str = "cpu") -> Prior:
    """One that is shipped, by its name, or one in a folder.

    Raises:
        InputError: there is none, or a part of it is missing or damaged.
    """
    folder = prior_folder(name)
    student, decoder = (load_network(folder / part, device) for part in ("student", "decoder"))
    if not isinstance(student, DenoiserNetwork) or not isinstance(decoder, DecoderNetwork):
        raise InputError(f"{folder}: student and decoder hold other networks: give a folder that training wrote")
    try:
        note = json.loads(read_bytes(folder / "prior.json"))
        width, height = note["size"]
        given = str(note["name"]), student, decoder, (int(width), int(height))
        return Prior(*given, bool(note["rays"]), bool(note["fused"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'prior.json'}: {cause(error)}, give a folder that training wrote") from None


def load_network(folder: Path, device: torch.device | str = "cpu") -> nn.Module:
    """A network for inference, in float32.

    Raises:
        InputError: a file is missing, damaged or of another network.
    """
    try:
        config = json.loads(read_bytes(folder / CONFIG))
        sizes = NetworkOptions(**{name: config[name] for name in ("width", "depth", "expansion", "patch", "stem")})
        planes = Planes(config["planes"], config["near"], config["far"])
        network = KINDS[config["_class_name"]](sizes, planes)
        tensors = load(read_bytes(folder / TENSORS))
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder} holds no network of the prior ({cause(error)}): fetch it again") from None
    if not all(math.isfinite(float(parameter.detach().sum())) for parameter in network.parameters()):
        raise InputError(f"{folder} holds weights that are not finite: fetch or train it again")
    return network.to(device).eval().requires_grad_(False)
