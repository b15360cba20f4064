"""Blend any number of channels a splat, in Triton: one program, one warp, a fine tile and CHANNELS of them.

Every pass over the channels finds alpha and transmittance anew, from 32 of a record's 48 bytes, so that nothing is
kept a splat and pixel. Bytes moved: as blend.py and 4 a channel. Constexpr: CHANNELS, 8 or 16 a pass; ALIGNED, whether
16-byte loads fit the rows of features; PARITY, MASKED and PROFILED, as in blend.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import Options
from .bin import TILE, Lists, macro_grid
from .constants import RECORD
from .picture import open_pixels, pixels
from .scan import LAUNCH, fine_tiles, is_open, is_outside, load_four, locate, scan
from .shade import PAUSE, settle, weigh_steps


@triton.jit
def _load_channels(features, row, first, count, ALIGNED: tl.constexpr):
    """Four channels of a row from `first` on as scalars, 0 beyond the last."""
    place = row * count + first
    if ALIGNED:  # all four or none
        place, within = tl.multiple_of(place, 4), first + tl.zeros((4,), tl.int32) < count
    else:
        within = first + tl.arange(0, 4) < count
    return load_four(features + place, within)


@triton.jit
def shade_features(state, given, record, i, FORM: tl.constexpr):
    """One splat over the pixels of a tile: STEPS tensors of transmittance, then STEPS a channel."""
    STEPS: tl.constexpr = FORM[0]
    CHANNELS: tl.constexpr = FORM[3]
    x, y, features, before, first, count, profiles, earlier = given
    weights, transmittance, _, _ = weigh_steps(state, x, y, record, profiles, i - earlier, FORM, FORM[5])
    sums = ()
    for q in tl.static_range(CHANNELS // 4):
        values = _load_channels(features, i - before, first + 4 * q, count, FORM[4])
        for j in tl.static_range(4):
            for s in tl.static_range(STEPS):
                sums += (state[(1 + 4 * q + j) * STEPS + s] + weights[s] * values[j],)
    return transmittance + sums


@triton.jit
def features_kernel(
    records, ids, masks, starts, order, emitted, visible,  # [views, n, 12] and the fields of Lists
    profiles,  # [n, 4]
    features, mask,  # [n or views * n, count] [views, h, w]
    # out:
    features_out,  # [views, h, w, count]
    n, width, height, columns, per_view, eyes, count, per_scene,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, PARITY: tl.constexpr, MASKED: tl.constexpr, CHANNELS: tl.constexpr,
    ALIGNED: tl.constexpr, PROFILED: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = 32 // TILE_W
    STEPS: tl.constexpr = TILE_H // ROWS
    FINE: tl.constexpr = 2048 // (TILE_W * TILE_H)
    FORM: tl.constexpr = (STEPS, ROWS, PARITY, CHANNELS, ALIGNED, PROFILED)  # pyright: ignore[reportAssignmentType]
    program = tl.program_id(0)
    macro, fine, first = program // FINE, program % FINE, tl.program_id(1) * CHANNELS
    view, x, y = locate(macro, fine, per_view, columns, TILE_W, TILE_H)
    if is_outside(x, y, width, height):
        return
    _, state = open_pixels(view, x, y, width, height, mask, TILE_W, STEPS, MASKED)
    goes_on = is_open(state, STEPS, PARITY)
    state += (tl.zeros((32,), tl.float32),) * (CHANNELS * STEPS)
    before = (view * per_scene * n).to(tl.int64)  # rows that records have and features lack, when all views share them
    state, _ = scan(
        shade_features, settle, state, (x, y, features, before, first, count, profiles, view * n), goes_on,
        records, records, ids, masks,
        tl.load(starts + macro), tl.load(starts + macro + 1), order, emitted, visible, fine >= 0, view, eyes, n, fine,
        TILE_W, TILE_H, RECORD, PAUSE, FORM,
    )  # fmt: skip
    for s in tl.static_range(STEPS):
        pixel, inside = pixels(view, x, y, s, width, height, TILE_W)
        for j in tl.static_range(CHANNELS):
            within = inside & (first + tl.full((32,), j, tl.int32) < count)
            tl.store(features_out + pixel * count + first + j, state[(1 + j) * STEPS + s], mask=within)


def features(
    # scene:
    records: Tensor,  # [v, n, 12] float32
    features: Tensor,  # [n, channels] or [v, n, channels] float32
    lists: Lists,
    # camera:
    width: int,
    height: int,
    *,
    options: Options,
    profiles: Tensor | None = None,  # [n, 4] float32
    mask: Tensor | None = None,  # [v, h, w] bool: where False, nothing is drawn
    tile: tuple[int, int] = TILE,
    eyes: int = 1,
) -> Tensor:
    """Sums of the splats' features by their weights in every view, [v, h, w, channels]; of `half`, the `fast` weights.

    Raises:
        ValueError: there is no such tile.
    """
    views, n, count = records.shape[0], records.shape[1], features.shape[-1]
    fine, (columns, rows) = fine_tiles(tile), macro_grid(width, height)
    per_view = columns * rows
    blended = torch.empty(views, height, width, count, dtype=torch.float32, device=records.device)
    channels = 8 if count <= 8 or tile == (16, 16) else 16  # as many sums as a thread has registers for
    features_kernel[(views * per_view * fine, triton.cdiv(count, channels))](
        records, lists.ids, lists.masks, lists.starts, lists.order, lists.emitted, lists.visible,
        records if profiles is None else profiles, features.contiguous(),
        blended if mask is None else mask.contiguous().view(torch.uint8), blended,
        n, width, height, columns, per_view, eyes, count, int(features.dim() == 2),
        TILE_W=tile[0], TILE_H=tile[1], PARITY=options.precision == "parity", MASKED=mask is not None,
        CHANNELS=channels, ALIGNED=count % 4 == 0, PROFILED=profiles is not None, **LAUNCH,
    )  # fmt: skip
    return blended
