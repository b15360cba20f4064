"""The prior at work: views made from known ones, and Gaussians of views."""

import torch
from torch import Tensor, nn

from .clips import Clips
from .decoder import as_gaussians, look
from .denoiser import Planes, denoise, make_condition
from .sampling import sample


def generated(
    student: nn.Module,
    clips: Clips,
    known: int,
    planes: Planes,
    steps: int,
    generator: torch.Generator,
    *,
    use_rays: bool = True,
) -> Tensor:
    """[b, v, 3, h, w] 0 to 1: the first views as they are, the others as the student makes them."""
    condition = make_condition(
        clips.rgb[:, :known], clips.world_to_camera, clips.K, clips.times, planes, use_rays=use_rays
    )
    views = sample(lambda x, level: denoise(student, x, level, condition), condition, steps, generator)
    return (0.5 * views + 0.5).clamp(0, 1)


def decode(
    decoder: nn.Module, clips: Clips, time: Tensor, planes: Planes, *, fused: bool = True, use_rays: bool = True
) -> dict[str, Tensor]:
    """Gaussians of views in normalised units at a time [b] of their scenes; as `as_gaussians` returns them.

    With `fused` False, for the ablation, each view is decoded as if it were the only one.
    """
    looks = look(clips.rgb, clips.world_to_camera, clips.K, planes, fused=fused, use_rays=use_rays)
    inputs = (*looks, clips.times, time[:, None].expand_as(clips.times))
    if fused:
        raw = decoder(*inputs)
    else:
        raw = decoder(*(tensor.flatten(0, 1)[:, None] for tensor in inputs)).view(
            *clips.times.shape, -1, *clips.rgb.shape[-2:]
        )
    found = as_gaussians(raw, clips.rgb, clips.world_to_camera, clips.K, planes)
    return found | {"opacities": found["opacities"] * clips.alpha.flatten(1)}
