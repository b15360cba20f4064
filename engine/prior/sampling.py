"""From noise to pictures: the teacher's ordinary differential equation, and the student's few steps.

A level t of noise means x = (1 - t) * clean + t * noise (rectified flow, Liu et al. 2022; Lipman et al. 2022). All
randomness comes from a generator on the CPU, so that a seed means the same pictures on any machine's memory layout.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .denoiser import Condition

Predict = Callable[[Tensor, Tensor], Tensor]  # noisy views [b, v, 3, h, w] and levels [b] to clean views


def noise_like(condition: Condition, generator: torch.Generator) -> Tensor:
    """Standard normal noise for all views, drawn on the CPU."""
    return torch.randn(condition.clean.shape, generator=generator).to(condition.clean.device)


def levels_of(steps: int) -> list[float]:
    """The levels at which so many steps look: from 1 down, evenly; the step after the last ends at 0."""
    return [1 - i / steps for i in range(steps)]


def ode_step(x: Tensor, clean: Tensor, level: Tensor, following: Tensor) -> Tensor:
    """Euler's step of the flow from one level to another, [b] each, given the clean views predicted at the first."""
    share = (following / level.clamp(min=1e-6))[:, None, None, None, None]
    return clean + (x - clean) * share


@torch.no_grad()
def integrate(
    predict: Predict, condition: Condition, steps: int, generator: torch.Generator, scheduler: Any = None
) -> Tensor:
    """Views by a flow-matching teacher, in even steps; [b, v, 3, h, w] -1 to 1.

    Args:
        scheduler: any scheduler of diffusers for velocities, by default Euler's (`FlowMatchEulerDiscreteScheduler`).
    """
    if scheduler is None:
        from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

        scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=levels_of(steps))
    x = noise_like(condition, generator)
    for i, timestep in enumerate(scheduler.timesteps):
        level = x.new_full((len(x),), float(scheduler.sigmas[i]))
        velocity = (x - predict(x, level)) / level.view(-1, 1, 1, 1, 1)
        x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
    return x


@torch.no_grad()
def sample(predict: Predict, condition: Condition, steps: int, generator: torch.Generator) -> Tensor:
    """Views by a consistency model in a few steps: predict, add fresh noise of the next level, predict again.

    Song et al., "Consistency models", 2023, algorithm 1. [b, v, 3, h, w], -1 to 1.
    """
    x = noise_like(condition, generator)
    clean = x
    for i, level in enumerate(levels_of(steps)):
        if i:
            x = (1 - level) * clean + level * noise_like(condition, generator)
        clean = predict(x, x.new_full((len(x),), level))
    return clean
