"""The two sorts of a frame, both `torch.sort` (CUB's radix sort on a GPU): visible splats by depth, pairs by tile.

Keys are narrow because a radix sort pays by the bit: 32 for depth, 16 for tiles wherever their number allows.
"""

import torch
from torch import Tensor

from .project import CULLED


def depth_order(keys: Tensor) -> Tensor:
    """Ids [v] int32 of the visible splats, nearest first, ties by id, from depth keys [n] int32."""
    sorted_keys, order = torch.sort(keys, stable=True)
    visible = int(torch.searchsorted(sorted_keys, torch.tensor(CULLED, dtype=torch.int32, device=keys.device)))
    return order[:visible].to(torch.int32)


def tile_key_type(tiles: int) -> torch.dtype:
    """The narrowest integer type that names every tile."""
    return torch.int16 if tiles <= torch.iinfo(torch.int16).max else torch.int32


def tile_order(tile_ids: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs sorted by tile; within a tile they keep their order, which is by depth."""
    tile_ids, order = torch.sort(tile_ids, stable=True)
    return tile_ids, ids[order]
