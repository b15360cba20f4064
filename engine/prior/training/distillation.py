"""The student: first regression to the teacher's solutions, then consistency along its trajectories."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ..denoiser import Condition, denoise
from ..sampling import levels_of, noise_like, ode_step
from .denoising import Batch, blurred_by
from .losses import pseudo_huber
from .options import DistillOptions

STARTS = 4  # levels from which the student learns each solution


def ode_loss(student: nn.Module, teacher: nn.Module, batch: Batch, steps: int, generator: torch.Generator) -> Tensor:
    """Mean squared error to the end of the teacher's trajectory, from several places of it.

    After Luhman and Luhman, "Knowledge distillation in iterative generative models", 2021, and CausVid (Yin et al.
    2024), where it is what distillation begins with.

    Args:
        steps: of the teacher, a multiple of 4.
    """
    condition = batch.condition
    starts, end = _trajectory(teacher, condition, steps, generator)
    losses = []
    for level, x in starts:
        found = denoise(student, x, x.new_full((len(x),), level), condition)
        losses.append(((found - end).square().mean(dim=(2, 3, 4)) * batch.targets).sum() / batch.targets.sum())
    return torch.stack(losses).mean()


def consistency_loss(
    student: nn.Module,
    target: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    options: DistillOptions,
    generator: torch.Generator,
) -> Tensor:
    """The student says the same at neighbouring points of a trajectory (Song et al., "Consistency models", 2023).

    Args:
        target: a running mean of the student.
    """
    condition, count = batch.condition, len(batch.clean)
    bins = torch.randint(1, options.bins + 1, (count,), generator=generator).to(batch.clean.device)
    level, following = bins / options.bins, (bins - 1) / options.bins
    noisy = blurred_by(batch, level, noise_like(condition, generator))
    with torch.no_grad():
        clean = denoise(teacher, noisy, level, condition)
        ahead = ode_step(noisy, clean, level, following)
        wanted = denoise(target, ahead, following, condition)
        wanted = torch.where((bins == 1)[:, None, None, None, None], clean, wanted)
    found = denoise(student, noisy, level, condition)
    return pseudo_huber(found, wanted, batch.targets, options.huber)


@torch.no_grad()
def _trajectory(
    teacher: nn.Module, condition: Condition, steps: int, generator: torch.Generator
) -> tuple[list[tuple[float, Tensor]], Tensor]:
    """Some places of Euler's way from noise, with their levels, and its end."""
    x = noise_like(condition, generator)
    kept: list[tuple[float, Tensor]] = []
    levels = [*levels_of(steps), 0.0]
    for i, (level, following) in enumerate(pairwise(levels)):
        if i % (steps // STARTS) == 0:
            kept.append((level, x))
        here, there = (x.new_full((len(x),), value) for value in (level, following))
        x = ode_step(x, denoise(teacher, x, here, condition), here, there)
    return kept, x
