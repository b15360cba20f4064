"""Camera control without training: known views, moved by their depth to where a target camera sees them.

Each pixel becomes one small Gaussian, and the project's rasterizer draws them, so that what is in front hides what is
behind and surfaces that come nearer stay closed. As GEN3C's 3D cache (Ren et al., CVPR 2025), whose warps also start a
video model; the footprints are our own.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ....kernels.options import Options
from ....kernels.rasterize import rasterize
from ...errors import InputError
from ..clips import LEAST_ALPHA, Clips

SPREAD = 0.4  # standard deviation of a Gaussian in pixels of its own view: closed, and hardly blurred
OPACITY = 0.99  # the most that blending keeps
RULES = Options(blur=0.02, depth=False)  # px^2: just so much that none falls between pixels


@dataclass(frozen=True, eq=False)
class Targets:
    """Cameras to draw b scenes from, v each, in the world of the views that are known."""

    world_to_camera: Tensor  # [b, v, 4, 4]
    K: Tensor  # [b, v, 3, 3] pixels
    times: Tensor  # [b, v] 0 to 1 of the clip


@dataclass(frozen=True, eq=False)
class Warped:
    """Known views as targets see them."""

    rgb: Tensor  # [b, v, 3, h, w] 0 to 1; 0 where nothing is known
    known: Tensor  # [b, v, h, w] bool


def warp(source: Clips, targets: Targets, size: tuple[int, int]) -> Warped:
    """What the views of `source` show, from the target cameras.

    Args:
        source: b scenes; pixels with no depth, or an alpha below a half, show nothing.
        targets: cameras of the same b scenes.
        size: width and height of a target, pixels.

    Raises:
        InputError: a scene knows no depth at all.
    """
    shown = (source.depth > 0) & (source.alpha >= LEAST_ALPHA)
    if not (told := shown.flatten(1).any(1)).all():
        scene = int((~told).nonzero()[0, 0])
        cure = "give depth, rendered, from a sensor or estimated from the picture"
        raise InputError(f"scene {scene} of {len(source)} has no depth, which moves its views to other cameras: {cure}")
    count = shown[0].numel()
    focal = torch.stack((source.K[..., 0, 0], source.K[..., 1, 1]), -1).mean(-1)[..., None, None]
    radii = (SPREAD * source.depth / focal).reshape(len(source), count, 1).expand(-1, -1, 3)
    frames = rasterize(
        means=_points(source).reshape(len(source), count, 3),
        quats=source.depth.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(len(source), count, 4),
        scales=radii,
        opacities=OPACITY * shown.to(source.depth.dtype).reshape(len(source), count),
        colors=source.rgb.movedim(2, -1).reshape(len(source), count, 3),
        world_to_camera=targets.world_to_camera,
        K=targets.K,
        width=size[0],
        height=size[1],
        options=RULES,
    )
    known = frames.alpha >= LEAST_ALPHA
    rgb = frames.rgb / frames.alpha.clamp(min=LEAST_ALPHA)[..., None] * known[..., None]
    return Warped(rgb.clamp(0, 1).movedim(-1, 2), known)


def filled(warped: Warped) -> Tensor:
    """[b, v, 3, h, w] with what is not known filled smoothly from what is round it; black where all is unknown.

    By averages over ever larger blocks, each used where the finer ones know nothing (the pull-push of Gortler et al.,
    "The Lumigraph", 1996).
    """
    weight = warped.known[:, :, None].to(warped.rgb)
    return _filled((warped.rgb * weight).flatten(0, 1), weight.flatten(0, 1)).reshape(warped.rgb.shape)


def _filled(premultiplied: Tensor, weight: Tensor) -> Tensor:
    """Colours [n, 3, h, w] times their weights [n, 1, h, w], divided, with none of the weights 0."""
    colors = premultiplied / weight.clamp(min=1e-6)
    if max(weight.shape[-2:]) == 1:
        return colors
    coarse = [F.avg_pool2d(plane, 2, ceil_mode=True) for plane in (premultiplied, weight)]
    around = F.interpolate(_filled(*coarse), size=weight.shape[-2:], mode="bilinear", align_corners=False)
    return torch.where(weight > 0, colors, around)


def _points(source: Clips) -> Tensor:
    """[b, v, h, w, 3] where each pixel's centre lies in the world."""
    w, h = source.size
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    pixels = torch.stack((x, y, torch.ones_like(x)), -1).to(source.K)
    rays = torch.einsum("bvij,hwj->bvhwi", torch.linalg.inv(source.K), pixels)
    camera = rays * source.depth[..., None]
    turn, shift = source.world_to_camera[..., :3, :3], source.world_to_camera[..., :3, 3]
    return torch.einsum("bvji,bvhwj->bvhwi", turn, camera - shift[:, :, None, None])
