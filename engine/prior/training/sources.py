"""The source of clips that a configuration asks for."""

import torch

from ..clips import Clips, normalised
from ..data.augment import augment
from ..data.captures import Captures
from ..data.folders import read_capture
from ..data.gaussian_scenes import open_scenes
from ..data.mixture import Mixture, Source
from ..worlds.scenes import WorldOptions
from ..worlds.source import WorldSource
from .options import PriorOptions


class Prepared:
    """Clips of a source as networks take them: changed by chance, in normalised units, on a device."""

    def __init__(self, source: Source, options: PriorOptions, device: torch.device) -> None:
        self._source, self._options, self._device = source, options, device

    def clips(self, count: int, views: int, generator: torch.Generator) -> Clips:
        """Fresh clips of the size that the options name; the same numbers, the same clips."""
        made = self._source.clips(count, views, self._options.size, generator).to(self._device)
        return normalised(augment(made, generator, self._options.data.augment))


def make_source(options: PriorOptions, device: torch.device) -> Source:
    """Worlds, renderings of Gaussian scenes and posed pictures, by their weights.

    Raises:
        InputError: a folder cannot be read, or all weights are 0.
    """
    data = options.data
    sources: list[tuple[Source, float]] = [(WorldSource(WorldOptions(moving=data.moving), device), data.worlds)]
    if data.scenes is not None:
        sources.append((open_scenes(data.scenes, up=data.up, device=device), data.scenes_weight))
    if data.captures:
        sources.append((Captures(tuple(map(read_capture, data.captures))), data.captures_weight))
    return Mixture(sources, device)
