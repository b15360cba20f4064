"""Worlds as training data: fresh clips without end."""

import torch
from torch import Generator, Tensor

from ..clips import Clips
from . import paths
from .record import Worlds
from .scenes import SPLITS, WorldOptions, sample
from .trace import trace


class WorldSource:
    """Random clips of random worlds. All randomness is the CPU generator's: the same seed gives the same bytes.

    A split is part of every seed that is drawn, so no two splits ever share one.
    """

    def __init__(self, options: WorldOptions | None = None, device: torch.device | str = "cpu") -> None:
        self.options = options or WorldOptions()
        self.device = torch.device(device)

    def clips(self, count: int, views: int, size: tuple[int, int], generator: Generator) -> Clips:
        """Clips of `count` worlds on the source's device, size being width and height; alpha is 1 everywhere.

        The views are places along one path, in random order. In half of the scenes time runs with the path, as in a
        video; in the others the times are dealt anew.
        """
        worlds = sample(self.options, count, self._stream(generator))
        world_to_camera, K, times = self.cameras(worlds, views, size, generator)
        worlds = worlds.to(self.device)
        rgb, depth, alpha = trace(worlds, world_to_camera, K, times, size, self.options.supersampling)
        return Clips(rgb, depth, alpha, world_to_camera, K, times)

    def worlds(self, count: int, generator: Generator) -> Worlds:
        """Random worlds on the source's device."""
        return sample(self.options, count, self._stream(generator)).to(self.device)

    def cameras(
        self, worlds: Worlds, views: int, size: tuple[int, int], generator: Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Random views along the worlds' paths: world_to_camera [b, v, 4, 4], K [b, v, 3, 3] and times [b, v]."""
        stream = self._stream(generator)
        rig, (w, h), b = worlds.rig.to("cpu"), size, len(worlds)
        steps = torch.arange(views) + torch.rand(b, views, generator=stream)
        steps = (steps - steps[:, :1]) / (steps[:, -1:] - steps[:, :1]) if views > 1 else steps
        along = steps.gather(1, torch.rand(b, views, generator=stream).argsort(1))
        dealt = steps.gather(1, torch.rand(b, views, generator=stream).argsort(1))
        times = torch.where(torch.rand(b, 1, generator=stream) < 0.5, along, dealt)
        sway = 0.02 * torch.randn(b, views, 2, generator=stream)
        focal = h / 2 / (rig.fov / 2).tan()
        K = torch.zeros(b, views, 3, 3)
        K[..., 0, 0] = K[..., 1, 1] = focal[:, None]
        K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = w / 2, h / 2, 1
        return paths.poses(rig, along, sway).to(self.device), K.to(self.device), times.to(self.device)

    def _stream(self, generator: Generator) -> Generator:
        """A stream of the split's own: torch seeds with 32 bits, of which the lowest two name the split."""
        drawn = int(torch.randint(1 << 30, (), generator=generator))
        return torch.Generator().manual_seed(drawn * 4 + SPLITS.index(self.options.split))
