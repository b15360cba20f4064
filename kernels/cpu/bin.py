"""List, for each tile, the splats whose ellipse reaches a pixel centre of it, nearest first, on the CPU.

A counting sort: blocks of the depth order count their tiles, a prefix sum gives each block its place in each tile's
list, and the same walk fills it. Stable, so the lists keep the depth order; exact, since the walk follows the ellipse
row of tiles by row of tiles instead of its bounding box.
"""

import math

import numpy as np
from numba import get_num_threads, prange

from .. import constants as c
from .chunk import TILE_HEIGHT, TILE_WIDTH
from .compiled import compiled
from .record import prefetch_record, read_record
from .simd import element, least, most, put

f32 = np.float32

_ZERO, _HALF, _ONE = f32(0), f32(0.5), f32(1)
_SLACK = f32(0.01)  # pixels, so that rounding never drops a pixel that the blend would keep
_LOG2_ALPHA_MIN = f32(c.LOG2_ALPHA_MIN)
_BLOCKS_A_THREAD = 4
_AHEAD = 12  # splats whose records are fetched early: the depth order jumps about in them


@compiled()
def _box(records, i, columns, rows):
    """First and last row, first and last column of the tiles that the ellipse's box reaches; last < first if none."""
    mean, _, _, _, _, extent = read_record(records, i)
    if extent[0] < _ZERO:  # this eye does not see it, only the other one does
        return 0, -1, 0, -1
    x, y = mean[0] - _HALF, mean[1] - _HALF  # in the grid of pixel centres
    extent_x, extent_y = extent[0] + _SLACK, extent[1] + _SLACK
    width, height = f32(columns * TILE_WIDTH), f32(rows * TILE_HEIGHT)
    # Clamped on both sides before they become integers: float32 holds numbers that int64 does not.
    left = np.int64(least(most(np.ceil(x - extent_x), _ZERO), width))
    right = np.int64(most(least(np.floor(x + extent_x), width - _ONE), -_ONE))
    top = np.int64(least(most(np.ceil(y - extent_y), _ZERO), height))
    bottom = np.int64(most(least(np.floor(y + extent_y), height - _ONE), -_ONE))
    if right < left or bottom < top:
        return 0, -1, 0, -1
    return top // TILE_HEIGHT, bottom // TILE_HEIGHT, left // TILE_WIDTH, right // TILE_WIDTH


@compiled()
def _spans(records, i, first_row, last_row, columns, spans_out):
    """First and last column of tiles that the ellipse reaches, for each row of tiles of its box.

    The edge x(dy) of an ellipse is concave in dy, so its extreme within a band lies at the dy of the global extreme,
    clamped to the band.
    """
    mean, (l0, l1, _), log2_opacity, _, _, extent = read_record(records, i)
    x, y = mean[0] - _HALF, mean[1] - _HALF
    extent_x, extent_y = extent[0] + _SLACK, extent[1] + _SLACK
    slope = -l1 / l0  # of the line through the middles of the ellipse's rows
    half_width = math.sqrt(most(log2_opacity - _LOG2_ALPHA_MIN, _ZERO)) / l0  # of the middle row
    tip = slope * extent_y * extent_y / extent_x  # dy of the rightmost point
    inverse, last = _ONE / extent_y, f32(columns * TILE_WIDTH - 1)
    for row in range(first_row, last_row + 1):
        top = most(f32(row * TILE_HEIGHT) - y, -extent_y)
        bottom = least(f32(row * TILE_HEIGHT + TILE_HEIGHT - 1) - y, extent_y)
        at = most(least(tip, bottom), top)
        share = at * inverse
        right = x + slope * at + half_width * math.sqrt(most(_ONE - share * share, _ZERO)) + _SLACK
        at = most(least(-tip, bottom), top)
        share = at * inverse
        left = x + slope * at - half_width * math.sqrt(most(_ONE - share * share, _ZERO)) - _SLACK
        spans_out[row, 0] = np.int64(least(most(np.ceil(most(left, x - extent_x)), _ZERO), last + _ONE)) // TILE_WIDTH
        spans_out[row, 1] = np.int64(most(np.floor(least(least(right, x + extent_x), last)), -_ONE)) // TILE_WIDTH


@compiled(parallel=True)
def _count(records, order, columns, rows, boxes_out, counts_out):
    blocks = len(counts_out)
    for block in prange(blocks):
        counts = counts_out[block]
        counts[:] = 0
        spans = np.empty((rows, 2), dtype=np.int64)
        for k in range(block * len(order) // blocks, (block + 1) * len(order) // blocks):
            prefetch_record(records, np.int64(element(order, min(k + _AHEAD, len(order) - 1))))
            i = np.int64(order[k])
            top, bottom, left, right = _box(records, i, columns, rows)
            boxes_out[k, 0], boxes_out[k, 1], boxes_out[k, 2], boxes_out[k, 3] = top, bottom, left, right
            if top < bottom and left < right:
                _spans(records, i, top, bottom, columns, spans)
                for row in range(top, bottom + 1):
                    for tile in range(row * columns + spans[row, 0], row * columns + spans[row, 1] + 1):
                        counts[tile] += 1
            else:  # a box of one row or one column of tiles is reached in all its tiles
                for row in range(top, bottom + 1):
                    for tile in range(row * columns + left, row * columns + right + 1):
                        counts[tile] += 1


@compiled(parallel=True)
def _fill(records, order, columns, rows, boxes, places, ids_out):
    blocks = len(places)
    for block in prange(blocks):
        place = places[block]
        spans = np.empty((rows, 2), dtype=np.int64)
        for k in range(block * len(order) // blocks, (block + 1) * len(order) // blocks):
            prefetch_record(records, np.int64(element(order, min(k + _AHEAD, len(order) - 1))))
            top, bottom, left, right = boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3]
            if top < bottom and left < right:
                _spans(records, np.int64(order[k]), top, bottom, columns, spans)
                for row in range(top, bottom + 1):
                    for tile in range(row * columns + spans[row, 0], row * columns + spans[row, 1] + 1):
                        put(ids_out, element(place, tile), element(order, k))
                        place[tile] += 1
            else:
                for row in range(top, bottom + 1):
                    for tile in range(row * columns + left, row * columns + right + 1):
                        put(ids_out, element(place, tile), element(order, k))
                        place[tile] += 1


def bin_splats(records: np.ndarray, order: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Splat ids [p] uint32, tile by tile, and where each tile's list starts [tiles + 1] int64.

    Args:
        records: [n, 12] float32.
        order: [v] uint32, visible splats, nearest first.
    """
    columns, rows = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
    counts = np.empty((get_num_threads() * _BLOCKS_A_THREAD, columns * rows), dtype=np.int64)
    boxes = np.empty((len(order), 4), dtype=np.int16)
    flat = records.reshape(-1)
    _count(flat, order, columns, rows, boxes, counts)
    totals = counts.sum(axis=0)
    starts = np.concatenate([[0], np.cumsum(totals)])
    places = np.cumsum(counts, axis=0) - counts + starts[:-1]
    ids = np.empty(int(starts[-1]), dtype=np.uint32)
    _fill(flat, order, columns, rows, boxes, places, ids)
    return ids, starts
