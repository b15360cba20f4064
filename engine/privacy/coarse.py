"""What blurring leaves of splats: a few round ones on a coarse grid, so that nothing finer can be told from them."""

import math

import torch
from torch import Tensor

from ...kernels.arguments import SH_COUNTS
from ..errors import InputError
from ..scene.gaussians import Gaussians

MOST = 0.95  # opacity of a coarse splat
CELLS = (1, 64)  # along the longest side


def coarsen(scene: Gaussians, low: Tensor, high: Tensor, cells: int) -> Gaussians:
    """A round splat in the middle of every cell of a grid in which there were centres.

    Nothing of a splat comes through but, summed over its cell, an average colour and a coverage: places, shapes and
    view-dependent colour are gone. A coarse splat has standard deviations of half a cell, so it fades beyond its cell,
    over up to 1.2 cells. Its opacity is that of as many discs of the splats' sizes, thrown at random on the side of a
    cell: 1 - exp(-sum of opacity times area / area of a side), at most 0.95.

    Args:
        low, high: [3] corners of a box that holds the centres.
        cells: along the longest side of the box; cells are cubes.

    Raises:
        InputError: `cells` is out of range.
    """
    if not CELLS[0] <= cells <= CELLS[1]:
        raise InputError(f"{cells} cells are out of range: give {CELLS[0]} to {CELLS[1]}")
    if not len(scene):
        return scene
    low, high = low.to(scene.means.device, torch.float64), high.to(scene.means.device, torch.float64)
    side = float((high - low).amax()) / cells
    counts = ((high - low) / side - 1e-9).ceil().clamp(min=1)
    first = (low + high) / 2 - counts * side / 2
    places = ((scene.means.double() - first) / side).floor().clamp(min=torch.zeros_like(counts), max=counts - 1)
    found, owner = torch.unique(places, dim=0, return_inverse=True)
    covered = scene.opacities.double() * 2 * math.pi * scene.scales.double().topk(2, dim=1).values.prod(dim=1)
    weights = covered.clamp(min=1e-300)
    total = weights.new_zeros(len(found)).index_add(0, owner, weights)
    color = weights.new_zeros(len(found), 3).index_add(0, owner, weights[:, None] * scene.sh[:, 0].double())
    sh = scene.sh.new_zeros(len(found), SH_COUNTS[scene.sh_degree], 3)
    sh[:, 0] = (color / total[:, None]).to(sh)
    return Gaussians(
        means=(first + (found + 0.5) * side).to(scene.means),
        quats=scene.quats.new_tensor((1.0, 0.0, 0.0, 0.0)).repeat(len(found), 1),
        scales=scene.scales.new_full((len(found), 3), side / 2),
        opacities=(1 - (-total / side**2).exp()).clamp(max=MOST).to(scene.opacities),
        sh=sh,
    )
