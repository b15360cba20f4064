"""A tile's splats, 64 at a time: which of them reach which block of pixels, on the CPU.

A tile has 8x8 blocks of 16 pixels, two vectors. Each splat of a chunk gets a word with a bit for every block that its
ellipse reaches; transposed, the 64 words say for each block which splats it has to look at, in depth order. No branch
depends on the splat, so nothing waits for one.
"""

import numpy as np

from .. import constants as c
from .compiled import compiled
from .record import prefetch_record, read_record
from .simd import (
    LANES,
    ceil,
    constant,
    element,
    floor,
    load,
    most,
    put,
    ramp,
    ranges_to_bits,
    splat,
    sqrt,
    store,
    where,
)

f32 = np.float32
BLOCK_WIDTH, BLOCK_HEIGHT = 4, 4  # pixels
BLOCK = BLOCK_WIDTH * BLOCK_HEIGHT  # pixels of a block: two vectors, side by side
GRID = 8  # blocks across and down a tile
TILE_WIDTH, TILE_HEIGHT = GRID * BLOCK_WIDTH, GRID * BLOCK_HEIGHT
CHUNK = 64  # splats, as many as a word has bits
EVERY_BLOCK = -1  # all bits set
_AHEAD = 6  # splats whose records are fetched early

VECTOR_WIDTH = LANES // BLOCK_HEIGHT  # a vector is as high as a block, so that both of a block's have the same dy
lane_x = constant([lane % VECTOR_WIDTH for lane in range(LANES)])  # of the pixels of a vector
lane_y = constant([lane // VECTOR_WIDTH for lane in range(LANES)])

ENTRY = 16  # floats of a table's entry, a cache line: a record, its mean replaced by u and v, and room for a profile
U, V = c.MEAN_X, c.MEAN_Y  # u and v at the tile's first pixel

# Of the pairs of bit fields that the stages of the transposition swap; 32 bits wide at first, 1 at last.
_LOW_HALVES = tuple(((1 << 64) - 1) // ((1 << (32 >> stage)) + 1) for stage in range(6))

_ZERO, _HALF, _ONE, _SLACK = f32(0), f32(0.5), f32(1), f32(0.01)
_LOG2_ALPHA_MIN = f32(c.LOG2_ALPHA_MIN)


@compiled(inline=True)
def workspace():
    """Buffers of one thread: the chunk's table and words; where in the table a block's splats are, and their alphas."""
    return (
        np.empty(CHUNK * ENTRY, dtype=np.float32),
        np.empty(CHUNK, dtype=np.int64),
        np.empty(CHUNK, dtype=np.int64),
        np.empty(CHUNK * BLOCK, dtype=np.float32),
    )


@compiled(inline=True)
def block_corner(block):
    """First pixel of a block, from that of its tile."""
    return (block // GRID) * BLOCK_WIDTH, block % GRID * BLOCK_HEIGHT


@compiled(inline=True)
def lane_of(x, y):
    """Where pixel (x, y) of a block lies in its two vectors."""
    return x // VECTOR_WIDTH * LANES + y * VECTOR_WIDTH + x % VECTOR_WIDTH


@compiled(inline=True)
def _reached(l0, l1, log2_opacity, extent_x, extent_y, x, y):
    """The word of the blocks that an ellipse reaches, its mean at (x, y) from the centre of the tile's first pixel.

    The edge y(dx) of an ellipse is concave in dx, so its extreme within a column of blocks lies at the dx of the
    global extreme, clamped to the column.
    """
    across, down, zero = _ONE / extent_x, -_ONE / l0, splat(_ZERO)
    slope = l1 * down * extent_y * extent_y * across * across  # of the line through the middles of the columns
    tip = splat(l1 * down * extent_y)  # dx of the lowest point
    height = extent_y * across * down  # of the middle column is this times the root of the power that is left
    height = height * height * most(log2_opacity - _LOG2_ALPHA_MIN, _ZERO)
    slope, height, narrowing = splat(slope), splat(height), splat(height * across * across)
    left = ramp() * splat(f32(BLOCK_WIDTH)) - splat(x)
    right = min(left + splat(f32(BLOCK_WIDTH - 1)), splat(extent_x))
    left = max(left, splat(-extent_x))
    at = max(min(zero - tip, right), left)
    top = splat(y - _SLACK) + slope * at - sqrt(max(height - narrowing * at * at, zero))
    at = max(min(tip, right), left)
    bottom = splat(y + _SLACK) + slope * at + sqrt(max(height - narrowing * at * at, zero))
    first, last = ceil(max(top, zero)), floor(min(bottom, splat(f32(TILE_HEIGHT - 1))))
    some = (last >= first) & (right >= left)
    first, end = first * splat(f32(1 / BLOCK_HEIGHT)), last * splat(f32(1 / BLOCK_HEIGHT)) + splat(_ONE)
    return ranges_to_bits(where(some, first, zero), where(some, end, zero))


@compiled(inline=True)
def _enter(records, i, left, top, table_out, at):
    """Enter record i into the chunk's table; returns the word of the blocks that it reaches."""
    mean, (l0, l1, l2), log2_opacity, _, _, (extent_x, extent_y) = read_record(records, i)
    x, y = mean[0] - f32(left) - _HALF, mean[1] - f32(top) - _HALF
    store(table_out, at + c.RECORD - LANES, load(records, i * c.RECORD + c.RECORD - LANES))
    put(table_out, at + U, -(l0 * x + l1 * y))
    put(table_out, at + V, -(l2 * y))
    put(table_out, at + c.L0, l0)
    put(table_out, at + c.L1, l1)
    return _reached(l0, l1, log2_opacity, extent_x, extent_y, x, y)


@compiled()
def _transpose(words):
    """Bit b of word k changes places with bit k of word b."""
    for stage in range(6):
        half, mask = 32 >> stage, _LOW_HALVES[stage]
        for first in range(0, CHUNK, 2 * half):
            for k in range(first, first + half):
                swap = ((words[k] >> half) ^ words[k + half]) & mask
                words[k + half] ^= swap
                words[k] ^= swap << half


@compiled()
def enter_chunk(records, ids, start, count, left, top, live, table_out, words_out):
    """Fill the table with `count` splats of the list from `start`, and for each block the word of those it looks at.

    `live` has the bits of the blocks that go on; returns the bits of those with something to look at.
    """
    some = 0
    for k in range(count):
        prefetch_record(records, np.int64(element(ids, min(start + k + _AHEAD, len(ids) - 1))))
        word = _enter(records, np.int64(element(ids, start + k)), left, top, table_out, k * ENTRY) & live
        put(words_out, k, word)
        some |= word
    words_out[count:] = 0
    _transpose(words_out)
    return some
