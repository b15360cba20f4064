"""A scene drawn from its store: how soon the first frame is there, and what a smaller cache costs on the way."""

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..engine.cache import PageCache
from ..engine.cache_options import CacheOptions
from ..engine.lod.store import open_store
from ..engine.lod.tree import Tree
from ..engine.lod.writer import write_store
from ..engine.renderer import Renderer, backend_device
from ..engine.scene.camera import Camera

CACHES = (8, 4, 2, 1)  # device budgets: the store's pages, decoded, over these
REPEATS = 3  # of a start; the median counts
TIMEOUT = 120.0  # seconds until a view is given up
EACH_FRAME = ("hits", "misses", "evictions", "bytes_read")


def measure_store(tree: Tree, cameras: Sequence[Camera], *, budget: int, backend: str) -> dict[str, Any]:
    """Starts before the first camera, and caches of several sizes along all of them, from a file that is then gone.

    Args:
        budget: splats that a frame draws.
        backend: a resolved one, not `auto`.
    """
    with tempfile.TemporaryDirectory(prefix="lyra-bench-") as folder:
        path = Path(folder) / "scene.lyra"
        before = time.perf_counter()
        write_store(path, tree)
        seconds = time.perf_counter() - before
        with open_store(path) as store, PageCache([store], device=backend_device(backend)) as cache:
            page = cache.counters().device_bytes  # of the first page alone
            pages, decoded = len(store), len(store) * page
        start(path, cameras[0], budget, backend)  # compiles
        return {
            "bytes": path.stat().st_size,
            "pages": pages,
            "decoded_bytes": decoded,
            "write_seconds": seconds,
            "budget": budget,
            "cold": _starts(path, cameras[0], budget, backend) if hasattr(os, "posix_fadvise") else None,
            "warm": _starts(path, cameras[0], budget, backend, cold=False),
            "caches": [along(path, cameras, budget, max(page, decoded // share), backend=backend) for share in CACHES],
        }


def start(path: Path, camera: Camera, budget: int, backend: str) -> dict[str, float]:
    """From nothing to the first frame, and to the one in which all is there that it wants; seconds."""
    before = time.perf_counter()
    with open_store(path) as store, PageCache([store], device=backend_device(backend)) as cache:
        renderer = Renderer(cache, budget=budget, backend=backend)
        renderer.render(camera).rgb.cpu()
        first = time.perf_counter() - before
        settle(cache, renderer, camera)
        renderer.render(camera).rgb.cpu()
        return {"first_seconds": first, "settled_seconds": time.perf_counter() - before}


def settle(cache: PageCache, renderer: Renderer, camera: Camera) -> None:
    """Draw until all is resident, as far as there is room, that the last cut wants too."""
    seen = -1
    while seen != (seen := _linked(cache)):
        cache.settle(TIMEOUT, lambda: renderer.render(camera))


def along(path: Path, cameras: Sequence[Camera], budget: int, device_bytes: int, *, backend: str) -> dict[str, Any]:
    """One frame a camera, as fast as they come, beginning with a view that is settled.

    The operating system has the file by then: what is measured is the cache, not the disk.
    """
    device = backend_device(backend)
    options = CacheOptions(device_bytes=device_bytes)
    with open_store(path) as store, PageCache([store], options=options, device=device) as cache:
        renderer = Renderer(cache, budget=budget, backend=backend)
        settle(cache, renderer, cameras[0])
        begin = last = asdict(cache.counters())
        frames: dict[str, list[int]] = {name: [] for name in EACH_FRAME}
        milliseconds = []
        for camera in cameras:
            before = time.perf_counter()
            renderer.render(camera)
            if device.type == "cuda":
                torch.cuda.synchronize()
            milliseconds.append((time.perf_counter() - before) * 1e3)
            now = asdict(cache.counters())
            for name, values in frames.items():
                values.append(now[name] - last[name])
            last = now
    return {
        "device_bytes": device_bytes,
        "held_device_bytes": last["device_bytes"],
        "milliseconds": {f"p{p}": float(np.percentile(milliseconds, p)) for p in (50, 95, 99)},
        "stalls": last["stalls"] - begin["stalls"],
        **{name: sum(values) for name, values in frames.items()},
        "each_frame": {"milliseconds": milliseconds, **frames},
    }


def _starts(path: Path, camera: Camera, budget: int, backend: str, *, cold: bool = True) -> dict[str, float]:
    found = []
    for _ in range(REPEATS):
        if cold:
            forget(path)
        found.append(start(path, camera, budget, backend))
    return {name: float(np.median([each[name] for each in found])) for name in found[0]}


def forget(path: Path) -> None:
    """Ask the operating system to drop what it keeps of a file in memory."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _linked(cache: PageCache) -> int:
    counters = cache.counters()
    return counters.device_bytes + counters.evictions
