"""Checkpoints: weights, their running mean and the optimiser's moments, in shards small enough for any repository."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ...errors import InputError
from ...files import cause
from .optimiser import MOMENTS

SHARD = 15 << 20  # bytes
STATE, TEMPORARY, OLD = "state.json", ".new", ".old"


def save_checkpoint(
    folder: Path, network: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]
) -> None:
    """Write all that a run needs to go on, in place of what was there; a crash leaves the one or the other.

    Args:
        folder: of the checkpoint; made with its parents.
        network: being trained.
        mean: the running mean of its weights.
        optimiser: AdamW over the network's weights, with moments that bfloat16 holds.
        state: what JSON holds beside it.
    """
    tensors = {f"weights.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"mean.{name}": value for name, value in mean.state_dict().items()}
    for name, parameter in network.named_parameters():
        for moment in MOMENTS:
            if parameter in optimiser.state:
                tensors[f"{moment}.{name}"] = optimiser.state[parameter][moment].bfloat16()
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    fresh, old = folder.with_name(folder.name + TEMPORARY), folder.with_name(folder.name + OLD)
    for place in (fresh, old):
        shutil.rmtree(place, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        # Decimal megabytes are what the splitter counts in.
        split = split_torch_state_dict_into_shards(tensors, max_shard_size=SHARD)
        for name, members in split.filename_to_tensors.items():
            save_file({member: tensors[member] for member in members}, fresh / name)
        (fresh / STATE).write_text(json.dumps(state | {"shards": sorted(split.filename_to_tensors)}))
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)
    except OSError as error:
        raise InputError(f"{folder}: {cause(error)}, give a folder with room that can be written") from error
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path, network: nn.Module, mean: nn.Module, optimiser: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Put a run back where a checkpoint left it; the state beside it, or None where there is no checkpoint.

    Raises:
        InputError: it is damaged or of another network.
    """
    if not folder.exists() and folder.with_name(folder.name + OLD).exists():
        os.replace(folder.with_name(folder.name + OLD), folder)  # a crash came between two renames
    if not folder.exists():
        return None
    try:
        state = json.loads((folder / STATE).read_text())
        tensors: dict[str, Tensor] = {}
        for name in state["shards"]:
            tensors |= load_file(folder / Path(name).name)
        for prefix, module in (("weights.", network), ("mean.", mean)):
            module.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
        for name, parameter in network.named_parameters():
            if f"{MOMENTS[0]}.{name}" in tensors:
                moments = {moment: tensors[f"{moment}.{name}"].to(parameter) for moment in MOMENTS}
                optimiser.state[parameter] = {"step": torch.tensor(float(state["step"])), **moments}
    except Exception as error:  # safetensors, JSON and torch each raise their own
        raise InputError(
            f"{folder} is no checkpoint of this network ({cause(error)}): remove it to begin anew"
        ) from None
    return state
