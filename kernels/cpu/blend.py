"""Blend each tile's splats front to back, on the CPU: eight pixels of a row at a time, rows and columns cut exactly.

A tile's six planes (transmittance, RGB, depth, alpha) stay in the first-level cache as groups of eight pixels. The
loop over a row has no branches: a pixel that has stopped keeps transmittance 0, which makes every later weight 0.
"""

import math

import numpy as np
from numba import get_num_threads, prange

from .. import constants as c
from .bin import TILE_HEIGHT, TILE_WIDTH
from .compiled import compiled
from .record import read_record
from .simd import LANES, bits, element, least, load, most, prefetch, ramp, splat, sqrt, store, where

f32 = np.float32
_GROUPS = TILE_WIDTH // LANES  # across a tile: as many as a vector has lanes
_LANES_LOG2 = 3
_PLANES = 6
_STRIDE = _PLANES * LANES  # floats a group of pixels
# Scratch of a splat: a power and a shift of u for each row, the first and last row for each column of groups.
_POWERS, _SHIFTS, _TOPS, _BOTTOMS = 0, TILE_HEIGHT, 2 * TILE_HEIGHT, 2 * TILE_HEIGHT + LANES
_SCRATCH = 2 * TILE_HEIGHT + 2 * LANES
_CHECK = 16  # splats between two looks whether every pixel has stopped
_AHEAD = 4  # splats whose records are fetched early
_ITEMS_A_THREAD = 16

# exp2(p) for p in -8..0 as a polynomial for exp2(p / 16), squared four times: relative error 1.3e-6, no integer tricks.
_FIT = np.polynomial.chebyshev.Chebyshev.interpolate(lambda p: np.exp2(p / 16), 4, domain=[-8, 0])
_E0, _E1, _E2, _E3, _E4 = (f32(value) for value in _FIT.convert(kind=np.polynomial.Polynomial).coef)

_ZERO, _HALF, _ONE, _SLACK, _TINY = f32(0), f32(0.5), f32(1), f32(0.01), f32(1e-12)
_ALPHA_MAX, _LOG2_ALPHA_MIN, _STOP = f32(c.ALPHA_MAX), f32(c.LOG2_ALPHA_MIN), f32(c.STOP)


@compiled(inline=True)
def _blend_column(planes, at, rows, us, scratch, row, red, green, blue, depth):
    """One splat over `rows` rows of one column of groups, from `row`; the exponent is power - (u + shift)^2."""
    zero = splat(_ZERO)
    reds, greens, blues, depths = splat(red), splat(green), splat(blue), splat(depth)
    for step in range(rows):
        i = at + step * _STRIDE
        u = us + splat(element(scratch, _SHIFTS + row + step))
        p = splat(element(scratch, _POWERS + row + step)) - u * u
        e = splat(_E0) + p * (splat(_E1) + p * (splat(_E2) + p * (splat(_E3) + p * splat(_E4))))
        e = e * e
        e = e * e
        e = e * e
        e = e * e
        alpha = min(e, splat(_ALPHA_MAX))
        alpha = where(p >= splat(_LOG2_ALPHA_MIN), alpha, zero)
        before = load(planes, i)
        weight = alpha * before
        after = before - weight
        goes_on = after > splat(_STOP)
        weight = where(goes_on, weight, zero)
        store(planes, i, where(goes_on, after, zero))
        store(planes, i + LANES, load(planes, i + LANES) + weight * reds)
        store(planes, i + 2 * LANES, load(planes, i + 2 * LANES) + weight * greens)
        store(planes, i + 3 * LANES, load(planes, i + 3 * LANES) + weight * blues)
        store(planes, i + 4 * LANES, load(planes, i + 4 * LANES) + weight * depths)
        store(planes, i + 5 * LANES, load(planes, i + 5 * LANES) + weight)


@compiled(inline=True)
def _row_range(records, i, x, y, scratch_out):
    """Between which y the ellipse lies within each of the tile's eight columns of groups, in rows of the tile.

    The edge y(dx) of an ellipse is concave in dx, so its extreme within a column lies at the dx of the global extreme,
    clamped to the column.
    """
    _, (l0, l1, _), log2_opacity, _, _, (extent_x, extent_y) = read_record(records, i)
    tilt = -l1 / l0
    ratio = extent_y / extent_x
    slope = splat(tilt * ratio * ratio)  # of the line through the middles of the ellipse's columns
    tip = splat(tilt * extent_y)  # dx of the lowest point
    height = splat(math.sqrt(most(log2_opacity - _LOG2_ALPHA_MIN, _ZERO)) / l0 * ratio)
    inverse, zero, one = splat(_ONE / extent_x), splat(_ZERO), splat(_ONE)
    left = max(ramp() * splat(f32(LANES)) - splat(x), splat(-extent_x))
    right = min(ramp() * splat(f32(LANES)) + splat(f32(LANES - 1) - x), splat(extent_x))
    at = max(min(zero - tip, right), left)
    share = at * inverse
    edge = slope * at - height * sqrt(max(one - share * share, zero))
    store(scratch_out, _TOPS, edge + splat(y - _SLACK))
    at = max(min(tip, right), left)
    share = at * inverse
    edge = slope * at + height * sqrt(max(one - share * share, zero))
    store(scratch_out, _BOTTOMS, edge + splat(y + _SLACK))


@compiled()
def _blend_splat(planes, live, scratch, records, i, left, top):
    """One splat over a tile whose corner pixel is (left, top); returns the number of pixels looked at."""
    mean, (l0, l1, l2), log2_opacity, (red, green, blue), depth, (extent_x, extent_y) = read_record(records, i)
    x, y = mean[0] - f32(left) - _HALF, mean[1] - f32(top) - _HALF  # from the centre of the tile's first pixel
    first_x = np.int64(least(most(np.ceil(x - extent_x), _ZERO), f32(TILE_WIDTH)))
    last_x = np.int64(most(least(np.floor(x + extent_x), f32(TILE_WIDTH - 1)), -_ONE))
    first_y = np.int64(least(most(np.ceil(y - extent_y), _ZERO), f32(TILE_HEIGHT)))
    last_y = np.int64(most(least(np.floor(y + extent_y), f32(TILE_HEIGHT - 1)), -_ONE))
    if last_x < first_x or last_y < first_y:
        return 0
    for eight in range(0, TILE_HEIGHT, LANES):
        dy = ramp() + splat(f32(eight) - y)
        v = splat(l2) * dy
        store(scratch, _POWERS + eight, splat(log2_opacity) - v * v)
        store(scratch, _SHIFTS + eight, splat(l1) * dy)
    first, last = first_x >> _LANES_LOG2, last_x >> _LANES_LOG2
    exact = last > first and last_y - first_y > 2
    if exact:
        _row_range(records, i, x, y, scratch)
    seen = 0
    for column in range(first, last + 1):
        from_row, to_row = most(first_y, element(live, 2 * column)), least(last_y, element(live, 2 * column + 1))
        if exact:
            from_row = most(from_row, np.int64(np.ceil(most(element(scratch, _TOPS + column), _ZERO))))
            to_row = least(to_row, np.int64(np.floor(most(element(scratch, _BOTTOMS + column), -_ONE))))
        rows = to_row - from_row + 1
        if rows > 0:
            us = splat(l0 * (f32(column * LANES) - x)) + splat(l0) * ramp()
            at = (column * TILE_HEIGHT + from_row) * _STRIDE
            _blend_column(planes, at, rows, us, scratch, from_row, red, green, blue, depth)
            seen += rows
    return seen * LANES


@compiled()
def _look_for_live(planes, live_out):
    """Narrow each group column to the rows in which some pixel goes on; returns whether there are any."""
    some = False
    for column in range(_GROUPS):
        first, last = live_out[2 * column], live_out[2 * column + 1]
        base = column * TILE_HEIGHT
        while first <= last and not bits(load(planes, (base + first) * _STRIDE) > splat(_ZERO)):
            first += 1
        while last >= first and not bits(load(planes, (base + last) * _STRIDE) > splat(_ZERO)):
            last -= 1
        live_out[2 * column], live_out[2 * column + 1] = first, last
        some = some or first <= last
    return some


@compiled()
def _write_tile(planes, left, top, background, rgb_out, alpha_out, depth_out):
    height, width = alpha_out.shape
    b0, b1, b2 = background[0], background[1], background[2]
    for column in range(_GROUPS):
        x = left + column * LANES
        for row in range(min(TILE_HEIGHT, height - top)):
            i, y = (column * TILE_HEIGHT + row) * _STRIDE, top + row
            for lane in range(min(LANES, width - x)):
                alpha = planes[i + lane + 5 * LANES]
                clear = _ONE - alpha
                rgb_out[y, x + lane, 0] = planes[i + lane + LANES] + clear * b0
                rgb_out[y, x + lane, 1] = planes[i + lane + 2 * LANES] + clear * b1
                rgb_out[y, x + lane, 2] = planes[i + lane + 3 * LANES] + clear * b2
                alpha_out[y, x + lane] = alpha
                depth_out[y, x + lane] = planes[i + lane + 4 * LANES] / max(alpha, _TINY)


@compiled()
def _write_empty_tile(left, top, background, rgb_out, alpha_out, depth_out):
    height, width = alpha_out.shape
    for y in range(top, min(top + TILE_HEIGHT, height)):
        for x in range(left, min(left + TILE_WIDTH, width)):
            rgb_out[y, x, 0], rgb_out[y, x, 1], rgb_out[y, x, 2] = background[0], background[1], background[2]
            alpha_out[y, x] = _ZERO
            depth_out[y, x] = _ZERO


@compiled()
def _blend_tile(planes, live, scratch, records, ids, start, stop, left, top):
    """The splats of a tile, ids start to stop; returns the number of pixels looked at."""
    planes[:] = _ZERO
    for group in range(TILE_HEIGHT * _GROUPS):
        store(planes, group * _STRIDE, splat(_ONE))
    live[0::2], live[1::2] = 0, TILE_HEIGHT - 1
    seen = 0
    while start < stop:
        end = min(start + _CHECK, stop)
        for k in range(start, end):
            prefetch(records, np.int64(element(ids, min(k + _AHEAD, stop - 1))) * c.RECORD)
            seen += _blend_splat(planes, live, scratch, records, np.int64(element(ids, k)), left, top)
        start = end if _look_for_live(planes, live) else stop
    return seen


@compiled(parallel=True)
def _blend_all(records, ids, starts, columns, items, background, rgb_out, alpha_out, depth_out, seen_out):
    tiles = len(starts) - 1
    for item in prange(items):
        planes = np.empty(TILE_HEIGHT * _GROUPS * _STRIDE, dtype=np.float32)
        live = np.empty(2 * _GROUPS, dtype=np.int64)
        scratch = np.empty(_SCRATCH, dtype=np.float32)
        seen = 0
        for tile in range(item, tiles, items):  # interleaved: neighbours cost alike
            left, top = tile % columns * TILE_WIDTH, tile // columns * TILE_HEIGHT
            if starts[tile] == starts[tile + 1]:
                _write_empty_tile(left, top, background, rgb_out, alpha_out, depth_out)
            else:
                seen += _blend_tile(planes, live, scratch, records, ids, starts[tile], starts[tile + 1], left, top)
                _write_tile(planes, left, top, background, rgb_out, alpha_out, depth_out)
        seen_out[item] = seen


def blend(
    records: np.ndarray,  # [n, 12] float32
    ids: np.ndarray,  # [p] uint32, tile by tile, nearest first
    starts: np.ndarray,  # [tiles + 1] int64
    width: int,
    height: int,
    background: np.ndarray,  # [3] float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """RGB [h, w, 3], alpha [h, w], expected depth [h, w] (0 where nothing is seen), and the splat-pixels looked at."""
    rgb = np.empty((height, width, 3), dtype=f32)
    alpha, depth = np.empty((height, width), dtype=f32), np.empty((height, width), dtype=f32)
    items = get_num_threads() * _ITEMS_A_THREAD
    seen = np.zeros(items, dtype=np.int64)
    _blend_all(records.reshape(-1), ids, starts, -(-width // TILE_WIDTH), items, background, rgb, alpha, depth, seen)
    return rgb, alpha, depth, int(seen.sum())
