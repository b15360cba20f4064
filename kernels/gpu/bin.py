"""List, for each macro tile of each view, the splats whose ellipse reaches it, nearest first, in Triton.

`count_kernel` and `emit_kernel` walk the same exact spans: one lane a splat and eye in depth order, one row of macro
tiles after the other. Between them stands a running total in 64 bits. Emission writes 2 or 4 bytes of macro tile and 4
bytes of splat an instance, whole splats only and no more than there is room for. A stable sort by macro tile then keeps
the depth order within each, and kernels/masks.py says which fine tiles of it are reached.
Constexpr: EYES, views that share an entry of the depth order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .masks import BLOCK as MASK_BLOCK
from .masks import MACRO_H, MACRO_HEIGHT, MACRO_W, MACRO_WIDTH, load_ellipse, mask_kernel, pixel_columns, pixel_rows
from .sort import macro_key_type, macro_order

BLOCK = 32  # one warp: lanes of unlike splats wait for each other only within it
AT_ONCE = 2  # macro tiles of a row that emission writes between two questions whether any lane has more
TILES = ((8, 8), (8, 16), (16, 16))  # fine tiles, width and height in pixels
TILE = (8, 16)
LAUNCH = {"num_warps": 1, "enable_fp_fusion": True}  # Triton 3.10 no longer fuses by itself


class Lists(NamedTuple):
    """Which splats each tile has to blend, in depth order. p is the room, `starts[-1]` of it is used."""

    ids: Tensor  # [p] int32, view * n + splat: macro tile by macro tile, nearest first
    masks: Tensor  # [p] int32, a bit for each fine tile of the macro tile, row by row: whether the ellipse reaches it
    starts: Tensor  # [v * macro tiles + 1] int64, of a macro tile's entries; tiles go row by row, view by view
    order: Tensor  # [g * n] int32, group * n + splat in depth order, culled ones last
    visible: Tensor  # [] int64, leading entries of `order` that some eye sees
    emitted: Tensor  # [] int64, leading entries of `order` that are wholly in the lists; `visible` when they have room
    pairs: Tensor  # [] int64, entries that were wanted
    places: Tensor  # [p] int64, of each entry before the sort; entries of one splat were neighbours
    ends: Tensor  # [g * n] int64, entries wanted by this and all earlier entries of `order`


def macro_grid(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of macro tiles."""
    return triton.cdiv(width, MACRO_WIDTH), triton.cdiv(height, MACRO_HEIGHT)


@triton.jit
def _macro_columns(x, y, extent_x, slope, span, narrowing, tip, first_row, last_row, row, width):
    """First and last column of macro tiles that the ellipse reaches in a row of them; last < first when none."""
    top = (row * MACRO_H).to(tl.float32)
    first, last = tl.maximum(first_row, top), tl.minimum(last_row, top + (MACRO_H - 1))
    left, right = pixel_columns(x, y, extent_x, slope, span, narrowing, tip, first, last, width)
    column = (left * (1.0 / MACRO_W)).to(tl.int32)
    return column, tl.where(left <= right, (tl.maximum(right, 0.0) * (1.0 / MACRO_W)).to(tl.int32), column - 1)


@triton.jit
def _instance(order, k, mask, n, EYES: tl.constexpr):
    """View, and record view * n + splat, that lane k is about: eye k % EYES of an entry of the depth order."""
    entry = tl.load(order + k // EYES, mask=mask, other=0)
    group, eye = entry // n, (k % EYES).to(tl.int32)
    return group * EYES + eye, (group * (EYES - 1) + eye).to(tl.int64) * n + entry


@triton.jit
def count_kernel(
    records, order, visible,  # [v, n, 12] [g * n] []
    # out:
    counts_out,  # [lanes]
    lanes, n, width, height,  # lanes: g * n * EYES
    EYES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = k // EYES < tl.load(visible)
    _, i = _instance(order, k, mask, n, EYES)
    x, y, extent_x, extent_y, slope, span, narrowing, tip, seen = load_ellipse(records, i, mask)
    first_row, last_row = pixel_rows(y, extent_y, seen, height)
    count = tl.zeros((BLOCK,), tl.int32)
    row = (first_row * (1.0 / MACRO_H)).to(tl.int32)
    while tl.max(((row * MACRO_H).to(tl.float32) <= last_row).to(tl.int32), axis=0) > 0:
        first, last = _macro_columns(x, y, extent_x, slope, span, narrowing, tip, first_row, last_row, row, width)
        count += last - first + 1
        row += 1
    tl.store(counts_out + k, count, mask=k < lanes)


@triton.jit
def emit_kernel(
    records, order, visible, totals,  # [v, n, 12] [g * n] [] [g * n * EYES] running
    # out:
    macros_out, splats_out,  # [capacity] [capacity]
    capacity, n, width, height, columns, rows,
    EYES: tl.constexpr, AT_ONCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = k // EYES < tl.load(visible)
    mask &= tl.load(totals + k // EYES * EYES + (EYES - 1), mask=mask, other=0) <= capacity  # all eyes or none
    place = tl.load(totals + k - 1, mask=mask & (k > 0), other=0)
    view, i = _instance(order, k, mask, n, EYES)
    x, y, extent_x, extent_y, slope, span, narrowing, tip, seen = load_ellipse(records, i, mask)
    first_row, last_row = pixel_rows(y, extent_y, seen, height)
    row = (first_row * (1.0 / MACRO_H)).to(tl.int32)
    while tl.max(((row * MACRO_H).to(tl.float32) <= last_row).to(tl.int32), axis=0) > 0:
        column, last = _macro_columns(x, y, extent_x, slope, span, narrowing, tip, first_row, last_row, row, width)
        macro = (view * rows + row) * columns + column
        while tl.max((column <= last).to(tl.int32), axis=0) > 0:
            for j in tl.static_range(AT_ONCE):
                here = column + j <= last
                tl.store(macros_out + place + j, (macro + j).to(macros_out.dtype.element_ty), mask=here)
                tl.store(splats_out + place + j, i.to(tl.int32), mask=here)
            place += tl.minimum(tl.maximum(last - column + 1, 0), AT_ONCE).to(tl.int64)
            macro += AT_ONCE
            column += AT_ONCE
        row += 1


def _count(records: Tensor, order: Tensor, visible: Tensor, width: int, height: int, eyes: int) -> Tensor:
    """Macro tiles that each eye of each entry of `order` reaches, [g * n * eyes] int32, 0 from `visible` on."""
    lanes = len(order) * eyes
    counts = torch.empty(lanes, dtype=torch.int32, device=records.device)
    count_kernel[(triton.cdiv(lanes, BLOCK),)](
        records, order, visible, counts, lanes, records.shape[1], width, height, EYES=eyes, BLOCK=BLOCK, **LAUNCH
    )
    return counts


def _emit(
    records: Tensor, order: Tensor, visible: Tensor, totals: Tensor, capacity: int, width: int, height: int, eyes: int
) -> tuple[Tensor, Tensor]:
    """Macro tile and splat of each instance in depth order, [capacity] both; what is unused has the tile after all."""
    columns, rows = macro_grid(width, height)
    tiles, device = len(records) * rows * columns, records.device
    macros = torch.full((capacity,), tiles, dtype=macro_key_type(tiles), device=device)
    splats = torch.empty(capacity, dtype=torch.int32, device=device)
    emit_kernel[(triton.cdiv(len(totals), BLOCK),)](
        records, order, visible, totals, macros, splats, capacity, records.shape[1], width, height, columns, rows,
        EYES=eyes, AT_ONCE=AT_ONCE, BLOCK=BLOCK, **LAUNCH,
    )  # fmt: skip
    return macros, splats


def bin_splats(
    records: Tensor,  # [v, n, 12] float32
    order: Tensor,  # [g * n] int32, group * n + splat in depth order
    visible: Tensor,  # [] int64, leading entries of `order` that are seen
    width: int,
    height: int,
    *,
    eyes: int = 1,
    tile: tuple[int, int] = TILE,
    capacity: int | None = None,
) -> Lists:
    """Tile lists of all views.

    Args:
        eyes: views of a group, which share the entries of `order`.
        tile: width and height in pixels of a fine tile, one of `TILES`.
        capacity: room for entries. Then nothing waits for the GPU, and splats that do not fit are left out in depth
            order. None: wait once for the number of entries and take that.

    Raises:
        ValueError: another size of tiles.
    """
    if tile not in TILES:
        raise ValueError(f"tile is {tile}, expected one of {TILES}")
    columns, rows = macro_grid(width, height)
    tiles, device = len(records) * rows * columns, records.device
    if len(order) == 0:
        zero, entries = torch.zeros((), dtype=torch.int64, device=device), torch.zeros_like(order)
        starts, none = zero.repeat(tiles + 1), zero.repeat(0)
        return Lists(entries, entries, starts, order, visible, zero, zero, none, none)
    totals = _count(records, order, visible, width, height, eyes).cumsum(0, dtype=torch.int64)
    ends = totals if eyes == 1 else totals[eyes - 1 :: eyes].contiguous()
    pairs = ends[-1]
    room = int(pairs) if capacity is None else capacity
    fitting = torch.searchsorted(ends, torch.full((1,), room, dtype=torch.int64, device=device), right=True)[0]
    emitted = torch.minimum(fitting, visible)
    macros, splats = _emit(records, order, visible, totals, room, width, height, eyes)
    macros, places = macro_order(macros)
    numbers = torch.arange(tiles + 1, dtype=macros.dtype, device=device)
    starts = torch.searchsorted(macros, numbers)
    ids, masks = torch.empty_like(splats), torch.empty_like(splats)
    if room:
        mask_kernel[(triton.cdiv(room, MASK_BLOCK),)](
            records, macros, places, splats, ids, masks, room, tiles, width, height, columns, rows,
            TILE_W=tile[0], TILE_H=tile[1], BLOCK=MASK_BLOCK, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return Lists(ids, masks, starts, order, visible, emitted, pairs, places, ends)
