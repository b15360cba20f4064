"""From known views to a scene: their own splats in their own pixels, and the prior's where they show nothing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...errors import InputError
from ...scene.camera import Camera
from ...scene.gaussians import Gaussians, merge
from ...scene.transform import transform
from ..clips import Clips
from ..data.resampling import lens_of
from ..weights import Prior
from .depth import LEAST, aligned, completed, fitted, guided
from .depth_models import Kind
from .fill import Shown, in_holes, patch
from .inputs import SOLID, Sources, View, lens, scaled
from .paths import path_poses
from .picture_splats import picture_splats
from .units import joined_poses, swept_depth
from .views import Imagined, imagine, low_clips, low_size, source_inverse

Preset = Literal["dense", "compact"]
FINEST = 8  # pixels that are looked at, for each splat
COMPACT, COMPACT_PICTURES = 2500, 1800  # splats in all, and of the pictures
CUTOUT = 0.95  # mean alpha of a picture, below which it shows an object on nothing
A_PATH = 4  # views along a named path
MOST_TARGETS = 24  # views along a given path
THREADS = 2  # of torch, on any machine
MOST_SPLATS = 16_000_000
SWEPT = 96  # pixels of the longer side in which the unit of posed views is found


@dataclass(frozen=True)
class GenerationOptions:
    """How a scene is made."""

    steps: int = 4
    """Of the student for each group of views, 1 to 4."""
    splats: int = 200_000
    """Splats of the pictures, at most."""
    preset: Preset = "dense"
    """compact: 2,500 splats in all at most."""
    seed: int = 0
    scale: float | None = None
    """Median depth of a picture without a known camera, in units of the scene."""

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("steps", self.steps, 1, 4),
            ("splats", self.splats, 1000, MOST_SPLATS),
            ("seed", self.seed, 0, 2**63 - 1),
        ):
            if not least <= value <= most:
                raise InputError(f"--{name} {value} is out of range: give {least} to {most}")
        if self.preset not in ("dense", "compact"):
            raise InputError(f"--preset {self.preset!r} is unknown: give dense or compact")
        if self.scale is not None and not 0 < self.scale < float("inf"):
            raise InputError(f"--scale {self.scale:g} is out of range: give the median depth, above 0")


@dataclass(frozen=True, eq=False)
class KnownDepth:
    """What is known of the depth of the first view."""

    values: Tensor  # [h, w] in any number of pixels
    meaning: Literal["z", Kind]
    """z: in units of the world, 0 where unknown; metric: z of a model; inverse: 1 / z but for a slope and an offset."""


@dataclass(frozen=True, eq=False)
class Made:
    """A scene, in the world of its cameras."""

    splats: Gaussians
    sources: tuple[Camera, ...]  # those given, unchanged; of a picture, at the origin
    path: tuple[Camera, ...]  # from which the prior made views


@contextmanager
def _same_threads() -> Iterator[None]:
    """torch on THREADS cores: sums depend on their number, and renderings in between change it."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@_same_threads()
def generate(
    sources: Sources,
    prior: Prior,
    paths: Sequence[tuple[str, float]] | Sequence[Camera],
    options: GenerationOptions,
    depth: KnownDepth | None = None,
) -> Made:
    """A scene of splats of degree 0 on the CPU; the same arguments give the same bytes there.

    Args:
        sources: known views.
        prior: on any device.
        paths: names and reaches of paths round the first view, or cameras in the world of the sources (of a picture
            without a camera: at the origin, in its axes, in units of `options.scale` or of the depth given).
        options: how.
        depth: of the first view.

    Raises:
        InputError: a path is unknown, or an option does not go with the sources.
    """
    if sources.posed and options.scale is not None:
        raise InputError("--scale is for a picture without a known camera, here cameras tell the unit: leave it out")
    if options.scale is not None and depth is not None and depth.meaning == "z":
        raise InputError("--scale and --depth both tell the unit: use --depth-scale for that of the depth")
    limit = options.splats if options.preset == "dense" else min(options.splats, COMPACT_PICTURES)
    views = [scaled(view, FINEST * limit) for view in sources.views]
    unit = _unit(views, sources.posed, options, depth)
    size = low_size(views[0].camera.width, views[0].camera.height, prior, prior.student.core.options.patch)
    known = low_clips(views, size, unit)
    cameras = _targets(paths, sources.views[0].camera, unit)
    first = sources.views[0].camera.world_to_camera
    poses = joined_poses(first, torch.stack([camera.world_to_camera for camera in cameras]), unit)
    groups = imagine(
        known,
        poses,
        torch.stack([_low_lens(camera, size) for camera in cameras]),
        prior,
        options.steps,
        torch.Generator().manual_seed(options.seed),
    )
    most = COMPACT if options.preset == "compact" else MOST_SPLATS
    splats = _assembled(views, known, groups, depth, (limit, most), unit)
    to_world = torch.linalg.inv(first)
    to_world[:3, :3] *= unit
    to_world[3] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    return Made(transform(splats, to_world), tuple(view.camera for view in sources.views), tuple(cameras))


def _unit(views: Sequence[View], posed: bool, options: GenerationOptions, depth: KnownDepth | None) -> float:
    """World units for one of the prior: the median depth of the first view."""
    if options.scale is not None:
        return options.scale
    if depth is not None and (depth.meaning == "z" or (depth.meaning == "metric" and not posed)):
        z = fitted(depth.values, views[0].rgb.permute(2, 0, 1))
        counted = (z > 0) & (views[0].alpha >= SOLID)
        return float(z[counted if bool(counted.any()) else z > 0].median())
    width, height = views[0].camera.width, views[0].camera.height
    ratio = min(1.0, SWEPT / max(width, height))
    return swept_depth(low_clips(views, (max(8, round(width * ratio)), max(8, round(height * ratio))), 1.0))


def _targets(paths: Sequence[tuple[str, float]] | Sequence[Camera], first: Camera, unit: float) -> list[Camera]:
    """The cameras from which views are made, in the world."""
    found: list[Camera] = []
    for path in paths:
        if isinstance(path, Camera):
            found.append(path)
            continue
        for pose in path_poses(*path, A_PATH):
            pose[:3, 3] *= unit
            found.append(replace(first, world_to_camera=pose @ first.world_to_camera))
    if len(found) > MOST_TARGETS:
        found = [found[i * (len(found) - 1) // (MOST_TARGETS - 1)] for i in range(MOST_TARGETS)]
    return found


def _low_lens(camera: Camera, size: tuple[int, int]) -> Tensor:
    return lens_of(camera.K, (0.0, 0.0, float(camera.width), float(camera.height)), size)


def _assembled(
    views: Sequence[View],
    known: Clips,
    groups: Sequence[Imagined],
    depth: KnownDepth | None,
    limits: tuple[int, int],
    unit: float,
) -> Gaussians:
    """Splats of each picture where those before it leave holes; then the prior's, farthest views first.

    In normalised units; `limits` are how many splats the pictures may take, and how many all may. Pictures taken at
    another time than the first show things in other places: the prior alone makes use of them.
    """
    together = [i for i, view in enumerate(views) if view.time == views[0].time]
    shown: list[Shown] = []
    left = limits[0]
    scene: Gaussians | None = None
    for n, i in enumerate(together):
        view = views[i]
        z = _full_depth(view, known, groups, i, depth if i == 0 else None, unit)
        camera = replace(view.camera, world_to_camera=known.world_to_camera[0, i].double())
        splats = picture_splats(view, z, left // (len(together) - n))
        splats = transform(splats, torch.linalg.inv(camera.world_to_camera))
        if scene is not None:
            splats = in_holes(scene, splats, camera, shown)
        left -= len(splats)
        scene = splats if scene is None else merge([scene, splats])
        shown.append(Shown(camera, torch.where(view.alpha >= SOLID, z, torch.inf)))
    assert scene is not None
    left = limits[1] - len(scene)
    cutout = float(views[0].alpha.mean()) < CUTOUT
    made = [made for group in groups for made in _made_views(group)]
    made.sort(key=lambda pair: -float(pair[0].camera.position.norm()))  # stable; normalised: view 0 is at the origin
    for i, (view, z) in enumerate(made):
        splats = patch(scene, shown, view, z, left // (len(made) - i), cutout)
        left -= len(splats)
        scene = merge([scene, splats])
    return scene


def _made_views(group: Imagined) -> list[tuple[View, Tensor]]:
    """The views that the prior made and their depths, in its pixels and in normalised units."""
    clips, first = group.clips, group.known
    pictures = zip(clips.rgb[0, first:], clips.world_to_camera[0, first:], clips.K[0, first:], strict=True)
    return [
        (View(rgb.permute(1, 2, 0), torch.ones_like(z), Camera(pose.double(), *lens(K), *clips.size)), z)
        for (rgb, pose, K), z in zip(pictures, group.depths[first:], strict=True)
    ]


def _full_depth(
    view: View, known: Clips, groups: Sequence[Imagined], i: int, depth: KnownDepth | None, unit: float
) -> Tensor:
    """[h, w] z of a view in its own pixels, in normalised units."""
    low, high = known.rgb[0, i], view.rgb.permute(2, 0, 1)
    inverse = source_inverse(groups, i)
    guess = 1 / guided(inverse, torch.ones_like(inverse), low, high).clamp(min=LEAST)
    if depth is None:
        return guess
    if depth.meaning == "z":
        return completed(fitted(depth.values / unit, high), guess)
    counted = known.alpha[0, i] >= SOLID
    if depth.meaning == "metric":
        z = depth.values.clamp(min=0)
        middle = fitted(z, low)[counted].median()
        return completed(fitted(z * ((1 / inverse)[counted].median() / middle), high), guess)
    relative = interpolate(depth.values[None, None], inverse.shape, mode="area")[0, 0]
    slope, offset = aligned(relative.flatten(), inverse.flatten(), counted.flatten().float())
    return fitted(1 / (slope * depth.values + offset).clamp(min=LEAST), high)
