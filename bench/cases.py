"""What a run of the command measures, case by case: a scene and the cameras that look at it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from ..engine.scene.camera import Camera, load_cameras
from ..engine.scene.gaussians import Gaussians
from ..engine.scene.paths import PATHS, Framing, orbit
from .options import BenchOptions, resolution
from .scenes import open_bench_scene, own_cameras

# Rankings of renderers turn with the number of splats, the resolution and how near the camera is: the grid has all.
GRID_SCENES = ("procedural:100k", "procedural:1M", "procedural:3M", "procedural:6M", "procedural:10M@3")
GRID_RESOLUTIONS = ("1080p", "4k")
DISTANCES = {"near": 0.4, "mid": 1.0, "far": 3.0}  # of an orbiting eye, in radii of the scene's framing

Opening = Callable[[str], AbstractContextManager[object]]


@dataclass(frozen=True, eq=False)
class Case:
    """One scene and what to render of it; every camera is rendered `rounds` times."""

    name: str
    gaussians: Gaussians
    cameras: list[Camera]
    rounds: int
    up: tuple[float, float, float]


def count(options: BenchOptions) -> int:
    """How many cases there will be."""
    if not options.grid:
        return len(options.scene) or 1
    return (len(options.scene) or len(GRID_SCENES)) * (1 if options.res else len(GRID_RESOLUTIONS)) * len(DISTANCES)


def cases(options: BenchOptions, opening: Opening = nullcontext) -> Iterator[Case]:
    """Every case that the options ask for, in order; `opening` is held while a scene is opened.

    Raises:
        InputError: a scene or a camera file cannot be read.
    """
    yield from _grid(options, opening) if options.grid else _scenes(options, opening)


def _scenes(options: BenchOptions, opening: Opening) -> Iterator[Case]:
    width, height = resolution(options.res or "1080p")
    listed = load_cameras(options.cameras) if options.cameras else []
    for source in options.scene or ("procedural",):
        gaussians, framing = _open(source, options, opening)
        given = listed or own_cameras(source)
        if options.res:
            given = [camera.resized(width, height) for camera in given]
        cameras = given or PATHS[options.path](framing, options.frames, width=width, height=height)
        yield Case(source, gaussians, cameras, options.frames if given else 1, framing.up)


def _grid(options: BenchOptions, opening: Opening) -> Iterator[Case]:
    for source in options.scene or GRID_SCENES:
        gaussians, framing = _open(source, options, opening)
        for res in (options.res,) if options.res else GRID_RESOLUTIONS:
            for distance, radii in DISTANCES.items():
                seen = replace(framing, radius=framing.radius * radii)
                width, height = resolution(res)
                cameras = orbit(seen, options.frames, width=width, height=height)
                yield Case(f"{source} {res} {distance}", gaussians, cameras, 1, framing.up)


def _open(source: str, options: BenchOptions, opening: Opening) -> tuple[Gaussians, Framing]:
    with opening(source):
        return open_bench_scene(source, up=options.up)
