"""Which splats are meant: by place, in a view, by colour, by what is joined, and by combinations of these."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.constants import NEAR
from ..errors import InputError
from .camera import Camera
from .filters import Condition, holds
from .gaussians import Gaussians, base_colors
from .regions import Box, Point, Sphere, inside


@dataclass(frozen=True)
class Polygon:
    """Splats whose centre a pinhole camera sees inside a polygon, hidden ones too: nothing is asked about surfaces.

    Where the outline crosses itself, what is enclosed twice is outside.

    Raises:
        InputError: fewer than three corners, a number that is not finite, or an empty range of depths.
    """

    camera: Camera
    points: tuple[tuple[float, ...], ...]  # corners x, y in pixels of the camera, in order
    far: float = math.inf  # world units along the camera's axis; splats beyond stay out, as do those not beyond NEAR

    def __post_init__(self) -> None:
        if len(self.points) < 3:
            raise InputError(f"polygon of {len(self.points)} corners: give three or more")
        for corner in self.points:
            if len(corner) != 2 or not all(map(math.isfinite, corner)):
                raise InputError(f"corner {list(corner)} of a polygon: give two numbers, in pixels")
        if not self.far > NEAR:
            raise InputError(f"far is {self.far}: give a depth above {NEAR}")


@dataclass(frozen=True)
class Color:
    """Splats whose colour, without view-dependent parts and held to 0..1, is off by at most `tolerance` a channel.

    Raises:
        InputError: not three finite numbers, or a negative tolerance.
    """

    rgb: Point  # 0..1
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        check_numbers("rgb", self.rgb, 3)
        if not self.tolerance >= 0:
            raise InputError(f"tolerance is {self.tolerance}: give 0 or more")


@dataclass(frozen=True)
class Cluster:
    """The splat nearest to a point, and all that steps of at most `distance` from centre to centre lead to.

    Splats below an opacity are left out, and no step leads over them: haze does not join what stands apart.

    Raises:
        InputError: a number that is not finite, or a distance that is not positive.
    """

    point: Point
    distance: float  # world units
    opacity: float = 0.0

    def __post_init__(self) -> None:
        check_numbers("point", self.point, 3)
        if not 0 < self.distance < math.inf:
            raise InputError(f"distance is {self.distance}: give a positive one")
        if not self.opacity <= 1:
            raise InputError(f"opacity is {self.opacity}: give 0 to 1")


@dataclass(frozen=True)
class And:
    """Splats that every part means; all of them where there is no part."""

    parts: "tuple[Selection, ...]"


@dataclass(frozen=True)
class Or:
    """Splats that some part means."""

    parts: "tuple[Selection, ...]"


@dataclass(frozen=True)
class Not:
    """Splats that the part does not mean."""

    part: "Selection"


Selection = Box | Sphere | Polygon | Color | Condition | Cluster | And | Or | Not
EVERYTHING = And(())


def select(selection: Selection, scene: Gaussians) -> Tensor:
    """[n] bool, which splats are meant; regions hold a splat that has its centre there."""
    match selection:
        case Box() | Sphere():
            return inside(selection, scene.means)
        case Polygon():
            return _in_polygon(selection, scene.means)
        case Color(rgb, tolerance):
            colors = base_colors(scene)
            return ((colors.clamp(0, 1) - colors.new_tensor(rgb)).abs() <= tolerance).all(dim=1)
        case Condition():
            return holds(selection, scene)
        case Cluster():
            return _in_cluster(selection, scene)
        case And(parts):
            chosen = torch.ones(len(scene), dtype=torch.bool, device=scene.means.device)
            for part in parts:
                chosen &= select(part, scene)
            return chosen
        case Or(parts):
            chosen = torch.zeros(len(scene), dtype=torch.bool, device=scene.means.device)
            for part in parts:
                chosen |= select(part, scene)
            return chosen
        case Not(part):
            return ~select(part, scene)


def check_numbers(name: str, numbers: tuple[float, ...], count: int) -> None:
    """Refuse other than `count` finite numbers.

    Raises:
        InputError: then.
    """
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise InputError(f"{name} is {list(numbers)}, expected {count} finite numbers")


def _in_polygon(polygon: Polygon, means: Tensor) -> Tensor:
    camera = polygon.camera
    pose = camera.world_to_camera.to(means.device)
    x, y, depth = (means.double() @ pose[:3, :3].T + pose[:3, 3]).unbind(dim=1)
    chosen = (depth > NEAR) & (depth <= polygon.far)
    x, y, depth = x[chosen], y[chosen], depth[chosen]
    chosen[chosen.clone()] = _enclosed(
        polygon.points, camera.fx * x / depth + camera.cx, camera.fy * y / depth + camera.cy
    )
    return chosen


def _enclosed(corners: tuple[tuple[float, ...], ...], u: Tensor, v: Tensor) -> Tensor:
    """[n] by the even-odd rule: inside is where a ray to the right crosses an odd number of edges.

    Points are put in order of v, in which those that an edge can matter to are one run.
    """
    order = v.argsort()
    u, v = u[order], v[order]
    runs = torch.searchsorted(v, v.new_tensor([corner[1] for corner in corners])).tolist()
    odd = torch.zeros_like(u, dtype=torch.bool)
    ends = list(zip(corners, runs, strict=True))
    for ((x0, y0), first), ((x1, y1), last) in zip(ends, ends[1:] + ends[:1], strict=True):
        run = slice(min(first, last), max(first, last))
        if y0 != y1:
            odd[run] ^= u[run] < x0 + (v[run] - y0) * ((x1 - x0) / (y1 - y0))
    return torch.empty_like(odd).scatter_(0, order, odd)


def _in_cluster(cluster: Cluster, scene: Gaussians) -> Tensor:
    from ...kernels.cpu.clusters import clusters  # brings Numba, which the rest does without

    chosen = scene.opacities >= cluster.opacity
    if not chosen.any():
        return chosen
    points = scene.means[chosen].double().cpu()
    seed = int((points - points.new_tensor(cluster.point)).norm(dim=1).argmin())
    labels = torch.from_numpy(clusters(points.numpy(), cluster.distance))
    chosen[chosen.clone()] = (labels == labels[seed]).to(chosen.device)
    return chosen
