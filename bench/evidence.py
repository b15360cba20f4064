"""All that can be measured on this machine in one run, for a machine that is only lent: numbers, checks, comparisons.

Each part stands alone: one that fails says why in its place, and the file is written anew after each, so that a run
that is cut short leaves what it had. `bench/page.py` makes a page of the file.
"""

import datetime
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ..engine import machine
from ..engine.errors import InputError
from ..engine.files import check_writable
from ..engine.renderer import backend_device, render, resolve_backend
from ..engine.scene.camera import Camera
from ..engine.scene.gaussians import Gaussians
from ..kernels.frames import STAGES
from ..kernels.rasterize import rasterize
from . import budgets
from .bounds import shares
from .cases import GRID_SCENES, cases
from .clock import Clock
from .measure import measure
from .options import BenchOptions
from .page import write_page
from .peers import PEERS, compare
from .report import write_json
from .training import measure_training

ROOT = Path(__file__).resolve().parents[1]
TESTS_TIMEOUT = 3600.0  # seconds
EYES_APART = 0.02  # of the distance to what is looked at

Keep = Callable[[Any], None]  # told what a part has so far


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    grid: BenchOptions
    training: BenchOptions  # a smaller grid: gradients take as much room as the scene
    single: str  # the scene for stereo, and in which waits for the GPU are counted
    peers: tuple[str, ...]
    tests: tuple[str, ...]  # arguments of pytest


FULL = Plan(
    BenchOptions(grid=True, frames=30),
    BenchOptions(grid=True, frames=30, scene=GRID_SCENES[:3], res="1080p"),
    "procedural:1M",
    ("gsplat", "gsplat-unpacked", "higs"),
    ("-m", "gpu", "tests"),
)
_SMALL = BenchOptions(grid=True, scene=("procedural:1k",), res="64x40", frames=2, warmup=1)
TRIAL = Plan(
    _SMALL,
    _SMALL,
    "procedural:1k",
    ("gsplat", "cpu"),
    ("tests/bench/test_roofline.py",),
)


def gather(options: BenchOptions, notes: Console) -> None:
    """Measure all of it and write the JSON file and the page.

    Raises:
        InputError: there is no GPU and no other backend is given, or nothing can be written there.
    """
    backend = resolve_backend(options.backend)
    if options.backend == "auto" and backend != "triton":
        raise InputError(
            "--evidence needs a CUDA GPU and none is usable here: give --backend cpu for a small trial run"
        )
    path = Path(options.json) if options.json else _default_path()
    if path.suffix != ".json":
        raise InputError(f"--json {str(path)!r}: with --evidence give a name that ends in .json")
    for target in (path, path.with_suffix(".md")):
        check_writable(target)
    collect(backend, FULL if backend == "triton" else TRIAL, path, lambda said: notes.print(said, highlight=False))
    notes.print(f"wrote {path} and {path.with_suffix('.md')}", soft_wrap=True)


def collect(backend: str, plan: Plan, path: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Every part in order; returns what the file holds."""
    parts: dict[str, Callable[[Keep], Any]] = {
        "tests": lambda keep: run_tests(plan.tests),
        "waits": lambda keep: waits(*_single_case(plan), backend),
        "stereo": lambda keep: stereo(*_single_case(plan), backend, plan.grid.frames),
        "frames": lambda keep: frames(backend, plan, keep),
        "training": lambda keep: training(backend, plan, keep),
        "peers": lambda keep: versus(backend, plan, keep),
        "budgets": lambda keep: budgets.report(),  # last: they need no GPU, and minutes
    }
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    results: dict[str, Any] = {"machine": machine.describe(), "backend": backend, "started": started, "seconds": {}}

    def save(name: str, value: Any) -> None:
        results[name] = value
        write_json(path, results)
        write_page(path.with_suffix(".md"), results)

    for name, part in parts.items():
        say(name)
        begun = time.monotonic()
        try:
            value = part(partial(save, name))
        except Exception as error:  # one part must not cost the others
            value = {"error": one_line(error), "so_far": results.get(name)}
            say(f"{name} failed: {value['error']}")
        results["seconds"][name] = round(time.monotonic() - begun, 1)
        save(name, value)
    return results


def one_line(error: Exception) -> str:
    """An exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _default_path() -> Path:
    described = machine.describe()
    name = re.sub(r"[^a-z0-9]+", "-", str(described["gpu"] or described["cpu"]).lower()).strip("-")
    return ROOT / "bench" / "results" / f"{name}-{datetime.date.today().isoformat()}.json"


def run_tests(arguments: tuple[str, ...]) -> dict[str, Any]:
    """The tests that need this GPU, in a process of their own: exit code, counts by outcome, what failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_TIMEOUT)
    lines = done.stdout.strip().splitlines()
    counts = {what: int(number) for number, what in re.findall(r"(\d+) ([a-z]+)", lines[-1])} if lines else {}
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"exit_code": done.returncode, "summary": lines[-1] if lines else "", "counts": counts, "failed": failed}


def frames(backend: str, plan: Plan, keep: Keep) -> list[dict[str, Any]]:
    """The grid stage by stage, each with its bound and the share of it that was reached."""
    results: list[dict[str, Any]] = []
    for case in cases(plan.grid):
        warmup = plan.grid.warmup
        result = measure(case.name, case.gaussians, case.cameras, backend=backend, rounds=case.rounds, warmup=warmup)
        medians = {stage: result.percentiles(stage)["p50"] for stage in STAGES}
        results.append({**result.to_json(), "bounds": shares(backend, result.work, result.sh_degree, medians)})
        keep(results)
    return results


def training(backend: str, plan: Plan, keep: Keep) -> list[dict[str, Any]]:
    """Steps of training, each beside a frame alone."""
    results: list[dict[str, Any]] = []
    for case in cases(plan.training):
        results.append(measure_training(case, backend=backend, warmup=plan.training.warmup))
        keep(results)
    return results


def versus(backend: str, plan: Plan, keep: Keep) -> dict[str, Any]:
    """Every peer that runs here on the grid; of the others, why not."""
    absent = {name: reason for name in plan.peers if (reason := PEERS[name].why_unavailable())}
    results: dict[str, Any] = {"absent": absent, "comparisons": []}
    present = [name for name in plan.peers if name not in absent]
    for case in cases(plan.grid) if present else ():
        for peer in present:
            run = partial(compare, case.name, case.gaussians, case.cameras, backend=backend, peer=peer)
            try:
                result = run(rounds=case.rounds, warmup=plan.grid.warmup).to_json()
            except (RuntimeError, ValueError) as error:  # a peer may run out of memory where Lyra does not
                result = {"case": case.name, "peer": peer, "error": one_line(error)}
            results["comparisons"].append(result)
            keep(results)
            if backend == "triton":
                torch.cuda.empty_cache()
    return results


def _single_case(plan: Plan) -> tuple[Gaussians, Camera]:
    options = replace(plan.grid, grid=False, scene=(plan.single,), frames=1)
    case = next(iter(cases(options)))
    return case.gaussians, case.cameras[0]


def stereo(gaussians: Gaussians, camera: Camera, backend: str, count: int) -> dict[str, float]:
    """Medians of a frame for one eye and for two, in turn, and their ratio."""
    device = backend_device(backend)
    scene, clock = gaussians.to(device), Clock(device)
    with torch.no_grad():
        for _ in range(3):
            render(scene, camera, backend=backend)
            render_stereo(scene, camera, backend)
        for _ in range(count):
            with clock.span("mono"):
                render(scene, camera, backend=backend)
            with clock.span("stereo"):
                render_stereo(scene, camera, backend)
    mono, both = (float(np.median(clock.milliseconds()[name])) for name in ("mono", "stereo"))
    return {"mono_milliseconds": mono, "stereo_milliseconds": both, "ratio": both / mono}


def render_stereo(scene: Gaussians, camera: Camera, backend: str) -> Any:
    """Both eyes in one call, which shares the sort and the colours between them."""
    shift = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    shift[:, 0, 3] = torch.tensor([0.5, -0.5]) * EYES_APART * float(camera.position.norm())
    lenses = camera.K.expand(2, 3, 3)
    native: dict[str, Any] = {"stereo": True, "backend": backend}
    views = shift @ camera.world_to_camera, lenses, camera.width, camera.height
    return rasterize(scene.means, scene.quats, scene.scales, scene.opacities, scene.sh, *views, **native)


def waits(gaussians: Gaussians, camera: Camera, backend: str) -> dict[str, int] | None:
    """How often the host waits for the GPU within one frame, as torch tells it; None without a GPU."""
    if backend != "triton":
        return None
    scene = gaussians.to(backend_device(backend))
    with torch.no_grad():
        render(scene, camera, backend=backend)
        torch.cuda.synchronize()
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                render(scene, camera, backend=backend)
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return {"frame": sum("synchronizing" in str(warning.message) for warning in told)}
