"""The buffer in which eight splats meet their gradients, on the CPU: rows of eight floats, a lane a splat."""

import numpy as np

from .. import constants as c
from .compiled import compiled
from .simd import LANES, load, splat, store, where

f32 = np.float32
GRADIENTS = c.DEPTH + 1  # leading slots of a record that have a gradient

# Rows of the lane buffer: the splat, its gradients, one view's record and gradients, the SH basis without its
# constant, and the gradients of the basis.
MEAN, QUAT, SCALE, OPACITY, SPLAT = 0, 3, 7, 10, 11
SUMS = SPLAT
ACTIVE = SUMS + SPLAT  # 1 where the lane has gradients in this view, else 0
RECORD = ACTIVE + 1
GRADIENT = RECORD + GRADIENTS
BASIS = GRADIENT + GRADIENTS
DOTS = BASIS + 15
LANE_ROWS = DOTS + 15

_ZERO, _ONE = f32(0), f32(1)


@compiled(inline=True)
def three(lanes, row):
    at = row * LANES
    return load(lanes, at), load(lanes, at + LANES), load(lanes, at + 2 * LANES)


@compiled(inline=True)
def splats(values, first):
    """Three numbers of an array, each in all lanes."""
    return splat(values[first]), splat(values[first + 1]), splat(values[first + 2])


@compiled(inline=True)
def add(sums, row, active, value):
    """To a row of a lane buffer, in the lanes that take part; elsewhere the value may be anything."""
    store(sums, row * LANES, load(sums, row * LANES) + where(active, value, splat(_ZERO)))


@compiled(inline=True)
def add_three(sums, row, active, values):
    x, y, z = values
    add(sums, row, active, x)
    add(sums, row + 1, active, y)
    add(sums, row + 2, active, z)


@compiled()
def read_splats(ids, means, quats, scales, opacities, lanes):
    for lane in range(LANES):
        i = ids[lane]
        for k in range(3):
            lanes[(MEAN + k) * LANES + lane], lanes[(SCALE + k) * LANES + lane] = means[i, k], scales[i, k]
        for k in range(4):
            lanes[(QUAT + k) * LANES + lane] = quats[i, k]
        lanes[OPACITY * LANES + lane] = opacities[i]


@compiled()
def read_view(ids, filled, records, gradients, lanes):
    """Whether any lane has gradients in this view. Lanes without have zeros, and garbage for a record."""
    some = False
    for lane in range(LANES):
        record, gradient = records[ids[lane]], gradients[ids[lane]]
        active = _ZERO
        for k in range(GRADIENTS):
            value = gradient[k] if lane < filled else _ZERO
            if value != _ZERO:
                active = _ONE
            lanes[(GRADIENT + k) * LANES + lane], lanes[(RECORD + k) * LANES + lane] = value, record[k]
        lanes[ACTIVE * LANES + lane] = active
        some = some or active != _ZERO
    return some


@compiled()
def write_splats(ids, filled, lanes, grad_means, grad_quats, grad_scales, grad_opacities):
    for lane in range(filled):
        i = ids[lane]
        for k in range(3):
            grad_means[i, k] = lanes[(SUMS + MEAN + k) * LANES + lane]
            grad_scales[i, k] = lanes[(SUMS + SCALE + k) * LANES + lane]
        for k in range(4):
            grad_quats[i, k] = lanes[(SUMS + QUAT + k) * LANES + lane]
        grad_opacities[i] = lanes[(SUMS + OPACITY) * LANES + lane]
