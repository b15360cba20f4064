"""The two sorts of a frame, both `torch.sort` (CUB's radix sort on a GPU): splats by depth, instances by macro tile.

Keys are narrow because a radix sort pays by the bit: 32 or 16 for depth, 16 for tiles wherever their number allows.
Nothing here waits for the GPU.
"""

import torch
from torch import Tensor

from .project import CULLED

LEVELS = 65535  # of 16-bit depth; one value more is for what is culled


def depth_order(keys: Tensor, *, bits: int = 32) -> tuple[Tensor, Tensor]:
    """Splats of all groups, nearest first, ties by number, culled ones last.

    Args:
        keys: [g, n] int32, bits of the depth as float32, or `CULLED`.
        bits: 32, or 16: depths are rounded to one of 65535 steps between the nearest and the farthest that are seen,
            about even in the logarithm of depth.

    Returns:
        [g * n] int32, group * n + splat; and [] int64, how many of them are not culled.
    """
    flat = keys.flatten()
    visible = (flat != CULLED).sum()
    order = torch.sort(flat if bits == 32 else _quantise(flat), stable=True).indices
    return order.to(torch.int32), visible


def _quantise(keys: Tensor) -> Tensor:
    """Keys [n] as int16, in the same order. A float's bits are its logarithm, drawn straight between powers of 2."""
    if keys.numel() == 0:
        return keys.to(torch.int16)
    nearest = keys.amin()
    beyond = (keys + 1).amax()  # CULLED + 1 is the least int32; one more than the farthest that is seen
    step = (LEVELS - 1) / (beyond - 1 - nearest).clamp(min=1).float()
    levels = ((keys - nearest).float() * step).clamp(max=LEVELS - 1) - (LEVELS // 2 + 1)
    return torch.where(keys == CULLED, torch.iinfo(torch.int16).max, levels.to(torch.int16))


def macro_key_type(tiles: int) -> torch.dtype:
    """The narrowest integer type that names every macro tile and one more."""
    return torch.int16 if tiles < torch.iinfo(torch.int16).max else torch.int32


def macro_order(macros: Tensor) -> tuple[Tensor, Tensor]:
    """Instances sorted by macro tile, and where each was; within a tile they keep their order, which is by depth."""
    return torch.sort(macros, stable=True)
