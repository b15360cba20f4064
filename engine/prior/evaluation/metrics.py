"""What is measured of pictures, scene by scene, and the means over scenes with their 95 % intervals."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...likeness import LEAST_SIDE, ms_ssim, ssim
from ..clips import LEAST_ALPHA, Clips
from ..rays import pixel_directions

TOLERANCE = 0.05  # of depth, within which two views see one surface
LEAST_PIXELS = 16  # of a scene, below which a part of its pixels has no figure
PEAK = 100.0  # decibels of pictures that are the same
NORMAL_95 = 1.96

Scores = dict[str, Tensor]  # name to [n], one number a scene, nan where a scene has none


@dataclass(frozen=True)
class Figure:
    """A mean over scenes."""

    mean: float
    half: float
    """Half the 95 % interval: 1.96 s / sqrt(n)."""
    count: int
    """Scenes that have this number."""


def mean_of(values: Tensor) -> Figure:
    """The mean of those of [n] that are numbers; half is nan of fewer than two."""
    known = values.double()[~values.isnan()]
    if len(known) == 0:
        return Figure(math.nan, math.nan, 0)
    half = NORMAL_95 * float(known.std()) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return Figure(float(known.mean()), half, len(known))


def ratio_of(found: Tensor, wanted: Tensor) -> Figure:
    """The ratio of the means of [n] and [n], so that no scene with almost nothing to divide by decides.

    Its interval is that of the mean of (found - ratio * wanted) / mean(wanted): the delta method.
    """
    known = ~(found.isnan() | wanted.isnan())
    a, b = found[known].double(), wanted[known].double()
    if len(b) == 0 or float(b.mean()) <= 0:
        return Figure(math.nan, math.nan, len(b))
    ratio = float(a.mean() / b.mean())
    return Figure(ratio, mean_of((a - ratio * b) / b.mean()).half, len(b))


def psnr(found: Tensor, truth: Tensor) -> Tensor:
    """[b] decibels of pictures [b, t, 3, h, w], 0 to 1: of each picture, then the mean over a scene's pictures."""
    errors = (found - truth).square().flatten(2).mean(dim=2)
    return _decibels(errors).mean(dim=1)


def masked_psnr(found: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """[b] decibels over all pixels of a scene where mask [b, t, h, w] holds; nan where these are too few."""
    errors = (found - truth).square().mean(dim=2)
    return _decibels(_masked_mean(errors, mask))


def laplacian_energy(pictures: Tensor, mask: Tensor | None = None) -> Tensor:
    """[b] mean square of the Laplacian (4 neighbours) of pictures [b, t, 3, h, w], off the border.

    Args:
        mask: [b, t, h, w] of the pixels that count; all when None. nan where these are too few.
    """
    middle = pictures[..., 1:-1, 1:-1]
    around = pictures[..., :-2, 1:-1] + pictures[..., 2:, 1:-1] + pictures[..., 1:-1, :-2] + pictures[..., 1:-1, 2:]
    energy = (4 * middle - around).square().mean(dim=2)
    if mask is None:
        return energy.flatten(1).mean(dim=1)
    return _masked_mean(energy, mask[..., 1:-1, 1:-1])


def picture_scores(found: Tensor, truth: Tensor, seen: Tensor) -> Scores:
    """All that is said of made views, with what the truth gives in its place under names that begin with `true`.

    Args:
        found, truth: [b, t, 3, h, w], 0 to 1.
        seen: [b, t, h, w] where a known view shows the same place.
    """
    scores = {
        "psnr": psnr(found, truth),
        "ssim": ssim(found.flatten(0, 1), truth.flatten(0, 1)).view(len(found), -1).mean(dim=1),
        "seen psnr": masked_psnr(found, truth, seen),
        "hidden psnr": masked_psnr(found, truth, ~seen),
    }
    for name, mask in (("", None), ("seen ", seen), ("hidden ", ~seen)):
        scores[f"{name}energy"] = laplacian_energy(found, mask)
        scores[f"true {name}energy"] = laplacian_energy(truth, mask)
    if min(found.shape[-2:]) >= LEAST_SIDE:
        scores["ms-ssim"] = torch.stack([_ms_ssim(*pair) for pair in zip(found, truth, strict=True)])
    return scores


def seen_mask(clips: Clips, known: int) -> Tensor:
    """[b, v - known, h, w] bool: the targets' pixels that at least one of the first `known` views sees too.

    A pixel is seen where its point, at its true depth, falls into a view and lies there between the nearest and the
    farthest of the four depths round it, but for TOLERANCE. For scenes in which nothing moves.
    """
    points, solid = unprojected(clips.views(slice(known, None)))
    views = clips.views(slice(known))
    b, t, _, h, w = points.shape
    local = torch.einsum("bkij,btjhw->bktihw", views.world_to_camera[..., :3, :3], points)
    local = local + views.world_to_camera[:, :, None, :3, 3, None, None]
    z = local[:, :, :, 2]
    fx, fy, cx, cy = (views.K[..., i, j, None, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x = fx * local[:, :, :, 0] / z.clamp(min=1e-6) + cx
    y = fy * local[:, :, :, 1] / z.clamp(min=1e-6) + cy
    inside = (z > 0) & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    left, top = (x - 0.5).floor().long(), (y - 0.5).floor().long()
    flat = torch.where(views.alpha >= LEAST_ALPHA, views.depth, 0.0).flatten(2)  # [b, k, h * w]
    corners = [
        flat.gather(2, ((top + j).clamp(0, h - 1) * w + (left + i).clamp(0, w - 1)).flatten(2)).view(b, known, t, h, w)
        for j in (0, 1)
        for i in (0, 1)
    ]
    depths = torch.stack(corners)
    nearest = torch.where(depths > 0, depths, torch.inf).amin(dim=0)
    agrees = (z >= (1 - TOLERANCE) * nearest) & (z <= (1 + TOLERANCE) * depths.amax(dim=0))
    return (inside & agrees).any(dim=1) & solid


def unprojected(clips: Clips) -> tuple[Tensor, Tensor]:
    """Where each pixel's surface lies in the world, [b, v, 3, h, w], and whether its depth is known, [b, v, h, w]."""
    local = pixel_directions(clips.K, clips.size) * clips.depth[:, :, None]
    shifted = local - clips.world_to_camera[..., :3, 3, None, None]
    points = torch.einsum("bvji,bvjhw->bvihw", clips.world_to_camera[..., :3, :3], shifted)
    return points, (clips.depth > 0) & (clips.alpha >= LEAST_ALPHA)


def _decibels(errors: Tensor) -> Tensor:
    return (-10 * errors.clamp(min=1e-30).log10()).clamp(max=PEAK)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    share = mask.to(values.dtype).flatten(1)
    count = share.sum(dim=1)
    mean = (values.flatten(1) * share).sum(dim=1) / count.clamp(min=1)
    return torch.where(count >= LEAST_PIXELS, mean, torch.nan)


def _ms_ssim(found: Tensor, truth: Tensor) -> Tensor:
    """Of one scene's pictures [t, 3, h, w]."""
    pairs = zip(found.movedim(1, -1), truth.movedim(1, -1), strict=True)
    return torch.tensor([ms_ssim(a, b) for a, b in pairs], dtype=torch.float32).mean()
