"""Training clips from scenes of Gaussians, rendered along random paths round and into them."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ....kernels.options import Options
from ....kernels.rasterize import rasterize
from ...errors import InputError
from ...formats.format import Reading
from ...formats.registry import about, load
from ...scene.camera import Camera, look_at
from ...scene.gaussians import Gaussians
from ...scene.paths import UPS, Framing, eye_at, frame_scene
from ..clips import Clips, joined
from .resampling import area, nearest

FINER = 3  # rendered pixels a side of each; odd, so that one of them lies in the middle
GLANCE = 32  # pixels a side of the picture that tells how far away things are
FOLDERS = ("meta.json", "lod-meta.json")  # in folders that are scenes themselves
TRIES = 12  # before the best clip so far is taken
LEAST_SEEN, MOST_NEAR = 0.3, 0.02  # mean alpha of a view; share of its pixels that may be near
NEAR = 0.2  # of the median depth
RENDERING = Options(antialiased=True, median=True)  # pictures far smaller than those that scenes are trained on


@dataclass(frozen=True)
class Wandering:
    """The range of random paths; pairs are the ends of uniform draws."""

    distance: tuple[float, float] = (0.25, 1.1)  # of the eye from the centre, in radii of the scene's framing
    elevation: tuple[float, float] = (math.radians(-5.0), math.radians(50.0))
    fov: tuple[float, float] = (math.radians(35.0), math.radians(75.0))  # vertical
    aside: float = 0.1  # standard deviation of the point that is looked at, in radii
    baseline: tuple[float, float] = (0.1, 0.6)  # from the first to the last view, of the first one's median depth


@dataclass(frozen=True, eq=False)
class GaussianScenes:
    """A source of clips from scenes, all as likely, rendered on their device."""

    scenes: tuple[Gaussians, ...]
    framings: tuple[Framing, ...]
    wandering: Wandering = Wandering()

    def clips(self, count: int, views: int, size: tuple[int, int], generator: torch.Generator) -> Clips:
        """Fresh clips on the device of the scenes, in their world units; the same seed gives the same clips.

        Views lie along a curve that starts at the first, at even times. Depth is the median depth, where alpha is a
        half or more. Views that see little of the scene, or whose eye stands among splats, are drawn again.
        """
        return joined([self._clip(views, size, generator) for _ in range(count)])

    def _clip(self, views: int, size: tuple[int, int], generator: torch.Generator) -> Clips:
        i = int(torch.randint(len(self.scenes), (), generator=generator))
        scene, framing = self.scenes[i], self.framings[i]
        most, best = 0.0, None
        for _ in range(TRIES):
            first = _first(framing, self.wandering, size, generator)
            seen, depth = _glance(scene, first)
            if seen >= LEAST_SEEN:
                clip = _rendered(scene, _path(first, depth, framing, self.wandering, views, generator))
                if _is_clear(clip, depth):
                    return clip
            if seen > most:
                most, best = seen, (first, depth)
        if best is None:
            raise InputError(f"scene {i} of {len(self.scenes)} shows nothing from {TRIES} places: leave it out")
        return _rendered(scene, _path(*best, framing, self.wandering, views, generator))


def open_scenes(path: Path, *, up: str = "y-", level: int = 0, device: torch.device | str = "cpu") -> GaussianScenes:
    """All scenes in a folder, or the one that a path is itself; other files are passed over.

    Args:
        up: which way is up in them, a key of `scene.paths.UPS`.
        level: of detail, or the coarsest of scenes that have fewer.

    Raises:
        InputError: there is no scene, one is damaged beyond its header, or `up` is no such direction.
    """
    if up not in UPS:
        raise InputError(f"up {up!r} is unknown: give {', '.join(UPS)}")
    path = Path(path)
    found = [path] if is_scene(path) or not path.is_dir() else sorted(filter(is_scene, path.iterdir()))
    if not found:
        raise InputError(f"{path}: holds no scene of Gaussians: give a folder with some")
    scenes = [load(file, Reading(level=min(level, about(file).levels - 1))) for file in found]
    framings = [dataclasses.replace(frame_scene(scene), up=UPS[up]) for scene in scenes]
    return GaussianScenes(tuple(scene.to(device) for scene in scenes), tuple(framings))


def is_scene(path: Path) -> bool:
    """Whether a path is a scene of Gaussians, as far as its header tells."""
    if path.is_dir() and not any((path / name).is_file() for name in FOLDERS):
        return False
    try:
        about(path)
    except InputError:
        return False
    return True


def _first(framing: Framing, range_: Wandering, size: tuple[int, int], generator: torch.Generator) -> Camera:
    turn, out, rise, wide = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    raised = dataclasses.replace(framing, elevation=_between(range_.elevation, rise))
    eye = eye_at(raised, 2 * math.pi * turn, _between(range_.distance, out))
    aside = torch.randn(3, generator=generator, dtype=torch.float64) * range_.aside * framing.radius
    target = torch.tensor(framing.center, dtype=torch.float64) + aside
    fov = _between(range_.fov, wide)
    return look_at(eye, target, up=framing.up, fov=fov, width=size[0], height=size[1])


def _path(
    first: Camera, depth: float, framing: Framing, range_: Wandering, views: int, generator: torch.Generator
) -> list[Camera]:
    """A bent way off, more to the side than ahead; the eye keeps to a point, or to its direction, or between."""
    length, bend, follow = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    way, side = torch.randn(2, 3, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 0.6, 0.5])
    axes = first.world_to_camera[:3, :3]
    way, side = (vector / vector.norm() @ axes for vector in (way, side))
    reach = _between(range_.baseline, length) * depth
    focus = first.position + depth * axes[2]
    fov = 2 * math.atan(first.height / 2 / first.fy)
    cameras = []
    for i in range(views):
        t = i / max(1, views - 1)
        moved = reach * (t * way + (bend - 0.5) * t * (1 - t) * side)
        eye, target = first.position + moved, focus + follow * moved
        cameras.append(look_at(eye, target, up=framing.up, fov=fov, width=first.width, height=first.height))
    return cameras


def _glance(scene: Gaussians, camera: Camera) -> tuple[float, float]:
    """Mean alpha and median depth of what a camera sees; 0 and 0 where it sees nothing solid."""
    small = camera.resized(GLANCE, GLANCE)
    _, alpha, depth = _draw(scene, small.world_to_camera, small.K, GLANCE, GLANCE)
    known = depth[depth > 0]
    return (float(alpha.mean()), float(known.median())) if len(known) else (0.0, 0.0)


def _is_clear(clip: Clips, depth: float) -> bool:
    """Whether all views see enough, and nothing stands right before them."""
    seen = clip.alpha.mean((2, 3)).amin()
    near = ((clip.depth > 0) & (clip.depth < NEAR * depth)).float().mean((2, 3)).amax()
    return float(seen) >= LEAST_SEEN and float(near) <= MOST_NEAR


def _rendered(scene: Gaussians, cameras: list[Camera]) -> Clips:
    """One clip of these views."""
    size = cameras[0].width, cameras[0].height
    width, height = FINER * size[0], FINER * size[1]
    poses, K = torch.stack([c.world_to_camera for c in cameras]), torch.stack([c.K for c in cameras])
    rgb, alpha, depth = _draw(scene, poses, K * torch.tensor([[FINER], [FINER], [1.0]]), width, height)
    box = (0.0, 0.0, float(width), float(height))
    device = scene.means.device
    return Clips(
        rgb=area(rgb.movedim(-1, -3), box, size).clamp(0, 1)[None],
        depth=nearest(depth, box, size)[None],
        alpha=area(alpha, box, size).clamp(0, 1)[None],
        world_to_camera=poses[None].float().to(device),
        K=K[None].float().to(device),
        times=torch.linspace(0, 1, len(cameras), device=device)[None],
    )


def _draw(
    scene: Gaussians, world_to_camera: Tensor, K: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """RGB [..., h, w, 3] on black, alpha [..., h, w] and median depth [..., h, w]."""
    frame = rasterize(
        scene.means, scene.quats, scene.scales, scene.opacities, scene.sh, world_to_camera, K, width, height,
        options=RENDERING,
    )  # fmt: skip
    assert frame.median is not None
    return frame.rgb, frame.alpha, frame.median


def _between(ends: tuple[float, float], part: float) -> float:
    return ends[0] + part * (ends[1] - ends[0])
