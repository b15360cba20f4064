"""An order in which neighbours in a list are neighbours in space."""

import numpy as np
import torch
from torch import Tensor

BITS = 21  # an axis; three of them fill an int64
MASKS = (  # that part the bits, halving their runs
    (32, 0x001F00000000FFFF),
    (16, 0x001F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)
BLOCK = 1 << 15  # points at a time: they stay in the cache


def morton_order(means: Tensor) -> Tensor:
    """The permutation that sorts points along the Z-order curve of their bounding box; equal codes keep their order.

    Args:
        means: [n, 3] finite, on any device.

    Returns:
        [n] int64 indices on the CPU: sorted[i] = means[order[i]].
    """
    if not len(means):
        return torch.empty(0, dtype=torch.int64)
    low, high = torch.stack(means.detach().aminmax(dim=0)).cpu().double().numpy()
    return torch.from_numpy(morton_codes(means, low, high).argsort(kind="stable"))


def morton_codes(means: Tensor, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Places along the Z-order curve of a box: [n] int64 of 63 bits.

    Args:
        means: [n, 3], on any device, within the box.
        low, high: [3] float64, its corners.
    """
    least, span = torch.from_numpy(low), torch.from_numpy(np.where(high > low, high - low, 1))
    codes = np.empty(len(means), dtype=np.int64)
    for start in range(0, len(means), BLOCK):
        some = means[start : start + BLOCK].detach().cpu().double()
        x, y, z = _spread(((some - least) / span * ((1 << BITS) - 1)).long()).unbind(dim=1)
        codes[start : start + BLOCK] = x | y << 1 | z << 2
    return codes


def _spread(steps: Tensor) -> Tensor:
    """Bit i moved to bit 3 i, for the lowest 21 bits."""
    for shift, mask in MASKS:
        steps = (steps | steps << shift) & mask
    return steps
