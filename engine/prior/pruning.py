"""Fewer Gaussians: those that pictures would miss the most."""

import torch
from torch import Tensor

from ...kernels.options import Options
from ...kernels.rasterize import rasterize
from ..errors import InputError

COLUMNS = ("means", "quats", "scales", "opacities", "colors")


@torch.no_grad()
def prune(
    gaussians: dict[str, Tensor], world_to_camera: Tensor, K: Tensor, size: tuple[int, int], count: int
) -> dict[str, Tensor]:
    """The `count` Gaussians of each scene with the largest opacity times contribution, in the order that they had.

    Contribution is a Gaussian's blending weight, summed over all pixels of all views.

    Args:
        gaussians: means [b, n, 3], quats [b, n, 4], scales [b, n, 3], opacities [b, n], colors [b, n, 3]; other entries
            (depths of views) are left out of what returns.
        world_to_camera: [b, v, 4, 4] of the views.
        K: [b, v, 3, 3] pixels.
        size: width and height of the views, pixels.
        count: of Gaussians to keep; all where there are no more.

    Raises:
        InputError: count is below 1.
    """
    if count < 1:
        raise InputError(f"{count} Gaussians asked for: give 1 or more")
    columns = {name: gaussians[name] for name in COLUMNS}
    if columns["means"].shape[1] <= count:
        return columns
    means, quats, scales, opacities, colors = columns.values()
    options = Options(contribution=True, depth=False)
    seen = rasterize(means, quats, scales, opacities, colors, world_to_camera, K, *size, options=options)
    assert seen.contribution is not None
    worth = opacities * seen.contribution.sum(dim=1)
    chosen = worth.sort(dim=1, descending=True, stable=True).indices[:, :count].sort(dim=1).values
    scene = torch.arange(len(chosen), device=chosen.device)[:, None]
    return {name: values[scene, chosen] for name, values in columns.items()}
