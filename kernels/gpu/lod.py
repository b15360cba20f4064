"""The cut in Triton: everything stays on the GPU, for any budget the same launches.

`read_kernel`, one program a cluster, skips it by its bound or finds its view errors, whose bits are the keys of nodes
that may be expanded, and adds what expanding them gives to a histogram. With the last threshold it reads clusters that
reach 95 % of that, and `settle_kernel` says whether this is enough; a second launch reads the others, and returns at
once where it is. `choose_kernel`, a program for each of two searches, finds the bin of the first node that does not
fit: the threshold, and the view error below which groups fade. `split_kernel` splits these bins, by the key's next
digits and then, of the threshold's, by the index's, so that equal errors are told apart. Children of expanded nodes are
walked by the kernels of lod_drawn.py. Bytes: 20 a cluster, 28 a node of those read, and of the keys a few passes where
they are high.
Constexpr: GAZED; LOWER, whether there is a last threshold; AGAIN, the second launch; SHIFT, BINS, BY_INDEX, the digit.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import constants as c
from ..lod import Nodes
from .lod_drawn import KEY, LAST, LAST_KEY, ROOM, STATE, STATUS, count_drawn_kernel, write_drawn_kernel
from .lod_errors import FLOOR, node_error, view_error

CLUSTER = tl.constexpr(c.CLUSTER)
LOWER_GUESS = tl.constexpr(0.95)  # of the last threshold
UP = tl.constexpr(1.0001)  # pays for the rounding of a node's error and of its cluster's bound

DIGITS = ((18, 1 << 13), (9, 1 << 9), (0, 1 << 9))  # of 31 bits: shift and bins
FIRST_SHIFT, FIRST_BINS = tl.constexpr(DIGITS[0][0]), tl.constexpr(DIGITS[0][1])

READ_MORE, SEARCH, SETTLED = (tl.constexpr(i) for i in range(3))

LAUNCH = {"num_warps": 4, "enable_fp_fusion": True}
CHOOSE = {"num_warps": 8, "enable_fp_fusion": True}


@triton.jit
def _bits(value):
    """Floats of 0 and above keep their order as integers."""
    return value.to(tl.int32, bitcast=True)


@triton.jit
def read_kernel(
    means, radii, errors, children, counts, bounds, largest,  # [m, 3] [m] [m] [m] [m] [clusters, 4] [clusters]
    row, previous, state,  # [28] [] [2, STATE]
    # out:
    keys_out, tops_out, gains_out,  # [m] [clusters] [FIRST_BINS + 1], the last above the last threshold
    GAZED: tl.constexpr, LOWER: tl.constexpr, AGAIN: tl.constexpr,
):  # fmt: skip
    cluster = tl.program_id(0).to(tl.int64)
    if AGAIN:
        if tl.load(state + STATUS) != READ_MORE:
            return
        if tl.load(tops_out + cluster) >= 0:
            return
    floor = tl.load(row + FLOOR)
    low = floor
    if LOWER:
        low = tl.maximum(tl.load(previous) * LOWER_GUESS, floor)
    bound = bounds + cluster * 4
    x, y, z, radius = tl.load(bound), tl.load(bound + 1), tl.load(bound + 2), tl.load(bound + 3)
    if view_error(x, y, z, radius, tl.load(largest + cluster), row, GAZED) * UP < low:
        tl.store(tops_out + cluster, -1)
        return
    i = cluster * CLUSTER + tl.arange(0, CLUSTER)
    able = tl.load(children + i) >= 0
    value = node_error(i, able, means, radii, errors, row, GAZED)
    key = tl.where(able & (value > floor), _bits(value), 0)
    tl.store(keys_out + i, key)
    tl.store(tops_out + cluster, tl.max(key, axis=0))
    gain = tl.load(counts + i, mask=key > 0, other=1) - 1
    tl.atomic_add(gains_out + (key >> FIRST_SHIFT), gain, mask=gain > 0, sem="relaxed")
    if LOWER:
        above = tl.sum(tl.where(key > _bits(tl.maximum(tl.load(previous), floor)), gain, 0), axis=0)
        tl.atomic_add(gains_out + FIRST_BINS, above, mask=above > 0, sem="relaxed")


@triton.jit
def settle_kernel(
    gains, row, previous,  # [FIRST_BINS + 1] [28] []
    # out:
    state,  # [2, STATE]
    room, enough,  # nodes that may be added; the last threshold is kept if it adds so many, and no more
    BINS: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """After reading down to a guess: whether the last threshold is kept, or else the one looked for has been read."""
    bins, floor, last = tl.arange(0, BINS), tl.load(row + FLOOR), tl.load(previous)
    added = tl.load(gains + BINS)
    read = bins > (_bits(tl.maximum(last * LOWER_GUESS, floor)) >> SHIFT)  # bins of which nothing is missing
    if (added >= enough) & (added <= room):
        tl.store(state + STATUS, SETTLED)
        tl.store(state + KEY, _bits(tl.maximum(last, floor)))
        tl.store(state + LAST, LAST_KEY)
    elif tl.sum(tl.load(gains + bins, mask=read, other=0), axis=0) > room:
        tl.store(state + STATUS, SEARCH)


@triton.jit
def choose_kernel(
    gains, row, previous,  # [BINS], or [2, BINS] [28] []
    # out:
    state,  # [2, STATE]
    all_room, room, enough, before,  # nodes that may be added: if all fit; else; if the last threshold adds too few; by
    # what does not fade
    FIRST: tl.constexpr, LOWER: tl.constexpr, BY_INDEX: tl.constexpr, SHIFT: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """The next digit of the first node that does not fit, or that all nodes fit."""
    search = tl.program_id(0)
    own = state + search * STATE
    if tl.load(own + STATUS) == SETTLED:
        return
    if not FIRST:
        gains += search * BINS
    bins = tl.arange(0, BINS)
    totals = tl.cumsum(tl.load(gains + (BINS - 1 - bins)), axis=0)  # from the highest bin on
    total = tl.max(totals, axis=0)
    if FIRST:
        fits = total <= all_room
        if LOWER:
            fits &= tl.load(previous) <= tl.load(row + FLOOR)
            room = tl.where(tl.load(gains + BINS) < enough, enough, room)
        room = tl.where(fits, all_room, room)
        room = tl.where(search == 0, room, before)
    else:
        room = tl.load(own + ROOM)
    if total <= room:
        tl.store(own + STATUS, SETTLED)
        tl.store(own + KEY, _bits(tl.load(row + FLOOR)))
        tl.store(own + LAST, LAST_KEY)
    else:
        tl.store(own + STATUS, SEARCH)
        tl.store(own + ROOM, room - tl.max(tl.where(totals > room, 0, totals), axis=0))
        digit = BINS - 1 - tl.min(tl.where(totals > room, bins, BINS), axis=0)
        where = own + (LAST if BY_INDEX else KEY)
        tl.store(where, tl.load(where) | (digit << SHIFT))


@triton.jit
def split_kernel(
    keys, tops, counts, state,  # [m] [clusters] [m] [2, STATE]
    # out:
    gains_out,  # [2, BINS], or [BINS] by index
    BY_INDEX: tl.constexpr, SHIFT: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Gains by the next digit, of nodes whose digits so far are those of the first that does not fit."""
    cluster = tl.program_id(0).to(tl.int64)
    top = tl.load(tops + cluster)
    for search in tl.static_range(1 if BY_INDEX else 2):
        own = state + search * STATE
        known = tl.load(own + KEY)
        if (tl.load(own + STATUS) != SETTLED) & (top >= known):
            i = cluster * CLUSTER + tl.arange(0, CLUSTER)
            key = tl.load(keys + i)
            if BY_INDEX:
                rank = (-i + LAST_KEY).to(tl.int32)
                alike = (key == known) & (rank // BINS >> SHIFT == tl.load(own + LAST) // BINS >> SHIFT)
            else:
                rank = key
                alike = key // BINS >> SHIFT == known // BINS >> SHIFT
            gain = tl.load(counts + i, mask=alike, other=1) - 1
            bins = gains_out + search * BINS + ((rank >> SHIFT) & (BINS - 1))
            tl.atomic_add(bins, gain, mask=gain > 0, sem="relaxed")


def _find(nodes: Nodes, row: Tensor, gazed: bool, budget: int, roots: int, previous: Tensor | None):
    """Keys and largest keys of clusters, and the state that says which nodes are expanded."""
    device, clusters, m = row.device, len(nodes.cluster_errors), len(nodes.means)
    digits = [(False, *digit) for digit in DIGITS[1:]] + [(True, *digit) for digit in DIGITS]
    sizes = [2 * STATE.value, DIGITS[0][1] + 1, *((1 if by_index else 2) * bins for by_index, _, bins in digits)]
    state, first, *finer = torch.zeros(sum(sizes), dtype=torch.int32, device=device).split(sizes)
    keys = torch.empty(m, dtype=torch.int32, device=device)
    tops = torch.full((clusters,), -1, dtype=torch.int32, device=device)
    reserve = budget // c.FADING
    room = max(budget - reserve - roots, 0)
    enough, before = max(-(-99 * (budget - reserve) // 100) - roots, 0), max(room - reserve, 0)
    read = nodes.means, nodes.radii, nodes.errors, nodes.children, nodes.counts, nodes.cluster_bounds
    read = *read, nodes.cluster_errors, row
    shift, bins = DIGITS[0]
    if previous is not None:
        previous = previous.to(device, non_blocking=True)
        outputs, form = (state, keys, tops, first), {"GAZED": gazed, "AGAIN": False, "LOWER": True}
        read_kernel[(clusters,)](*read, previous, *outputs, **form, **LAUNCH)
        settle_kernel[(1,)](first, row, previous, state, room, enough, BINS=bins, SHIFT=shift, **CHOOSE)
    form = {"GAZED": gazed, "AGAIN": previous is not None, "LOWER": False}
    read_kernel[(clusters,)](*read, None, state, keys, tops, first, **form, **LAUNCH)
    targets, lower = (max(budget - roots, 0), room, enough, before), previous is not None
    form = {"BY_INDEX": False, "SHIFT": shift, "BINS": bins}
    choose_kernel[(2,)](first, row, previous, state, *targets, FIRST=True, LOWER=lower, **form, **CHOOSE)
    for gains, (by_index, shift, bins) in zip(finer, digits, strict=True):
        form = {"BY_INDEX": by_index, "SHIFT": shift, "BINS": bins}
        split_kernel[(clusters,)](keys, tops, nodes.counts, state, gains, **form, **LAUNCH)
        searches = 1 if by_index else 2
        choose_kernel[(searches,)](gains, row, previous, state, *targets, FIRST=False, LOWER=lower, **form, **CHOOSE)
    return keys, tops, state


def cut(
    nodes: Nodes, roots: Tensor, row: Tensor, gazed: bool, budget: int, previous: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of `lod.Cut`; `row` is that of kernels/gaze.py."""
    keys, tops, state = _find(nodes, row, gazed, budget, len(roots), previous)
    blocks, capacity, device = triton.cdiv(len(roots), c.CLUSTER), max(budget, len(roots)), row.device
    given = torch.empty(blocks + len(tops), dtype=torch.int32, device=device)
    form = {"GAZED": gazed, "CLUSTER": c.CLUSTER, **LAUNCH}
    links = nodes.means, nodes.radii, nodes.errors, nodes.children, nodes.counts
    walked = roots, keys, tops, *links, row, state
    count_drawn_kernel[(len(given),)](*walked, given, len(roots), blocks, **form)
    ends = given.cumsum(0, dtype=torch.int32)
    ids = torch.full((capacity,), -1, dtype=torch.int32, device=device)
    exponents, errors = torch.ones(capacity, device=device), torch.zeros(capacity, device=device)
    write_drawn_kernel[(len(given),)](*walked, ends, ids, exponents, errors, len(roots), blocks, capacity, **form)
    return ids, exponents, errors, ends[-1].clamp(max=capacity), state[KEY.value].view(torch.float32)
