"""What one block of 4x4 pixels, two vectors, gives to the gradients of the splats that reach it, on the CPU.

The gradient of a splat's shape is linear in six moments of its pixels' dL/dpower: 1, x, y, x^2, xy, y^2, taken about
the point of the tile that is nearest to the mean, so that they do not cancel. They and the channels' sums lie in
memory for the 64 splats of a chunk, eight lanes each, until the last block of the tile has added to them.
"""

import math

import numpy as np

from .. import constants as c
from .chunk import BLOCK, ENTRY, TILE_HEIGHT, TILE_WIDTH, VECTOR_WIDTH, U, V
from .compiled import compiled
from .lane_sums import sums
from .record import read_record
from .simd import LANES, element, least, load, most, put, splat, store, where
from .weights import goes_on, pass_splat

f32, f64 = np.float32, np.float64
PLANES = 7  # transmittance, what lies behind, gradients of alpha, red, green, blue, depth
GATHERED = 12 * LANES  # floats a splat: six moments, two absolute sums, four channels

# The walk has no use for the extents in the chunk's table and puts the moments' origin there, from the tile's corner.
_ORIGIN_X, _ORIGIN_Y = c.EXTENT_X, c.EXTENT_Y

_ZERO, _HALF, _ONE, _ACROSS = f32(0), f32(0.5), f32(1), f32(VECTOR_WIDTH)
_ALPHA_MAX, _STOP = f32(c.ALPHA_MAX), f32(c.STOP)
_TWO, _TWO_LN2, _LN2 = f64(2), f64(2 * math.log(2)), f64(math.log(2))


@compiled(inline=True)
def _add(gathered, at, value):
    store(gathered, at, load(gathered, at) + value)


@compiled(inline=True)
def _add_channel(planes, at, table, entry, channel, weight0, weight1, value0, value1, gathered, to):
    """The channel's part of the splat's gradient; returns the values with the channel's own."""
    grad0, grad1 = load(planes, at + (3 + channel) * BLOCK), load(planes, at + (3 + channel) * BLOCK + LANES)
    color = splat(element(table, entry + c.RED + channel))
    _add(gathered, to + (8 + channel) * LANES, weight0 * grad0 + weight1 * grad1)
    return value0 + grad0 * color, value1 + grad1 * color


@compiled(inline=True)
def _pull(alpha, after, passed, behind):
    """dL/dpower over ln 2: what the splat brings less what it hides; none where it is clamped or the pixel stopped."""
    counts = (after > splat(_STOP)) & (splat(_ALPHA_MAX) > alpha)
    return where(counts, passed - behind * (alpha / (splat(_ONE) - alpha)), splat(_ZERO))


@compiled(inline=True)
def _magnitude(value):
    return max(value, splat(_ZERO) - value)


@compiled(inline=True)
def _add_magnitudes(table, entry, x, y, pull0, pull1, gathered, to):
    """The absolute sums: a pixel pulls the mean by 2 l0 u and 2 (l1 u + l2 v) times its dL/dpower."""
    l0, l1 = splat(element(table, entry + c.L0)), splat(element(table, entry + c.L1))
    l2 = splat(element(table, entry + c.L2))
    u0 = l0 * x + (l1 * y + splat(element(table, entry + U)))
    u1 = u0 + l0 * splat(_ACROSS)
    down = l2 * (l2 * y + splat(element(table, entry + V)))
    _add(gathered, to + 6 * LANES, _magnitude(pull0 * u0) + _magnitude(pull1 * u1))
    _add(gathered, to + 7 * LANES, _magnitude(pull0 * (l1 * u0 + down)) + _magnitude(pull1 * (l1 * u1 + down)))


@compiled(inline=True)
def _walk(planes, at, table, count, entries, alphas, x, y, deep, absgrad, gathered):
    """The entries, in depth order, over the block whose planes start at `at`; returns whether some pixel goes on."""
    across = splat(_ACROSS)
    before0, before1 = load(planes, at), load(planes, at + LANES)
    behind0, behind1 = load(planes, at + BLOCK), load(planes, at + BLOCK + LANES)
    for k in range(count):
        entry = element(entries, k)
        to = entry // ENTRY * GATHERED
        alpha0, alpha1 = load(alphas, k * BLOCK), load(alphas, k * BLOCK + LANES)
        before0, weight0 = pass_splat(before0, alpha0)
        before1, weight1 = pass_splat(before1, alpha1)
        value0, value1 = load(planes, at + 2 * BLOCK), load(planes, at + 2 * BLOCK + LANES)
        value0, value1 = _add_channel(planes, at, table, entry, 0, weight0, weight1, value0, value1, gathered, to)
        value0, value1 = _add_channel(planes, at, table, entry, 1, weight0, weight1, value0, value1, gathered, to)
        value0, value1 = _add_channel(planes, at, table, entry, 2, weight0, weight1, value0, value1, gathered, to)
        if deep:
            value0, value1 = _add_channel(planes, at, table, entry, 3, weight0, weight1, value0, value1, gathered, to)
        passed0, passed1 = weight0 * value0, weight1 * value1
        behind0, behind1 = behind0 - passed0, behind1 - passed1
        pull0 = _pull(alpha0, before0, passed0, behind0)
        pull1 = _pull(alpha1, before1, passed1, behind1)
        from_x = x - splat(element(table, entry + _ORIGIN_X))
        from_y = y - splat(element(table, entry + _ORIGIN_Y))
        pull, right = pull0 + pull1, pull1 * across
        pull_x, pull_y = pull * from_x + right, pull * from_y
        _add(gathered, to, pull)
        _add(gathered, to + LANES, pull_x)
        _add(gathered, to + 2 * LANES, pull_y)
        _add(gathered, to + 3 * LANES, (pull_x + right) * from_x + right * across)
        _add(gathered, to + 4 * LANES, pull_x * from_y)
        _add(gathered, to + 5 * LANES, pull_y * from_y)
        if absgrad:
            _add_magnitudes(table, entry, x, y, pull0, pull1, gathered, to)
    store(planes, at, before0)
    store(planes, at + LANES, before1)
    store(planes, at + BLOCK, behind0)
    store(planes, at + BLOCK + LANES, behind1)
    return goes_on(before0, before1)


@compiled()
def walk_block(planes, at, table, count, entries, alphas, x, y, deep, absgrad, gathered):
    """See `_walk`: a variant for each thing that may be left out."""
    if absgrad:
        return _walk(planes, at, table, count, entries, alphas, x, y, True, True, gathered)
    if deep:
        return _walk(planes, at, table, count, entries, alphas, x, y, True, False, gathered)
    return _walk(planes, at, table, count, entries, alphas, x, y, False, False, gathered)


@compiled(inline=True)
def _origin(mean, corner, side):
    """Where in the tile a mean is, from the centre of the first pixel, and the nearest point to it inside."""
    place = mean - f32(corner) - _HALF
    return place, least(most(place, _ZERO), f32(side - 1))


@compiled()
def set_origins(records, ids, start, count, left, top, table_out):
    """Put the origins of the moments into a chunk's table, in the place of the extents."""
    for k in range(count):
        mean, _, _, _, _, _ = read_record(records, np.int64(element(ids, start + k)))
        _, origin_x = _origin(mean[0], left, TILE_WIDTH)
        _, origin_y = _origin(mean[1], top, TILE_HEIGHT)
        put(table_out, k * ENTRY + _ORIGIN_X, origin_x)
        put(table_out, k * ENTRY + _ORIGIN_Y, origin_y)


@compiled(inline=True)
def _total(gathered, at):
    """The sums of the lanes of eight vectors from `at`, to where the first of them was."""
    store(
        gathered,
        at,
        sums(
            load(gathered, at),
            load(gathered, at + LANES),
            load(gathered, at + 2 * LANES),
            load(gathered, at + 3 * LANES),
            load(gathered, at + 4 * LANES),
            load(gathered, at + 5 * LANES),
            load(gathered, at + 6 * LANES),
            load(gathered, at + 7 * LANES),
        ),
    )


@compiled()
def write_gradients(records, i, left, top, gathered, at, row_out):
    """From what the blocks have gathered for record i, from `at`, the gradients of the record; clears it."""
    mean, (l0, l1, l2), _, _, _, _ = read_record(records, i)
    place_x, origin_x = _origin(mean[0], left, TILE_WIDTH)
    place_y, origin_y = _origin(mean[1], top, TILE_HEIGHT)
    x, y = f64(origin_x - place_x), f64(origin_y - place_y)  # of the moments' origin, from the mean
    _total(gathered, at)
    _total(gathered, at + 4 * LANES)  # the last four of its eight are the channels
    m, mx, my = f64(element(gathered, at)), f64(element(gathered, at + 1)), f64(element(gathered, at + 2))
    mxx, mxy = f64(element(gathered, at + 3)), f64(element(gathered, at + 4))
    myy = f64(element(gathered, at + 5))
    l0, l1, l2 = f64(l0), f64(l1), f64(l2)
    u = l0 * x + l1 * y  # at the origin
    sum_u = u * m + l0 * mx + l1 * my  # of u dL/dpower over all pixels, and so on
    sum_ux = u * mx + l0 * mxx + l1 * mxy + x * sum_u
    sum_uy = u * my + l0 * mxy + l1 * myy + y * sum_u
    sum_v = l2 * (my + y * m)
    sum_vy = l2 * (myy + y * (_TWO * my + y * m))
    row_out[c.MEAN_X], row_out[c.MEAN_Y] = _TWO_LN2 * l0 * sum_u, _TWO_LN2 * (l1 * sum_u + l2 * sum_v)
    row_out[c.L0], row_out[c.L1], row_out[c.L2] = -_TWO_LN2 * sum_ux, -_TWO_LN2 * sum_uy, -_TWO_LN2 * sum_vy
    row_out[c.LOG2_OPACITY] = _LN2 * m
    for channel in range(4):
        row_out[c.RED + channel] = element(gathered, at + 4 * LANES + 4 + channel)
    if len(row_out) == c.RECORD:
        row_out[c.EXTENT_X] = _TWO_LN2 * l0 * f64(element(gathered, at + 6))
        row_out[c.EXTENT_Y] = _TWO_LN2 * f64(element(gathered, at + 7))
    for vector in range(GATHERED // LANES):
        store(gathered, at + vector * LANES, splat(_ZERO))
