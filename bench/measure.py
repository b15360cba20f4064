"""Render a scene along its cameras and keep what each stage of each frame cost."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..engine.machine import peak_memory
from ..engine.renderer import backend_device, render
from ..engine.scene.camera import Camera
from ..engine.scene.gaussians import Gaussians
from ..kernels.frames import STAGES, Rendering
from .clock import FRAME, Clock
from .roofline import Work

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Measurement:
    """Everything `lyra-bench` says about one scene."""

    scene: str
    backend: str
    splats: int
    sh_degree: int
    width: int
    height: int
    cameras: int
    milliseconds: dict[str, np.ndarray]  # of every measured frame, by stage, and as `frame` for all of it
    visible: int  # median over the frames
    pairs: int
    splat_pixels: int
    peak_memory: int  # bytes

    @property
    def work(self) -> Work:
        """What the median frame did."""
        return Work(self.splats, self.visible, self.pairs, self.splat_pixels, self.width * self.height)

    @property
    def fps(self) -> float:
        """Frames a second at the median frame time."""
        return 1e3 / float(np.median(self.milliseconds[FRAME]))

    @property
    def splat_pixels_per_second(self) -> float:
        """Splat-pixels evaluated in a second of blending, at the median."""
        return self.splat_pixels / (float(np.median(self.milliseconds["blend"])) * 1e-3)

    def percentiles(self, span: str) -> dict[str, float]:
        """Milliseconds at p50, p95 and p99 of a stage or of the frame."""
        values = np.percentile(self.milliseconds[span], PERCENTILES)
        return {f"p{p}": float(value) for p, value in zip(PERCENTILES, values, strict=True)}

    def to_json(self) -> dict[str, object]:
        """As plain values, for a file."""
        return {
            "scene": self.scene,
            "backend": self.backend,
            "splats": self.splats,
            "sh_degree": self.sh_degree,
            "width": self.width,
            "height": self.height,
            "cameras": self.cameras,
            "frames": len(self.milliseconds[FRAME]),
            "milliseconds": {span: self.percentiles(span) for span in (*STAGES, FRAME)},
            "fps": self.fps,
            "visible": self.visible,
            "pairs": self.pairs,
            "splat_pixels": self.splat_pixels,
            "splat_pixels_per_second": self.splat_pixels_per_second,
            "peak_memory_bytes": self.peak_memory,
        }


def measure(
    name: str,
    gaussians: Gaussians,
    cameras: list[Camera],
    *,
    backend: str,
    rounds: int,
    warmup: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measurement:
    """Render every camera `rounds` times, after `warmup` frames that do not count.

    Args:
        backend: a resolved one, not `auto`.
        progress: told after each frame how many of how many are done, outside of what is timed.
    """
    device = backend_device(backend)
    scene = gaussians.to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    total = warmup + rounds * len(cameras)
    render(scene, cameras[0], backend=backend)  # compiles, so that even without warm-up nothing measured does
    for i in range(warmup):
        render(scene, cameras[i % len(cameras)], backend=backend)
        progress(i + 1, total)
    clock, counts = Clock(device), []
    for i in range(rounds * len(cameras)):
        with clock.span(FRAME):
            frame = render(scene, cameras[i % len(cameras)], backend=backend, span=clock.span)
        counts.append([int(value) for value in frame.counts])
        progress(warmup + i + 1, total)
    visible, pairs, splat_pixels = np.median(counts, axis=0).astype(np.int64).tolist()
    return Measurement(
        scene=name,
        backend=backend,
        splats=len(gaussians),
        sh_degree=gaussians.sh_degree,
        width=cameras[0].width,
        height=cameras[0].height,
        cameras=len(cameras),
        milliseconds=clock.milliseconds(),
        visible=visible,
        pairs=pairs,
        splat_pixels=splat_pixels,
        peak_memory=peak_memory(device),
    )


def frame_of(gaussians: Gaussians, camera: Camera, backend: str) -> Rendering:
    """One frame on the CPU, untimed, for pictures and dumps."""
    frame = render(gaussians.to(backend_device(backend)), camera, backend=backend)
    depth = None if frame.depth is None else frame.depth.cpu()
    return frame._replace(rgb=frame.rgb.cpu(), alpha=frame.alpha.cpu(), depth=depth)
