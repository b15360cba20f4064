"""Which tiles an ellipse reaches, exactly, and for each entry of the lists one bit a fine tile, in Triton.

An ellipse reaches a tile when it holds a pixel centre of it. A row of pixels cuts the ellipse in a span whose ends are
concave (right) and convex (left) in the row, so over a band of rows the farthest end lies at one of the two rows round
the ellipse's tip, clamped to the band: four square roots a band, however many rows it has.
`mask_kernel`: one lane an entry. Reads 12 bytes and gathers an id and 28 bytes of its record; writes 8 bytes.
Constexpr: TILE_W, TILE_H, pixels of a fine tile.
"""

import triton
import triton.language as tl

from .constants import LOG2_ALPHA_MIN, RECORD

MACRO_WIDTH, MACRO_HEIGHT = 64, 32  # pixels of the tiles that splats are sorted by
BLOCK = 128

MACRO_W, MACRO_H = tl.constexpr(MACRO_WIDTH), tl.constexpr(MACRO_HEIGHT)
SLACK, ROUNDING = tl.constexpr(0.01), tl.constexpr(1e-6)  # pixels, and of itself: no pixel that the blend keeps is lost


@triton.jit
def load_ellipse(records, i, mask):
    """What the spans need, in the grid of pixel centres, and whether its view sees the splat; `i` is int64.

    A row dy below the centre is cut from slope dy - sqrt(width - narrowing dy^2) to slope dy + sqrt(..), about the
    centre; the rightmost point lies `tip` below the centre.
    """
    record = records + i * RECORD
    extent_x = tl.load(record + 10, mask=mask, other=-1.0)
    mask &= extent_x >= 0.0
    x = tl.load(record, mask=mask, other=0.5) - 0.5
    y = tl.load(record + 1, mask=mask, other=0.5) - 0.5
    extent_x = tl.where(mask, extent_x, 0.0) * (1.0 + ROUNDING) + SLACK
    extent_y = tl.load(record + 11, mask=mask, other=0.0) * (1.0 + ROUNDING) + SLACK
    inverse = 1.0 / tl.load(record + 2, mask=mask, other=1.0)
    slope = -tl.load(record + 3, mask=mask, other=0.0) * inverse
    narrowing = tl.load(record + 4, mask=mask, other=0.0) * inverse
    log2_opacity = tl.load(record + 5, mask=mask, other=0.0)
    width = tl.maximum(log2_opacity - LOG2_ALPHA_MIN, 0.0) * inverse * inverse
    tip = slope * extent_y * (extent_y / extent_x)
    return x, y, extent_x, extent_y, slope, width, narrowing * narrowing, tip, mask


@triton.jit
def pixel_rows(y, extent_y, mask, height):
    """First and last row of pixels with a centre within the ellipse's height, as floats; last < first: none."""
    first = tl.minimum(tl.maximum(tl.ceil(y - extent_y), 0.0), height)  # float32 exceeds int32
    last = tl.maximum(tl.minimum(tl.floor(y + extent_y), height - 1.0), -1.0)
    return first, tl.where(mask, last, first - 1.0)


@triton.jit
def _farthest(y, slope, width, narrowing, tip, first, last):
    """How far right of the centre the spans of rows first to last reach."""
    above = tl.floor(y + tip)
    upper = tl.maximum(tl.minimum(above, last), first) - y
    lower = tl.maximum(tl.minimum(above + 1.0, last), first) - y
    upper_end = slope * upper + tl.sqrt(tl.maximum(width - narrowing * upper * upper, 0.0))
    lower_end = slope * lower + tl.sqrt(tl.maximum(width - narrowing * lower * lower, 0.0))
    return tl.maximum(upper_end, lower_end)


@triton.jit
def pixel_columns(x, y, extent_x, slope, width, narrowing, tip, first, last, columns):
    """First and last column of pixels that the ellipse reaches in rows first to last, as floats; last < first: none."""
    slack = SLACK + ROUNDING * extent_x
    # Seen in a mirror that turns left to right, the slope and the tip have the other sign.
    right = x + tl.minimum(_farthest(y, slope, width, narrowing, tip, first, last) + slack, extent_x)
    left = x - tl.minimum(_farthest(y, -slope, width, narrowing, -tip, first, last) + slack, extent_x)
    left = tl.minimum(tl.maximum(tl.ceil(left), 0.0), columns)
    right = tl.maximum(tl.minimum(tl.floor(right), columns - 1.0), -1.0)
    return left, tl.where(first <= last, right, left - 1.0)


@triton.jit
def mask_kernel(
    records, macros, places, splats,  # [v, n, 12] [p] sorted, [p] where each was before, [p] in that order
    # out:
    ids_out, masks_out,  # [p] [p]
    p, sentinel, width, height, columns, rows,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    ACROSS: tl.constexpr = MACRO_W // TILE_W
    entry = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < p
    macro = tl.load(macros + entry, mask=inside, other=0).to(tl.int32)
    used = inside & (macro < sentinel)
    i = tl.load(splats + tl.load(places + entry, mask=used, other=0), mask=used, other=0)
    left = ((macro % columns) * MACRO_W).to(tl.float32)
    top = (((macro // columns) % rows) * MACRO_H).to(tl.float32)
    x, y, extent_x, extent_y, slope, span, narrowing, tip, used = load_ellipse(records, i.to(tl.int64), used)
    first_row, last_row = pixel_rows(y, extent_y, used, height)
    bits = tl.zeros((BLOCK,), tl.int32)
    for band in tl.static_range(MACRO_H // TILE_H):
        first = tl.maximum(first_row, top + band * TILE_H)
        last = tl.minimum(last_row, top + (band * TILE_H + TILE_H - 1))
        start, end = pixel_columns(x, y, extent_x, slope, span, narrowing, tip, first, last, width)
        start, end = tl.maximum(start, left), tl.minimum(end, left + (MACRO_W - 1))
        reached = start <= end
        low = tl.where(reached, (start - left) * (1.0 / TILE_W), 0.0).to(tl.int32)
        high = tl.where(reached, (end - left) * (1.0 / TILE_W), 0.0).to(tl.int32)
        bits |= tl.where(reached, ((2 << high) - (1 << low)) << (band * ACROSS), 0)
    tl.store(ids_out + entry, i, mask=inside)
    tl.store(masks_out + entry, bits, mask=inside)
