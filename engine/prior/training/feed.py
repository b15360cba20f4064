"""What a run trains on: clips of the sources that its options name, each block of them used several times."""

import torch

from ..clips import Clips, joined
from .denoising import Draw
from .loop import step_generator
from .options import PriorOptions

BLOCK = 16  # batches of clips that are made at once


class Feed:
    """Clips for one stage. A block of fresh ones serves `reuse` times as many steps, in random batches and order.

    A block depends on the seed and on where the run is, not on what came before, so that a run can go on anywhere.
    """

    def __init__(self, draw: Draw, options: PriorOptions, stage: str, rank: int = 0) -> None:
        self._draw, self._options, self._stage, self._rank = draw, options, stage, rank
        self._number, self._block = -1, None

    def __call__(self, step: int, count: int, views: int, generator: torch.Generator) -> Clips:
        """Clips of one step."""
        reuse = self._options.data.reuse
        if reuse == 1:
            return self._draw(count, views, generator)
        number = step // (BLOCK * reuse)
        if self._block is None or number != self._number:
            fresh = step_generator(self._options.seed, f"{self._stage} clips", number, self._rank)
            most = max(self._options.views[1], views)
            self._block = joined([self._draw(count, most, fresh) for _ in range(BLOCK)])
            self._number = number
        chosen = torch.randperm(len(self._block), generator=generator)[:count]
        order = torch.randperm(self._block.rgb.shape[1], generator=generator)[:views]
        return self._block.scenes(chosen).views(order)
