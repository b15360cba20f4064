"""Looks whether a redaction did what it should: nothing left in the regions, everything else as it was."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...kernels.options import Options
from ..renderer import render
from ..scene.camera import Camera, look_at
from ..scene.gaussians import Gaussians
from ..scene.regions import Region, Sphere, bounds
from .cut import near, reaching, spread
from .redact import Redaction

RAYS = 16  # a side of the bundle that looks through a region from one direction
BLOCK = 512  # splats that are held against a bundle at a time
SIDE = 256  # pixels of the pictures that are compared
DISTANCE = 3.0  # of their eyes from a region's centre, in radii of the ball round it
FIELD = 1.0  # vertical field of view, radians: the ball fills two thirds

PLAIN = Options(depth=False)


class Left(NamedTuple):
    """What is drawn inside a region."""

    splats: int  # that reach into it
    alpha: float  # the most that one of them covers along any ray, within the region; drawn from 1/255


class Agreement(NamedTuple):
    """How a redacted scene compares with the one before, in pixels to which nothing that changed gave any colour."""

    psnr: float  # dB for a peak of 1; infinite where both are equal
    share: float  # of all pixels that were compared


def left_inside(scene: Gaussians, region: Region, views: int, *, finest: float = math.inf) -> Left:
    """What a scene holds in a region: by geometry, and by looking through it from many directions.

    The two are independent. Looking takes RAYS x RAYS parallel rays through the region from each of `views` directions
    and every splat by its formula, at the point of each ray's way through the region where it is densest; nothing hides
    anything. It sees no splat that lies between rays, which the geometry does.

    Args:
        finest: splats that are nowhere thinner than this, world units, do not count: blur leaves them there.
    """
    scene = scene.select(scene.scales.amin(dim=1) < finest).to("cpu")
    part = scene.select(near(scene, region))
    alpha = 0.0
    for start in range(0, len(part), BLOCK):
        some = part.select(slice(start, start + BLOCK))
        whiten = torch.linalg.inv(spread(some))
        for origins, direction in _bundles(region, views):
            alpha = max(alpha, _most_alpha(some, whiten, direction, *_within(region, origins, direction)))
    return Left(int(reaching(part, region).sum()), alpha)


def agreement(
    before: Gaussians, redaction: Redaction, cameras: Sequence[Camera], *, backend: str = "auto"
) -> Agreement:
    """Compares pictures, pixel by pixel, where nothing changed can be seen: neither what went nor what came.

    `before` and the redacted scene live on the backend's device.
    """
    error, count, total = 0.0, 0, 0
    for camera in cameras:
        old, gone = _picture(before, redaction.changed, camera, backend)
        new, come = _picture(redaction.scene, redaction.added, camera, backend)
        same = (gone == 0) & (come == 0)
        error += float((old - new).square().mean(dim=-1).double()[same].sum())
        count, total = count + int(same.sum()), total + same.numel()
    return Agreement(-10 * math.log10(error / count) if error else math.inf, count / max(1, total))


def cameras_around(region: Region, count: int) -> list[Camera]:
    """Cameras on a sphere round a region, evenly spread, that look at its centre."""
    middle, radius = _ball(region)
    return [
        look_at(middle + DISTANCE * radius * direction, middle, fov=FIELD, width=SIDE, height=SIDE)
        for direction in directions(count)
    ]


def directions(count: int) -> Tensor:
    """[count, 3] float64 unit vectors on Fibonacci's lattice."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    height, turn = 1 - 2 * i / count, i * math.pi * (5**0.5 - 1)
    radius = (1 - height * height).sqrt()
    return torch.stack((radius * turn.cos(), height, radius * turn.sin()), dim=1)


def _ball(region: Region) -> tuple[Tensor, float]:
    low, high = (torch.tensor(corner, dtype=torch.float64) for corner in bounds(region))
    return (low + high) / 2, region.radius if isinstance(region, Sphere) else float((high - low).norm()) / 2


def _bundles(region: Region, views: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parallel rays that cover the ball round a region: origins [r, 3] in the plane of its centre, direction [3]."""
    middle, radius = _ball(region)
    steps = ((torch.arange(RAYS, dtype=torch.float64) + 0.5) / RAYS * 2 - 1) * radius
    rows, columns = (grid.reshape(-1, 1) for grid in torch.meshgrid(steps, steps, indexing="ij"))
    for direction in directions(views):
        across = torch.linalg.svd(direction[None], full_matrices=True).Vh[1:]
        yield middle + rows * across[0] + columns * across[1], direction


def _within(region: Region, origins: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Of the rays that meet a region, the points [r, 3] where they enter it, and how far [r] they go in it."""
    if isinstance(region, Sphere):
        offsets = origins - origins.new_tensor(region.center)
        nearest = -(offsets @ direction)
        half = (region.radius**2 - (offsets + nearest[:, None] * direction).square().sum(dim=1)).clamp(min=0).sqrt()
        enter, leave = nearest - half, nearest + half
    else:
        safe = torch.where(direction.abs() < 1e-12, 1e-12, direction)
        low, high = ((origins.new_tensor(corner) - origins) / safe for corner in bounds(region))
        enter, leave = torch.minimum(low, high).amax(dim=1), torch.maximum(low, high).amin(dim=1)
    hit = enter < leave
    return origins[hit] + enter[hit, None] * direction, (leave - enter)[hit]


def _most_alpha(part: Gaussians, whiten: Tensor, direction: Tensor, points: Tensor, lengths: Tensor) -> float:
    """The most that one splat covers at its densest point of any ray; `whiten` [c, 3, 3] takes splats to unit balls."""
    start = whiten @ (points[:, None] - part.means.double()).permute(1, 2, 0)  # [c, 3, r]
    along = whiten @ direction  # [c, 3]
    slope = (along[:, None] @ start)[:, 0]
    steep = along.square().sum(dim=1, keepdim=True)
    place = torch.minimum((-slope / steep).clamp(min=0), lengths)
    squares = start.square().sum(dim=1) + place * (2 * slope + place * steep)
    alphas = part.opacities.double()[:, None] * (-0.5 * squares).exp()
    return float(alphas.max()) if alphas.numel() else 0.0


def _picture(scene: Gaussians, marked: Tensor, camera: Camera, backend: str) -> tuple[Tensor, Tensor]:
    """RGB [h, w, 3], and [h, w] how much of it comes from the splats that are marked."""
    marks = marked[:, None].to(scene.means)
    frame = render(scene, camera, features=marks, options=PLAIN, backend=backend)
    assert frame.features is not None
    return frame.rgb, frame.features[..., 0]
