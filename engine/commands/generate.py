"""`lyra generate`: a picture, a video or a few posed pictures to a scene."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console

from ..command_line import parse
from ..errors import InputError
from ..prior.generation.depth import read_depth
from ..prior.generation.depth_models import Kind, model_depth
from ..prior.generation.inputs import Sources, read_sources
from ..prior.generation.paths import path_poses
from ..prior.generation.preview import draw_preview
from ..prior.generation.scenes import GenerationOptions, KnownDepth, Preset, generate
from ..prior.weights import open_prior
from ..scene.camera import Camera, load_cameras
from ..scene.provenance import provenance_of, source_of
from .scene_files import OutputOptions, check_free, check_output, write_scenes

NONE = "none"
LISTED = ".json"


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(OutputOptions):
    """Make a scene of a picture, a video or a folder of posed pictures. What they show keeps its resolution; a prior
    fills in what they do not show."""

    source: tyro.conf.Positional[Path]
    """A JPEG, PNG or WebP; a video; a folder with transforms.json, opencv_cameras.json, cameras.json or sparse/0; or
    one of these lists."""
    output: Annotated[Path, tyro.conf.arg(name="output", aliases=["-o"])]
    """The scene, in the format that the name ends in."""
    prior: str = "lyra-tiny"
    """The name of one that comes with Lyra, or a folder that training wrote."""
    steps: int = 4
    """Steps of the prior for each group of views, 1 to 4."""
    path: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Where the prior looks from: left, right, up, zoom_in, zoom_out, clockwise, or a camera list (.json). Repeatable;
    clockwise and zoom_out when not given."""
    reach: float = 0.3
    """How far these paths lead, in median depths of the picture."""
    views: int = 3
    """Pictures of a folder, or frames of a video, that are used: 1 to 4."""
    fov: float | None = None
    """Vertical field of view of a picture, degrees. Default: what its EXIF tells, else 50."""
    cameras: Path | None = None
    """Camera list of a video: the cameras of frames evenly spread from its first to its last."""
    still: bool = False
    """Take the first frame of a video as a picture, or that at --time."""
    time: float | None = None
    """Things move in the video: make the scene as it is at this second of it. Its frames elsewhere only tell the prior
    more."""
    depth: Path | None = None
    """Depth of the (first) picture: .npy of floats or a 16-bit PNG, z; 0 or NaN where unknown."""
    depth_scale: float = 1.0
    """Units of the scene for one of the depth file, such as 0.001 for millimetres."""
    depth_model: Path | None = None
    """ONNX file, or a folder with one, that tells depth from a picture."""
    depth_kind: Kind = "inverse"
    """What the model tells: inverse, 1 / z but for scale and offset, as MiDaS and Depth Anything; or metric, z."""
    splats: int = 200_000
    """Splats of the pictures, at most; where there is little detail, several pixels share one."""
    preset: Preset = "dense"
    """compact: 2,500 splats in all."""
    scale: float | None = None
    """Median depth of a picture without a known camera, in units of the scene. Default: 1, or what --depth tells."""
    seed: int = 0
    """Of the prior's noise. The same seed and options give the same bytes on a CPU."""
    device: str = "auto"
    """Where the prior runs: auto, cpu or cuda."""
    preview: str | None = None
    """Sheet of renderings, PNG. Default: the output's name with .png; none for none."""


def command(arguments: list[str]) -> None:
    """Run with arguments of a command line."""
    begun = time.monotonic()
    options = parse(GenerateOptions, arguments, "lyra generate")
    notes = Console(stderr=True)
    given = GenerationOptions(options.steps, options.splats, options.preset, options.seed, options.scale)
    preview = _check(options)
    device = _device(options.device)
    paths = _paths(options)
    sources = read_sources(
        options.source,
        views=options.views,
        fov=options.fov,
        cameras=options.cameras,
        still=options.still,
        time=options.time,
    )
    depth = _depth(options, sources)
    prior = open_prior(options.prior, device)
    made = generate(sources, prior, paths, given, depth)
    if preview is not None:
        draw_preview(made.splats, [made.sources[0], *made.path], preview)
    files = [*sources.files, *(file for file in (options.depth,) if file is not None)]
    told = {"prior": prior.name, "steps": given.steps, "seed": given.seed, "preset": given.preset}
    told |= {} if options.time is None else {"time": options.time}
    provenance = provenance_of(
        [source_of(file, None) for file in files],
        [{"generate": told}],
        licence=options.licence,
        consent=options.consent,
    )
    write_scenes({options.output: (made.splats, provenance)}, False, options, notes)
    seconds = time.monotonic() - begun
    print(
        f"{options.output}: {len(made.splats):,} splats in {seconds:.1f} s, prior {prior.name}, "
        f"torch on {device}, seed {given.seed}"
    )


def _check(options: GenerateOptions) -> Path | None:
    """Where the preview goes, as far as all can be checked before any work."""
    if options.depth is not None and options.depth_model is not None:
        raise InputError("--depth and --depth-model both tell the depth: give one of them")
    check_output(options.output, options)
    if options.preview == NONE:
        return None
    preview = options.output.with_suffix(".png") if options.preview is None else Path(options.preview)
    if preview.suffix.lower() != ".png":
        raise InputError(f"--preview {preview}: is written as PNG, give a name that ends in .png, or none")
    check_free(preview, options)
    return preview


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name!r} is unknown: give auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda cannot be used, torch sees no GPU here: give cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _paths(options: GenerateOptions) -> list[tuple[str, float]] | list[Camera]:
    """Names with the reach, or the cameras of lists."""
    names = options.path or ("clockwise", "zoom_out")
    listed = [name for name in names if name.endswith(LISTED)]
    if listed and len(listed) < len(names):
        raise InputError(f"--path {' '.join(names)}: names and camera lists do not mix, give one kind")
    if listed:
        return [camera for name in listed for camera in load_cameras(Path(name))]
    for name in names:
        path_poses(name, options.reach, 1)
    return [(name, options.reach) for name in names]


def _depth(options: GenerateOptions, sources: Sources) -> KnownDepth | None:
    """What is told of the depth of the first view."""
    if options.depth is not None:
        return KnownDepth(read_depth(options.depth, options.depth_scale), "z")
    if options.depth_model is not None:
        rgb = sources.views[0].rgb.permute(2, 0, 1)
        return KnownDepth(model_depth(options.depth_model, rgb), options.depth_kind)
    return None
