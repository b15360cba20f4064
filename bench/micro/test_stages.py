"""Each stage of a frame and of a training step under pytest-benchmark: `pytest bench/micro`, `--benchmark-compare`.

A round renders a whole frame, or for the backward stages makes a whole step (bench/training.py); what is timed is the
stage's own span, by events on a GPU. So a case needs nothing of a stage but its name, and stays comparable while the
kernels behind it change. Beside the times, `extra_info` holds what the stage moved and computed at least, the physical
bound (bench/roofline.py) and which share of it was reached.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import pytest
import torch

from lyra.bench.bounds import stage_bounds
from lyra.bench.clock import FRAME, STEP, Clock
from lyra.bench.options import resolution
from lyra.bench.roofline import Work
from lyra.bench.training import step, trainable
from lyra.engine.renderer import backend_device, render
from lyra.engine.scene.camera import Camera
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.paths import Framing, orbit
from lyra.engine.source import open_scene
from lyra.kernels.backends import why_unavailable
from lyra.kernels.frames import GRADIENT_STAGES, STAGES

ROUNDS, WARMUP = 20, 3
WHOLES = {FRAME: STAGES, STEP: (*STAGES, *GRADIENT_STAGES)}


class StageClock:
    """What pytest-benchmark takes for the time: seconds spent so far in one stage."""

    clock = Clock(torch.device("cpu"))
    stage = FRAME

    @classmethod
    def start(cls, stage: str, device: torch.device) -> None:
        """Count the spans of a stage from now on."""
        cls.clock, cls.stage = Clock(device), stage


def seconds() -> float:
    """See `StageClock`."""
    return 1e-3 * float(sum(StageClock.clock.milliseconds().get(StageClock.stage, ())))


@lru_cache(maxsize=2)
def scene_of(splats: str, device: torch.device) -> tuple[Gaussians, Framing]:
    """The courtyard on its device."""
    gaussians, framing = open_scene(f"procedural:{splats}")
    return gaussians.to(device), framing


def run_of(stage: str, backend: str, gaussians: Gaussians, camera: Camera) -> Callable[[], Work]:
    """What a round does to come by the stage; told what it was."""
    if stage in (*GRADIENT_STAGES, STEP):
        scene = trainable(gaussians)
        return lambda: step(scene, camera, backend=backend, span=StageClock.clock.span).work

    def frame() -> Work:
        with StageClock.clock.span(FRAME):
            drawn = render(gaussians, camera, backend=backend, span=StageClock.clock.span)
        return Work(len(gaussians), *(int(count) for count in drawn.counts), camera.width * camera.height)

    return frame


@pytest.mark.benchmark(timer=seconds, disable_gc=True)
def test_stage(benchmark: Any, backend: str, stage: str, splats: str, res: str) -> None:
    reason = why_unavailable(backend)
    if reason or (backend == "triton" and not torch.cuda.is_available()):
        pytest.skip(reason or "Triton's interpreter is not for timing")
    width, height = resolution(res)
    gaussians, framing = scene_of(splats, backend_device(backend))
    camera = orbit(framing, 8, width=width, height=height)[1]
    StageClock.start(stage, backend_device(backend))
    benchmark.group = f"{stage}, {backend}"
    work = benchmark.pedantic(run_of(stage, backend, gaussians, camera), rounds=ROUNDS, warmup_rounds=WARMUP)
    benchmark.extra_info.update(asdict(work))
    bounds = stage_bounds(backend, work, gaussians.sh_degree)
    if bounds is not None and benchmark.stats is not None:
        parts = [bounds[name] for name in WHOLES.get(stage, (stage,))]
        bound = sum(part.seconds for part in parts)
        benchmark.extra_info.update(
            bytes=sum(part.bytes for part in parts),
            instructions=sum(part.instructions for part in parts),
            bound_seconds=bound,
            share_of_bound=bound / benchmark.stats.stats.median,
        )
