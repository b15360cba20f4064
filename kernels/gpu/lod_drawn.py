"""What a cut draws, in Triton: expanded nodes give their children, and themselves while they fade.

Each program is about a cluster of parents, a lane about one of them, and walks its children. Keys, their largest `tops`
and the state are those of kernels/gpu/lod.py.
Constexpr: GAZED; CLUSTER, the lanes.
"""

import triton
import triton.language as tl

from .. import constants as c
from .lod_errors import node_error

LAST_KEY = tl.constexpr(2**31 - 1)
LARGEST = tl.constexpr(0x7F7FFFFF)  # the key of the largest finite error
FAINTEST = tl.constexpr(c.FAINTEST)

# What the launches of a cut hand on: of the search for the threshold, and of that for what fades. A node is expanded if
# its key is above the first KEY, or equal and LAST_KEY - index is above LAST, the complement of an index; while digits
# are looked for, those not yet known are 0.
STATE = tl.constexpr(4)
STATUS, KEY, LAST, ROOM = (tl.constexpr(i) for i in range(STATE))


@triton.jit
def _groups(
    roots, keys, tops, children, counts, key_cut, last, root_count, root_blocks,
    CLUSTER: tl.constexpr,
):  # fmt: skip
    """Of each lane: first node and number of siblings that its expanded node gives to the cut, and its view error.

    The first programs are about roots, each alone and below an error larger than any; the others about clusters.
    """
    block, lane = tl.program_id(0).to(tl.int64), tl.arange(0, CLUSTER)
    if block < root_blocks:
        mask = block * CLUSTER + lane < root_count
        first = tl.load(roots + block * CLUSTER + lane, mask=mask, other=0)
        count, key = mask.to(tl.int32), tl.full((CLUSTER,), LARGEST, tl.int32)
    else:
        i = (block - root_blocks) * CLUSTER + lane
        key = tl.load(keys + i, mask=tl.load(tops + i // CLUSTER) >= key_cut, other=0)
        mask = _is_expanded(i, key, key_cut, last)
        first, count = tl.load(children + i, mask=mask, other=0), tl.load(counts + i, mask=mask, other=0)
    return first, count, key.to(tl.float32, bitcast=True)


@triton.jit
def _is_expanded(i, key, key_cut, last):
    return (key > key_cut) | ((key == key_cut) & (-i + LAST_KEY > last))


@triton.jit
def _is_drawn(i, mask, keys, tops, key_cut, last, CLUSTER: tl.constexpr):
    """Whether children of expanded nodes are not expanded themselves."""
    read = mask & (tl.load(tops + i // CLUSTER, mask=mask, other=-1) >= key_cut)
    return mask & ~_is_expanded(i, tl.load(keys + i, mask=read, other=0), key_cut, last)


@triton.jit
def _arrivals(
    first, count, above, keys, tops, means, radii, errors, row, state,
    GAZED: tl.constexpr, CLUSTER: tl.constexpr,
):  # fmt: skip
    """t of each lane's group of children, as in `lod.cut`; 1 where it does not fade."""
    key_cut, last = tl.load(state + KEY), tl.load(state + LAST)
    threshold = key_cut.to(tl.float32, bitcast=True)
    fading = tl.load(state + STATE + KEY).to(tl.float32, bitcast=True)
    whole = (count > 1) & (above < fading)
    largest = tl.zeros_like(above)
    for k in range(tl.max(tl.where(whole, count, 0), axis=0)):
        mask = whole & (k < count)
        own = node_error(first + k, mask, means, radii, errors, row, GAZED)
        largest = tl.maximum(largest, tl.where(mask, own, 0.0))
        whole &= _is_drawn(first + k, mask, keys, tops, key_cut, last, CLUSTER) | (k >= count)
    start = tl.maximum(above * tl.minimum(threshold / fading, 1.0), largest)
    whole &= above > start
    t = (above - threshold) / tl.where(whole, above - start, 1.0)
    return tl.where(whole, tl.minimum(tl.maximum(t, FAINTEST), 1.0), 1.0)


@triton.jit
def count_drawn_kernel(
    roots, keys, tops, means, radii, errors, children, counts, row, state,
    # out:
    given_out,  # [root blocks + clusters] rows that each block of roots, or cluster of parents, gives to the cut
    root_count, root_blocks,
    GAZED: tl.constexpr, CLUSTER: tl.constexpr,
):  # fmt: skip
    key_cut, last = tl.load(state + KEY), tl.load(state + LAST)
    first, count, above = _groups(
        roots, keys, tops, children, counts, key_cut, last, root_count, root_blocks, CLUSTER
    )  # fmt: skip
    t = _arrivals(first, count, above, keys, tops, means, radii, errors, row, state, GAZED, CLUSTER)
    given = (t < 1.0).to(tl.int32)
    for k in range(tl.max(count, axis=0)):
        given += _is_drawn(first + k, k < count, keys, tops, key_cut, last, CLUSTER).to(tl.int32)
    tl.store(given_out + tl.program_id(0), tl.sum(given, axis=0))


@triton.jit
def write_drawn_kernel(
    roots, keys, tops, means, radii, errors, children, counts, row, state,
    ends,  # [root blocks + clusters] running total of what is given
    # out:
    ids_out, exponents_out, errors_out,  # [capacity]
    root_count, root_blocks, capacity,
    GAZED: tl.constexpr, CLUSTER: tl.constexpr,
):  # fmt: skip
    """The drawn nodes, in order; exponents as in `lod.cut`."""
    block = tl.program_id(0)
    begin = tl.load(ends + block - 1, mask=block > 0, other=0)
    if tl.load(ends + block) == begin:
        return
    key_cut, last = tl.load(state + KEY), tl.load(state + LAST)
    first, count, above = _groups(
        roots, keys, tops, children, counts, key_cut, last, root_count, root_blocks, CLUSTER
    )  # fmt: skip
    t = _arrivals(first, count, above, keys, tops, means, radii, errors, row, state, GAZED, CLUSTER)
    most, fades = tl.max(count, axis=0), t < 1.0
    given = fades.to(tl.int32)
    for k in range(most):
        given += _is_drawn(first + k, k < count, keys, tops, key_cut, last, CLUSTER).to(tl.int32)
    place = begin + tl.cumsum(given, axis=0) - given
    for k in range(most):
        i = first + k
        mask = _is_drawn(i, k < count, keys, tops, key_cut, last, CLUSTER)
        own = node_error(i, mask, means, radii, errors, row, GAZED)
        fits = mask & (place < capacity)  # a hierarchy that breaks the rules may give too many
        tl.store(ids_out + place, i, mask=fits)
        tl.store(errors_out + place, own, mask=fits)
        tl.store(exponents_out + place, t, mask=fits)
        place += mask.to(tl.int32)
    fits = fades & (place < capacity)
    tl.store(ids_out + place, (block - root_blocks) * CLUSTER + tl.arange(0, CLUSTER), mask=fits)
    tl.store(errors_out + place, above, mask=fits)
    tl.store(exponents_out + place, 1.0 - t, mask=fits)
