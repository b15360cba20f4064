"""The command `lyra-bench`: scene files to frames to numbers. Progress and warnings on stderr, data on stdout."""

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from ..engine.errors import InputError
from ..engine.files import check_writable
from .options import BenchOptions, parse, resolution

OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # as torch says it, on a GPU and on a CPU, in RuntimeErrors


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 when what was given cannot be used."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"lyra-bench: warning: {message}", file=sys.stderr)
            run(parse(sys.argv[1:] if arguments is None else arguments))
    except InputError as error:
        print(f"lyra-bench: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(said in str(error) for said in OUT_OF_MEMORY):
            raise
        print("lyra-bench: out of memory: give a smaller scene or resolution", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("lyra-bench: stopped", file=sys.stderr)
        return 130
    return 0


def run(options: BenchOptions) -> None:
    """Measure every scene and write what was asked for."""
    # Here, so that --help and a wrong option answer at once.
    from ..engine.renderer import resolve_backend
    from ..engine.scene.camera import load_cameras
    from ..engine.scene.paths import PATHS
    from ..engine.source import open_scene
    from . import machine, report
    from .calibration import splat_pixels_per_second
    from .measure import frame_of, measure

    width, height = resolution(options.res or "1080p")
    backend = resolve_backend(options.backend)
    _check_target("--image", options.image, ".png")
    _check_target("--dump", options.dump, ".npz")
    if options.json is not None and options.json != "-":
        check_writable(Path(options.json))
    given = load_cameras(options.cameras) if options.cameras else None
    if given and options.res:
        given = [camera.resized(width, height) for camera in given]
    sources = options.scene or ("procedural",)
    notes = Console(stderr=True)
    out = notes if options.json == "-" else Console(soft_wrap=True)
    about = machine.describe()
    out.print(machine.line(about) + "\n", highlight=False, style="dim")

    measurements, calibrations = [], []
    for index, source in enumerate(sources):
        with notes.status(f"opening {source}"):
            gaussians, framing = open_scene(source, up=options.up)
        cameras = given or PATHS[options.path](framing, options.frames, width=width, height=height)
        rounds = options.frames if given else 1
        before = splat_pixels_per_second() if backend == "cpu" else None
        with _bar(notes, source) as (bar, task):
            result = measure(
                source,
                gaussians,
                cameras,
                backend=backend,
                rounds=rounds,
                warmup=options.warmup,
                progress=lambda done, total, bar=bar, task=task: bar.update(task, completed=done, total=total),
            )
        calibration = None if before is None else (before + splat_pixels_per_second()) / 2
        measurements.append(result)
        calibrations.append(calibration)
        if result.visible == 0:
            notes.print(f"lyra-bench: warning: {source}: no splat is visible, check --cameras or --up")
        report.print_measurement(out, result, calibration)
        if options.image:
            path = report.numbered(options.image, index, len(sources))
            report.write_image(path, frame_of(gaussians, cameras[0], backend))
            notes.print(f"wrote {path}")
        if options.dump:
            path = report.numbered(options.dump, index, len(sources))
            report.write_dump(path, (frame_of(gaussians, camera, backend) for camera in cameras))
            notes.print(f"wrote {path}")

    if options.json:
        scenes = [
            {**result.to_json(), "calibration_splat_pixels_per_second": calibration}
            for result, calibration in zip(measurements, calibrations, strict=True)
        ]
        results: dict[str, object] = {"machine": about, "scenes": scenes}
        if options.json == "-":
            print(json.dumps(results, indent=1))
        else:
            report.write_json(Path(options.json), results)
            notes.print(f"wrote {options.json}")


def _check_target(option: str, path: Path | None, ending: str) -> None:
    """Asked before the measurement and not after."""
    if path is None:
        return
    if not path.name.lower().endswith(ending):
        raise InputError(f"{option} {str(path)!r}: give a name that ends in {ending}")
    check_writable(path)


@contextmanager
def _bar(console: Console, name: str) -> Iterator[tuple[Progress, TaskID]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames")
    with Progress(*columns, console=console, transient=True) as bar:
        yield bar, bar.add_task(name, total=None)
