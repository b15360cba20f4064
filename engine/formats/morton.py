"""Morton order: along the curve that visits neighbours in space one after the other."""

import torch
from torch import Tensor

BITS = 21  # an axis; three axes fit an int64
SPREAD = (  # shift, then mask: puts two zeros between the bits of a number of 21 bits
    (32, 0x1F00000000FFFF),
    (16, 0x1F0000FF0000FF),
    (8, 0x100F00F00F00F00F),
    (4, 0x10C30C30C30C30C3),
    (2, 0x1249249249249249),
)


def morton_order(means: Tensor) -> Tensor:
    """[n] int64 order of points [n, 3], x in the lowest bits, over their own bounds; equal cells in the order given."""
    low, high = means.amin(dim=0).double(), means.amax(dim=0).double()
    step = ((high - low) / (2**BITS - 1)).clamp(min=torch.finfo(torch.float64).tiny)
    codes = torch.zeros(len(means), dtype=torch.int64, device=means.device)
    for axis in range(3):
        cells = ((means[:, axis].double() - low[axis]) / step[axis]).round().long().clamp(0, 2**BITS - 1)
        for shift, mask in SPREAD:
            cells = (cells | cells << shift) & mask
        codes |= cells << axis
    return codes.argsort(stable=True)
