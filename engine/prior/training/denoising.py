"""What the teacher and the regression net are trained by: clips, some of whose views are known."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..clips import Clips
from ..denoiser import Condition, denoise, make_condition
from ..sampling import noise_like
from .losses import velocity_loss
from .options import PriorOptions

Draw = Callable[[int, int, torch.Generator], Clips]  # a number of clips of a number of views, in normalised units


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step sees."""

    condition: Condition
    clean: Tensor  # [b, v, 3, h, w] -1 to 1, the truth
    targets: Tensor  # [b, v] 1 where a view is to be found


def draw_batch(draw: Draw, options: PriorOptions, count: int, generator: torch.Generator) -> Batch:
    """Fresh clips, with random numbers of views and of known ones."""
    views = int(torch.randint(options.views[0], options.views[1] + 1, (), generator=generator))
    most = min(options.clean[1], views - 1)
    known = int(torch.randint(options.clean[0], most + 1, (), generator=generator))
    return as_batch(draw(count, views, generator), known, options)


def as_batch(clips: Clips, known: int, options: PriorOptions) -> Batch:
    """Clips in normalised units whose first views are known."""
    condition = make_condition(
        clips.rgb[:, :known], clips.world_to_camera, clips.K, clips.times, options.planes, use_rays=options.rays
    )
    return Batch(condition, 2 * clips.rgb - 1, 1 - condition.known)


def draw_levels(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels for training: half even, half from a logit-normal distribution (Esser et al. 2024) of much noise."""
    even = torch.rand(count, generator=generator)
    bell = (torch.randn(count, generator=generator) + 0.5).sigmoid()
    return torch.where(torch.rand(count, generator=generator) < 0.5, bell, even)


def blurred_by(batch: Batch, levels: Tensor, noise: Tensor) -> Tensor:
    """The noisy views."""
    share = levels[:, None, None, None, None]
    return (1 - share) * batch.clean + share * noise


def teacher_loss(network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """Flow matching with prediction of clean views."""
    device = batch.clean.device
    levels = draw_levels(len(batch.clean), generator).to(device)
    noisy = blurred_by(batch, levels, noise_like(batch.condition, generator))
    found = denoise(network, noisy, levels, batch.condition)
    return velocity_loss(found, batch.clean, levels, batch.targets)


def regression_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Mean squared error without any noise to look at: the network that a diffusion model of its size competes with."""
    nothing = torch.zeros_like(batch.clean)
    levels = nothing.new_ones(len(nothing))
    return velocity_loss(denoise(network, nothing, levels, batch.condition), batch.clean, levels, batch.targets)
