"""Morton order: points along a curve that keeps neighbours together, for formats that share data among neighbours."""

import torch
from torch import Tensor

BITS = 21  # an axis, so that a code fits int64
SPREAD = (  # shifts, and the bits kept after each, that put two zeros between the bits of a number
    (32, 0x001F00000000FFFF),
    (16, 0x001F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_order(means: Tensor) -> Tensor:
    """The order of points by Morton code, 21 bits an axis over the bounds of the points.

    Args:
        means: [n, 3] finite.

    Returns:
        [n] int64, indices into `means`; x is the fastest axis, and points of one code keep their order.
    """
    codes = torch.zeros(len(means), dtype=torch.int64, device=means.device)
    for axis in range(3):
        place = means[:, axis].detach().double()
        low, high = (place.min(), place.max()) if len(place) else (place.new_zeros(()), place.new_zeros(()))
        cells = (place - low) * ((1 << BITS) / (high - low).clamp(min=torch.finfo(torch.float64).tiny))
        codes |= _spread(cells.long().clamp_(max=(1 << BITS) - 1)) << axis
    return codes.argsort(stable=True)


def _spread(number: Tensor) -> Tensor:
    """Bit i of each number at place 3 i."""
    for shift, kept in SPREAD:
        number = (number | number << shift) & kept
    return number
