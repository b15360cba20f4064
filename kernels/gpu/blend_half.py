"""Blending in float16 pairs, in Triton: each lane's instructions work on two pixels, ROWS apart.

`pack_kernel`, one lane a visible splat, makes 32-byte records of the 48-byte ones, two 16-byte loads each: mean x, y
and l0, l1, l2 in float32; log2 opacity with red, and green with blue, as halves; depth in float32.

Offsets in the picture are taken in float32 and rounded once. Colours of about PAUSE splats are summed in float16, as
if nothing stood before them; `settle_half` then adds them to float32 sums behind what the splats before have let
through. So no sum grows long in float16, and a weight is off by 2^-12 of that at most: little for colours, but splats
a hundred times farther than the rest, seen through almost closed pixels, can shift the depth by percents. The form is
the fast one: the splat that stops a pixel still counts.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bin import Lists
from .compiled import COMPILED
from .constants import LOG2_ALPHA_MIN, RECORD
from .scan import LAUNCH, is_open, load_four

WORDS_HALF = 8  # of 4 bytes, a packed record
BLOCK = 32

PAUSE_HALF = tl.constexpr(24)  # splats between two times of settling
WORDS = tl.constexpr(WORDS_HALF)
STEEPEST = tl.constexpr(1024.0)  # falloffs a pixel; within a tile their offsets stay below 65504
DEPTH_MAX = tl.constexpr(60000.0)


@triton.jit
def _as_bits(value):
    """A half's bits, in the lower 16 of 32."""
    return value.to(tl.float16).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF


@triton.jit
def pack_kernel(records, order, visible, packed_out, n, EYES: tl.constexpr, BLOCK: tl.constexpr):
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = k < tl.load(visible)
    i = tl.load(order + k, mask=mask, other=0)
    i = (i // n * (EYES - 1)).to(tl.int64) * n + i  # of the group's first view
    for _ in tl.static_range(EYES):
        record, packed = records + i * RECORD, packed_out + i * WORDS
        for j in tl.static_range(2):
            tl.store(packed + j, tl.load(record + j, mask=mask), mask=mask)
        l0, l1 = tl.load(record + 2, mask=mask, other=1.0), tl.load(record + 3, mask=mask, other=1.0)
        l2 = tl.load(record + 4, mask=mask, other=1.0)
        share = tl.minimum(1.0, STEEPEST / tl.maximum(tl.abs(l0), tl.abs(l1)))  # alike, to keep a needle's direction
        tl.store(packed + 2, l0 * share, mask=mask)
        tl.store(packed + 3, l1 * share, mask=mask)
        tl.store(packed + 4, tl.minimum(l2, STEEPEST), mask=mask)
        for j in tl.static_range(2):
            low = _as_bits(tl.load(record + 5 + 2 * j, mask=mask, other=0.0))
            high = _as_bits(tl.load(record + 6 + 2 * j, mask=mask, other=0.0))
            tl.store(packed + 5 + j, (high << 16 | low).to(tl.float32, bitcast=True), mask=mask)
        tl.store(packed + 7, tl.load(record + 9, mask=mask), mask=mask)
        i += n


@triton.jit
def _two_halves(word):
    bits = word.to(tl.int32, bitcast=True)
    low, high = bits.to(tl.int16), (bits >> 16).to(tl.int16)
    return low.to(tl.float16, bitcast=True), high.to(tl.float16, bitcast=True)


@triton.jit
def _alpha_half(power):
    """2^power, 0 where a splat is skipped."""
    if COMPILED:
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 least, alpha, counts;
            mov.b32 least, 0xc7ffc7ff;
            ex2.approx.f16x2 alpha, $1;
            set.ge.f16x2.f16x2 counts, $1, least;
            mul.f16x2 $0, alpha, counts;
            }""",
            "=r,r", [power], dtype=tl.float16, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        return tl.where(power >= LOG2_ALPHA_MIN, tl.exp2(power.to(tl.float32)).to(tl.float16), 0.0)


@triton.jit
def pairs_of_rows(TILE_W: tl.constexpr):
    """How many rows each pixel of a pair lies below the lane's own: [2, 1]."""
    return (tl.arange(0, 2) * (32 // TILE_W)).to(tl.float32)[:, None]


@triton.jit
def depth_unit(packed, ids, begin, end):
    """What depths are divided by in float16: 64 times that of the nearest splat in the list."""
    i = tl.load(ids + begin, mask=begin < end, other=0)
    nearest = tl.load(packed + i.to(tl.int64) * WORDS + 7, mask=begin < end, other=0.0)
    return 64.0 * tl.where(nearest > 0.0, nearest, 1.0)


@triton.jit
def shade_half(state, given, record, i, FORM: tl.constexpr):
    """One splat over the pixels of a tile. The state is that of shade.py, then the halves that are not settled yet:
    STEPS // 2 tensors [2, 32] each of what is covered, red, green, blue, depth."""
    STEPS: tl.constexpr = FORM[0]
    ROWS: tl.constexpr = FORM[1]
    DEPTH: tl.constexpr = FORM[3]
    PAIRS: tl.constexpr = STEPS // 2
    FIRST: tl.constexpr = (4 + DEPTH) * STEPS
    x, y, below, inverse_unit = given
    mean_x, mean_y, l0, l1 = load_four(record)
    l2, word0, word1, z = load_four(record + 4)
    log2_opacity, r = _two_halves(word0)
    g, b = _two_halves(word1)
    dy = y - mean_y
    u, v = l0 * (x - mean_x) + l1 * dy, l2 * dy
    u, v = (u[None, :] + l1 * below).to(tl.float16), (v[None, :] + l2 * below).to(tl.float16)
    slope_u, slope_v = l1.to(tl.float16), l2.to(tl.float16)
    covered, red, green, blue, depth = (), (), (), (), ()
    for s in tl.static_range(PAIRS):
        if s == 0:
            us, vs = u, v
        else:
            us, vs = u + slope_u * (s * 2 * ROWS), v + slope_v * (s * 2 * ROWS)
        alpha = _alpha_half((log2_opacity - vs * vs) - us * us)
        weight = alpha - alpha * state[FIRST + s]
        covered += (state[FIRST + s] + weight,)
        red += (state[FIRST + PAIRS + s] + weight * r,)
        green += (state[FIRST + 2 * PAIRS + s] + weight * g,)
        blue += (state[FIRST + 3 * PAIRS + s] + weight * b,)
        if DEPTH:
            share = tl.minimum(z * inverse_unit, DEPTH_MAX).to(tl.float16)
            depth += (state[FIRST + 4 * PAIRS + s] + weight * share,)
    settled = ()
    for s in tl.static_range(FIRST):
        settled += (state[s],)
    return settled + covered + red + green + blue + depth


@triton.jit
def settle_half(state, FORM: tl.constexpr):
    """Adds the halves to the float32 sums and begins them anew; and whether a pixel is open."""
    STEPS: tl.constexpr = FORM[0]
    DEPTH: tl.constexpr = FORM[3]
    PAIRS: tl.constexpr = STEPS // 2
    FIRST: tl.constexpr = (4 + DEPTH) * STEPS
    transmittance, sums = (), ()
    for s in tl.static_range(PAIRS):
        upper, lower = tl.split(tl.trans(state[FIRST + s].to(tl.float32)))
        transmittance += (state[2 * s] * (1.0 - upper), state[2 * s + 1] * (1.0 - lower))
    for j in tl.static_range(PAIRS, (4 + DEPTH) * PAIRS):
        upper, lower = tl.split(tl.trans(state[FIRST + j].to(tl.float32)))
        sums += (state[2 * j] + state[2 * (j % PAIRS)] * upper, state[2 * j + 1] + state[2 * (j % PAIRS) + 1] * lower)
    anew = (tl.zeros((2, 32), tl.float16),) * ((4 + DEPTH) * PAIRS)
    return transmittance + sums + anew, is_open(transmittance, STEPS, False)


@triton.jit
def in_world_units(state, unit, FORM: tl.constexpr):
    """The settled state with sums of depth in the scene's units."""
    SUMS: tl.constexpr = 4 * FORM[0]
    scaled = ()
    for s in tl.static_range((4 + FORM[3]) * FORM[0]):
        if s < SUMS:
            scaled += (state[s],)
        else:
            scaled += (state[s] * unit,)
    return scaled


def pack_half(records: Tensor, lists: Lists, eyes: int) -> Tensor:
    """Records [v, n, 8] of the visible splats, halves in pairs within float32 words; the rest stays unwritten."""
    views, n = records.shape[:2]
    packed = torch.empty(views, n, WORDS_HALF, dtype=torch.float32, device=records.device)
    if n:
        grid = (triton.cdiv(len(lists.order), BLOCK),)
        pack_kernel[grid](records, lists.order, lists.visible, packed, n, EYES=eyes, BLOCK=BLOCK, **LAUNCH)
    return packed
