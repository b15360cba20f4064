"""New views of scenes from one or two known ones: by the student, by its teacher, and by what needs neither."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..clips import Clips
from ..denoiser import Condition, denoise, make_condition
from ..sampling import integrate, sample
from ..weights import Prior
from .baselines import averaged, copied, regressed, warped
from .metrics import Scores, picture_scores, psnr, seen_mask
from .rivals import Rivals
from .scenes import Trial

STUDENT_STEPS, TEACHER_STEPS = (1, 2, 4), (4, 8, 32)
COPY, MEAN, WARP, REGRESSION = "copy of the nearest view", "mean of the views", "warp by true depth", "regression net"
FEW, MANY, SAMPLES = "student, 4 steps", "teacher, 32 steps", "student, 4 steps, mean of samples"
PERTURBATIONS = (0.02, 0.05, 0.1, 0.2)  # of targets' poses: radians, and median depths

Rows = dict[str, Scores]


@dataclass(frozen=True)
class Plan:
    """How much is drawn."""

    known: int
    """Views that are given."""
    samples: int = 16
    """Of which the mean is taken; 1 leaves that out."""


def novel_views(nets: Prior, rivals: Rivals, trial: Trial, plan: Plan, digest: "hashlib._Hash") -> Rows:
    """The scores of each way to make a batch's targets; `seconds` are those of a scene, without its condition.

    Args:
        nets: the student.
        rivals: the teacher and the regression net, sampled beside it.
        trial: the scenes, all of whose views but the first are targets.
        plan: how much is drawn.
        digest: is fed the bytes of the student's frames in 4 steps.
    """
    clips, known = trial.clips, plan.known
    truth, seen = clips.rgb[:, known:], seen_mask(clips, known)
    condition = condition_of(nets, clips, known)
    ways: dict[str, Callable[[], Tensor]] = {
        COPY: partial(copied, clips, known),
        MEAN: partial(averaged, clips, known),
        WARP: partial(warped, clips, known),
        REGRESSION: partial(regressed, rivals.regression, condition, known),
    }
    for steps in STUDENT_STEPS:
        ways[f"student, {steps} step{'s' * (steps > 1)}"] = lambda steps=steps: student_views(
            nets, condition, known, steps, trial.dice.of(f"student {known} {steps} 0")
        )
    for steps in TEACHER_STEPS:
        ways[f"teacher, {steps} steps"] = lambda steps=steps: teacher_views(
            rivals, condition, known, steps, trial.dice.of(f"teacher {known}")
        )
    rows: Rows = {}
    total = torch.zeros_like(truth)
    for name, way in ways.items():
        found, seconds = _timed(way)
        rows[name] = picture_scores(found, truth, seen) | {"seconds": truth.new_full((len(clips),), seconds)}
        if name == FEW:
            digest.update((found * 255).round().byte().cpu().numpy().tobytes())
            total += found
    for i in range(1, plan.samples):
        total += student_views(nets, condition, known, 4, trial.dice.of(f"student {known} 4 {i}"))
    if plan.samples > 1:
        rows[SAMPLES] = picture_scores(total / plan.samples, truth, seen)
    rows[WARP]["seen share"] = seen.float().flatten(1).mean(dim=1)
    return rows


def camera_control(nets: Prior, trial: Trial, known: int, amounts: Sequence[float]) -> Scores:
    """PSNR [b] of the student's 4 steps beside the true targets, when it is told other poses than theirs.

    `permuted`: each target gets the pose of the next. A number: all targets are turned by so many radians about random
    axes and moved by so many median depths in random directions.
    """
    clips = trial.clips
    truth = clips.rgb[:, known:]
    scores: Scores = {}
    poses = {"permuted": clips.world_to_camera[:, known:].roll(1, dims=1)}
    for amount in amounts:
        poses[f"{amount:g}"] = moved(clips.world_to_camera[:, known:], amount, trial.dice.of("poses"))
    for name, pose in poses.items():
        told = torch.cat((clips.world_to_camera[:, :known], pose), 1)
        condition = condition_of(nets, clips, known, told)
        # The same noise as in the table of views, so that poses alone make the difference.
        found = student_views(nets, condition, known, 4, trial.dice.of(f"student {known} 4 0"))
        scores[name] = psnr(found, truth)
    return scores


def condition_of(nets: Prior, clips: Clips, known: int, poses: Tensor | None = None) -> Condition:
    """What a denoiser is told of clips, whose poses may be replaced."""
    told = clips.world_to_camera if poses is None else poses
    return make_condition(clips.rgb[:, :known], told, clips.K, clips.times, nets.student.planes, use_rays=nets.rays)


def student_views(nets: Prior, condition: Condition, known: int, steps: int, generator: torch.Generator) -> Tensor:
    """[b, t, 3, h, w] 0 to 1: the targets as the student makes them."""
    views = sample(lambda x, t: denoise(nets.student, x, t, condition), condition, steps, generator)
    return (0.5 * views[:, known:] + 0.5).clamp(0, 1)


def teacher_views(rivals: Rivals, condition: Condition, known: int, steps: int, generator: torch.Generator) -> Tensor:
    """The same of the teacher."""
    views = integrate(lambda x, t: denoise(rivals.teacher, x, t, condition), condition, steps, generator)
    return (0.5 * views[:, known:] + 0.5).clamp(0, 1)


def moved(world_to_camera: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Poses [b, v, 4, 4] turned by an angle about random axes and moved as far in random directions, in camera axes."""
    axes = torch.randn(2, *world_to_camera.shape[:2], 3, generator=generator).to(world_to_camera)
    axis, way = axes / axes.norm(dim=-1, keepdim=True)
    step = torch.zeros_like(world_to_camera)
    step[..., 0, 1], step[..., 0, 2], step[..., 1, 2] = -axis[..., 2], axis[..., 1], -axis[..., 0]
    step[..., 1, 0], step[..., 2, 0], step[..., 2, 1] = axis[..., 2], -axis[..., 1], axis[..., 0]
    step = torch.linalg.matrix_exp(amount * step)
    step[..., :3, 3] = amount * way
    return step @ world_to_camera


def _timed(way: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """What it makes, and seconds a scene."""
    begun = time.perf_counter()
    found = way()
    if found.is_cuda:
        torch.cuda.synchronize()
    return found, (time.perf_counter() - begun) / len(found)
