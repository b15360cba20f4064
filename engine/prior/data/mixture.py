"""Several sources of clips as one."""

from collections.abc import Sequence
from typing import Protocol

import torch

from ...errors import InputError
from ..clips import Clips, joined


class Source(Protocol):
    """What gives clips to train on."""

    def clips(self, count: int, views: int, size: tuple[int, int], generator: torch.Generator) -> Clips:
        """Fresh clips, size = (width, height), in the source's own world units, all chance from the generator."""
        ...


class Mixture:
    """A source that draws each scene from one of several sources, by their weights."""

    def __init__(self, sources: Sequence[tuple[Source, float]], device: torch.device | str = "cpu") -> None:
        """
        Args:
            sources: each with its weight; they need not add up to 1.
            device: on which clips come, wherever their source makes them.

        Raises:
            InputError: a weight is negative or not finite, or all are 0.
        """
        weights = torch.tensor([weight for _, weight in sources], dtype=torch.float64)
        if not torch.isfinite(weights).all() or bool((weights < 0).any()) or float(weights.sum()) == 0:
            raise InputError(f"weights {weights.tolist()} given: give finite ones from 0, at least one of them above")
        self.sources, self.weights, self.device = [source for source, _ in sources], weights, device

    def clips(self, count: int, views: int, size: tuple[int, int], generator: torch.Generator) -> Clips:
        """As each source; scenes stand in the order in which their sources were drawn."""
        drawn = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        order = drawn.argsort(stable=True)
        parts = [
            source.clips(wanted, views, size, generator).to(self.device)
            for i, source in enumerate(self.sources)
            if (wanted := int((drawn == i).sum()))
        ]
        return joined(parts).scenes(order.argsort().to(self.device))
