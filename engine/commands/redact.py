"""`lyra redact`: a scene without what is to stay private, and a check that it is gone."""

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from torch import Tensor

from ...kernels.constants import ALPHA_MIN
from ..command_line import parse, progress_bar
from ..errors import InputError
from ..formats.format import Reading, Writing
from ..formats.registry import about, files_of, format_of_name, load, outputs, save
from ..privacy.check import Left, agreement, cameras_around, left_inside
from ..privacy.coarse import CELLS
from ..privacy.masks import hidden_by_masks, left_in_masks, load_masks
from ..privacy.redact import Redaction, redact_regions, redact_splats
from ..renderer import backend_device, resolve_backend
from ..scene.camera import Camera, load_cameras
from ..scene.filters import parse_region
from ..scene.gaussians import Gaussians
from ..scene.provenance import provenance_of, read_note, write_note
from ..scene.regions import Region, bounds, grown
from .scene_files import OutputOptions, check_output

SAME = 60.0  # dB that what did not change has to reach
MOST_LEFT = 0.1  # of what masks cover that may come from splats which stay
MARGINS = (0.0, 0.01, 0.03, 0.1)  # of a region's longest side, tried in turn: formats round splats back into regions
ROUNDED = 0.8  # of its size that a coarse splat keeps in every format
VIEWS = (1, 1000)


@dataclass(frozen=True)
class RedactOptions(OutputOptions):
    """Write a scene without the splats in a region or inside image masks, and check that they are gone. What is behind
    them then shows. Read docs/privacy.md for what this cannot do."""

    source: tyro.conf.Positional[Path]
    """IN: a scene file or folder."""
    target: tyro.conf.Positional[Path]
    """OUT: a scene file, in the format that its name ends in."""
    region: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """What to hide, in the axes of the file: 'box: x0,y0,z0,x1,y1,z1' or 'sphere: x,y,z,radius'. Repeatable."""
    masks: Path | None = None
    """A folder of images, white where something is to be hidden, one for each camera, in the order of their names."""
    cameras: Path | None = None
    """The cameras of the masks: JSON, see docs/conventions.md."""
    mode: Literal["remove", "blur"] = "remove"
    """blur: coarse splats of the average colour stay in place of what goes."""
    cells: int = 4
    """Of a blurred region along its longest side; nothing finer than a cell is left."""
    views: int = 24
    """From how many directions regions are checked."""
    backend: str = "auto"
    """auto, triton, cpu or reference."""
    level: int = 0
    """Level of detail to take from a streamed SOG; 0 is the finest."""


def command(arguments: list[str]) -> None:
    """Run with arguments of a command line."""
    options = parse(RedactOptions, arguments, "lyra redact")
    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    regions = [_finite(parse_region(text)) for text in options.region]
    backend = _check(options)
    views = [] if options.masks is None else load_masks(options.masks, load_cameras(_cameras(options)))
    with progress_bar(notes, f"reading {options.source.name}", "splats") as progress:
        scene = load(options.source, Reading(level=options.level, progress=progress))
    scene = scene.to(backend_device(backend))
    if views:
        with notes.status("hiding what the masks show"):
            _redact_masked(options, scene, views, backend, notes)
    else:
        with notes.status("hiding what the regions hold"):
            _redact_regions(options, scene, regions, backend, notes)


def _check(options: RedactOptions) -> str:
    """The backend, after all that can be checked before any work."""
    if bool(options.region) == (options.masks is not None):
        given = "both --region and --masks" if options.region else "neither --region nor --masks"
        raise InputError(f"{given} given: say what to hide by one of them")
    if options.cameras is not None and options.masks is None:
        raise InputError("--cameras without --masks: give the masks that these cameras see")
    for name, value, (least, most) in (("cells", options.cells, CELLS), ("views", options.views, VIEWS)):
        if not least <= value <= most:
            raise InputError(f"--{name} {value} is out of range: give {least} to {most}")
    if options.level < 0:
        raise InputError(f"--level {options.level} is out of range: give 0, the finest, or more")
    check_output(options.target, options)
    read = {os.path.realpath(file) for file in files_of(options.source)} if options.source.exists() else set()
    if read & {os.path.realpath(file) for file in outputs(options.target)}:
        raise InputError(f"{options.target}: is the input itself: give another name, and delete the input afterwards")
    return resolve_backend(options.backend)


def _finite(region: Region) -> Region:
    if not all(math.isfinite(value) for corner in bounds(region) for value in corner):
        raise InputError(f"region {region} has no end: give finite numbers, so that it can be looked at from outside")
    return region


def _cameras(options: RedactOptions) -> Path:
    if options.cameras is None:
        raise InputError("--masks without --cameras: give the cameras that see the masks, as JSON")
    return options.cameras


def _redact_regions(
    options: RedactOptions, scene: Gaussians, regions: Sequence[Region], backend: str, notes: Console
) -> None:
    """Until what was written, with all its rounding, holds nothing in the regions."""
    cells = options.cells if options.mode == "blur" else None
    around = [camera for region in regions for camera in cameras_around(region, options.views)]
    found: list[Left] = []
    finest = min(_finest(region, cells) for region in regions)
    folder = options.target.parent if options.target.parent.exists() else None
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as scratch:
        trial = Path(scratch) / options.target.name
        for share in MARGINS:
            wider = [grown(region, share * _side(region)) for region in regions]
            redaction = redact_regions(scene, wider, cells=cells)
            told = _compare(scene, redaction, around, backend)
            _write(options, redaction.scene, trial)
            back = load(trial)
            found = [left_inside(back, region, options.views, finest=finest) for region in regions]
            if not any(left.splats or left.alpha >= ALPHA_MIN for left in found):
                break
        else:
            worst = max(found, key=lambda left: left.alpha)
            format = format_of_name(options.target).name
            raise InputError(
                f"{options.target}: not kept, {worst.splats} splats reach back into a region with alpha up to "
                f"{worst.alpha:.3f} since {format} rounds them: write .ply, or give a larger region"
            )
    _write(options, redaction.scene, options.target)  # the same bytes again, by the way that replaces all old parts
    _tell(notes, options, redaction, told)
    margin = f", cut {share:.0%} of its size outside it for the rounding of the format" if share else ""
    notes.print(f"checked from {options.views} directions: nothing is left in {len(regions)} region(s){margin}")


def _redact_masked(
    options: RedactOptions, scene: Gaussians, views: Sequence[tuple[Camera, Tensor]], backend: str, notes: Console
) -> None:
    hidden = hidden_by_masks(scene, views, backend=backend)
    redaction = redact_splats(scene, hidden, cells=options.cells if options.mode == "blur" else None)
    left = left_in_masks(scene, hidden, views, backend=backend)
    if left > MOST_LEFT:
        raise InputError(
            f"{options.masks}: {left:.0%} of what the masks cover is drawn by splats that draw mostly outside them, "
            f"more than {MOST_LEFT:.0%}: nothing was written; give masks for more views, or a region"
        )
    told = _compare(scene, redaction, [camera for camera, _ in views], backend)
    _write(options, redaction.scene, options.target)
    _tell(notes, options, redaction, told)
    notes.print(f"of what the masks cover {left:.1%} is drawn by splats that stay; what is behind shows now")


def _compare(scene: Gaussians, redaction: Redaction, cameras: Sequence[Camera], backend: str) -> str:
    same = agreement(scene, redaction, cameras, backend=backend)
    if same.psnr < SAME:
        raise InputError(f"the rest of the scene changed, {same.psnr:.1f} dB where nothing was hidden: report this")
    level = "is the same" if same.psnr == float("inf") else f"agrees to {same.psnr:.0f} dB"
    return f"{same.share:.0%} of {len(cameras)} pictures show nothing of what changed; there the scene {level}"


def _write(options: RedactOptions, scene: Gaussians, path: Path) -> None:
    """The scene with its provenance. Of the source only licence and consent are kept: its name, size and hash would
    tell whoever holds a copy that it is the one, and let a guess at what was hidden be confirmed."""
    said = about(options.source)
    history = read_note(said.note)
    provenance = provenance_of(
        [],
        [{"redact": {"mode": options.mode, "by": "masks" if options.masks else "regions"}}],
        licence=options.licence or (history and history.licence),
        consent=options.consent or (history and history.consent),
    )
    save(scene.to("cpu"), path, Writing(said.antialiased, write_note(provenance), options.spz_version))


def _tell(notes: Console, options: RedactOptions, redaction: Redaction, told: str) -> None:
    gone = len(redaction.changed) - len(redaction.scene)
    notes.print(f"wrote {options.target}: {len(redaction.scene):,} splats, {gone:,} fewer; {told}")


def _side(region: Region) -> float:
    return max(high - low for low, high in zip(*bounds(region), strict=True))


def _finest(region: Region, cells: int | None) -> float:
    """Splats that are as coarse may be where a region was blurred."""
    return float("inf") if cells is None else ROUNDED * _side(region) / cells / 2
