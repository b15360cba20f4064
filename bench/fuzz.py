"""Damaged scene files, made from whole ones: what readers have to survive.

`python -m lyra.bench.fuzz --cases 300000` tries as many, on every core; exit code 1 after a failure.
A case is the name of a whole file and a number, so that every failure can be repeated: `--only NAME:NUMBER`.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..engine.errors import InputError
from ..engine.formats.format import Writing
from ..engine.formats.registry import FORMATS, about, load, save
from ..engine.scene.gaussians import Gaussians
from .damage import Files, damaged

SECONDS = 5  # a case may take
GROWTH = 64 << 20  # bytes that a case may add to the process, and 4 times its own size


class TooSlow(Exception):
    """A case has run out of its time."""


def scene_of(n: int, degree: int) -> Gaussians:
    """A small valid scene."""
    rng = torch.Generator().manual_seed(n + degree)
    return Gaussians(
        means=torch.randn(n, 3, generator=rng),
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=rng)),
        scales=torch.rand(n, 3, generator=rng) * 0.1 + 1e-3,
        opacities=torch.rand(n, generator=rng) * 0.9 + 0.05,
        sh=torch.randn(n, (degree + 1) ** 2, 3, generator=rng) * 0.3,
    )


def seeds(folder: Path, fixtures: Path | None) -> dict[str, Files]:
    """Whole files by name: what the writers make here, and the small fixtures where they are at hand."""
    made: dict[str, Files] = {}
    endings = [ending for format in FORMATS if format.save for ending in format.endings]
    for ending in endings:
        for n, degree in ((1, 0), (5, 1), (70, 3)):
            for version in (2, 3, 4) if ending == ".spz" else (3,):
                name = f"{n}-{degree}-{version}-{ending.lstrip('.')}"
                place = folder / name
                place.mkdir()
                target = place / (f"scene{ending}" if ending.startswith(".") else ending)
                save(scene_of(n, degree), target, Writing(note='{"made_by": "test"}', spz_version=version))
                files = sorted(place.iterdir(), key=lambda file: file.name != target.name)
                made[name] = {file.name: file.read_bytes() for file in files}
    for file in sorted(fixtures.iterdir()) if fixtures else []:
        made[f"fixture-{file.name}"] = {file.name: file.read_bytes()}
    return made


def check(files: Files, folder: Path) -> str:
    """Opens a damaged scene; `loaded` or `refused`. Anything else raises."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    path = folder / next(iter(files))
    size = sum(map(len, files.values()))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _memory("VmRSS")
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="dropped|.*(coarser nodes stand in|pages lost)")
            about(path)
            scene = load(path)
        result = "loaded"
        assert len(scene) and all(torch.isfinite(tensor).all() for tensor in scene.tensors().values())
        assert (scene.opacities >= 0).all() and (scene.opacities <= 1).all() and (scene.scales >= 0).all()
    except InputError as error:
        told = str(error)
        assert "\n" not in told and len(told) < 1000 and told.startswith(str(folder)), told
        result = "refused"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = _memory("VmHWM") - before
    assert grown <= GROWTH + 4 * size, f"took {grown >> 20} MiB for {size} bytes"
    return result


def _memory(field: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def _alarm(*_: Any) -> None:
    raise TooSlow(f"no answer in {SECONDS} s")


def run(seed: str, files: Files, numbers: range, tell: Callable[[str], None]) -> Counter[str]:
    """Cases of one whole file; failures are told and counted."""
    counts: Counter[str] = Counter()
    signal.signal(signal.SIGALRM, _alarm)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in numbers:
            try:
                counts[check(damaged(files, random.Random(f"{seed}:{number}")), folder)] += 1
            except Exception as error:
                counts["failed"] += 1
                where = traceback.extract_tb(error.__traceback__)[-1]
                told = str(error).replace("\n", " ")[:200]
                tell(f"{seed}:{number}  {type(error).__name__}: {told}  ({Path(where.filename).name}:{where.lineno})")
            for file in folder.iterdir():
                file.unlink()
    return counts


def _work(job: tuple[str, Files, range]) -> Counter[str]:
    torch.set_num_threads(1)
    return run(*job, tell=lambda told: print(told, flush=True))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="how many in all")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each file")
    parser.add_argument("--fixtures", type=Path, help="a folder with more whole files")
    parser.add_argument("--only", help="NAME:NUMBER, one case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole = seeds(Path(folder), options.fixtures)
    if options.only:
        seed, _, number = options.only.rpartition(":")
        print(dict(run(seed, whole[seed], range(int(number), int(number) + 1), print)))
        return 0
    each, step = -(-options.cases // len(whole)), 500
    jobs = [
        (seed, files, range(start, min(start + step, options.first + each)))
        for start in range(options.first, options.first + each, step)
        for seed, files in whole.items()
    ]
    began, total = time.monotonic(), Counter[str]()
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for counts in pool.imap_unordered(_work, jobs):
            total += counts
    print(f"{len(whole)} files, {total.total()} cases in {time.monotonic() - began:.0f} s: {dict(total)}")
    return 1 if total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
