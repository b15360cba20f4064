"""Blend each tile's splats front to back, in Triton: one program a tile, one warp, one splat after the other.

A lane owns the same column of STEPS pixels, 2 rows apart; everything that depends on the splat alone is computed once.
A splat is three 16-byte loads from its 48-byte record. One warp means no barriers and no shared memory, and the early
exit is five shuffles every UNROLL splats. This is the parity form: alpha is clamped to 0.99, and a pixel stops before
the splat that would bring its transmittance to 1e-4. Its transmittance is then 0, which makes every later weight 0.
Constexpr: SIDE, pixels of a tile both ways, and UNROLL.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import constants as c
from .bin import TILE

UNROLL = 4

RECORD = tl.constexpr(c.RECORD)
ALPHA_MAX, LOG2_ALPHA_MIN, STOP = tl.constexpr(c.ALPHA_MAX), tl.constexpr(c.LOG2_ALPHA_MIN), tl.constexpr(c.STOP)


@triton.jit
def _load_four(pointer):
    """Four neighbouring floats as scalars, one 16-byte load; the pointer must be divisible by 16."""
    even, odd = tl.split(tl.reshape(tl.load(pointer + tl.arange(0, 4)), (2, 2)))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def blend_kernel(
    records, ids, starts, background,  # [n, 12] [p] [tiles + 1] [3]
    # out:
    rgb_out, alpha_out, depth_out, listed_out,  # [h, w, 3] [h, w] [h, w] [tiles]
    width, height, columns,
    SIDE: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = 32 // SIDE  # that a warp covers at once
    STEPS: tl.constexpr = SIDE // ROWS
    tile = tl.program_id(0)
    lane = tl.arange(0, 32)
    left, top = (tile % columns) * SIDE, (tile // columns) * SIDE
    x, y = (left + lane % SIDE).to(tl.float32) + 0.5, (top + lane // SIDE).to(tl.float32) + 0.5
    zero = tl.zeros((32,), tl.float32)
    transmittance = (zero + 1.0,) * STEPS
    red, green, blue, depth, alpha = (zero,) * STEPS, (zero,) * STEPS, (zero,) * STEPS, (zero,) * STEPS, (zero,) * STEPS
    begin, end = tl.load(starts + tile), tl.load(starts + tile + 1)
    first = tl.load(ids + begin, mask=begin < end, other=0)  # pads the last few: its record is there to read
    k = begin
    goes_on = True
    while goes_on & (k < end):
        for j in tl.static_range(UNROLL):
            listed = k + j < end
            i = tl.load(ids + k + j, mask=listed, other=first).to(tl.int64)
            record = records + tl.multiple_of(i * RECORD, 4)
            mean_x, mean_y, l0, l1 = _load_four(record)
            l2, log2_opacity, r, g = _load_four(record + 4)
            b, z, _, _ = _load_four(record + 8)
            log2_opacity = tl.where(listed, log2_opacity, -1000.0)
            dy = y - mean_y
            u, v = l0 * (x - mean_x) + l1 * dy, l2 * dy
            step_u, step_v = l1 * ROWS, l2 * ROWS
            next_t, next_r, next_g, next_b, next_d, next_a = (), (), (), (), (), ()
            for s in tl.static_range(STEPS):
                us, vs = u + s * step_u, v + s * step_v
                power = (log2_opacity - vs * vs) - us * us
                a = tl.minimum(tl.exp2(power), ALPHA_MAX)
                a = tl.where(power >= LOG2_ALPHA_MIN, a, 0.0)
                weight = a * transmittance[s]
                after = transmittance[s] - weight
                stays = after > STOP
                weight = tl.where(stays, weight, 0.0)
                next_t += (tl.where(stays, after, 0.0),)
                next_r += (red[s] + weight * r,)
                next_g += (green[s] + weight * g,)
                next_b += (blue[s] + weight * b,)
                next_d += (depth[s] + weight * z,)
                next_a += (alpha[s] + weight,)
            transmittance, red, green, blue, depth, alpha = next_t, next_r, next_g, next_b, next_d, next_a
        k += UNROLL
        most = transmittance[0]
        for s in tl.static_range(1, STEPS):
            most = tl.maximum(most, transmittance[s])
        goes_on = tl.max(most, axis=0) > 0.0
    tl.store(listed_out + tile, (tl.minimum(k, end) - begin).to(tl.int32))

    b0, b1, b2 = tl.load(background), tl.load(background + 1), tl.load(background + 2)
    for s in tl.static_range(STEPS):
        px, py = left + lane % SIDE, top + lane // SIDE + s * ROWS
        inside = (px < width) & (py < height)
        pixel = py.to(tl.int64) * width + px
        clear = 1.0 - alpha[s]
        tl.store(rgb_out + 3 * pixel, red[s] + clear * b0, mask=inside)
        tl.store(rgb_out + 3 * pixel + 1, green[s] + clear * b1, mask=inside)
        tl.store(rgb_out + 3 * pixel + 2, blue[s] + clear * b2, mask=inside)
        tl.store(alpha_out + pixel, alpha[s], mask=inside)
        tl.store(depth_out + pixel, depth[s] / tl.maximum(alpha[s], 1e-12), mask=inside)


def blend(
    records: Tensor,  # [n, 12] float32
    ids: Tensor,  # [p] int32, tile by tile, nearest first
    starts: Tensor,  # [tiles + 1] int64
    width: int,
    height: int,
    background: Tensor,  # [3] float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """RGB [h, w, 3], alpha [h, w], expected depth [h, w] (0 where nothing is seen), and splats taken a tile [tiles]."""
    device = records.device
    rgb = torch.empty(height, width, 3, dtype=torch.float32, device=device)
    alpha, depth = (torch.empty(height, width, dtype=torch.float32, device=device) for _ in range(2))
    tiles = len(starts) - 1
    listed = torch.empty(tiles, dtype=torch.int32, device=device)
    blend_kernel[(tiles,)](
        records, ids, starts, background, rgb, alpha, depth, listed, width, height, triton.cdiv(width, TILE),
        SIDE=TILE, UNROLL=UNROLL, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip
    return rgb, alpha, depth, listed
