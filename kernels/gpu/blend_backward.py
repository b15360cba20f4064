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
from . import gradient_walk as walking
from .bin import TILE, Lists, macro_grid
from .constants import RECORD
from .gradient_walk import LN2, add_sums, lane_slots, pass_pixels, shape_gradients, slot_factors, sum_lanes, walk
from .picture import open_pixels
from .scan import fine_tiles, is_outside, load_four, locate


@triton.jit
def _load_pixels(plane, pixel, transmittance, STRIDE: tl.constexpr, STEPS: tl.constexpr):
    """A tuple of the lane's pixels; 0 where nothing is drawn."""
    values = ()
    for s in tl.static_range(STEPS):
        values += (tl.load(plane + STRIDE * pixel[s], mask=transmittance[s] > 0.0, other=0.0),)
    return values


@triton.jit
def pass_splat(transmittance, behind, given, pointers, i, target, x, y, FORM: tl.constexpr):
    """See `walk`. Given are STEPS tensors each of the gradients of red, green, blue, alpha and depth."""
    STEPS: tl.constexpr = FORM[0]
    ROWS: tl.constexpr = FORM[1]
    PARITY: tl.constexpr = FORM[2]
    DEPTH: tl.constexpr = FORM[3]
    ABSGRAD: tl.constexpr = FORM[4]
    ATOMIC: tl.constexpr = FORM[5]
    COUNT: tl.constexpr = 10 + 2 * ABSGRAD
    records, sums_out = pointers
    record = records + tl.multiple_of(i.to(tl.int64) * RECORD, 4)
    mean_x, mean_y, l0, l1 = load_four(record)
    l2, log2_opacity, r, g = load_four(record + 4)
    b, z, _, _ = load_four(record + 8)
    dx, dy = x - mean_x, y - mean_y
    u, v = l0 * dx + l1 * dy, l2 * dy
    step_u, step_v = l1 * ROWS, l2 * ROWS
    zero = tl.zeros((32,), tl.float32)
    moments = (zero,) * 5
    red, green, blue, depth, abs_x, abs_y = zero, zero, zero, zero, zero, zero
    next_t, next_behind = (), ()
    for s in tl.static_range(STEPS):
        us, vs = u + s * step_u, v + s * step_v
        gr, gg, gb, ga = given[s], given[STEPS + s], given[2 * STEPS + s], given[3 * STEPS + s]
        value = ga + r * gr + g * gg + b * gb
        if DEPTH:
            value += z * given[4 * STEPS + s]
        moments, slope, weight, after, rest = pass_pixels(
            moments, us, vs, log2_opacity, transmittance[s], behind[s], value, PARITY
        )
        next_t, next_behind = next_t + (after,), next_behind + (rest,)
        red, green, blue = red + weight * gr, green + weight * gg, blue + weight * gb
        if DEPTH:
            depth += weight * given[4 * STEPS + s]
        if ABSGRAD:
            abs_x += tl.abs(us * slope)
            abs_y += tl.abs(l1 * (us * slope) + l2 * (vs * slope))
    parts = shape_gradients(moments, dx, l0, l1, l2) + (red, green, blue, depth, l0 * abs_x, abs_y)
    lane = tl.arange(0, 32)
    slot = lane_slots(lane)
    sums = sum_lanes(parts, lane, COUNT) * tl.where(slot < 10, slot_factors(slot), 2.0 * LN2)
    add_sums(sums_out + tl.sum(target, axis=0).to(tl.int64) * RECORD + slot, sums, slot < COUNT, ATOMIC)
    return next_t, next_behind


@triton.jit
def blend_backward_kernel(
    # scene:
    records,  # [V * n, 12]
    ids, masks, places, starts,  # [cap] [cap] [cap] [V * macro tiles + 1]
    # pixels:
    grad_c, grad_a, grad_s, total, shown,  # [V, h, w, 3], the others [V, h, w]
    # out:
    sums_out,  # [V * n, 12], or [cap, 12]
    width, height, columns, rows,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, TILES: tl.constexpr,
    DEPTH: tl.constexpr, ABSGRAD: tl.constexpr, MASKED: tl.constexpr, PARITY: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = 32 // TILE_W
    STEPS: tl.constexpr = TILE_H // ROWS
    FINE: tl.constexpr = 2048 // (TILE_W * TILE_H)
    FORM: tl.constexpr = (STEPS, ROWS, PARITY, DEPTH, ABSGRAD, ATOMIC)  # pyright: ignore[reportAssignmentType]
    for t in range(TILES):
        tile = tl.program_id(0) * TILES + t
        macro, bit = tile // FINE, tile % FINE
        view, x, y = locate(macro, bit, columns * rows, columns, TILE_W, TILE_H)
        if not is_outside(x, y, width, height):
            pixel, light = open_pixels(view, x, y, width, height, shown, TILE_W, STEPS, MASKED)
            given = _load_pixels(grad_c, pixel, light, 3, STEPS) + _load_pixels(grad_c + 1, pixel, light, 3, STEPS)
            given += _load_pixels(grad_c + 2, pixel, light, 3, STEPS) + _load_pixels(grad_a, pixel, light, 1, STEPS)
            if DEPTH:
                given += _load_pixels(grad_s, pixel, light, 1, STEPS)
            walk(
                pass_splat, light, _load_pixels(total, pixel, light, 1, STEPS), given, (records, sums_out),
                ids, masks, places, tl.load(starts + macro), tl.load(starts + macro + 1), x, y, bit,
                STEPS, ATOMIC, FORM,
            )  # fmt: skip


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
    views = len(records)
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
        grad_c, grad_a, depth, total, shown, sums, width, height, columns, rows,
        TILE_W=tile[0], TILE_H=tile[1], TILES=fine if deterministic else 1, DEPTH=grad_s is not None,
        ABSGRAD=absgrad, MASKED=mask is not None, PARITY=precision == "parity", ATOMIC=not deterministic,
        **walking.launch_options(tile),
    )  # fmt: skip
    if deterministic:
        walking.sum_rows(sums, lists, grads, eyes=eyes)
    return grads
