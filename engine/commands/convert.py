"""`lyra convert`: scene files to one scene file."""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console

from ..command_line import parse
from ..errors import InputError
from ..formats.format import Format
from ..formats.registry import recognise
from ..scene.axes import axes_change
from ..scene.filters import holds, parse_box, parse_condition
from ..scene.gaussians import Gaussians, limit_sh, merge
from ..scene.provenance import provenance_of
from ..scene.regions import inside
from ..scene.transform import transform
from .scene_files import Inputs, OutputOptions, check_output, note_axes, write_scenes

NOMINAL = "nominal"


@dataclass(frozen=True)
class ConvertOptions(OutputOptions):
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


def command(arguments: list[str]) -> None:
    """Run with arguments of a command line."""
    options = parse(ConvertOptions, arguments, "lyra convert")
    notes = Console(stderr=True)
    writer = _check(options)
    *sources, target = options.paths
    conditions = [parse_condition(text) for text in options.filter]
    box = None if options.crop is None else parse_box(options.crop)
    inputs, scenes = Inputs(notes, options.level), []
    for source in sources:
        scene = inputs.read(source)
        for condition in conditions:
            scene = scene.select(holds(condition, scene))
        if box is not None:
            scene = scene.select(inside(box, scene.means))
        if not len(scene):
            raise InputError(f"{source}: no splat is left after --crop and --filter: keep more")
        if options.sh is not None:
            scene = limit_sh(scene, options.sh)
        scenes.append(_in_axes(scene, options.axes, recognise(source), writer))
    if options.axes is None:
        note_axes(notes, "lyra convert", sources, writer)
    provenance = provenance_of(inputs.sources, [_operation(options)], licence=options.licence, consent=options.consent)
    scene = merge(scenes)
    scenes.clear()
    write_scenes({target: (scene, provenance)}, inputs.antialiased, options, notes)


def _check(options: ConvertOptions) -> Format:
    """The format of the output, as far as all can be checked before any work."""
    if len(options.paths) < 2:
        raise InputError(f"{len(options.paths)} file given: give at least one input and then the output")
    if options.sh is not None and not 0 <= options.sh <= 3:
        raise InputError(f"--sh {options.sh} is out of range: give 0 to 3")
    if options.level < 0:
        raise InputError(f"--level {options.level} is out of range: give 0, the finest, or more")
    if options.axes not in (None, NOMINAL):
        axes_change(*_names(str(options.axes)))
    return check_output(options.paths[-1], options)


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


def _operation(options: ConvertOptions) -> dict[str, object]:
    """What was done to the splats, for the provenance."""
    asked = {"sh": options.sh, "axes": options.axes, "crop": options.crop, "filter": list(options.filter)}
    return {"convert": {name: value for name, value in asked.items() if value not in (None, [])}}
