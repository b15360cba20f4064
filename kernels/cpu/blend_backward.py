"""Gradients of the blend, on the CPU: each tile's splats once more front to back, with the forward's own decisions.

A pixel's total of weight times value is known from the frame, so what lies behind a splat is that total less what has
passed: no list is walked backwards and nothing is kept from the forward. Chunks, blocks and words are the forward's
(chunk.py); what a block gives to its splats is in block_backward.py.

Each entry of the tile lists writes its own row of a buffer, 40 bytes (48 with absolute sums); then every thread adds
up the rows of its own share of the splats, in the order of the lists: the result does not depend on the number of
threads.
"""

import numpy as np
from numba import get_num_threads, prange

from .. import constants as c
from .block_backward import GATHERED, PLANES, set_origins, walk_block, write_gradients
from .chunk import (
    BLOCK,
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    CHUNK,
    GRID,
    TILE_HEIGHT,
    TILE_WIDTH,
    block_corner,
    enter_chunk,
    lane_of,
    lane_x,
    lane_y,
    workspace,
)
from .compiled import compiled
from .simd import LANES, bits, element, load, lowest_bit, splat, store, take
from .weights import find_alphas

f32 = np.float32
_STRIDE = PLANES * BLOCK  # floats a block

_ZERO, _ONE = f32(0), f32(1)


@compiled()
def _read_tile(planes, left, top, grad_c, grad_a, grad_s, total, mask):
    """Gradients of a tile's pixels; those outside the picture or the mask have none, and have stopped.

    Returns the bits of the blocks in which some pixel goes on.
    """
    for vector in range(GRID * GRID * _STRIDE // LANES):
        store(planes, vector * LANES, splat(_ZERO))
    height, width = total.shape
    deep, masked = len(grad_s) > 0, len(mask) > 0
    for row in range(min(TILE_HEIGHT, height - top)):
        y = top + row
        for column in range(min(TILE_WIDTH, width - left)):
            x = left + column
            if not masked or mask[y, x]:
                block = column // BLOCK_WIDTH * GRID + row // BLOCK_HEIGHT
                i = block * _STRIDE + lane_of(column % BLOCK_WIDTH, row % BLOCK_HEIGHT)
                planes[i], planes[i + BLOCK], planes[i + 2 * BLOCK] = _ONE, total[y, x], grad_a[y, x]
                for channel in range(3):
                    planes[i + (3 + channel) * BLOCK] = grad_c[y, x, channel]
                if deep:
                    planes[i + 6 * BLOCK] = grad_s[y, x]
    live = 0
    for block in range(GRID * GRID):
        at = block * _STRIDE
        if bits(max(load(planes, at), load(planes, at + LANES)) > splat(_ZERO)):
            live |= 1 << block
    return live


@compiled()
def _walk_tile(planes, live, chunk, records, ids, start, stop, left, top, deep, absgrad, partial_out):
    """The splats of a tile, ids start to stop; returns the first entry that was not looked at."""
    table, words, entries, alphas, gathered = chunk
    while start < stop and live:
        count = min(CHUNK, stop - start)
        some = enter_chunk(records, ids, start, count, left, top, live, table, words)
        set_origins(records, ids, start, count, left, top, table)
        while some:
            block = lowest_bit(some)
            some &= some - 1
            corner_x, corner_y = block_corner(block)
            x, y = lane_x() + splat(f32(corner_x)), lane_y() + splat(f32(corner_y))
            reached = find_alphas(element(words, block), block, table, False, entries, alphas)
            at = block * _STRIDE
            if not walk_block(planes, at, table, reached, entries, alphas, x, y, deep, absgrad, gathered):
                live &= ~(1 << block)
        for k in range(count):
            i = np.int64(element(ids, start + k))
            write_gradients(records, i, left, top, gathered, k * GATHERED, partial_out[start + k])
        start += count
    return start


@compiled(parallel=True)
def _walk_all(
    records,
    ids,
    starts,
    columns,
    threads,
    next_tile,
    grad_c,
    grad_a,
    grad_s,
    total,
    mask,
    absgrad,
    partial_out,
    ends_out,
):
    tiles = len(starts) - 1
    deep = len(grad_s) > 0
    for _ in prange(threads):
        planes = np.empty(GRID * GRID * _STRIDE, dtype=np.float32)
        chunk = workspace() + (np.zeros(CHUNK * GATHERED, dtype=np.float32),)
        tile = take(next_tile, 1)
        while tile < tiles:
            start, stop = starts[tile], starts[tile + 1]
            if start < stop:
                left, top = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
                live = _read_tile(planes, left, top, grad_c, grad_a, grad_s, total, mask)
                stop = _walk_tile(planes, live, chunk, records, ids, start, stop, left, top, deep, absgrad, partial_out)
            ends_out[tile] = stop
            tile = take(next_tile, 1)


@compiled(parallel=True)
def _add_up(ids, starts, ends, partial, shares, grad_records_out):
    n = len(grad_records_out)
    for share in prange(shares):
        first, last = share * n // shares, (share + 1) * n // shares
        grad_records_out[first:last] = _ZERO
        for tile in range(len(ends)):
            for k in range(starts[tile], ends[tile]):
                i = np.int64(ids[k])
                if first <= i < last:
                    for value in range(partial.shape[1]):
                        grad_records_out[i, value] += partial[k, value]


def blend_backward(
    # scene:
    records: np.ndarray,  # [n, 12] float32
    ids: np.ndarray,  # [p] uint32, tile by tile, nearest first
    starts: np.ndarray,  # [tiles + 1] int64
    # camera:
    width: int,
    height: int,
    # gradients:
    grad_c: np.ndarray,  # [h, w, 3] float32, of the sum of weight times colour
    grad_a: np.ndarray,  # [h, w], of the sum of weights
    grad_s: np.ndarray | None,  # [h, w], of the sum of weight times depth; None where no depth is asked for
    total: np.ndarray,  # [h, w], of each pixel: its sums times their gradients, added
    *,
    mask: np.ndarray | None = None,  # [h, w] bool, the forward's
    absgrad: bool = False,
) -> np.ndarray:
    """Gradients of the records [n, 12] float32, in the slots of kernels/constants.py; zero for splats in no list.

    Slots 10 and 11 hold the sums over all pixels of the magnitudes of the gradients by the mean's x and y, or zero
    unless `absgrad`. The extents have no gradient.
    """
    unused = np.zeros((0, 0), dtype=f32)
    planes = (np.ascontiguousarray(unused if plane is None else plane) for plane in (grad_c, grad_a, grad_s, total))
    if mask is None:
        mask = np.zeros((0, 0), dtype=np.bool_)
    partial = np.empty((len(ids), c.RECORD if absgrad else c.EXTENT_X), dtype=f32)
    ends = np.empty(len(starts) - 1, dtype=np.int64)
    threads, next_tile = get_num_threads(), np.zeros(1, dtype=np.int64)
    lists = records.reshape(-1), ids, starts, -(-width // TILE_WIDTH)
    _walk_all(*lists, threads, next_tile, *planes, np.ascontiguousarray(mask), absgrad, partial, ends)
    grad_records = np.empty((len(records), c.RECORD), dtype=f32)
    _add_up(ids, starts, ends, partial, threads, grad_records)
    return grad_records
