"""List, for each tile, the splats whose ellipse reaches a pixel centre of it, nearest first, in Triton.

`count_kernel` and `emit_kernel` walk the same exact spans: one lane a splat in depth order, one row of tiles after the
other. Emission writes 2 or 4 bytes of tile key and 4 bytes of splat id a pair. A stable sort by tile then keeps the
depth order within each tile, and `starts_kernel` finds where each tile's list begins.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import constants as c
from .sort import tile_key_type, tile_order

TILE = 16  # pixels, both ways
BLOCK = 32  # one warp: lanes of unlike splats wait for each other only within it
LAUNCH = {"num_warps": 1, "enable_fp_fusion": True}  # Triton 3.10 no longer fuses by itself

RECORD, LOG2_ALPHA_MIN, SIDE = tl.constexpr(c.RECORD), tl.constexpr(c.LOG2_ALPHA_MIN), tl.constexpr(TILE)
SLACK = tl.constexpr(0.01)  # pixels, so that rounding never drops a pixel that the blend would keep


@triton.jit
def _load_ellipse(records, i, mask):
    """What the spans need: centre in the grid of pixel centres, extents, slope of the rows' middles, half width."""
    record = records + i.to(tl.int64) * RECORD
    x = tl.load(record, mask=mask, other=0.0) - 0.5
    y = tl.load(record + 1, mask=mask, other=0.0) - 0.5
    l0 = tl.load(record + 2, mask=mask, other=1.0)
    slope = -tl.load(record + 3, mask=mask, other=0.0) / l0
    log2_opacity = tl.load(record + 5, mask=mask, other=0.0)
    half_width = tl.sqrt(tl.maximum(log2_opacity - LOG2_ALPHA_MIN, 0.0)) / l0
    extent_x = tl.load(record + 10, mask=mask, other=0.0) + SLACK
    extent_y = tl.load(record + 11, mask=mask, other=0.0) + SLACK
    return x, y, extent_x, extent_y, slope, half_width


@triton.jit
def _row_range(y, extent_y, mask, rows):
    """First and last row of tiles with a pixel centre inside the ellipse's box; last < first when there is none."""
    height = (rows * SIDE).to(tl.float32)
    top = tl.minimum(tl.maximum(tl.ceil(y - extent_y), 0.0), height)
    bottom = tl.minimum(tl.floor(y + extent_y), height - 1.0)
    first = (top * (1.0 / SIDE)).to(tl.int32)
    last = (tl.maximum(bottom, 0.0) * (1.0 / SIDE)).to(tl.int32)
    return first, tl.where(mask & (top <= bottom), last, first - 1)


@triton.jit
def _column_range(x, y, extent_x, extent_y, slope, half_width, row, columns):
    """First and last column of tiles that the ellipse reaches within a row of tiles (see cpu/bin.py for the proof)."""
    tip = slope * extent_y * extent_y / extent_x  # dy of the rightmost point
    top = tl.maximum((row * SIDE).to(tl.float32) - y, -extent_y)
    bottom = tl.minimum((row * SIDE + SIDE - 1).to(tl.float32) - y, extent_y)
    at = tl.maximum(tl.minimum(tip, bottom), top)
    share = at / extent_y
    right = x + slope * at + half_width * tl.sqrt(tl.maximum(1.0 - share * share, 0.0)) + SLACK
    at = tl.maximum(tl.minimum(-tip, bottom), top)
    share = at / extent_y
    left = x + slope * at - half_width * tl.sqrt(tl.maximum(1.0 - share * share, 0.0)) - SLACK
    width = (columns * SIDE).to(tl.float32)
    left = tl.minimum(tl.maximum(tl.ceil(tl.maximum(left, x - extent_x)), 0.0), width)  # float32 exceeds int32
    right = tl.minimum(tl.floor(tl.minimum(right, x + extent_x)), width - 1.0)
    first = (left * (1.0 / SIDE)).to(tl.int32)
    last = (tl.maximum(right, 0.0) * (1.0 / SIDE)).to(tl.int32)
    return first, tl.where(left <= right, last, first - 1)


@triton.jit
def count_kernel(records, order, counts_out, n, columns, rows, BLOCK: tl.constexpr):
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = k < n
    x, y, extent_x, extent_y, slope, half_width = _load_ellipse(records, tl.load(order + k, mask=mask, other=0), mask)
    row, last_row = _row_range(y, extent_y, mask, rows)
    count = tl.zeros((BLOCK,), tl.int32)
    while tl.max((row <= last_row).to(tl.int32), axis=0) > 0:
        first, last = _column_range(x, y, extent_x, extent_y, slope, half_width, row, columns)
        count += tl.where(row <= last_row, last - first + 1, 0)
        row += 1
    tl.store(counts_out + k, count, mask=mask)


@triton.jit
def emit_kernel(records, order, ends, tile_ids_out, ids_out, n, columns, rows, BLOCK: tl.constexpr):
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = k < n
    i = tl.load(order + k, mask=mask, other=0)
    x, y, extent_x, extent_y, slope, half_width = _load_ellipse(records, i, mask)
    row, last_row = _row_range(y, extent_y, mask, rows)
    column, last = _column_range(x, y, extent_x, extent_y, slope, half_width, row, columns)
    place = tl.load(ends + k - 1, mask=mask & (k > 0), other=0)  # int64
    while tl.max((row <= last_row).to(tl.int32), axis=0) > 0:
        here = (row <= last_row) & (column <= last)
        tl.store(tile_ids_out + place, (row * columns + column).to(tile_ids_out.dtype.element_ty), mask=here)
        tl.store(ids_out + place, i, mask=here)
        place += here.to(tl.int64)
        column += 1
        done = column > last
        row += done.to(tl.int32)
        first, next_last = _column_range(x, y, extent_x, extent_y, slope, half_width, row, columns)
        column = tl.where(done, first, column)
        last = tl.where(done, next_last, last)


@triton.jit
def starts_kernel(tile_ids, starts_out, pairs, tiles, BLOCK: tl.constexpr):
    """Pair p is the first of every tile after its predecessor's up to its own; the end of the list closes the rest."""
    p = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tile = tl.load(tile_ids + p, mask=p < pairs, other=0).to(tl.int32)
    tile = tl.where(p < pairs, tile, tiles)
    before = tl.load(tile_ids + p - 1, mask=(p > 0) & (p <= pairs), other=0).to(tl.int32)
    t = tl.where(p > 0, before + 1, 0)
    t = tl.where(p <= pairs, t, tile + 1)
    while tl.max((t <= tile).to(tl.int32), axis=0) > 0:
        tl.store(starts_out + t, p, mask=t <= tile)
        t += 1


def bin_splats(records: Tensor, order: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Splat ids [p] int32, tile by tile, and where each tile's list starts [tiles + 1] int64.

    Args:
        records: [n, 12] float32.
        order: [v] int32, visible splats, nearest first.
    """
    columns, rows = triton.cdiv(width, TILE), triton.cdiv(height, TILE)
    tiles, visible, device = columns * rows, len(order), records.device
    starts = torch.zeros(tiles + 1, dtype=torch.int64, device=device)
    if visible == 0:
        return torch.empty(0, dtype=torch.int32, device=device), starts
    counts = torch.empty(visible, dtype=torch.int32, device=device)
    grid = (triton.cdiv(visible, BLOCK),)
    count_kernel[grid](records, order, counts, visible, columns, rows, BLOCK=BLOCK, **LAUNCH)
    ends = counts.cumsum(0, dtype=torch.int64)
    pairs = int(ends[-1])
    tile_ids = torch.empty(pairs, dtype=tile_key_type(tiles), device=device)
    ids = torch.empty(pairs, dtype=torch.int32, device=device)
    emit_kernel[grid](records, order, ends, tile_ids, ids, visible, columns, rows, BLOCK=BLOCK, **LAUNCH)
    tile_ids, ids = tile_order(tile_ids, ids)
    grid = (triton.cdiv(pairs + 1, BLOCK),)
    starts_kernel[grid](tile_ids, starts, pairs, tiles, BLOCK=BLOCK, **LAUNCH)
    return ids, starts
