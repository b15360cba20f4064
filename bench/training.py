"""A training step without its trainer: a frame, and its backward pass to the scene, beside the frame alone.

The loss is the sum of RGB: what a real one costs, and what an optimiser does with the gradients, is the trainer's.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..engine.machine import peak_memory
from ..engine.renderer import backend_device, render
from ..engine.scene.camera import Camera
from ..engine.scene.gaussians import Gaussians
from ..kernels.frames import GRADIENT_STAGES, STAGES, Rendering, Span, no_span
from .bounds import shares
from .cases import Case
from .clock import FRAME, STEP, Clock
from .roofline import Work


@dataclass(frozen=True, eq=False)
class Step:
    """What a step has made."""

    frame: Rendering
    gradients: dict[str, Tensor]  # of the scene's tensors, by their names and in their shapes

    @property
    def work(self) -> Work:
        """What it did; waits for a GPU."""
        by_opacity, (visible, pairs, splat_pixels) = self.gradients["opacities"], map(int, self.frame.counts)
        pixels, reached = self.frame.alpha.numel(), int(by_opacity.count_nonzero())
        return Work(len(by_opacity), visible, pairs, splat_pixels, pixels, reached)


def trainable(scene: Gaussians) -> Gaussians:
    """The same splats, for `step`: a gradient of each tensor is wanted."""
    return Gaussians(**{name: tensor.detach().requires_grad_() for name, tensor in scene.tensors().items()})


def step(scene: Gaussians, camera: Camera, *, backend: str, span: Span = no_span) -> Step:
    """A frame and its gradients; nothing is left in the tensors' `grad`.

    Args:
        scene: of `trainable`, on the backend's device.
        span: also opened round the whole, as `STEP`.
    """
    with span(STEP):
        frame = render(scene, camera, backend=backend, span=span)
        tensors = scene.tensors()
        found = torch.autograd.grad(frame.rgb, list(tensors.values()), torch.ones_like(frame.rgb))
    return Step(frame, dict(zip(tensors, found, strict=True)))


def measure_training(case: Case, *, backend: str, warmup: int) -> dict[str, object]:
    """Medians of the steps of a case, stage by stage, and of frames without gradients, one after each step.

    Args:
        backend: a resolved one, not `auto`.
        warmup: steps that do not count, after one that compiles.
    """
    device = backend_device(backend)
    plain = case.gaussians.to(device)
    scene, cameras = trainable(plain), case.cameras
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for i in range(1 + warmup):
        step(scene, cameras[i % len(cameras)], backend=backend)
        render(plain, cameras[i % len(cameras)], backend=backend)
    steps, frames, works = Clock(device), Clock(device), []
    for i in range(case.rounds * len(cameras)):
        camera = cameras[i % len(cameras)]
        works.append(step(scene, camera, backend=backend, span=steps.span).work)
        with frames.span(FRAME):
            render(plain, camera, backend=backend)
    stages = {name: float(np.median(values)) for name, values in steps.milliseconds().items()}
    frame = float(np.median(frames.milliseconds()[FRAME]))
    work = _median(works)
    return {
        "scene": case.name,
        "splats": len(plain),
        "milliseconds": {name: stages[name] for name in (*STAGES, *GRADIENT_STAGES, STEP) if name in stages},
        "frame_milliseconds": frame,
        "ratio": stages[STEP] / frame,
        "reached": work.reached,
        "peak_memory_bytes": peak_memory(device),
        "bounds": shares(backend, work, plain.sh_degree, stages),
    }


def _median(works: list[Work]) -> Work:
    columns = np.array([list(vars(work).values()) for work in works])
    return Work(*np.median(columns, axis=0).astype(np.int64).tolist())
