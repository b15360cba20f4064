"""`lyra info`: what a scene file holds, where it came from, and what a conversion would cost."""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..command_line import parse, progress_bar
from ..errors import InputError
from ..formats.format import Format, Reading
from ..formats.loss import conversion_loss, sample
from ..formats.registry import FORMATS, about, files_of, load, recognise
from ..scene.gaussians import Gaussians
from ..scene.provenance import read_note
from ..scene.statistics import statistics

SAMPLE = 100_000  # splats on which losses are measured
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class InfoOptions:
    """Tell what a scene file holds, where it came from, and what a conversion to other formats would cost."""

    path: tyro.conf.Positional[Path]
    """A scene file or folder."""
    level: int = 0
    """Level of detail to look at, of a streamed SOG."""
    loss: bool = True
    """Measure the loss in other formats, on up to 100,000 splats in runs of neighbours; takes seconds."""
    json: bool = False
    """Print JSON."""


def command(arguments: list[str]) -> None:
    """Run with arguments of a command line."""
    options = parse(InfoOptions, arguments, "lyra info")
    if options.level < 0:
        raise InputError(f"--level {options.level} is out of range: give 0, the finest, or more")
    notes = Console(stderr=True)
    with progress_bar(notes, f"reading {options.path.name}", "splats") as progress:
        scene = load(options.path, Reading(level=options.level, progress=progress))
    told = describe(options.path, scene)
    if options.loss:
        with notes.status("measuring the loss in other formats"):
            told["loss"] = losses(scene)
    if options.json:
        print(json.dumps(told, indent=1))
    else:
        wide = None if sys.stdout.isatty() else 200  # a pipe has no width, and tables are cut to what they are given
        _print(Console(soft_wrap=True, highlight=False, width=wide), told)


def describe(path: Path, scene: Gaussians) -> dict[str, Any]:
    """All that is known of a file and its scene, as JSON values."""
    said, format = about(path), recognise(path)
    provenance = read_note(said.note)
    return {
        "file": path.resolve().name,
        "format": said.kind,
        "axes": format.axes,
        "bytes": sum(file.stat().st_size for file in files_of(path)),
        "levels": said.levels,
        "splats": len(scene),
        "declared": said.splats,
        "sh_degree": scene.sh_degree,
        "antialiased": said.antialiased,
        **statistics(scene),
        "provenance": None if provenance is None else dataclasses.asdict(provenance),
    }


def losses(scene: Gaussians) -> dict[str, Any]:
    """By the ending of every format that is written: what the scene would lose there, or why it cannot go there."""
    part = sample(scene, SAMPLE)
    return {format.endings[0]: _loss(part, format) for format in FORMATS if format.save is not None}


def _loss(scene: Gaussians, format: Format) -> dict[str, Any]:
    try:
        return conversion_loss(scene, format)
    except InputError as error:
        return {"refused": str(error).partition(": ")[2]}


def _print(out: Console, told: dict[str, Any]) -> None:
    axes = f"usually {told['axes']} axes"
    out.print(f"{told['file']}  {told['format']}, {told['bytes']:,} bytes, {axes}", markup=False, style="bold")
    dropped = told["declared"] - told["splats"] if told["levels"] == 1 else 0
    out.print(
        f"{told['splats']:,} splats"
        + (f" ({dropped:,} more are invalid)" if dropped > 0 else "")
        + f", SH {told['sh_degree']}"
        + (", antialiased" if told["antialiased"] else "")
        + (f", {told['levels']} levels of detail" if told["levels"] > 1 else "")
    )
    table = Table("", "min", "p1", "median", "p99", "max", "", box=None, header_style="dim")
    for axis, name in enumerate("xyz"):
        table.add_row(name, *(f"{row[axis]:.4g}" for row in told["bounds"].values()))
    for name, histogram in (("opacity", "histogram"), ("scale", "log10_histogram")):
        values = {key: value for key, value in told[name].items() if key != histogram}
        table.add_row(name, *(f"{value:.3g}" for value in values.values()), _bars(told[name][histogram]["counts"]))
    out.print(table)
    for line in _history(told["provenance"]):
        out.print(line, markup=False)
    if "loss" in told:
        _print_losses(out, told["loss"])


def _bars(counts: list[int]) -> str:
    most = max(1, *counts)
    return "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in counts)


def _history(provenance: dict[str, Any] | None, depth: int = 0) -> list[str]:
    """Lines of what is claimed; control characters are escaped, since files say what they like."""
    pad = "  " * depth
    if provenance is None:
        return [f"{pad}no provenance"] if depth == 0 else []
    lines = [f"{pad}made by {_plain(provenance['made_by'])}"]
    lines += [f"{pad}{name}: {_plain(provenance[name])}" for name in ("licence", "consent") if provenance[name]]
    lines += [f"{pad}did {json.dumps(operation)}" for operation in provenance["operations"]]
    for source in provenance["sources"]:
        lines.append(
            f"{pad}from {_plain(source['name'])}, {source['bytes']:,} bytes, sha256 {_plain(source['sha256'])}"
        )
        lines += _history(source["history"], depth + 1)
    return lines


def _plain(text: str) -> str:
    return json.dumps(text)[1:-1]


def _print_losses(out: Console, losses: dict[str, Any]) -> None:
    """The largest error of each part, a row a format."""
    names = ("position", "scale", "rotation", "opacity", "color", "sh")
    heads = ("largest loss in", "position", "scale, %", "turn, °", "opacity", "colour", "SH")
    table = Table(*heads, box=None, header_style="dim")
    for ending, loss in losses.items():
        if "refused" in loss:
            table.add_row(ending, escape(loss["refused"]))
        else:
            cells = [loss[name]["max"] * (100 if name == "scale" else 1) if name in loss else None for name in names]
            table.add_row(ending, *("" if cell is None else f"{cell:.2g}" for cell in cells))
    out.print(table)
