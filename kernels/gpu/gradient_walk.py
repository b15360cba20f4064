"""What both gradient kernels of the blend share, in Triton: the walk through a tile's list, sums over its pixels.

One warp walks one fine tile of TILE_W x TILE_H pixels. A lane owns the same column of STEPS pixels, ROWS = 32 / TILE_W
apart. Its list is that of the macro tile, 32 entries at a time: each lane reads one mask, the warp gathers the tile's
own bit of them into one word, and takes the splats of the word's set bits, lowest first. PASS, a function, takes one
splat: see `walk`. Constexpr besides: ATOMIC, whether sums go to the splats' rows by atomics, or without to the
instances' own rows; FORM, a tuple that PASS understands.
`sum_rows_kernel` is the second half of the deterministic gradients: one program a splat reads WIDTH floats an instance
and writes WIDTH floats a view.
"""

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from .compiled import COMPILED
from .constants import ALPHA_MAX, LOG2_ALPHA_MIN, STOP

if TYPE_CHECKING:
    from .bin import Lists

REGISTERS = 168  # a thread, at most
SHAPE = 6  # the first slots of a record: centre, Cholesky factor, opacity

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def reciprocal(x):
    """1 / x of a normal number, one instruction; the interpreter knows no assembly."""
    if COMPILED:
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return 1.0 / x


@triton.jit
def any_goes_on(transmittance, STEPS: tl.constexpr):
    """Whether a pixel of the tile still sees something. Bits of floats that are not negative order as the floats do."""
    most = transmittance[0]
    for s in tl.static_range(1, STEPS):
        most = tl.maximum(most, transmittance[s])
    return tl.max(most.to(tl.int32, bitcast=True), axis=0).to(tl.float32, bitcast=True) > STOP


@triton.jit
def _listed_entries(ids, masks, places, k, end, bit, lane, BY_PLACE: tl.constexpr):
    """A word of the list: the splat of each lane, where its sums go, and 1 where it reaches the tile."""
    reaches = (tl.load(masks + k + lane, mask=k + lane < end, other=0) >> bit) & 1
    id = tl.load(ids + k + lane, mask=reaches != 0, other=0)
    target = id
    if BY_PLACE:
        target = tl.load(places + k + lane, mask=reaches != 0, other=0)
    return id, target, reaches


@triton.jit
def walk(
    PASS: tl.constexpr,
    transmittance, behind, given,  # STEPS tensors each: of what is left, of the loss that lies behind; and the pixels'
    pointers, ids, masks, places, k, end,  # what PASS reads and writes, and the list
    x, y, bit,  # of the fine tile: each lane's first pixel, and its bit in the masks
    STEPS: tl.constexpr, ATOMIC: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """Hand the splats of the tile to PASS, nearest first, until no pixel goes on.

    PASS(transmittance, behind, given, pointers, i, target, x, y, FORM) adds up what splat i gets, where `target` says
    (in the lane of its entry; 0 in the others), and returns transmittance and loss behind it.
    """
    lane = tl.arange(0, 32)
    own_bit = 1 << lane
    goes_on = any_goes_on(transmittance, STEPS)
    while goes_on & (k < end):
        id, target, reaches = _listed_entries(ids, masks, places, k, end, bit, lane, not ATOMIC)
        k += 32
        pending = tl.sum(reaches << lane, axis=0)
        while pending != 0:
            own = own_bit == (pending & -pending)
            pending = pending & (pending - 1)
            i = tl.sum(tl.where(own, id, 0), axis=0)
            here = tl.where(own, target, 0)
            transmittance, behind = PASS(transmittance, behind, given, pointers, i, here, x, y, FORM)
        goes_on = any_goes_on(transmittance, STEPS)


@triton.jit
def pass_pixels(moments, u, v, log2_opacity, transmittance, behind, value, PARITY: tl.constexpr):
    """One splat over a pixel a lane: the forward's decisions and arithmetic, then the slope d loss / d power over ln 2.

    Returns `moments`, sums of the slope times 1, u, v, uv and vv, with the pixel's added; the slope, 0 above the
    clamp; the weight; and transmittance and loss behind the splat.
    """
    power = (log2_opacity - v * v) - u * u
    full = tl.exp2(power)
    if PARITY:
        alpha = tl.where(power >= LOG2_ALPHA_MIN, tl.minimum(full, ALPHA_MAX), 0.0)
        stays = transmittance - alpha * transmittance > STOP
        alpha = tl.where(stays, alpha, 0.0)
        weight = alpha * transmittance
        after = tl.where(stays, transmittance - weight, 0.0)
    else:
        alpha = tl.where(power >= LOG2_ALPHA_MIN, full, 0.0)
        weight = alpha * transmittance
        after = transmittance - weight
    rest = behind - weight * value
    slope = weight * value - rest * (alpha * reciprocal(1.0 - alpha))
    slope = tl.where(full < ALPHA_MAX, slope, 0.0)
    s, su, sv, suv, svv = moments
    moments = (s + slope, su + u * slope, sv + v * slope, suv + u * (v * slope), svv + v * (v * slope))
    return moments, slope, weight, after, rest


@triton.jit
def shape_gradients(moments, dx, l0, l1, l2):
    """A lane's SHAPE first slots but for `slot_factors`, from its sums of slope times 1, u, v, uv and vv."""
    s, su, sv, suv, svv = moments
    inverse = reciprocal(l2)
    return l0 * su, l1 * su + l2 * sv, dx * su, inverse * suv, inverse * svv, s


@triton.jit
def slot_factors(slot):
    """What the sums of `shape_gradients` still lack."""
    return tl.where(slot < 2, 2.0 * LN2, tl.where(slot < 5, -2.0 * LN2, tl.where(slot == 5, LN2, 1.0)))


@triton.jit
def lane_slots(lane):
    """Which of the values of `sum_lanes` a lane gets: its bits, reversed."""
    return ((lane & 1) << 4) | ((lane & 2) << 2) | (lane & 4) | ((lane & 8) >> 2) | ((lane & 16) >> 4)


@triton.jit
def _halve(values, lane, BIT: tl.constexpr, COUNT: tl.constexpr):
    """Lanes without the bit go on with the first of each two values, those with it with the second."""
    upper, other = (lane & BIT) != 0, lane ^ BIT
    halved = ()
    for i in tl.static_range(COUNT // 2):
        a, b = values[2 * i], values[2 * i + 1]
        halved += (tl.where(upper, b, a) + tl.gather(tl.where(upper, a, b), other, 0),)
    if COUNT % 2 == 1:
        halved += (values[COUNT - 1] + tl.gather(values[COUNT - 1], other, 0),)
    return halved


@triton.jit
def sum_lanes(values, lane, COUNT: tl.constexpr):
    """Sums of COUNT <= 32 values over the warp, value i in the lane with slot i: a shuffle each, not five."""
    C1: tl.constexpr = (COUNT + 1) // 2
    C2: tl.constexpr = (C1 + 1) // 2
    C3: tl.constexpr = (C2 + 1) // 2
    values = _halve(_halve(values, lane, 16, COUNT), lane, 8, C1)
    values = _halve(_halve(values, lane, 4, C2), lane, 2, C3)
    return _halve(values, lane, 1, (C3 + 1) // 2)[0]


@triton.jit
def add_sums(pointers, sums, mask, ATOMIC: tl.constexpr):
    """Add to memory what is not zero; without atomics the program must be the only one at these addresses."""
    mask = mask & (sums != 0.0)
    if ATOMIC:
        tl.atomic_add(pointers, sums, mask=mask, sem="relaxed")
    else:
        tl.store(pointers, tl.load(pointers, mask=mask, other=0.0) + sums, mask=mask)


@triton.jit
def sum_rows_kernel(
    table, owners, order, emitted, ends,  # [cap, WIDTH] [cap] [G * n] [] [G * n]
    # out:
    sums_out,  # [V * n, WIDTH]
    n,
    WIDTH: tl.constexpr, LANES: tl.constexpr, EYES: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0)
    if k < tl.load(emitted):
        entry = tl.load(order + k)
        begin, end = tl.load(ends + k - 1, mask=k > 0, other=0), tl.load(ends + k)
        slot = tl.arange(0, LANES)
        for eye in tl.static_range(EYES):
            id = entry + (entry // n * (EYES - 1) + eye) * n
            sums = tl.zeros((LANES,), tl.float32)
            p = begin
            while p < end:
                own = slot < WIDTH
                if EYES > 1:
                    own = own & (tl.load(owners + p + slot * 0) == id)
                sums += tl.load(table + p * WIDTH + slot, mask=own, other=0.0)
                p += 1
            tl.store(sums_out + id.to(tl.int64) * WIDTH + slot, sums, mask=slot < WIDTH)


def sum_rows(
    table: Tensor,  # [cap, w] float32, a row an instance, in the order before the sort by macro tile
    lists: "Lists",
    sums: Tensor,  # [V, n, w] float32
    *,
    eyes: int,
) -> None:
    """Write each splat's rows, added up in a fixed order, to its row of `sums`; rows of splats without stay."""
    owners = lists.ids
    if eyes > 1:
        owners = torch.empty_like(lists.ids)
        owners[lists.places.long()] = lists.ids
    width = table.shape[1]
    sum_rows_kernel[(len(lists.order),)](
        table, owners, lists.order, lists.emitted, lists.ends, sums, sums.shape[1],
        WIDTH=width, LANES=triton.next_power_of_2(width), EYES=eyes, num_warps=1, enable_fp_fusion=True,
    )  # fmt: skip


def launch_options(tile: tuple[int, int]) -> dict[str, int]:
    """For the kernels that walk. Left alone, ptxas holds large tiles to 128 registers and spills."""
    options = {"num_warps": 1, "enable_fp_fusion": True}
    return {**options, "maxnreg": REGISTERS} if tile == (16, 16) else options
