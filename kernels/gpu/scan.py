"""What all blending kernels share, in Triton: which splats of a macro tile reach a fine tile, one after the other.

One program, one warp, a fine tile. It reads 32 entries of the macro tile's list at a time, 4 bytes of mask each, and
picks its own bit of each mask. Eight listed splats at a time make a word, whose bits the inner loop takes from the
nearest splat on: 4 bytes of id and one record a splat. After the list come the splats that found no room in it (see
`Lists`), each tested against the tile by one lane, in the same loops.

SHADE, a function, blends one splat into the state, a tuple of tensors. SETTLE is called about every PAUSE splats and
says whether any pixel is still open. Constexpr besides: TILE_W and TILE_H, pixels of the fine tile; WORDS, floats of
a record that SHADE reads; FORM, a tuple that SHADE and SETTLE understand.
"""

import numpy as np
import triton
import triton.language as tl

from .. import constants as c
from .bin import TILES
from .compiled import COMPILED
from .masks import MACRO_H, MACRO_HEIGHT, MACRO_W, MACRO_WIDTH, load_ellipse, pixel_columns, pixel_rows

REGISTERS = 168  # a thread, at most; without a limit ptxas aims so low that it spills some to memory
LAUNCH = {"num_warps": 1, "enable_fp_fusion": True, "maxnreg": REGISTERS}  # one warp has no barriers

STOP_BITS = tl.constexpr(int(np.float32(c.STOP).view(np.int32)))
GROUP = tl.constexpr(8)  # splats in a word


def fine_tiles(tile: tuple[int, int]) -> int:
    """Fine tiles of a macro tile.

    Raises:
        ValueError: there is no such tile.
    """
    if tile not in TILES:
        raise ValueError(f"tile is {tile}: give width and height of one of {TILES}")
    return (MACRO_WIDTH // tile[0]) * (MACRO_HEIGHT // tile[1])


@triton.jit
def load_four(pointer, within=None):
    """Four neighbouring floats as scalars, 0 where not within; one 16-byte load if the pointer is divisible by 16."""
    if within is None:
        fours = tl.load(pointer + tl.arange(0, 4))
    else:
        fours = tl.load(pointer + tl.arange(0, 4), mask=within, other=0.0)
    even, odd = tl.split(tl.reshape(fours, (2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def locate(macro, fine, per_view, columns, TILE_W: tl.constexpr, TILE_H: tl.constexpr):
    """View of a macro tile, and the centre of each lane's first pixel within one of its fine tiles."""
    ACROSS: tl.constexpr = MACRO_W // TILE_W
    here = macro % per_view
    left = (here % columns) * MACRO_W + (fine % ACROSS) * TILE_W
    top = (here // columns) * MACRO_H + (fine // ACROSS) * TILE_H
    lane = tl.arange(0, 32)
    x, y = (left + lane % TILE_W).to(tl.float32) + 0.5, (top + lane // TILE_W).to(tl.float32) + 0.5
    return macro // per_view, x, y


@triton.jit
def is_outside(x, y, width, height):
    """Whether none of a tile's pixels belongs to the picture."""
    return (tl.min(x, axis=0) > width) | (tl.min(y, axis=0) > height)


@triton.jit
def is_open(transmittance, STEPS: tl.constexpr, PARITY: tl.constexpr):
    """Whether a pixel still takes splats, of STEPS tensors; in the parity form one that has stopped is negative."""
    most = transmittance[0].to(tl.int32, bitcast=True)  # floats of 0 and above compare as integers: one instruction
    for s in tl.static_range(1, STEPS):
        most = tl.maximum(most, transmittance[s].to(tl.int32, bitcast=True))
    return tl.max(most, axis=0) > (0 if PARITY else STOP_BITS)


@triton.jit
def _first_bit(word):
    """How many bits lie before the first that is set, from the highest on; the word must not be 0."""
    if COMPILED:
        return tl.inline_asm_elementwise(
            "bfind.shiftamt.u32 $0, $1;", "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        exponent = word.to(tl.uint32, bitcast=True).to(tl.float64).to(tl.int64, bitcast=True) >> 52
        return (1023 + 31 - exponent).to(tl.int32)


@triton.jit
def _reaches(records, i, mask, left, top, TILE_W: tl.constexpr, TILE_H: tl.constexpr):
    """Whether each lane's ellipse reaches a pixel centre of the tile with that leftmost column and topmost row."""
    right, bottom = left + (TILE_W - 1), top + (TILE_H - 1)
    x, y, extent_x, extent_y, slope, span, narrowing, tip, mask = load_ellipse(records, i.to(tl.int64), mask)
    first, last = pixel_rows(y, extent_y, mask, bottom + 1.0)
    first = tl.maximum(first, top)
    start, end = pixel_columns(x, y, extent_x, slope, span, narrowing, tip, first, last, right + 1.0)
    return tl.maximum(start, left) <= end


@triton.jit
def _unlisted(emitted, visible, whole):
    """Which entries of the order are in no list; none for a program that has only a part of a list."""
    stop = tl.load(visible)
    return tl.where(whole, tl.load(emitted), stop), stop


@triton.jit
def scan(
    SHADE: tl.constexpr, SETTLE: tl.constexpr,
    state, given, goes_on,  # given begins with x and y of each lane's first pixel
    records, packed,  # [views * n, 12], and [views * n, WORDS] that SHADE reads: the same unless WORDS differs
    ids, masks, begin, end,  # the list
    order, emitted, visible, whole,  # and what is not in it, if that is wanted
    view, eyes, n, fine,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, WORDS: tl.constexpr, PAUSE: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """State after all splats of the tile, or once no pixel is open, and how many were taken."""
    lane = tl.arange(0, 32)
    taken, held = 0, 0
    listed = True
    at, stop = begin, end
    if at >= stop:
        listed = False
        at, stop = _unlisted(emitted, visible, whole)
    while goes_on & (at < stop):
        k = at + lane
        if listed:
            bit = (tl.load(masks + k, mask=k < stop, other=0) >> fine) & 1
            source, base, offset = ids + at, packed, 0
        else:
            group = view // eyes  # entries of order count groups, records count views
            offset = (view - group) * n
            i = tl.load(order + k, mask=k < stop, other=0)
            mine = (k < stop) & (i // n == group)
            left, top = tl.min(given[0], axis=0) - 0.5, tl.min(given[1], axis=0) - 0.5
            bit = _reaches(records, i + offset, mine, left, top, TILE_W, TILE_H).to(tl.int32)
            source, base = order + at, packed + offset.to(tl.int64) * WORDS
        rank = tl.cumsum(bit, axis=0) - bit
        bits = bit << (31 - lane)
        count = tl.sum(bit, axis=0)
        done = 0
        while goes_on & (done < count):
            word = tl.xor_sum(tl.where(rank // GROUP == done // GROUP, bits, 0), axis=0)
            while word != 0:
                j = _first_bit(word)
                word = word & (tl.full((), 0x7FFFFFFF, tl.int32) >> j)
                i = tl.load(source + j)
                record = base + tl.multiple_of(i.to(tl.int64) * WORDS, 4)
                state = SHADE(state, given, record, i + offset, FORM)
            more = tl.minimum(count - done, GROUP)
            done += GROUP
            taken += more
            held += more
            if held >= PAUSE:
                held = 0
                state, goes_on = SETTLE(state, FORM)
        at += 32
        if listed & (at >= stop):
            listed = False
            at, stop = _unlisted(emitted, visible, whole)
    return state, taken
