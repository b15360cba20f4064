"""Blend any number of channels, and sum what each splat gives, on the CPU.

Both go through the tiles as blend.py does, with the same weights (weights.py). Channels are taken up to 64 at a time,
so that a tile's sums, 4 KB a channel, stay in the second-level cache; four of them stay in registers over a chunk.
"""

import numpy as np
from numba import get_num_threads, prange

from .alphas import enter_profiles
from .chunk import (
    BLOCK,
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    CHUNK,
    ENTRY,
    GRID,
    TILE_HEIGHT,
    TILE_WIDTH,
    enter_chunk,
    lane_of,
    workspace,
)
from .compiled import compiled
from .simd import LANES, element, load, lowest_bit, put, splat, store, take, total
from .weights import find_alphas, find_weights, flat_mask, flat_profiles, light_tile

f32 = np.float32
_CHANNELS = 64  # at a time
_TOGETHER = 4  # in registers
_BLOCKS = GRID * GRID
_ZERO = f32(0)


@compiled()
def _enter_features(features, ids, start, count, first, end, stride, values_out):
    """Channels `first` to `end` of a chunk's splats, `stride` floats each, the last ones 0."""
    for k in range(count):
        i = np.int64(ids[start + k])
        for channel in range(first, end):
            values_out[k * stride + channel - first] = features[i, channel]
        values_out[k * stride + end - first : k * stride + stride] = _ZERO


@compiled()
def _add_features(sums, at, stride, values, count, entries, weights):
    """Add a chunk's splats to the sums of one block, [stride, BLOCK] from `at`."""
    for channel in range(0, stride, _TOGETHER):
        i = at + channel * BLOCK
        a0, a1, b0, b1 = load(sums, i), load(sums, i + LANES), load(sums, i + 2 * LANES), load(sums, i + 3 * LANES)
        i += 4 * LANES
        c0, c1, d0, d1 = load(sums, i), load(sums, i + LANES), load(sums, i + 2 * LANES), load(sums, i + 3 * LANES)
        for k in range(count):
            weight0, weight1 = load(weights, k * BLOCK), load(weights, k * BLOCK + LANES)
            value = element(entries, k) // ENTRY * stride + channel
            a, b = splat(element(values, value)), splat(element(values, value + 1))
            c, d = splat(element(values, value + 2)), splat(element(values, value + 3))
            a0, a1, b0, b1 = a0 + weight0 * a, a1 + weight1 * a, b0 + weight0 * b, b1 + weight1 * b
            c0, c1, d0, d1 = c0 + weight0 * c, c1 + weight1 * c, d0 + weight0 * d, d1 + weight1 * d
        store(sums, i, c0)
        store(sums, i + LANES, c1)
        store(sums, i + 2 * LANES, d0)
        store(sums, i + 3 * LANES, d1)
        i -= 4 * LANES
        store(sums, i, a0)
        store(sums, i + LANES, a1)
        store(sums, i + 2 * LANES, b0)
        store(sums, i + 3 * LANES, b1)


@compiled()
def _write_features(sums, stride, first, end, left, top, width, height, channels, features_out):
    for y in range(top, min(top + TILE_HEIGHT, height)):
        for x in range(left, min(left + TILE_WIDTH, width)):
            column, row = x - left, y - top
            block = column // BLOCK_WIDTH * GRID + row // BLOCK_HEIGHT
            at = block * stride * BLOCK + lane_of(column % BLOCK_WIDTH, row % BLOCK_HEIGHT)
            pixel = (y * width + x) * channels
            for channel in range(first, end):
                put(features_out, pixel + channel, element(sums, at + (channel - first) * BLOCK))


@compiled()
def _write_nothing(left, top, width, height, channels, features_out):
    for y in range(top, min(top + TILE_HEIGHT, height)):
        features_out[(y * width + left) * channels : (y * width + min(left + TILE_WIDTH, width)) * channels] = _ZERO


@compiled(parallel=True)
def _features_all(records, profiles, features, ids, starts, width, height, mask, threads, next_tile, features_out):
    channels = features.shape[1]
    tiles, columns = len(starts) - 1, -(-width // TILE_WIDTH)
    most = -(-min(channels, _CHANNELS) // _TOGETHER) * _TOGETHER
    for _ in prange(threads):
        table, words, entries, weights = workspace()
        lights, values = np.empty(_BLOCKS * BLOCK, dtype=np.float32), np.empty(CHUNK * most, dtype=np.float32)
        sums = np.empty(_BLOCKS * BLOCK * most, dtype=np.float32)
        tile = take(next_tile, 1)
        while tile < tiles:
            left, top = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
            if starts[tile] == starts[tile + 1]:
                _write_nothing(left, top, width, height, channels, features_out)
            for first in range(0, channels if starts[tile] < starts[tile + 1] else 0, _CHANNELS):
                end = min(first + _CHANNELS, channels)
                stride = -(-(end - first) // _TOGETHER) * _TOGETHER
                sums[: _BLOCKS * BLOCK * stride] = _ZERO
                start, stop = starts[tile], starts[tile + 1]
                live = light_tile(left, top, width, height, mask, lights)
                while start < stop and live:
                    count = min(CHUNK, stop - start)
                    some = enter_chunk(records, ids, start, count, left, top, live, table, words)
                    if len(profiles):
                        enter_profiles(profiles, ids, start, count, table)
                    _enter_features(features, ids, start, count, first, end, stride, values)
                    start += CHUNK
                    while some:
                        block = lowest_bit(some)
                        some &= some - 1
                        count = find_alphas(element(words, block), block, table, len(profiles) > 0, entries, weights)
                        if not find_weights(lights, block, count, weights):
                            live &= ~(1 << block)
                        _add_features(sums, block * stride * BLOCK, stride, values, count, entries, weights)
                _write_features(sums, stride, first, end, left, top, width, height, channels, features_out)
            tile = take(next_tile, 1)


@compiled(parallel=True)
def _shares_all(records, profiles, ids, starts, width, height, mask, threads, next_tile, shares_out):
    """What each entry of the lists gives to its tile."""
    tiles, columns = len(starts) - 1, -(-width // TILE_WIDTH)
    for _ in prange(threads):
        table, words, entries, weights = workspace()
        lights = np.empty(_BLOCKS * BLOCK, dtype=np.float32)
        tile = take(next_tile, 1)
        while tile < tiles:
            left, top = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
            start, stop = starts[tile], starts[tile + 1]
            shares_out[start:stop] = _ZERO
            live = light_tile(left, top, width, height, mask, lights)
            while start < stop and live:
                count = min(CHUNK, stop - start)
                some = enter_chunk(records, ids, start, count, left, top, live, table, words)
                if len(profiles):
                    enter_profiles(profiles, ids, start, count, table)
                while some:
                    block = lowest_bit(some)
                    some &= some - 1
                    count = find_alphas(element(words, block), block, table, len(profiles) > 0, entries, weights)
                    if not find_weights(lights, block, count, weights):
                        live &= ~(1 << block)
                    for k in range(count):
                        share = total(load(weights, k * BLOCK) + load(weights, k * BLOCK + LANES))
                        shares_out[start + element(entries, k) // ENTRY] += share
                start += CHUNK
            tile = take(next_tile, 1)


@compiled()
def _sum_shares(ids, shares, sums_out):
    """In the order of the lists, whichever thread made the shares."""
    for k in range(len(ids)):
        sums_out[np.int64(ids[k])] += shares[k]


def contributions(
    records: np.ndarray,  # [n, 12] float32
    ids: np.ndarray,  # [p] uint32, tile by tile, nearest first
    starts: np.ndarray,  # [tiles + 1] int64
    width: int,
    height: int,
    *,
    mask: np.ndarray | None = None,  # [h, w] bool
    profiles: np.ndarray | None = None,  # [n, 4] float32
) -> np.ndarray:
    """Blending weight of each splat summed over the pixels (of the mask) [n] float32; the same for any threads."""
    shares, sums = np.empty(len(ids), dtype=f32), np.zeros(len(records), dtype=np.float64)
    pixels, next_tile = flat_mask(mask), np.zeros(1, dtype=np.int64)
    threads, splats = get_num_threads(), (records.reshape(-1), flat_profiles(profiles))
    _shares_all(*splats, ids, starts, width, height, pixels, threads, next_tile, shares)
    _sum_shares(ids, shares, sums)
    return sums.astype(f32)


def features(
    records: np.ndarray,  # [n, 12] float32
    values: np.ndarray,  # [n, N] float32
    ids: np.ndarray,  # [p] uint32, tile by tile, nearest first
    starts: np.ndarray,  # [tiles + 1] int64
    width: int,
    height: int,
    *,
    mask: np.ndarray | None = None,  # [h, w] bool
    profiles: np.ndarray | None = None,  # [n, 4] float32
) -> np.ndarray:
    """Any N channels blended like colour, without a background: [h, w, N] float32; 0 where the mask is False."""
    picture = np.empty((height, width, values.shape[1]), dtype=f32)
    next_tile = np.zeros(1, dtype=np.int64)
    threads, splats = get_num_threads(), (records.reshape(-1), flat_profiles(profiles))
    tail = flat_mask(mask), threads, next_tile, picture.reshape(-1)
    _features_all(*splats, values, ids, starts, width, height, *tail)
    return picture
