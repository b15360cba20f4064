"""What needs no diffusion: copies, means, warps by true depth, and a regression net of equal size."""

import torch
from torch import Tensor, nn

from ..clips import Clips
from ..denoiser import Condition, denoise
from ..teachers.warp import Targets, filled, warp


def copied(clips: Clips, known: int) -> Tensor:
    """[b, t, 3, h, w]: for each target the nearest of the known views as it is.

    Near is the distance of the eyes, in units of the median depth, plus the angle between the axes, in radians.
    """
    rotation, shift = clips.world_to_camera[..., :3, :3], clips.world_to_camera[..., :3, 3]
    eyes = -torch.einsum("bvji,bvj->bvi", rotation, shift)
    apart = (eyes[:, known:, None] - eyes[:, None, :known]).norm(dim=-1)
    axes = rotation[:, :, 2]
    turned = torch.einsum("bti,bki->btk", axes[:, known:], axes[:, :known]).clamp(-1, 1).arccos()
    nearest = (apart + turned).argmin(dim=2)
    return clips.rgb[torch.arange(len(clips), device=nearest.device)[:, None], nearest]


def averaged(clips: Clips, known: int) -> Tensor:
    """[b, t, 3, h, w]: for each target the mean of the known views."""
    return clips.rgb[:, :known].mean(dim=1, keepdim=True).expand(-1, clips.rgb.shape[1] - known, -1, -1, -1)


def warped(clips: Clips, known: int) -> Tensor:
    """[b, t, 3, h, w]: the known views moved by their true depth, what stays open filled from what is round it."""
    targets = Targets(*(x[:, known:] for x in (clips.world_to_camera, clips.K, clips.times)))
    return filled(warp(clips.views(slice(known)), targets, clips.size))


def regressed(network: nn.Module, condition: Condition, known: int) -> Tensor:
    """[b, t, 3, h, w] of a network that never saw noise."""
    nothing = torch.zeros_like(condition.clean)
    views = denoise(network, nothing, nothing.new_ones(len(nothing)), condition)
    return (0.5 * views[:, known:] + 0.5).clamp(0, 1)
