"""Blend each tile's splats front to back, on the CPU: a block of 4x4 pixels at a time, over the splats that reach it.

A block's planes stay in registers while it goes through a chunk of 64 splats (chunk.py), and in the first-level cache
between chunks. Cores take tiles, a few neighbours at a time, whenever they get free. Depth and median depth are
compiled in or out.
"""

from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from .. import constants as c
from .alphas import enter_profiles
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
    workspace,
)
from .compiled import compiled
from .features import contributions
from .picture import store_block, store_rgb_block
from .simd import LANES, element, load, lowest_bit, splat, store, take, where
from .weights import find_alphas, flat_mask, flat_profiles, goes_on, light_tile, pass_splat

f32 = np.float32
TILES_AT_ONCE = 4  # neighbours, which share splats

# Floats of a plane of a tile, block by block; one more, so that the planes of a block share no set of the cache.
_PLANE = (GRID * GRID + 1) * BLOCK
_LIGHT, _ALPHA, _RED, _GREEN, _BLUE, _DEPTH, _MEDIAN = range(0, 7 * _PLANE, _PLANE)
_PLANES = 7 * _PLANE
_ZERO, _HALF, _ONE, _TINY = f32(0), f32(0.5), f32(1), f32(1e-12)


class Blended(NamedTuple):
    """What is seen of one view; None for what was not asked for."""

    rgb: np.ndarray  # [h, w, 3] float32, background included
    alpha: np.ndarray  # [h, w]
    depth: np.ndarray | None  # [h, w] expected; 0 where nothing is seen
    median: np.ndarray | None  # [h, w] depth of the splat at which the transmittance falls to a half; 0 if it does not
    contribution: np.ndarray | None  # [n] blending weight of each splat, summed over the pixels
    seen: int  # times a splat was evaluated at a pixel


@compiled(inline=True)
def _blend_block(planes, block, table, count, entries, alphas, wants_depth, wants_median):
    """Pass a block's splats; returns whether some pixel goes on."""
    half = splat(_HALF)
    left, right = block * BLOCK, block * BLOCK + LANES
    light0, light1 = load(planes, left + _LIGHT), load(planes, right + _LIGHT)
    alpha0, alpha1 = load(planes, left + _ALPHA), load(planes, right + _ALPHA)
    red0, red1 = load(planes, left + _RED), load(planes, right + _RED)
    green0, green1 = load(planes, left + _GREEN), load(planes, right + _GREEN)
    blue0, blue1 = load(planes, left + _BLUE), load(planes, right + _BLUE)
    depth0, depth1 = load(planes, left + _DEPTH), load(planes, right + _DEPTH)
    median0, median1 = load(planes, left + _MEDIAN), load(planes, right + _MEDIAN)
    for k in range(count):
        entry = element(entries, k)
        after0, weight0 = pass_splat(light0, load(alphas, k * BLOCK))
        after1, weight1 = pass_splat(light1, load(alphas, k * BLOCK + LANES))
        alpha0, alpha1 = alpha0 + weight0, alpha1 + weight1
        value = splat(element(table, entry + c.RED))
        red0, red1 = red0 + weight0 * value, red1 + weight1 * value
        value = splat(element(table, entry + c.GREEN))
        green0, green1 = green0 + weight0 * value, green1 + weight1 * value
        value = splat(element(table, entry + c.BLUE))
        blue0, blue1 = blue0 + weight0 * value, blue1 + weight1 * value
        if wants_depth or wants_median:
            value = splat(element(table, entry + c.DEPTH))
        if wants_depth:
            depth0, depth1 = depth0 + weight0 * value, depth1 + weight1 * value
        if wants_median:
            median0 = where((light0 > half) & (half >= after0), value, median0)
            median1 = where((light1 > half) & (half >= after1), value, median1)
        light0, light1 = after0, after1
    store(planes, left + _LIGHT, light0)
    store(planes, right + _LIGHT, light1)
    store(planes, left + _ALPHA, alpha0)
    store(planes, right + _ALPHA, alpha1)
    store(planes, left + _RED, red0)
    store(planes, right + _RED, red1)
    store(planes, left + _GREEN, green0)
    store(planes, right + _GREEN, green1)
    store(planes, left + _BLUE, blue0)
    store(planes, right + _BLUE, blue1)
    if wants_depth:
        store(planes, left + _DEPTH, depth0)
        store(planes, right + _DEPTH, depth1)
    if wants_median:
        store(planes, left + _MEDIAN, median0)
        store(planes, right + _MEDIAN, median1)
    return goes_on(light0, light1)


@compiled()
def _blend_tile(planes, live, wants_depth, wants_median, buffers, records, profiles, ids, start, stop, left, top):
    """The splats of a tile, ids start to stop, over its live blocks; returns the number of pixels looked at."""
    table, words, entries, alphas = buffers
    planes[_ALPHA:] = _ZERO
    seen = 0
    while start < stop and live:
        count = min(CHUNK, stop - start)
        some = enter_chunk(records, ids, start, count, left, top, live, table, words)
        if len(profiles):
            enter_profiles(profiles, ids, start, count, table)
        start += CHUNK
        while some:
            block = lowest_bit(some)
            some &= some - 1
            count = find_alphas(element(words, block), block, table, len(profiles) > 0, entries, alphas)
            if wants_median:
                lit = _blend_block(planes, block, table, count, entries, alphas, True, True)
            elif wants_depth:
                lit = _blend_block(planes, block, table, count, entries, alphas, True, False)
            else:
                lit = _blend_block(planes, block, table, count, entries, alphas, False, False)
            if not lit:
                live &= ~(1 << block)
            seen += count
    return seen * BLOCK


@compiled(inline=True)
def _finish_block(planes, block, background):
    """Put the background behind a block, and make expected depth of the sum."""
    for i in range(block * BLOCK, block * BLOCK + BLOCK, LANES):
        alpha = load(planes, i + _ALPHA)
        clear = splat(_ONE) - alpha
        store(planes, i + _RED, load(planes, i + _RED) + clear * splat(background[0]))
        store(planes, i + _GREEN, load(planes, i + _GREEN) + clear * splat(background[1]))
        store(planes, i + _BLUE, load(planes, i + _BLUE) + clear * splat(background[2]))
        store(planes, i + _DEPTH, load(planes, i + _DEPTH) / max(alpha, splat(_TINY)))


@compiled(inline=True)
def _write_plane(planes, at, pixel, x, y, width, height, plane_out):
    """One channel of a block whose first pixel is (x, y); nothing where the picture lacks that plane."""
    if len(plane_out) == 0:
        return
    if x + BLOCK_WIDTH <= width and y + BLOCK_HEIGHT <= height:
        store_block(plane_out, pixel, width, load(planes, at), load(planes, at + LANES))
    else:
        for row in range(min(BLOCK_HEIGHT, height - y)):
            for column in range(min(BLOCK_WIDTH, width - x)):
                plane_out[pixel + row * width + column] = planes[at + lane_of(column, row)]


@compiled(inline=True)
def _write_rgb(planes, at, pixel, x, y, width, height, rgb_out):
    if x + BLOCK_WIDTH <= width and y + BLOCK_HEIGHT <= height:
        red0, red1 = load(planes, at + _RED), load(planes, at + _RED + LANES)
        green0, green1 = load(planes, at + _GREEN), load(planes, at + _GREEN + LANES)
        blue0, blue1 = load(planes, at + _BLUE), load(planes, at + _BLUE + LANES)
        store_rgb_block(rgb_out, 3 * pixel, 3 * width, red0, red1, green0, green1, blue0, blue1)
    else:
        for row in range(min(BLOCK_HEIGHT, height - y)):
            for column in range(min(BLOCK_WIDTH, width - x)):
                i, lane = 3 * (pixel + row * width + column), at + lane_of(column, row)
                rgb_out[i], rgb_out[i + 1] = planes[lane + _RED], planes[lane + _GREEN]
                rgb_out[i + 2] = planes[lane + _BLUE]


@compiled()
def _write_tile(planes, left, top, background, width, height, rgb_out, alpha_out, depth_out, median_out):
    for block in range(GRID * GRID):
        across, down = block_corner(block)
        x, y, at = left + across, top + down, block * BLOCK
        if x < width and y < height:
            pixel = y * width + x
            _finish_block(planes, block, background)
            _write_rgb(planes, at, pixel, x, y, width, height, rgb_out)
            _write_plane(planes, at + _ALPHA, pixel, x, y, width, height, alpha_out)
            _write_plane(planes, at + _DEPTH, pixel, x, y, width, height, depth_out)
            _write_plane(planes, at + _MEDIAN, pixel, x, y, width, height, median_out)


@compiled()
def _write_empty_tile(left, top, background, width, height, rgb_out, alpha_out, depth_out, median_out):
    for y in range(top, min(top + TILE_HEIGHT, height)):
        first, end = y * width + left, y * width + min(left + TILE_WIDTH, width)
        for pixel in range(first, end):
            for channel in range(3):
                rgb_out[3 * pixel + channel] = background[channel]
        alpha_out[first:end] = _ZERO
        if len(depth_out):
            depth_out[first:end] = _ZERO
        if len(median_out):
            median_out[first:end] = _ZERO


@compiled(parallel=True)
def _blend_all(
    records, profiles, ids, starts, width, height, background, mask, threads, next_tile, rgb, alpha, depth, median,
    seen_out,
):  # fmt: skip
    tiles, columns = len(starts) - 1, -(-width // TILE_WIDTH)
    for thread in prange(threads):
        planes, buffers = np.empty(_PLANES, dtype=np.float32), workspace()
        wants_depth, wants_median = len(depth) > 0, len(median) > 0
        seen = 0
        first = take(next_tile, TILES_AT_ONCE)
        while first < tiles:
            for tile in range(first, min(first + TILES_AT_ONCE, tiles)):
                left, top = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
                start, stop = starts[tile], starts[tile + 1]
                if start == stop:
                    _write_empty_tile(left, top, background, width, height, rgb, alpha, depth, median)
                else:
                    live = light_tile(left, top, width, height, mask, planes)
                    seen += _blend_tile(
                        planes, live, wants_depth, wants_median, buffers, records, profiles, ids, start, stop, left, top
                    )
                    _write_tile(planes, left, top, background, width, height, rgb, alpha, depth, median)
            first = take(next_tile, TILES_AT_ONCE)
        seen_out[thread] = seen


def blend(
    records: np.ndarray,  # [n, 12] float32
    ids: np.ndarray,  # [p] uint32, tile by tile, nearest first
    starts: np.ndarray,  # [tiles + 1] int64
    width: int,
    height: int,
    background: np.ndarray,  # [3] float32
    *,
    mask: np.ndarray | None = None,  # [h, w] bool
    profiles: np.ndarray | None = None,  # [n, 4] float32
    depth: bool = True,
    median: bool = False,
    contribution: bool = False,
) -> Blended:
    """Render one view from its lists.

    Args:
        mask: pixels that are False are not rendered: background there, alpha and depths 0, no contribution.
        profiles: of kernels/profile.py, by which the splats' powers become alphas.
        depth, median, contribution: which of these are wanted.
    """
    rgb, alpha = np.empty((height, width, 3), dtype=f32), np.empty((height, width), dtype=f32)
    depths = np.empty((height, width) if depth else 0, dtype=f32)
    medians = np.empty((height, width) if median else 0, dtype=f32)
    splats, pixels = (records.reshape(-1), flat_profiles(profiles)), flat_mask(mask)
    threads = get_num_threads()
    seen, next_tile = np.zeros(threads, dtype=np.int64), np.zeros(1, dtype=np.int64)
    planes = rgb.reshape(-1), alpha.reshape(-1), depths.reshape(-1), medians.reshape(-1)
    _blend_all(*splats, ids, starts, width, height, background, pixels, threads, next_tile, *planes, seen)
    return Blended(
        rgb,
        alpha,
        depths if depth else None,
        medians if median else None,
        contributions(records, ids, starts, width, height, mask=mask, profiles=profiles) if contribution else None,
        int(seen.sum()),
    )
