"""What `lyra-bench` can be told, on the command line or in a YAML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ..engine.command_line import parse_with_config
from ..engine.errors import InputError
from ..kernels.constants import MAX_SIDE

RESOLUTIONS = {"720p": (1280, 720), "1080p": (1920, 1080), "1440p": (2560, 1440), "4k": (3840, 2160)}


@dataclass(frozen=True)
class BenchOptions:
    """Render scenes and report what every stage and the whole frame cost."""

    res: str | None = None
    """720p, 1080p, 1440p, 4k or WIDTHxHEIGHT. Default: 1080p, or the size of cameras that are given."""
    scene: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A scene file or folder, procedural, procedural:N (300k, 1e6), garden:PATH.npz (gsplat's test points
    and cameras), and any of these followed by @K for K copies side by side. Repeatable. Default: procedural."""
    backend: Literal["auto", "triton", "cpu", "reference"] = "auto"
    """triton on an NVIDIA GPU, cpu (Numba), reference (plain torch, slow); auto takes the fastest that works here."""
    frames: int = 60
    """Measured frames along the path, or measured frames of every camera of --cameras."""
    warmup: int = 5
    """Frames rendered first and not measured, after one more that compiles."""
    path: Literal["orbit", "dolly", "walk"] = "orbit"
    """How the camera moves."""
    up: Literal["x+", "x-", "y+", "y-", "z+", "z-"] = "y-"
    """Which way is up in a scene file, for the path; captures mostly have y down."""
    cameras: Path | None = None
    """Camera list (JSON, see docs/conventions.md) instead of a path; --res, where given, rescales its intrinsics."""
    grid: bool = False
    """Every scene at two resolutions and three distances. Default scenes: procedural, from 100k to 30M splats."""
    vs: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Compare with gsplat, gsplat-unpacked, higs or a backend, frames in turn. Repeatable."""
    lod: bool = False
    """Level of detail: budgets of splats, popping, start from a store, sizes of the cache (docs/bench.md). Beside
    --json FILE come curves as a .png."""
    quality: bool = False
    """With --lod: build the tree by similarity."""
    scaling: bool = False
    """With --lod, and in place of the rest of it: the scene standing 1, 10 and 100 times, drawn with one budget."""
    evidence: bool = False
    """Everything that can be measured on this GPU, written to bench/results or to --json, with a page beside it; with
    --backend cpu, a small trial run."""
    json: str | None = None
    """Write the results as JSON to a file, or to stdout with -."""
    image: Path | None = None
    """Write the first frame as a .png."""
    dump: Path | None = None
    """Write the float frames as an .npz: rgb_i, alpha_i, depth_i for camera i (at 1080p 41 MB each)."""
    config: Path | None = None
    """YAML file whose keys are these options; the command line overrides it."""


def parse(arguments: list[str]) -> BenchOptions:
    """Options from a command line; the defaults are those of the file that --config names, where it is given.

    Raises:
        InputError: as `command_line.parse_with_config`, or a number is out of range.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    options = parse_with_config(BenchOptions, arguments, "lyra-bench", ("scene", "vs"))
    if options.frames < 1:
        raise InputError(f"--frames {options.frames} is out of range: give 1 or more")
    if options.warmup < 0:
        raise InputError(f"--warmup {options.warmup} is out of range: give 0 or more")
    return options


def check_combination(options: BenchOptions) -> None:
    """Options that would be ignored are refused.

    Raises:
        InputError: two of them do not go together.
    """
    if options.grid and options.cameras is not None:
        raise InputError(f"--cameras {options.cameras} with --grid: give one, the grid has its own cameras")
    if options.lod and options.json is not None and options.json.lower().endswith(".png"):
        raise InputError(f"--json {options.json} is the name of the curves: give one that ends in .json")
    if options.quality and not options.lod:
        raise InputError("--quality builds the tree of --lod: give both")
    if options.scaling and not options.lod:
        raise InputError("--scaling is a part of --lod: give both")
    chosen = {
        "--vs": ("image", "dump") if options.vs else (),
        "--lod": ("vs", "grid", "evidence", "image", "dump") if options.lod else (),
        "--evidence": ("scene", "res", "cameras", "vs", "grid", "image", "dump") if options.evidence else (),
    }
    for mode, others in chosen.items():
        for other in others:
            if getattr(options, other) not in (None, (), False):
                raise InputError(f"--{other} does not go with {mode}: give one of them")


def resolution(text: str) -> tuple[int, int]:
    """Width and height in pixels of `--res`.

    Raises:
        InputError: neither a name nor WIDTHxHEIGHT, or out of range.
    """
    if text.lower() in RESOLUTIONS:
        return RESOLUTIONS[text.lower()]
    width, _, height = text.lower().partition("x")
    if not (text.isascii() and width.isdigit() and height.isdigit() and len(text) < 20):
        raise InputError(f"--res {text!r} is no resolution: give {', '.join(RESOLUTIONS)} or WIDTHxHEIGHT")
    if not (1 <= int(width) <= MAX_SIDE and 1 <= int(height) <= MAX_SIDE):
        raise InputError(f"--res {text} is out of range: give 1 to {MAX_SIDE} pixels a side")
    return int(width), int(height)
