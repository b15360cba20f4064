"""Unit quaternions stored as three components and the index of the largest, as several formats do."""

import torch
from torch import Tensor

OTHERS = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])  # [largest, place]: index of each stored component


def unpack(largest: Tensor, stored: Tensor) -> Tensor:
    """Quaternions whose largest component, taken as positive, follows from unit length.

    Args:
        largest: [n] int64, index 0..3 of the component that is not stored.
        stored: [n, 3] the others in ascending order of index, each within +-sqrt(1/2).

    Returns:
        [n, 4] in the component order that `largest` counts in, of unit length.
    """
    missing = (1 - stored.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
    quats = stored.new_empty(len(stored), 4)
    quats.scatter_(1, OTHERS[largest], stored)
    quats.scatter_(1, largest[:, None], missing)
    return quats


def pack(quats: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `unpack`, up to the sign of a quaternion.

    Args:
        quats: [n, 4] on the CPU, of any float type and any length from 1e-150 to 1e150.

    Returns:
        [n] int64, the index of the largest component by magnitude (the first of equals), and [n, 3] float64, the others
        in ascending order of index, each within +-sqrt(1/2), with the sign that makes the largest positive.
    """
    units = unit(quats)
    largest = units.abs().argmax(dim=1)
    top = units.gather(1, largest[:, None])
    return largest, units.gather(1, OTHERS[largest]) * torch.where(top < 0, -1.0, 1.0)


def unit(quats: Tensor) -> Tensor:
    """[n, 4] float64 of length 1, of quaternions of any length from 1e-150 to 1e150."""
    quats = quats.double()
    return quats / quats.norm(dim=1, keepdim=True)
