"""How frame time grows with the scene: one scene standing 1, 10 and 100 times in a store, drawn with one budget.

The copies are instances: they share the pages of the file, but none of memory, where each page that is drawn from is
there for itself. Above them the tree is one of real merges, as above the chunks of a large scene.
"""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine.cache import PageCache
from ..engine.cache_options import CacheOptions
from ..engine.formats.format import Progress, no_progress
from ..engine.lod import detail
from ..engine.lod.build import BuildOptions, build_tree
from ..engine.lod.pages import CAPACITY
from ..engine.lod.parts import REACH, top_of
from ..engine.lod.store import Store, open_store
from ..engine.lod.tree import Tree
from ..engine.lod.writer import StoreWriter
from ..engine.machine import peak_memory
from ..engine.renderer import Renderer, backend_device
from ..kernels.frames import STAGES
from .cases import Case
from .clock import FRAME, Clock
from .lod_store import settle
from .scenes import lattice, widths

COPIES = (1, 10, 100)  # growth is that over the first
BUDGET = 500_000  # splats, or half of the scene's if that is less
SPACING = 1.1  # from copy to copy, over the wider side of the scene's ground
CACHE = CacheOptions(device_bytes=4 << 30, host_bytes=1 << 28)
SPANS = (*detail.STAGES, *STAGES, FRAME)
READS = ("hits", "misses", "evictions", "bytes_read")


def measure_scaling(
    case: Case,
    *,
    backend: str,
    quality: bool,
    warmup: int,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Everything that `lyra-bench --lod --scaling` says about a case, as docs/bench.md has it.

    Args:
        backend: a resolved one, not `auto`.
        quality: build the tree by similarity.
        warmup: frames along the path that do not count, once all is resident.
        progress: of the tree's build, in splats.
    """
    options = BuildOptions(quality=quality)
    before = time.perf_counter()
    tree = build_tree(case.gaussians, options, progress=progress)
    build = {"quality": quality, "seconds": time.perf_counter() - before, "nodes": len(tree)}
    spacing = SPACING * float((lattice(case.up, 4).amax(dim=0) * widths(case.gaussians)).max())
    budget = max(1, min(BUDGET, len(case.gaussians) // 2))
    with tempfile.TemporaryDirectory(prefix="lyra-bench-") as folder, ExitStack() as opened:
        stores, rows = [], []
        for number in COPIES:
            path = Path(folder) / f"{number}.lyra"
            before = time.perf_counter()
            write_copies(path, tree, lattice(case.up, number) * spacing, options)
            seconds = time.perf_counter() - before
            stores.append(store := opened.enter_context(open_store(path)))
            rows.append(
                {
                    "copies": number,
                    "splats": store.metadata.splats,
                    "nodes": store.metadata.nodes,
                    "pages": len(store),
                    "bytes": path.stat().st_size,
                    "write_seconds": seconds,
                }
            )
        for row, found in zip(rows, draw_in_turn(case, stores, budget, backend=backend, warmup=warmup), strict=True):
            row.update(found)
        for row in rows:
            row["growth"] = row["milliseconds"][FRAME] / rows[0]["milliseconds"][FRAME]
    return {
        "scene": case.name,
        "backend": backend,
        "splats": len(case.gaussians),
        "sh_degree": case.gaussians.sh_degree,
        "width": case.cameras[0].width,
        "height": case.cameras[0].height,
        "cameras": len(case.cameras),
        "frames": case.rounds * len(case.cameras),
        "build": build,
        "spacing": spacing,
        "budget": budget,
        "device_bytes": CACHE.device_bytes,
        "host_bytes": CACHE.host_bytes,
        "copies": rows,
        "peak_memory_bytes": peak_memory(backend_device(backend)),
    }


def write_copies(path: Path, tree: Tree, shifts: torch.Tensor, options: BuildOptions) -> None:
    """A store in which a tree stands as often as there are shifts [copies, 3], moved by each.

    The file holds the tree's pages once, but for the first, in which the tops of all copies are.
    """
    low, high = tree.gaussians.means.amin(dim=0), tree.gaussians.means.amax(dim=0)
    diagonal = float((high - low + shifts.amax(dim=0) - shifts.amin(dim=0)).norm())
    with StoreWriter(path, radius=REACH * max(diagonal, 1e-6)) as writer:
        part = writer.add(tree, keep=max(1, CAPACITY // len(shifts) - 1))
        writer.finish(*top_of([part] * len(shifts), options, shifts))


def draw_in_turn(
    case: Case, stores: Sequence[Store], budget: int, *, backend: str, warmup: int
) -> list[dict[str, Any]]:
    """Each camera with each store in turn, when all caches have what the path wants, as far as there is room."""
    device, cameras = backend_device(backend), case.cameras
    with ExitStack() as opened:
        caches = [opened.enter_context(PageCache([store], options=CACHE, device=device)) for store in stores]
        renderers = [Renderer(cache, budget=budget, backend=backend) for cache in caches]
        for cache, renderer in zip(caches, renderers, strict=True):
            for camera in cameras:
                settle(cache, renderer, camera)
        clocks = [Clock(device) for _ in stores]
        drawn: list[list[int]] = [[] for _ in stores]
        begin = []
        for i in range(-1 - warmup, case.rounds * len(cameras)):
            if i == 0:
                begin = [asdict(cache.counters()) for cache in caches]
            for renderer, clock, numbers in zip(renderers, clocks, drawn, strict=True):
                if i < 0:
                    renderer.render(cameras[i % len(cameras)])
                    continue
                with clock.span(FRAME):
                    renderer.render(cameras[i % len(cameras)], span=clock.span)
                numbers.append(int(renderer.detail.number))  # type: ignore[union-attr]
        return [
            _found(clock, numbers, first, asdict(cache.counters()))
            for clock, numbers, first, cache in zip(clocks, drawn, begin, caches, strict=True)
        ]


def _found(clock: Clock, drawn: list[int], begin: dict[str, int], end: dict[str, int]) -> dict[str, Any]:
    times = clock.milliseconds()
    return {
        "drawn": int(np.median(drawn)),
        "resident_nodes": end["device_nodes"],
        "resident_bytes": end["device_bytes"],
        "held_host_bytes": end["host_bytes"],
        "milliseconds": {span: float(np.median(times[span])) for span in SPANS},
        **{name: end[name] - begin[name] for name in READS},
    }
