"""The command `lyra-bench`: scene files to frames to numbers. Progress and warnings on stderr, data on stdout."""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from rich.console import Console

from ..engine.command_line import guarded, progress_bar
from ..engine.errors import InputError
from ..engine.files import check_writable
from .options import BenchOptions, check_combination, parse, resolution


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 when what was given cannot be used."""
    return guarded("lyra-bench", lambda: run(parse(sys.argv[1:] if arguments is None else arguments)))


def run(options: BenchOptions) -> None:
    """Measure what the options ask for and write it."""
    # Here, so that --help and a wrong option answer at once.
    from ..engine import machine
    from ..engine.renderer import resolve_backend

    check_combination(options)
    resolution(options.res or "1080p")
    _check_target("--image", options.image, ".png")
    _check_target("--dump", options.dump, ".npz")
    if options.json is not None and options.json != "-":
        check_writable(Path(options.json))
        if options.lod:
            check_writable(Path(options.json).with_suffix(".png"))
    notes = Console(stderr=True)
    wide = None if sys.stdout.isatty() else 200  # a pipe has no width, and tables are cut to what they are given
    out = notes if options.json == "-" else Console(soft_wrap=True, width=wide)
    if options.evidence:
        from .evidence import gather

        gather(options, notes)
        return
    backend = resolve_backend(options.backend)
    for peer in options.vs:
        _check_peer(peer)
    about = machine.describe()
    out.print(machine.line(about) + "\n", highlight=False, style="dim")
    measured = _compare_all if options.vs else _measure_lod if options.lod else _measure_all
    results = measured(options, backend, notes, out)
    if options.json == "-":
        print(json.dumps({"machine": about, **results}, indent=1))
    elif options.json:
        from .report import write_json

        write_json(Path(options.json), {"machine": about, **results})
        notes.print(f"wrote {options.json}")


def _measure_all(options: BenchOptions, backend: str, notes: Console, out: Console) -> dict[str, object]:
    """Every case by one backend, stage by stage, with its picture and its frames where they are asked for."""
    from . import cases, report
    from .calibration import splat_pixels_per_second
    from .measure import frame_of, measure

    scenes = []
    for index, case in enumerate(cases.cases(options, _opening(notes))):
        before = splat_pixels_per_second() if backend == "cpu" else None
        with progress_bar(notes, case.name, "frames") as progress:
            result = measure(
                case.name,
                case.gaussians,
                case.cameras,
                backend=backend,
                rounds=case.rounds,
                warmup=options.warmup,
                progress=progress,
            )
        calibration = None if before is None else (before + splat_pixels_per_second()) / 2
        scenes.append({**result.to_json(), "calibration_splat_pixels_per_second": calibration})
        if result.visible == 0:
            notes.print(f"lyra-bench: warning: {case.name}: no splat is visible, check --cameras or --up")
        report.print_measurement(out, result, calibration)
        if options.image:
            path = report.numbered(options.image, index, cases.count(options))
            report.write_image(path, frame_of(case.gaussians, case.cameras[0], backend))
            notes.print(f"wrote {path}")
        if options.dump:
            path = report.numbered(options.dump, index, cases.count(options))
            report.write_dump(path, (frame_of(case.gaussians, camera, backend) for camera in case.cameras))
            notes.print(f"wrote {path}")
    return {"scenes": scenes}


def _compare_all(options: BenchOptions, backend: str, notes: Console, out: Console) -> dict[str, object]:
    """Every case by one backend and each peer, in turn."""
    from . import cases, report
    from .peers import compare

    comparisons = []
    for case in cases.cases(options, _opening(notes)):
        for peer in options.vs:
            with progress_bar(notes, f"{case.name}, {peer}", "frames") as progress:
                result = compare(
                    case.name,
                    case.gaussians,
                    case.cameras,
                    backend=backend,
                    peer=peer,
                    rounds=case.rounds,
                    warmup=options.warmup,
                    progress=progress,
                )
            comparisons.append(result)
    report.print_comparisons(out, comparisons)
    return {"comparisons": [result.to_json() for result in comparisons]}


def _measure_lod(options: BenchOptions, backend: str, notes: Console, out: Console) -> dict[str, object]:
    """Level of detail of every case, or how it scales, with curves beside the JSON file."""
    from . import cases, lod_report, report, scaling_report
    from .lod import measure_lod
    from .scaling import measure_scaling

    if options.scaling:
        key, show, plot = "scaling", scaling_report.print_scaling, scaling_report.write_scaling_plot
        measured = partial(measure_scaling, backend=backend, quality=options.quality, warmup=options.warmup)
    else:
        key, show, plot = "lod", lod_report.print_lod, lod_report.write_plot
        measured = partial(
            measure_lod, backend=backend, quality=options.quality, frames=options.frames, warmup=options.warmup
        )
    written, reason = options.json is not None and options.json != "-", lod_report.why_no_plot()
    if written and reason:
        notes.print(f"lyra-bench: warning: {reason}", markup=False)
    found = []
    for index, case in enumerate(cases.cases(options, _opening(notes))):
        with progress_bar(notes, case.name, "splats") as progress:
            found.append(measured(case, progress=progress))
        show(out, found[-1])
        if written and not reason:
            path = report.numbered(Path(str(options.json)).with_suffix(".png"), index, cases.count(options))
            plot(path, found[-1])
            notes.print(f"wrote {path}")
    return {key: found}


def _check_peer(name: str) -> None:
    from .peers import PEERS

    if name not in PEERS:
        raise InputError(f"--vs {name!r} is unknown: give {', '.join(PEERS)}")
    if reason := PEERS[name].why_unavailable():
        raise InputError(f"--vs {name}: {reason}")


def _check_target(option: str, path: Path | None, ending: str) -> None:
    """Asked before the measurement and not after."""
    if path is None:
        return
    if not path.name.lower().endswith(ending):
        raise InputError(f"{option} {str(path)!r}: give a name that ends in {ending}")
    check_writable(path)


def _opening(notes: Console) -> Callable[[str], AbstractContextManager[object]]:
    return lambda source: notes.status(f"opening {source}")
