"""Which way a splat faces."""

import torch
from torch import Tensor

from .reference import quats_to_rotations


def splat_normals(
    means: Tensor,  # [n, 3]
    quats: Tensor,  # [n, 4]
    scales: Tensor,  # [n, 3]
    eyes: Tensor,  # [v, 3]
) -> Tensor:
    """Unit vectors [v, n, 3] along each splat's shortest axis, in world axes, turned towards each eye."""
    quats = torch.where(quats.isfinite().all(dim=-1, keepdim=True), quats, 0.0)  # culled, and no NaN in its gradient
    shortest = scales.detach().argmin(dim=-1)[:, None, None].expand(-1, 3, 1)
    normals = quats_to_rotations(quats).gather(2, shortest)[..., 0]  # [n, 3]
    towards = eyes[:, None] - means
    away = ((normals * towards).sum(dim=-1, keepdim=True) < 0).detach()
    return torch.where(away, -normals, normals)
