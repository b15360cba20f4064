"""Scenes without what is to stay private, in space or by splat: removed, or blurred beyond recognition."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from ..scene.gaussians import Gaussians, merge
from ..scene.regions import Region, bounds, inside
from .coarse import coarsen
from .cut import cut, reaching


@dataclass(frozen=True, eq=False)
class Redaction:
    """A redacted scene, and where it differs from the one before."""

    scene: Gaussians  # the splats that are left, in their order, then coarse ones
    changed: Tensor  # [n] bool, of the splats before: removed or cut
    added: Tensor  # [m] bool, of the splats after: cut or coarse


def redact_regions(scene: Gaussians, regions: Sequence[Region], *, cells: int | None = None) -> Redaction:
    """No splat of the scene is left in the regions.

    Splats with their centre inside go; those that reach in from outside are cut at the border, since a big neighbour
    would go on drawing over what it was trained to draw together with what is gone.

    Args:
        cells: along the longest side of each region, for coarse splats in place of those that go; None for none.

    Raises:
        InputError: no splat or every splat is in the regions, or `cells` is out of range.
    """
    gone = torch.zeros(len(scene), dtype=torch.bool, device=scene.means.device)
    coarse = []
    for region in regions:
        centered = inside(region, scene.means.double()) & ~gone
        if cells is not None:
            low, high = (torch.tensor(corner, dtype=torch.float64) for corner in bounds(region))
            coarse.append(coarsen(scene.select(centered), low, high, cells))
        gone |= centered
    result, touched = scene, torch.zeros_like(gone)
    for region in regions:
        result, now = cut(result, region)
        touched |= now
    for region in regions:
        gone |= reaching(result, region)
    return _redaction(result, gone, touched & ~gone, coarse)


def redact_splats(scene: Gaussians, hidden: Tensor, *, cells: int | None = None) -> Redaction:
    """Splats [n] bool go, and the rest stays as it is.

    Args:
        cells: as `redact_regions`, of the box round the splats that go.

    Raises:
        InputError: as `redact_regions`.
    """
    coarse = []
    if cells is not None and hidden.any():
        means = scene.means[hidden].double()
        coarse.append(coarsen(scene.select(hidden), means.amin(dim=0), means.amax(dim=0), cells))
    return _redaction(scene, hidden, torch.zeros_like(hidden), coarse)


def _redaction(scene: Gaussians, gone: Tensor, touched: Tensor, coarse: list[Gaussians]) -> Redaction:
    changed = gone | touched
    if not changed.any():
        raise InputError("nothing is hidden, no splat lies there: check the region or the masks, and their axes")
    if gone.all() and not coarse:
        raise InputError("every splat is hidden, so nothing is left: give a smaller region or smaller masks")
    scene = merge([scene.select(~gone), *coarse])
    added = torch.ones(len(scene), dtype=torch.bool, device=gone.device)
    kept = touched[~gone]
    added[: len(kept)] = kept
    return Redaction(scene, changed, added)
