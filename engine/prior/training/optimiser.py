"""AdamW whose moments are bfloat16 numbers, a cosine schedule, and a running mean of the weights.

The moments are rounded at every step, not only when they are written, so that a run that was stopped and goes on gives
the same bits as one that was not.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .options import Schedule

TABLE = 6  # rows of a table of offsets
MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimiser(network: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW; matrices decay, biases and tables of offsets do not."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if _is_matrix(p)], "weight_decay": schedule.decay},
        {"params": [p for p in trained if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=schedule.rate, betas=schedule.betas)


def rate_at(schedule: Schedule, step: int) -> float:
    """The learning rate of a step: linear from 0 in the warm-up, then half a cosine from `rate` to `final_rate`."""
    if step < schedule.warmup:
        return schedule.rate * (step + 1) / schedule.warmup
    done = min(1.0, (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup))
    return schedule.final_rate + (schedule.rate - schedule.final_rate) * 0.5 * (1 + math.cos(math.pi * done))


def round_moments(optimiser: torch.optim.Optimizer) -> None:
    """Rounds the moments to what bfloat16 holds."""
    for state in optimiser.state.values():
        for name in MOMENTS:
            state[name].copy_(state[name].bfloat16())


@torch.no_grad()
def follow(mean: Iterable[Tensor], weights: Iterable[Tensor], keep: float) -> None:
    """One step of the running mean."""
    for held, now in zip(mean, weights, strict=True):
        held.lerp_(now.detach(), 1 - keep)


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.dim() > 1 and min(parameter.shape[:2]) > TABLE
