"""What a splat weighs in each pixel of a block, on the CPU: its alpha, and the light that is left for it.

All that a tile is blended for (blend.py, features.py) takes alphas and transmittances from here, so that they agree to
the last bit on where a pixel stops. Two short loops, one for the powers and one for their exponentials: a long one
would fill the processor's window with operations that wait for one another.
"""

import numpy as np

from .. import constants as c
from .alphas import plain_alpha, profiled_alphas
from .chunk import (
    BLOCK,
    BLOCK_HEIGHT,
    BLOCK_WIDTH,
    ENTRY,
    EVERY_BLOCK,
    GRID,
    TILE_HEIGHT,
    TILE_WIDTH,
    VECTOR_WIDTH,
    U,
    V,
    block_corner,
    lane_of,
    lane_x,
    lane_y,
)
from .compiled import compiled
from .simd import LANES, bits, element, load, lowest_bit, put, splat, store, where

f32 = np.float32
_ZERO, _ONE, _VECTOR_WIDTH = f32(0), f32(1), f32(VECTOR_WIDTH)
_STOP = f32(c.STOP)


@compiled(inline=True)
def find_alphas(word, block, table, profiled, entries_out, alphas_out):
    """Alphas [k, BLOCK] of a block's pixels for each splat in its word, and where in the table they are; returns k.

    Args:
        profiled: whether the table has the splats' profiles (alphas.py).
    """
    left, top = block_corner(block)
    x, y = lane_x() + splat(f32(left)), lane_y() + splat(f32(top))
    count = 0
    while word:
        entry = lowest_bit(word) * ENTRY
        word &= word - 1
        l0 = splat(element(table, entry + c.L0))
        u = l0 * x + (splat(element(table, entry + c.L1)) * y + splat(element(table, entry + U)))
        v = splat(element(table, entry + c.L2)) * y + splat(element(table, entry + V))
        power = splat(element(table, entry + c.LOG2_OPACITY)) - v * v
        store(alphas_out, count * BLOCK, power - u * u)
        u = u + l0 * splat(_VECTOR_WIDTH)
        store(alphas_out, count * BLOCK + LANES, power - u * u)
        put(entries_out, count, entry)
        count += 1
    if profiled:
        profiled_alphas(table, entries_out, count, alphas_out)
    else:
        for at in range(0, count * BLOCK, LANES):
            store(alphas_out, at, plain_alpha(load(alphas_out, at)))
    return count


@compiled(inline=True)
def pass_splat(before, alpha):
    """Transmittance behind a splat, and its weight: 0 from where a pixel stops, since the light only gets less."""
    after = before * (splat(_ONE) - alpha)
    return after, where(after > splat(_STOP), before - after, splat(_ZERO))


@compiled(inline=True)
def goes_on(light0, light1):
    """Whether some pixel of a block has not stopped."""
    return bits(max(light0, light1) > splat(_STOP)) != 0


@compiled(inline=True)
def find_weights(lights, block, count, weights):
    """Make weights of the alphas, in place, and pass their splats; returns whether some pixel goes on."""
    at = block * BLOCK
    light0, light1 = load(lights, at), load(lights, at + LANES)
    for i in range(0, count * BLOCK, BLOCK):
        light0, weight0 = pass_splat(light0, load(weights, i))
        light1, weight1 = pass_splat(light1, load(weights, i + LANES))
        store(weights, i, weight0)
        store(weights, i + LANES, weight1)
    store(lights, at, light0)
    store(lights, at + LANES, light1)
    return goes_on(light0, light1)


@compiled()
def light_tile(left, top, width, height, mask, lights_out):
    """Transmittance [64 blocks, BLOCK] in front of all splats: 0 where nobody looks, else 1.

    Args:
        mask: flat, the pixels to look at; all where it is empty.

    Returns:
        The bits of the blocks with a pixel to look at.
    """
    if len(mask) == 0 and left + TILE_WIDTH <= width and top + TILE_HEIGHT <= height:
        lights_out[: GRID * GRID * BLOCK] = _ONE
        return EVERY_BLOCK
    live = 0
    for block in range(GRID * GRID):
        x, y = block_corner(block)
        for row in range(BLOCK_HEIGHT):
            for column in range(BLOCK_WIDTH):
                px, py = left + x + column, top + y + row
                looks = px < width and py < height and (len(mask) == 0 or mask[py * width + px])
                lights_out[block * BLOCK + lane_of(column, row)] = _ONE if looks else _ZERO
                live |= np.int64(looks) << block
    return live


def flat_profiles(profiles: np.ndarray | None) -> np.ndarray:
    """Profiles [n, 4] flat, as blending takes them; empty for None."""
    return np.zeros(0, dtype=f32) if profiles is None else profiles.reshape(-1)


def flat_mask(mask: np.ndarray | None) -> np.ndarray:
    """The pixels to look at, as `light_tile` takes them, of a mask [h, w] or None."""
    return np.zeros(0, dtype=bool) if mask is None else mask.reshape(-1)
