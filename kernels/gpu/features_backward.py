"""Gradients of blended features, in Triton: one program a fine tile, one warp, CHANNELS channels a pass.

The walk of blend_backward.py with value = feature . grad. A pass reads 8 bytes a pixel and channel, and of each splat
of the tile 32 bytes of its record and 4 a channel; what its channels say of the splats' shapes adds up over the passes.
Constexpr: CHANNELS, of which the last pass may leave some idle; PER_VIEW, whether features are [V, n, N] or [n, N];
the others as there.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import Precision
from . import gradient_walk as walking
from .bin import TILE, Lists, macro_grid
from .constants import RECORD
from .gradient_walk import add_sums, lane_slots, pass_pixels, shape_gradients, slot_factors, sum_lanes, walk
from .picture import open_pixels
from .scan import fine_tiles, is_outside, load_four, locate

CHANNELS = {(8, 8): 16, (8, 16): 16, (16, 16): 8}  # a pass, as many as registers hold; half if deterministic

SHAPE = tl.constexpr(walking.SHAPE)


@triton.jit
def _load_neighbours(pointer, COUNT: tl.constexpr):
    """COUNT neighbouring floats as scalars, four a load if the pointer is divisible by 16."""
    values = ()
    if COUNT % 4 == 0:
        for j in tl.static_range(0, COUNT, 4):
            values += load_four(pointer + j)
    else:
        for j in tl.static_range(COUNT):
            values += (tl.load(pointer + j),)
    return values


@triton.jit
def pass_features(transmittance, behind, given, pointers, i, target, x, y, FORM: tl.constexpr):
    """See `walk`. Given are the gradients of the channels, step by step, and how features and sums are laid out."""
    STEPS: tl.constexpr = FORM[0]
    ROWS: tl.constexpr = FORM[1]
    PARITY: tl.constexpr = FORM[2]
    CHANNELS: tl.constexpr = FORM[3]
    ATOMIC: tl.constexpr = FORM[4]
    COUNT: tl.constexpr = SHAPE + CHANNELS
    grad, shared, first, channels, stride = given
    records, features, records_out, features_out, table_out = pointers
    record = records + tl.multiple_of(i.to(tl.int64) * RECORD, 4)
    mean_x, mean_y, l0, l1 = load_four(record)
    l2, log2_opacity, _, _ = load_four(record + 4)
    row = (i - shared).to(tl.int64)
    feature = _load_neighbours(features + tl.multiple_of(row * stride + first, CHANNELS), CHANNELS)
    dx, dy = x - mean_x, y - mean_y
    u, v = l0 * dx + l1 * dy, l2 * dy
    step_u, step_v = l1 * ROWS, l2 * ROWS
    zero = tl.zeros((32,), tl.float32)
    moments, sums_f = (zero,) * 5, (zero,) * CHANNELS
    next_t, next_behind = (), ()
    for s in tl.static_range(STEPS):
        value = zero
        for j in tl.static_range(CHANNELS):
            value += feature[j] * grad[s * CHANNELS + j]
        moments, _, weight, after, rest = pass_pixels(
            moments, u + s * step_u, v + s * step_v, log2_opacity, transmittance[s], behind[s], value, PARITY
        )
        next_t, next_behind = next_t + (after,), next_behind + (rest,)
        next_f = ()
        for j in tl.static_range(CHANNELS):
            next_f += (sums_f[j] + weight * grad[s * CHANNELS + j],)
        sums_f = next_f
    lane = tl.arange(0, 32)
    slot = lane_slots(lane)
    sums = sum_lanes(shape_gradients(moments, dx, l0, l1, l2) + sums_f, lane, COUNT) * slot_factors(slot)
    if ATOMIC:
        channel = first + slot - SHAPE
        is_channel = (slot >= SHAPE) & (slot < COUNT) & (channel < channels)
        add_sums(records_out + i.to(tl.int64) * RECORD + slot, sums, slot < SHAPE, True)
        add_sums(features_out + row * channels + channel, sums, is_channel, True)
    else:
        add_sums(table_out + tl.sum(target, axis=0).to(tl.int64) * COUNT + slot, sums, slot < COUNT, False)
    return next_t, next_behind


@triton.jit
def features_backward_kernel(
    # scene:
    records, features,  # [V * n, 12] [n or V * n, stride]
    ids, masks, places, starts,  # [cap] [cap] [cap] [V * macro tiles + 1]
    # pixels:
    grads, blended, shown,  # [V, h, w, N] [V, h, w, N] [V, h, w]
    # out:
    records_out, features_out, table_out,  # [V * n, 12] and [n or V * n, N], or [cap, SHAPE + CHANNELS]
    n, width, height, columns, rows, first, channels, stride,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, TILES: tl.constexpr, CHANNELS: tl.constexpr,
    PER_VIEW: tl.constexpr, MASKED: tl.constexpr, PARITY: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = 32 // TILE_W
    STEPS: tl.constexpr = TILE_H // ROWS
    FINE: tl.constexpr = 2048 // (TILE_W * TILE_H)
    FORM: tl.constexpr = (STEPS, ROWS, PARITY, CHANNELS, ATOMIC)  # pyright: ignore[reportAssignmentType]
    for t in range(TILES):
        tile = tl.program_id(0) * TILES + t
        macro, bit = tile // FINE, tile % FINE
        view, x, y = locate(macro, bit, columns * rows, columns, TILE_W, TILE_H)
        if not is_outside(x, y, width, height):
            pixel, light = open_pixels(view, x, y, width, height, shown, TILE_W, STEPS, MASKED)
            grad, behind = (), ()  # grad: step by step, channel by channel
            for s in tl.static_range(STEPS):
                begin, total = pixel[s] * channels, tl.zeros((32,), tl.float32)
                for j in tl.static_range(CHANNELS):
                    there = (light[s] > 0.0) & (begin + first + j < begin + channels)
                    one = tl.load(grads + begin + first + j, mask=there, other=0.0)
                    total += one * tl.load(blended + begin + first + j, mask=there, other=0.0)
                    grad += (one,)
                behind += (total,)
            shared = view * n
            if PER_VIEW:
                shared = 0
            walk(
                pass_features, light, behind, (grad, shared, first, channels, stride),
                (records, features, records_out, features_out, table_out),
                ids, masks, places, tl.load(starts + macro), tl.load(starts + macro + 1), x, y, bit,
                STEPS, ATOMIC, FORM,
            )  # fmt: skip


def features_backward(
    # scene:
    records: Tensor,  # [V, n, 12] float32
    features: Tensor,  # [n, N] or [V, n, N] float32
    lists: Lists,
    width: int,
    height: int,
    # pixels:
    grad_features: Tensor,  # [V, h, w, N] float32
    features_out: Tensor,  # [V, h, w, N] float32, as blended
    # out:
    grad_records: Tensor,  # [V, n, 12] float32
    *,
    mask: Tensor | None = None,  # [V, h, w] bool
    precision: Precision = "parity",
    deterministic: bool = False,
    tile: tuple[int, int] = TILE,
    eyes: int = 1,
) -> Tensor:
    """Gradient of the features, in their shape; what they say of the splats' shapes is added to `grad_records`.

    Any N from 1 on. The sums of absolute gradients, slots 10 and 11 of the records, take no part. The options are
    those of `blend_backward`; `deterministic` takes up to 56 bytes an entry of the lists and 56 a splat and view.
    """
    views, n = records.shape[:2]
    channels = features.shape[-1]
    columns, rows = macro_grid(width, height)
    fine = fine_tiles(tile)
    macros = views * columns * rows
    features, grad_features, features_out = (x.contiguous() for x in (features, grad_features, features_out))
    shown = features if mask is None else mask.contiguous().view(torch.uint8)
    grads = torch.zeros_like(features)
    if records.numel() == 0 or macros == 0:
        return grads
    most = CHANNELS[tile] // 2 if deterministic else CHANNELS[tile]
    taken = min(most, triton.next_power_of_2(channels))
    padded = torch.nn.functional.pad(features, (0, -channels % taken))  # so that every pass reads whole vectors
    table, device = grads, records.device
    for first in range(0, channels, taken):
        if deterministic:
            table = torch.zeros(len(lists.ids), walking.SHAPE + taken, dtype=torch.float32, device=device)
        features_backward_kernel[(macros if deterministic else macros * fine,)](
            records, padded, lists.ids, lists.masks, lists.places, lists.starts, grad_features, features_out, shown,
            grad_records, grads, table, n, width, height, columns, rows, first, channels, padded.shape[-1],
            TILE_W=tile[0], TILE_H=tile[1], TILES=fine if deterministic else 1, CHANNELS=taken,
            PER_VIEW=features.dim() == 3, MASKED=mask is not None, PARITY=precision == "parity",
            ATOMIC=not deterministic, **walking.launch_options(tile),
        )  # fmt: skip
        if deterministic:
            sums = torch.zeros(views, n, walking.SHAPE + taken, dtype=torch.float32, device=device)
            walking.sum_rows(table, lists, sums, eyes=eyes)
            grad_records[..., : walking.SHAPE] += sums[..., : walking.SHAPE]
            own = sums[..., walking.SHAPE : walking.SHAPE + channels - first]
            grads[..., first : first + taken] = own if features.dim() == 3 else own.sum(0)
    return grads
