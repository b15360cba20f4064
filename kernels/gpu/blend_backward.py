"""Gradients of the blend with respect to the records, in Triton: one program a fine tile, one warp, front to back.

The walk repeats the forward's: same masks, same arithmetic, same stop. What lies behind a splat is known without
walking back, since all is linear in one value a splat and pixel, value = colour . grad_c + grad_a + depth grad_s: it
is the pixel's total, which the host knows from the frame, less what the walk has passed. 20 bytes a pixel, 24 with
DEPTH, and 48 a splat of the tile are read. A lane sums over its pixels in registers; then the warp sums all quantities
jointly, a shuffle each, so that each ends in a lane of its own, and one instruction adds them to the splat's row of 48
bytes.
Constexpr: DEPTH, whether grad_s counts; ABSGRAD, whether slots 10 and 11 hold sums of |d loss / d mean|; MASKED,
whether pixels can be switched off; PARITY, the parity rule of the stop; TILES, fine tiles that a program takes one
after the other; ATOMIC, whether sums go to the splats' rows by atomics, or without to the instances' own rows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import constants as c
from ..options import Precision
from . import gradient_walk as walk
from .bin import TILE, Lists, macro_grid
from .gradient_walk import (
    add_sums,
    any_goes_on,
    cover,
    lane_slots,
    listed_entries,
    shape_gradients,
    slope_of,
    slot_factors,
    sum_lanes,
)
from .picture import pixels
from .scan import fine_tiles, is_outside, load_four, locate

RECORD = tl.constexpr(c.RECORD)
LN2 = walk.LN2


@triton.jit
def _load_pixels(plane, pixel, inside, STRIDE: tl.constexpr, STEPS: tl.constexpr):
    """A tuple of the lane's pixels; 0 outside."""
    values = ()
    for s in tl.static_range(STEPS):
        values += (tl.load(plane + STRIDE * pixel[s], mask=inside[s], other=0.0),)
    return values


@triton.jit
def blend_backward_kernel(
    # scene:
    records,  # [V * n, 12]
    ids, masks, places, starts,  # [cap] [cap] [cap] [V * macro tiles + 1]
    # pixels:
    grad_c, grad_a, grad_s, total, shown,  # [V, h, w, 3], the others [V, h, w]
    # out:
    sums_out,  # [V * n, 12], or [cap, 12]
    n, width, height, columns, rows,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, TILES: tl.constexpr,
    DEPTH: tl.constexpr, ABSGRAD: tl.constexpr, MASKED: tl.constexpr, PARITY: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = 32 // TILE_W
    STEPS: tl.constexpr = TILE_H // ROWS
    FINE: tl.constexpr = 2048 // (TILE_W * TILE_H)
    COUNT: tl.constexpr = 10 + 2 * ABSGRAD
    lane = tl.arange(0, 32)
    own_bit = 1 << lane
    slot = lane_slots(lane)
    factor = tl.where(slot < 10, slot_factors(slot), 2.0 * LN2)
    zero = tl.zeros((32,), tl.float32)
    for t in range(TILES):
        tile = tl.program_id(0) * TILES + t
        macro, bit = tile // FINE, tile % FINE
        view, x, y = locate(macro, bit, columns * rows, columns, TILE_W, TILE_H)
        if not is_outside(x, y, width, height):
            inside, pixel, transmittance = (), (), ()
            for s in tl.static_range(STEPS):
                at, within = pixels(view, x, y, s, width, height, TILE_W)
                if MASKED:
                    within = within & (tl.load(shown + at, mask=within, other=0) != 0)
                inside, pixel = inside + (within,), pixel + (at,)
                transmittance += (within.to(tl.float32),)
            gr = _load_pixels(grad_c, pixel, inside, 3, STEPS)
            gg = _load_pixels(grad_c + 1, pixel, inside, 3, STEPS)
            gb = _load_pixels(grad_c + 2, pixel, inside, 3, STEPS)
            ga = _load_pixels(grad_a, pixel, inside, 1, STEPS)
            behind = _load_pixels(total, pixel, inside, 1, STEPS)
            gs = ga
            if DEPTH:
                gs = _load_pixels(grad_s, pixel, inside, 1, STEPS)

            k, end = tl.load(starts + macro), tl.load(starts + macro + 1)
            goes_on = any_goes_on(transmittance, STEPS)
            while goes_on & (k < end):
                id, target, reaches = listed_entries(ids, masks, places, k, end, bit, lane, not ATOMIC)
                k += 32
                pending = tl.sum(reaches << lane, axis=0)
                while pending != 0:
                    own = own_bit == (pending & -pending)
                    pending = pending & (pending - 1)
                    i = tl.sum(tl.where(own, id, 0), axis=0).to(tl.int64)
                    record = records + tl.multiple_of(i * RECORD, 4)
                    mean_x, mean_y, l0, l1 = load_four(record)
                    l2, log2_opacity, r, g = load_four(record + 4)
                    b, z, _, _ = load_four(record + 8)
                    dx, dy = x - mean_x, y - mean_y
                    u, v = l0 * dx + l1 * dy, l2 * dy
                    step_u, step_v = l1 * ROWS, l2 * ROWS
                    moments = (zero,) * 5
                    red, green, blue, depth, abs_x, abs_y = zero, zero, zero, zero, zero, zero
                    next_t, next_behind = (), ()
                    for s in tl.static_range(STEPS):
                        us, vs = u + s * step_u, v + s * step_v
                        power = (log2_opacity - vs * vs) - us * us
                        full, alpha, weight, after = cover(power, transmittance[s], PARITY)
                        value = ga[s] + r * gr[s] + g * gg[s] + b * gb[s]
                        if DEPTH:
                            value += z * gs[s]
                            depth += weight * gs[s]
                        rest = behind[s] - weight * value
                        slope = slope_of(full, alpha, weight, value, rest)
                        next_t, next_behind = next_t + (after,), next_behind + (rest,)
                        su, sv = us * slope, vs * slope
                        m0, mu, mv, muv, mvv = moments
                        moments = (m0 + slope, mu + su, mv + sv, muv + us * sv, mvv + vs * sv)
                        red, green, blue = red + weight * gr[s], green + weight * gg[s], blue + weight * gb[s]
                        if ABSGRAD:
                            abs_x += tl.abs(su)
                            abs_y += tl.abs(l1 * su + l2 * sv)
                    transmittance, behind = next_t, next_behind
                    colors = (red, green, blue, depth, l0 * abs_x, abs_y)
                    parts = shape_gradients(moments, dx, l0, l1, l2) + colors
                    sums = sum_lanes(parts, lane, COUNT) * factor
                    row = sums_out + tl.sum(tl.where(own, target, 0), axis=0).to(tl.int64) * RECORD
                    add_sums(row + slot, sums, slot < COUNT, ATOMIC)
                goes_on = any_goes_on(transmittance, STEPS)


def blend_backward(
    # scene:
    records: Tensor,  # [V, n, 12] float32
    lists: Lists,
    width: int,
    height: int,
    # pixels:
    grad_c: Tensor,  # [V, h, w, 3] float32
    grad_a: Tensor,  # [V, h, w] float32
    grad_s: Tensor | None,  # [V, h, w] float32
    total: Tensor,  # [V, h, w] float32
    *,
    mask: Tensor | None = None,  # [V, h, w] bool
    precision: Precision = "parity",
    absgrad: bool = False,
    deterministic: bool = False,
    tile: tuple[int, int] = TILE,
    eyes: int = 1,
) -> Tensor:
    """Gradient of the records [V, n, 12]: d loss / d (mean x, y, l0, l1, l2, log2 opacity, r, g, b, depth).

    Slots 10 and 11 are the sums over the pixels of |d loss / d mean x| and |d loss / d mean y| if `absgrad`, else 0.
    Rows of splats that no pixel sees are 0. The loss is seen through sum(w c), sum(w) and sum(w z) of each pixel, w the
    weights of blending: the background and the division of depth are the caller's.

    Args:
        grad_c: d loss / d sum(w c).
        grad_a: d loss / d sum(w).
        grad_s: d loss / d sum(w z), or None: depth has no gradient.
        total: sum(w c) . grad_c + sum(w) grad_a + sum(w z) grad_s, from the frame as it was rendered.
        mask: where it is False, a pixel has no splats.
        precision: parity stops as the forward does; fast and half walk on until the tile is done. All in float32.
        deterministic: the same bits each time. It takes 48 bytes an entry of the lists and 1 program a macro tile, and
            needs complete lists: splats that found no room in them get no gradient.
        tile: width and height of the fine tiles of the lists.
        eyes: views of a group.
    """
    views, n = records.shape[:2]
    columns, rows = macro_grid(width, height)
    fine = fine_tiles(tile)
    macros = views * columns * rows
    grads = torch.zeros_like(records)
    if grads.numel() == 0 or macros == 0:
        return grads
    grad_c, grad_a, total = grad_c.contiguous(), grad_a.contiguous(), total.contiguous()
    depth = total if grad_s is None else grad_s.contiguous()
    shown = total if mask is None else mask.contiguous().view(torch.uint8)
    sums = torch.zeros(len(lists.ids), c.RECORD, dtype=torch.float32, device=records.device) if deterministic else grads
    blend_backward_kernel[(macros if deterministic else macros * fine,)](
        records, lists.ids, lists.masks, lists.places, lists.starts,
        grad_c, grad_a, depth, total, shown, sums, n, width, height, columns, rows,
        TILE_W=tile[0], TILE_H=tile[1], TILES=fine if deterministic else 1, DEPTH=grad_s is not None,
        ABSGRAD=absgrad, MASKED=mask is not None, PARITY=precision == "parity", ATOMIC=not deterministic,
        **walk.launch_options(tile),
    )  # fmt: skip
    if deterministic:
        walk.sum_rows(sums, lists, grads, eyes=eyes)
    return grads
