"""What level of detail costs and what it shows: one tree of a scene, drawn with fewer and fewer splats."""

import math
import time
from typing import Any

import numpy as np

from ..engine.formats.format import Progress, no_progress
from ..engine.likeness import flip, ms_ssim, psnr
from ..engine.lod import detail
from ..engine.lod.build import BuildOptions, build_tree
from ..engine.lod.tree import Tree
from ..engine.machine import peak_memory
from ..engine.renderer import Renderer, backend_device
from ..engine.scene.camera import Camera
from ..engine.scene.paths import frame_scene
from ..kernels.frames import STAGES
from .cases import Case
from .clock import FRAME, Clock
from .lod_store import measure_store
from .popping import forward, popping

SHARES = (2, 4, 8, 16)  # budgets: the scene's splats over these
COMPARED = 6  # cameras, evenly along the path, whose pictures are compared
SLOW, FAST = 0.001, 0.01  # of the scene's framing, how far a dolly moves in a frame: for popping, and for the cache
PAGED = 4  # the budget of what is drawn from a store: the scene's splats over this
SPANS = (*detail.STAGES[1:], *STAGES, FRAME)  # a tree in memory has no pages to bring up to date


def measure_lod(
    case: Case,
    *,
    backend: str,
    quality: bool,
    frames: int,
    warmup: int,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Everything that `lyra-bench --lod` says about a case, as docs/bench.md has it.

    Args:
        backend: a resolved one, not `auto`.
        quality: build the tree by similarity.
        frames: of each dolly.
        warmup: frames along the path that do not count.
        progress: of the tree's build, in splats.
    """
    before = time.perf_counter()
    tree = build_tree(case.gaussians, BuildOptions(quality=quality), progress=progress)
    build = {"quality": quality, "seconds": time.perf_counter() - before, "nodes": len(tree)}
    splats, camera, radius = len(case.gaussians), case.cameras[0], frame_scene(case.gaussians).radius
    budgets = [max(1, splats // share) for share in SHARES]
    swept = sweep(case, tree, budgets, backend=backend, warmup=warmup)
    path = forward(camera, SLOW * radius, frames)
    popped = popping(case.gaussians, tree, budgets, path, backend=backend)
    path = forward(camera, FAST * radius, frames)
    stored = measure_store(tree, path, budget=max(1, splats // PAGED), backend=backend)
    return {
        "scene": case.name,
        "backend": backend,
        "splats": splats,
        "sh_degree": case.gaussians.sh_degree,
        "width": camera.width,
        "height": camera.height,
        "cameras": len(case.cameras),
        "build": build,
        **swept,
        "popping": {"step": SLOW * radius, "frames": frames, "budgets": popped},
        "store": stored,
        "peak_memory_bytes": peak_memory(backend_device(backend)),
    }


def sweep(case: Case, tree: Tree, budgets: list[int], *, backend: str, warmup: int) -> dict[str, Any]:
    """Times of frames with each budget and of full detail, taken in turn, and how alike their pictures are."""
    device, cameras = backend_device(backend), case.cameras
    full = Renderer(case.gaussians, backend=backend)
    renderers = [full] + [Renderer(tree, budget=budget, backend=backend) for budget in budgets]
    clocks = [Clock(device) for _ in renderers]
    drawn: list[list[int]] = [[] for _ in renderers]
    for i in range(-1 - warmup, case.rounds * len(cameras)):  # the first compiles
        for renderer, clock, numbers in zip(renderers, clocks, drawn, strict=True):
            if i < 0:
                renderer.render(cameras[i % len(cameras)])
                continue
            with clock.span(FRAME):
                renderer.render(cameras[i % len(cameras)], span=clock.span)
            numbers.append(len(case.gaussians) if renderer.detail is None else int(renderer.detail.number))
    some = np.linspace(0, len(cameras) - 1, min(COMPARED, len(cameras))).round().astype(int).tolist()
    seen = [cameras[i] for i in some]
    rows = [
        {
            "budget": budget,
            "drawn": int(np.median(numbers)),
            "milliseconds": medians(clock),
            "quality": _quality(full, renderer, seen),
        }
        for budget, renderer, clock, numbers in zip(budgets, renderers[1:], clocks[1:], drawn[1:], strict=True)
    ]
    return {"frames": case.rounds * len(cameras), "full": {"milliseconds": medians(clocks[0])}, "budgets": rows}


def medians(clock: Clock) -> dict[str, float]:
    """Milliseconds of each span, in the order of `SPANS`."""
    found = clock.milliseconds()
    return {span: float(np.median(found[span])) for span in SPANS if span in found}


def _quality(full: Renderer, renderer: Renderer, cameras: list[Camera]) -> dict[str, float | None]:
    """Means over the cameras, against full detail; None for equal pictures, and MS-SSIM of small ones."""
    pairs = [(full.render(camera).rgb.cpu(), renderer.render(camera).rgb.cpu()) for camera in cameras]
    decibels = [psnr(*pair) for pair in pairs]
    structure = [value for pair in pairs if (value := ms_ssim(*pair)) is not None]
    return {
        "psnr": float(np.mean(decibels)) if math.isfinite(sum(decibels)) else None,
        "psnr_least": min(decibels) if math.isfinite(min(decibels)) else None,
        "ms_ssim": float(np.mean(structure)) if structure else None,
        "flip": float(np.mean([flip(*pair) for pair in pairs])),
    }
