"""What is measured on: batches of scenes, each with random numbers of its own, whatever came before."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ..clips import Clips, normalised
from ..data.mixture import Source
from ..training.loop import step_generator

BATCH = 16  # scenes at once


@dataclass(frozen=True)
class Dice:
    """The random numbers of one batch, by what they are for."""

    seed: int
    scenes: str
    batch: int

    def of(self, purpose: str) -> torch.Generator:
        """A generator; the same purpose, the same numbers."""
        return step_generator(self.seed, f"evaluation {self.scenes} {purpose}", self.batch, 0)


@dataclass(frozen=True, eq=False)
class Trial:
    """One batch."""

    clips: Clips  # in normalised units
    dice: Dice


def trials(
    source: Source, name: str, count: int, views: int, size: tuple[int, int], seed: int, device: torch.device
) -> Iterator[Trial]:
    """So many scenes of a source, in batches.

    Args:
        source: of clips.
        name: of it, part of the seed.
        count: of scenes.
        views: of each.
        size: width and height, pixels.
        seed: of the run.
        device: that the clips go to.
    """
    for number, first in enumerate(range(0, count, BATCH)):
        dice = Dice(seed, name, number)
        made = source.clips(min(BATCH, count - first), views, size, dice.of("clips"))
        yield Trial(normalised(made.to(device)), dice)
