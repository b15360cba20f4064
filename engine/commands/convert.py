"""`lyra convert`: scene files to one scene file."""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console

from ..command_line import parse, progress_bar
from ..errors import InputError
from ..files import check_writable
from ..formats.format import Format, Reading, Writing
from ..formats.registry import about, format_of_name, load, recognise, save
from ..scene.axes import axes_change
from ..scene.filters import keep_where, parse_box, parse_condition
from ..scene.gaussians import Gaussians, limit_sh, merge
from ..scene.provenance import provenance_of, source_of, write_note
from ..scene.regions import inside
from ..scene.transform import transform

NOMINAL = "nominal"


@dataclass(frozen=True)
class ConvertOptions:
    """Write scenes in the format that the last name ends in. Several inputs become one scene, in their order."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """IN [IN ...] OUT"""
    sh: int | None = None
    """Keep spherical harmonics up to this degree, 0 to 3."""
    axes: str | None = None
    """FROM:TO such as rdf:rub, or nominal: from the usual axes of each input's format to those of the output's.
    Without it, numbers stay as they are."""
    crop: str | None = None
    """Keep the splats whose centre lies in a box: x0,y0,z0,x1,y1,z1 in the axes of the input."""
    filter: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Keep the splats for which it holds, such as 'opacity>=0.05' or 'scale<2'. Repeatable. Fields: opacity, scale (the
    longest), x, y, z, red, green, blue (0 to 1, without view-dependent parts)."""
    level: int = 0
    """Level of detail to take from a streamed SOG; 0 is the finest."""
    spz_version: int = 3
    """Version of .spz to write: 2, 3 or 4."""
    licence: str | None = None
    """Kept with the scene. Default: that of the inputs where they agree."""
    consent: str | None = None
    """What the people shown have agreed to, kept with the scene. Default: as licence."""
    overwrite: bool = False
    """Replace the output if it is there."""


def command(arguments: list[str]) -> None:
    """Run with arguments of a command line."""
    options = parse(ConvertOptions, arguments, "lyra convert")
    notes = Console(stderr=True)
    *sources, target = _paths(options)
    writer = format_of_name(target)
    conditions = [parse_condition(text) for text in options.filter]
    box = None if options.crop is None else parse_box(options.crop)
    scenes, origins, marks = [], [], set()
    for source in sources:
        with progress_bar(notes, f"reading {source.name}", "splats") as progress:
            scene = load(source, Reading(level=options.level, progress=progress))
        said = about(source)
        marks.add(said.antialiased)
        origins.append(source_of(source, said.note))
        for condition in conditions:
            scene = keep_where(scene, condition)
        if box is not None:
            scene = scene.select(inside(box, scene.means))
        if not len(scene):
            raise InputError(f"{source}: no splat is left after --crop and --filter: keep more")
        if options.sh is not None:
            scene = limit_sh(scene, options.sh)
        scenes.append(_in_axes(scene, options.axes, recognise(source), writer))
    if len(marks) > 1:
        raise InputError(f"{sources[0]} and others: some are marked as antialiased and some not: convert them apart")
    if options.axes is None:
        _warn_of_axes(notes, sources, writer)
    provenance = provenance_of(origins, [_operation(options)], licence=options.licence, consent=options.consent)
    scene = merge(scenes)
    scenes.clear()
    with progress_bar(notes, f"writing {target.name}", "splats") as progress:
        writing = Writing(marks == {True}, write_note(provenance), options.spz_version, progress)
        save(scene, target, writing)
    notes.print(f"wrote {target}: {len(scene):,} splats, SH {scene.sh_degree}", highlight=False, soft_wrap=True)


def _paths(options: ConvertOptions) -> tuple[Path, ...]:
    """Inputs and output, as far as they can be checked before any work."""
    if len(options.paths) < 2:
        raise InputError(f"{len(options.paths)} file given: give at least one input and then the output")
    target = options.paths[-1]
    if options.sh is not None and not 0 <= options.sh <= 3:
        raise InputError(f"--sh {options.sh} is out of range: give 0 to 3")
    if options.spz_version not in (2, 3, 4):
        raise InputError(f"--spz-version {options.spz_version} is not written: give 2, 3 or 4")
    if options.level < 0:
        raise InputError(f"--level {options.level} is out of range: give 0, the finest, or more")
    if target.exists() and not options.overwrite:
        raise InputError(f"{target}: is there already: give another name or --overwrite")
    if format_of_name(target).save is not None:
        check_writable(target)
    if options.axes not in (None, NOMINAL):
        axes_change(*_names(str(options.axes)))
    return options.paths


def _names(axes: str) -> tuple[str, str]:
    source, colon, target = axes.partition(":")
    if not colon:
        raise InputError(f"--axes {axes!r}: give FROM:TO such as rdf:rub, or nominal")
    return source, target


def _in_axes(scene: Gaussians, axes: str | None, reader: Format, writer: Format) -> Gaussians:
    if axes is None:
        return scene
    change = axes_change(*((reader.axes, writer.axes) if axes == NOMINAL else _names(axes)))
    return scene if torch.equal(change, torch.eye(3, dtype=change.dtype)) else transform(scene, change)


def _warn_of_axes(notes: Console, sources: list[Path], writer: Format) -> None:
    """Numbers stay as they are, but readers may expect others."""
    for reader in {recognise(source).name: recognise(source) for source in sources}.values():
        if reader.axes != writer.axes:
            notes.print(
                f"lyra convert: note: {reader.name} is mostly {reader.axes} and {writer.name} {writer.axes}; axes are "
                "kept as they are, --axes nominal changes them",
                highlight=False, soft_wrap=True,
            )  # fmt: skip


def _operation(options: ConvertOptions) -> dict[str, object]:
    """What was done to the splats, for the provenance."""
    asked = {"sh": options.sh, "axes": options.axes, "crop": options.crop, "filter": list(options.filter)}
    return {"convert": {name: value for name, value in asked.items() if value not in (None, [])}}
