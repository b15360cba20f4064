"""Each stage of a frame under pytest-benchmark: `pytest bench/micro`, `--benchmark-compare` for two commits.

A round renders a whole frame; what is timed is the stage's own span, by events on a GPU. So a case needs nothing of a
stage but its name, and stays comparable while the kernels behind it change. Beside the times, `extra_info` holds what
the stage moved and computed at least, the physical bound (bench/roofline.py) and which share of it was reached.
"""

from dataclasses import asdict
from functools import lru_cache
from typing import Any

import pytest
import torch

from lyra.bench.bounds import stage_bounds
from lyra.bench.clock import FRAME, Clock
from lyra.bench.options import resolution
from lyra.bench.roofline import Work
from lyra.engine.renderer import backend_device, render
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.paths import Framing, orbit
from lyra.engine.source import open_scene
from lyra.kernels.backends import why_unavailable
from lyra.kernels.frames import Rendering

ROUNDS, WARMUP = 20, 3


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


@pytest.mark.benchmark(timer=seconds, disable_gc=True)
def test_stage(benchmark: Any, backend: str, stage: str, splats: str, res: str) -> None:
    reason = why_unavailable(backend)
    if reason or (backend == "triton" and not torch.cuda.is_available()):
        pytest.skip(reason or "Triton's interpreter is not for timing")
    width, height = resolution(res)
    gaussians, framing = scene_of(splats, backend_device(backend))
    camera = orbit(framing, 8, width=width, height=height)[1]
    StageClock.start(stage, backend_device(backend))

    def frame() -> Rendering:
        with StageClock.clock.span(FRAME):
            return render(gaussians, camera, backend=backend, span=StageClock.clock.span)

    benchmark.group = f"{stage}, {backend}"
    drawn = benchmark.pedantic(frame, rounds=ROUNDS, warmup_rounds=WARMUP)
    work = Work(len(gaussians), *(int(count) for count in drawn.counts), width * height)
    benchmark.extra_info.update(asdict(work))
    bounds = stage_bounds(backend, work, gaussians.sh_degree)
    if bounds is not None and benchmark.stats is not None:
        parts = list(bounds.values()) if stage == FRAME else [bounds[stage]]
        bound = sum(part.seconds for part in parts)
        benchmark.extra_info.update(
            bytes=sum(part.bytes for part in parts),
            instructions=sum(part.instructions for part in parts),
            bound_seconds=bound,
            share_of_bound=bound / benchmark.stats.stats.median,
        )
