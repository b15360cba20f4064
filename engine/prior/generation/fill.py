"""The prior's part of a scene: in each view that it made, surfaces where all that is there so far leaves a hole."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ....kernels.options import Options
from ...renderer import render
from ...scene.camera import Camera
from ...scene.gaussians import Gaussians
from ...scene.transform import transform
from ..rays import pixel_directions
from .depth import LEAST, guided
from .inputs import View
from .picture_splats import discs

FINER = 4  # working pixels for one of the prior's, each way
HOLE = 0.8  # alpha of a rendering below which something is missing
WHOLE = 0.95  # alpha from which on a rendering says what is there
BEHIND = 1.03  # times the depth of a picture, from which on a point is hidden there
DEEPER = (1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)  # times a depth that a picture denies
ALIKE = 0.4  # logarithm of a ratio of depths up to which two of them mean the same surface
RIM = 0.5  # standard deviations of a splat that must not cover a picture
LEAST_Z = 1e-3
BLACK = 0.06  # brightest channel of a pixel that shows nothing


@dataclass(frozen=True, eq=False)
class Shown:
    """What a picture shows: all that lies before its depth is empty, all behind it is hidden."""

    camera: Camera
    depth: Tensor  # [h, w] of the camera's pixels; infinite where nothing is


def hidden(points: Tensor, shown: Shown) -> Tensor:
    """[n] bool: whether a picture says nothing of a point [n, 3], which lies beside it or behind what it shows."""
    z, seen, pixels = _placed(points, shown.camera)
    return ~seen | (z > BEHIND * shown.depth[pixels])


def in_holes(scene: Gaussians, splats: Gaussians, camera: Camera, shown: Sequence[Shown]) -> Gaussians:
    """Those splats of a picture's where a rendering of the scene has holes, and which no picture before denies."""
    _, _, pixels = _placed(splats.means, camera)
    wanted = (render(scene, camera, options=Options(depth=False)).alpha < HOLE)[pixels]
    for picture in shown:
        wanted &= hidden(splats.means, picture)
    return splats.select(wanted)


def patch(scene: Gaussians, shown: Sequence[Shown], view: View, depth: Tensor, limit: int, cutout: bool) -> Gaussians:
    """Splats of a view that the prior made, in the world, where a rendering of the scene has holes.

    Depth and colours are moved to those of the scene round each hole, so that surfaces go on there. A surface that a
    picture denies, since it would stand before what that shows, is moved away from the view until none does.

    Args:
        scene: so far.
        shown: what pictures show.
        view: in the prior's pixels.
        depth: [h, w] z of the decoder there.
        limit: splats at most.
        cutout: whether the pictures show an object on nothing, which the prior sees as black.
    """
    h, w = depth.shape
    camera = view.camera.resized(w * FINER, h * FINER)
    low = view.rgb.permute(2, 0, 1)
    rgb = interpolate(low[None], (camera.height, camera.width), mode="bicubic")[0].clamp(0, 1)
    z = 1 / guided(1 / depth, torch.ones_like(depth), low, rgb).clamp(min=LEAST)
    there = render(scene, camera)
    assert there.depth is not None
    ratio = (there.depth.clamp(min=LEAST_Z) / z).log()
    sure = (there.alpha >= WHOLE) & (ratio.abs() <= ALIKE)
    moved = spread(torch.cat((ratio[None], there.rgb.permute(2, 0, 1) - rgb)), sure)
    hole = there.alpha < HOLE
    if cutout:
        hole &= rgb.amax(dim=0) >= BLACK
    rgb = (rgb + moved[1:]).clamp(0, 1)
    z, free = _allowed(z * moved[0].exp(), camera, shown)
    alpha = (hole & free).float()
    if not bool(alpha.any()) or limit < 1:
        return scene.select(slice(0, 0))
    found = discs(View((rgb * alpha).permute(1, 2, 0), alpha, camera), z, limit)
    found = transform(found, torch.linalg.inv(camera.world_to_camera))
    return found.select(torch.stack([_beyond(found, picture) for picture in shown]).all(dim=0))


def _beyond(splats: Gaussians, shown: Shown) -> Tensor:
    """[n] bool: whether a splat of which a picture denies nothing also covers nothing of it with its rim."""
    pose = shown.camera.world_to_camera.float()
    reach = RIM * splats.scales.amax(dim=1, keepdim=True)
    ways = torch.cat((pose[:2, :3], -pose[:2, :3]))  # to all four sides of the picture
    return torch.stack([hidden(splats.means + reach * way, shown) for way in ways]).all(dim=0)


def spread(values: Tensor, known: Tensor) -> Tensor:
    """Values [c, h, w] everywhere, from means where they are known [h, w]: nearer ones count, farther ones fill.

    Pull and push (Gortler et al. 1996, "The lumigraph", section 4.2) from blocks of FINER pixels on; 0 where nothing
    is known.
    """
    weights = known.float()[None]
    levels = [(avg_pool2d(values * weights, FINER), avg_pool2d(weights, FINER))]
    while min(levels[-1][1].shape[1:]) > 1:
        total, share = (avg_pool2d(x[None], 2, ceil_mode=True)[0] for x in levels[-1])
        levels.append((total, share))
    found = torch.zeros_like(levels[-1][0])
    for total, share in reversed(levels):
        wider = interpolate(found[None], total.shape[1:], mode="bilinear")[0]
        found = torch.where(share > 0, total / share.clamp(min=1e-6), wider)
    return interpolate(found[None], values.shape[1:], mode="bilinear")[0]


def _placed(points: Tensor, camera: Camera) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Of points [n, 3] in a camera: z, whether they are in the picture, and the row and column nearest to them."""
    pose = camera.world_to_camera.float()
    local = points @ pose[:3, :3].T + pose[:3, 3]
    z = local[:, 2].clamp(min=LEAST_Z)
    x, y = camera.fx * local[:, 0] / z + camera.cx, camera.fy * local[:, 1] / z + camera.cy
    seen = (local[:, 2] > LEAST_Z) & (x >= 0) & (y >= 0) & (x < camera.width) & (y < camera.height)
    return local[:, 2], seen, (y.long().clamp(0, camera.height - 1), x.long().clamp(0, camera.width - 1))


def _allowed(z: Tensor, camera: Camera, shown: Sequence[Shown]) -> tuple[Tensor, Tensor]:
    """Depths [h, w], the nearest from those given on that no picture denies; and where there are such."""
    to_world = torch.linalg.inv(camera.world_to_camera).float()
    rays = pixel_directions(camera.K.float(), (camera.width, camera.height)).flatten(1).T @ to_world[:3, :3].T
    found, free = z.flatten(), torch.zeros(z.numel(), dtype=torch.bool)
    for times in DEEPER:
        tried = times * z.flatten()
        points = rays * tried[:, None] + to_world[:3, 3]
        fits = torch.stack([hidden(points, picture) for picture in shown]).all(dim=0)
        found, free = torch.where(fits & ~free, tried, found), free | fits
    return found.view_as(z), free.view_as(z)
