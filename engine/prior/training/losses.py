"""What training minimises: of pictures, of depth, and along a teacher's trajectories."""

from torch import Tensor

from ...likeness import ssim

LEAST_LEVEL = 0.25  # of noise, below which errors count no more: few steps never look there, and 1 / level^2 is large


def velocity_loss(found: Tensor, clean: Tensor, levels: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of the velocity (x - clean) / level, for predicted clean views (Li and He, JiT, 2025).

    Args:
        found, clean: [b, v, 3, h, w].
        levels: [b] of noise.
        targets: [b, v] 1 where a view counts.
    """
    errors = (found - clean).square().mean(dim=(2, 3, 4)) * targets
    by_scene = errors.sum(dim=1) / targets.sum(dim=1).clamp(min=1)
    return (by_scene / levels.clamp(min=LEAST_LEVEL).square()).mean()


def pseudo_huber(found: Tensor, wanted: Tensor, targets: Tensor, width: float) -> Tensor:
    """sqrt(d^2 + c^2) - c of the root mean square difference d of each view that counts (Song and Dhariwal 2023).

    Args:
        found, wanted: [b, v, 3, h, w].
        targets: [b, v] 1 where a view counts.
        width: c, where a square turns into a length.
    """
    squares = (found - wanted).square().mean(dim=(2, 3, 4))
    return (((squares + width * width).sqrt() - width) * targets).sum() / targets.sum()


def picture_loss(found: Tensor, wanted: Tensor, ssim_weight: float) -> Tensor:
    """(1 - s) * L1 + s * (1 - SSIM) of pictures [n, 3, h, w], as 3DGS (Kerbl et al. 2023) has it."""
    plain = (found - wanted).abs().mean()
    return (1 - ssim_weight) * plain + ssim_weight * (1 - ssim(found, wanted).mean())
