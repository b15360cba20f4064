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
    """The parts of unit quaternions that `unpack` takes.

    Args:
        quats: [n, 4] of unit length, in any component order.

    Returns:
        largest: [n] int64, index 0..3 of the component of the largest size, the first of equals.
        stored: [n, 3] the others in ascending order of index, with the sign that makes the largest positive.
    """
    largest = quats.abs().argmax(dim=1)
    stored = quats.gather(1, OTHERS.to(quats.device)[largest])
    return largest, torch.where(quats.gather(1, largest[:, None]) < 0, -stored, stored)
