"""Long lists shared out among programs, and put together again, in Triton.

A list of more than CHUNK entries is cut into chunks. The program of the first writes its sums into the pictures, each
further one into a buffer of partial sums, blended as if nothing stood before it: 20 bytes a pixel of the macro tile
(16 without depth). All lists together have at most entries // CHUNK further chunks, which bounds the buffer and the
grid without asking the GPU.

`composite_kernel`, one program a fine tile, goes through the chunks in order: colours are scaled by the transmittance
before them. In the parity form, pixels that would stop within a chunk walk it again from the transmittance they really
have, and the others do not; so a pixel takes the very same splats as without chunks. The program also takes the splats
that found no room in the list.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bin import Lists
from .constants import RECORD, STOP
from .picture import pixels, store_picture
from .scan import LAUNCH, is_open, is_outside, locate, scan
from .shade import PAUSE, settle, shade

CHUNK = 2048  # entries of a list; a fifth to a third of them reach a fine tile

COMPOSITE_LAUNCH = {**LAUNCH, "maxnreg": 200}  # two states at once, in few programs


class Chunks(NamedTuple):
    """Which macro tile's list each further chunk is of."""

    size: int  # entries of a chunk; 0: no list can be longer than one
    further: int  # chunks, at most
    owners: Tensor  # [further] int32 macro tile, or the number of macro tiles where no chunk is left
    ends: Tensor  # [macro tiles] int64 running total of further chunks


def plan_chunks(lists: Lists, size: int) -> Chunks:
    """Cut lists into chunks of `size` entries, without waiting for the GPU; size 0: leave them whole."""
    count = len(lists.ids) // size if size else 0
    if count == 0:
        return Chunks(0, 0, lists.ids, lists.starts)
    further = (lists.starts.diff() - 1).clamp_(min=0) // size
    ends = further.cumsum(0)
    numbers = torch.arange(count, device=ends.device)
    return Chunks(size, count, torch.searchsorted(ends, numbers, right=True, out_int32=True), ends)


@triton.jit
def _load_sums(
    rgb, alpha, depth, view, x, y, width, height, TILE_W: tl.constexpr, FORM: tl.constexpr
):  # fmt: skip
    """The state that the first chunk's program has left in the pictures; 0 where there is no pixel."""
    STEPS: tl.constexpr = FORM[0]
    DEPTH: tl.constexpr = FORM[3]
    left_over, red, green, blue, deep = (), (), (), (), ()
    for s in tl.static_range(STEPS):
        pixel, inside = pixels(view, x, y, s, width, height, TILE_W)
        left_over += (tl.load(alpha + pixel, mask=inside, other=0.0),)
        red += (tl.load(rgb + 3 * pixel, mask=inside, other=0.0),)
        green += (tl.load(rgb + 3 * pixel + 1, mask=inside, other=0.0),)
        blue += (tl.load(rgb + 3 * pixel + 2, mask=inside, other=0.0),)
        if DEPTH:
            deep += (tl.load(depth + pixel, mask=inside, other=0.0),)
    return left_over + red + green + blue + deep


@triton.jit
def composite_kernel(
    records, ids, masks, starts, order, emitted, visible,  # [views, n, 12] and the fields of Lists
    profiles,  # [n, 4]
    owners, ends,  # of chunks
    background, mask, partial,  # [views, 3] [views, h, w] and the sums of the further chunks
    # out:
    rgb_out, alpha_out, depth_out, taken_out,  # the first three hold the sums of the first chunks
    n, width, height, columns, per_view, macros, eyes,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, PARITY: tl.constexpr, DEPTH: tl.constexpr, MASKED: tl.constexpr,
    PROFILED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = 32 // TILE_W
    STEPS: tl.constexpr = TILE_H // ROWS
    FINE: tl.constexpr = 2048 // (TILE_W * TILE_H)
    FORM: tl.constexpr = (STEPS, ROWS, PARITY, DEPTH, 0, 0, PROFILED)  # pyright: ignore[reportAssignmentType]
    program = tl.program_id(0)
    slot, fine = program // FINE, program % FINE
    macro = tl.load(owners + slot)
    ours = (macro < macros) & (tl.load(owners + slot - 1, mask=slot > 0, other=-1) != macro)
    macro = tl.minimum(macro, macros - 1)
    view, x, y = locate(macro, fine, per_view, columns, TILE_W, TILE_H)
    if is_outside(x, y, width, height) | (not ours):
        tl.store(taken_out + program, 0)
        return
    start, stop = tl.load(starts + macro), tl.load(starts + macro + 1)
    state = _load_sums(rgb_out, alpha_out, depth_out, view, x, y, width, height, TILE_W, FORM)
    taken = 0
    begin = start + CHUNK
    goes_on = is_open(state, STEPS, PARITY)
    listed = goes_on
    while goes_on & listed:
        listed = begin < stop  # in the last round there is no chunk, only what found no room in the list
        present = begin + tl.zeros((32,), tl.int64) < stop  # the same for every lane; the interpreter needs it so
        sums = partial + (slot * FINE + fine).to(tl.int64) * ((4 + DEPTH) * STEPS * 32) + tl.arange(0, 32)
        walking, aside, colors = (), (), ()
        for s in tl.static_range(STEPS):
            lets = tl.load(sums + s * 32, mask=present, other=1.0)
            joins = present & (state[s] > 0.0)
            if PARITY:
                joins = joins & (lets > 0.0) & (state[s] * lets > STOP)
            walking += (tl.where(joins, 0.0, tl.maximum(state[s], 0.0)),)
            aside += (tl.where(joins, state[s] * lets, tl.minimum(state[s], 0.0)),)  # of those that do not walk
        for j in tl.static_range(STEPS, (4 + DEPTH) * STEPS):
            joining = tl.maximum(state[j % STEPS], 0.0) - walking[j % STEPS]  # transmittance, or 0
            colors += (state[j] + joining * tl.load(sums + j * 32, mask=present, other=0.0),)
        state, count = scan(
            shade, settle, walking + colors, (x, y, taken_out, profiles, view * n), is_open(walking, STEPS, PARITY),
            records, records, ids, masks, begin, tl.minimum(begin + CHUNK, stop), order, emitted, visible,
            begin >= stop, view, eyes, n, fine, TILE_W, TILE_H, RECORD, PAUSE, FORM,
        )  # fmt: skip
        transmittance, colors = (), ()
        for s in tl.static_range(STEPS):
            transmittance += (tl.where(aside[s] != 0.0, aside[s], state[s]),)
        for j in tl.static_range(STEPS, (4 + DEPTH) * STEPS):
            colors += (state[j],)
        state = transmittance + colors
        goes_on = is_open(state, STEPS, PARITY)
        taken += count
        begin += CHUNK
        slot += 1
    tl.store(taken_out + program, taken)
    store_picture(
        state, view, x, y, ours, background, mask, rgb_out, alpha_out, depth_out, depth_out, width, height,
        TILE_W, MASKED, FORM,
    )  # fmt: skip
