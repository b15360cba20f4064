"""The source of clips that a configuration asks for."""

from typing import Protocol

import torch

from ..clips import Clips
from ..worlds.scenes import WorldOptions
from ..worlds.source import WorldSource
from .options import PriorOptions


class Source(Protocol):
    """Anything that makes random posed clips."""

    def clips(self, count: int, views: int, size: tuple[int, int], generator: torch.Generator) -> Clips:
        """Fresh clips; the same numbers, the same clips. Size is width and height."""
        ...


def make_source(options: PriorOptions, device: torch.device, split: str = "train") -> Source:
    """What training, or another split, draws from."""
    return WorldSource(WorldOptions(split=split, moving=options.data.moving), device)
