"""What the prior makes of known views: views along paths, their depths, and Gaussians of all, at its own resolution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....kernels.constants import SH_C0
from ...scene.gaussians import Gaussians
from ..clips import Clips
from ..inference import decode, generated
from ..weights import Prior
from .inputs import View, resampled
from .units import joined_poses

MOST_TOGETHER = 5  # views of a clip, as many as the prior was trained with
MOST_TARGETS = 4


@dataclass(frozen=True, eq=False)
class Imagined:
    """Views generated together with the known ones, in normalised units; the known ones first."""

    clips: Clips  # one scene
    known: int
    depths: Tensor  # [v, h, w] z of the decoder
    splats: tuple[Gaussians, ...]  # of each view, its pixels in rows


def low_size(width: int, height: int, prior: Prior, patch: int) -> tuple[int, int]:
    """Width and height with about the area that the prior was trained with, in whole patches."""
    ratio = math.sqrt(prior.size[0] * prior.size[1] / (width * height))
    wide, high = (max(1, round(side * ratio / patch)) * patch for side in (width, height))
    return wide, high


def low_clips(views: Sequence[View], size: tuple[int, int], unit: float) -> Clips:
    """The known views as one clip, in the axes of the first; lengths are divided by `unit`, depth is unknown."""
    planes, K = zip(*(resampled(view, size) for view in views), strict=True)
    coloured = torch.stack(planes)[None]
    poses = torch.stack([view.camera.world_to_camera for view in views])
    times = torch.tensor([view.time for view in views], dtype=torch.float64)
    return Clips(
        rgb=coloured[:, :, :3].contiguous(),
        depth=torch.zeros(1, len(views), size[1], size[0]),
        alpha=coloured[:, :, 3].contiguous(),
        world_to_camera=joined_poses(poses[0], poses, unit)[None].float(),
        K=torch.stack(K)[None].float(),
        times=((times - times.min()) / (times.max() - times.min()).clamp(min=1e-9))[None].float(),
    )


@torch.no_grad()
def imagine(
    known: Clips, poses: Tensor, K: Tensor, prior: Prior, steps: int, generator: torch.Generator
) -> list[Imagined]:
    """The prior's views from other cameras at the time of the first view, in groups as small as it was trained with.

    Args:
        known: one scene's.
        poses: [t, 4, 4] world_to_camera in normalised units.
        K: [t, 3, 3] in the pixels of `known`.
        steps: of the student, 1 to 4.
        generator: of its noise.
    """
    count = known.K.shape[1]
    room = max(1, min(MOST_TARGETS, MOST_TOGETHER - count))
    device = next(prior.student.parameters()).device
    groups = []
    for part, lens in zip(poses.split(room), K.split(room), strict=True):
        clips = _with_targets(known, part.float(), lens.float()).to(device)
        rgb = generated(prior.student, clips, count, prior.student.planes, steps, generator, use_rays=prior.rays)
        clips = Clips(**(clips.tensors() | {"rgb": rgb}))
        raw = decode(
            prior.decoder, clips, clips.times[:, 0], prior.decoder.planes, fused=prior.fused, use_rays=prior.rays
        )
        found = {name: tensor[0].cpu() for name, tensor in raw.items()}
        depths = found.pop("depths")
        found["sh"] = ((found.pop("colors") - 0.5) / SH_C0)[:, None]
        pixels = depths[0].numel()
        whole = Gaussians(**found)
        splats = tuple(whole.select(slice(i * pixels, (i + 1) * pixels)) for i in range(len(depths)))
        groups.append(Imagined(clips.to("cpu"), count, depths, splats))
    return groups


def source_inverse(groups: Sequence[Imagined], view: int) -> Tensor:
    """[h, w] inverse depth of a known view, the mean over all groups."""
    return torch.stack([1 / group.depths[view] for group in groups]).mean(dim=0)


def _with_targets(known: Clips, poses: Tensor, K: Tensor) -> Clips:
    """The known views, then empty ones, at the time of the first."""
    empty = {
        name: tensor.new_zeros(1, len(poses), *tensor.shape[2:])
        for name, tensor in known.tensors().items()
        if name not in ("world_to_camera", "K", "alpha", "times")
    }
    times = known.times[:, :1].expand(1, len(poses))
    targets = empty | {"world_to_camera": poses[None], "K": K[None], "times": times}
    targets["alpha"] = known.alpha.new_ones(1, len(poses), *known.alpha.shape[2:])
    return Clips(**{name: torch.cat((tensor, targets[name]), 1) for name, tensor in known.tensors().items()})
