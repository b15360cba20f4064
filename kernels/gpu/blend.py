"""Blend each tile's splats front to back, in Triton: one program, one warp, a fine tile of a picture.

Which splats: scan.py. One splat: shade.py, and blend_half.py for float16. Bytes moved: 4 of mask an entry of the
macro tile's list, 52 a splat that reaches the tile, mostly from caches, and the pixels. Constexpr switches:

PARITY  alpha is clamped to 0.99, and a pixel stops before the splat that would bring its transmittance to 1e-4. It is
        then kept negative, which makes every later weight 0. Otherwise (fast) the splat that stops a pixel counts,
        alpha may reach 1, and the tile is left once no pixel is above 1e-4.
DEPTH, MEDIAN  expected and median depth, one and some three instructions more a splat and pixel.
CONTRIBUTION  what each splat gave, in steps of 2^-20, by integer atomics: any order of additions gives the same sum.
MASKED  pixels that are not wanted start with nothing left, and tiles that have no other cost nothing.
PROFILED  splats have the profiles of a level of detail, kernels/profile.py, held to 0.99 in either form: 16 bytes more
        a splat, a logarithm and a second exponential a pixel.
CHUNK   0, or the most entries of a list that one program walks: see composite.py.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..options import Options
from .bin import TILE, Lists, macro_grid
from .blend_half import PAUSE_HALF, WORDS, depth_unit, in_world_units, pack_half, pairs_of_rows, settle_half, shade_half
from .composite import CHUNK, COMPOSITE_LAUNCH, composite_kernel, plan_chunks
from .constants import RECORD
from .picture import find_work, open_pixels, store_partial, store_picture
from .scan import LAUNCH, fine_tiles, is_open, is_outside, locate, scan
from .shade import CONTRIBUTION_STEP, PAUSE, settle, shade


class Blended(NamedTuple):
    """Pictures of all views, float32; None where the options do not ask."""

    rgb: Tensor  # [v, h, w, 3] background included
    alpha: Tensor  # [v, h, w]
    depth: Tensor | None  # [v, h, w] mean of the splats' depths by weight, 0 where alpha is 0
    median: Tensor | None  # [v, h, w] depth at which the transmittance falls to a half, 0 where it never does
    contribution: Tensor | None  # [v, n] weight of each splat, summed over the pixels
    taken: Tensor  # [programs] int32, splats that each program has blended over its tile


@triton.jit
def blend_kernel(
    records, packed, ids, masks, starts, order, emitted, visible,  # [views, n, 12 and 8] and the fields of Lists
    profiles,  # [n, 4]
    owners, ends,  # of chunks
    background, mask,  # [views, 3] [views, h, w]
    # out:
    rgb_out, alpha_out, depth_out, median_out, contribution_out, taken_out, partial_out,
    n, width, height, columns, per_view, macros, eyes,
    TILE_W: tl.constexpr, TILE_H: tl.constexpr, PARITY: tl.constexpr, HALF: tl.constexpr, DEPTH: tl.constexpr,
    MEDIAN: tl.constexpr, CONTRIBUTION: tl.constexpr, MASKED: tl.constexpr, PROFILED: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    ROWS: tl.constexpr = 32 // TILE_W  # of pixels that the warp covers at once
    STEPS: tl.constexpr = TILE_H // ROWS
    FINE: tl.constexpr = 2048 // (TILE_W * TILE_H)
    FORM: tl.constexpr = (  # pyright: ignore[reportAssignmentType]
        STEPS, ROWS, PARITY, DEPTH, MEDIAN, CONTRIBUTION, PROFILED
    )  # fmt: skip
    program = tl.program_id(0)
    fine = program % FINE
    macro, begin, end, whole, extra = find_work(program // FINE, macros, starts, owners, ends, CHUNK)
    view, x, y = locate(macro, fine, per_view, columns, TILE_W, TILE_H)
    if is_outside(x, y, width, height) | (begin > end):
        tl.store(taken_out + program, 0)
        return
    _, state = open_pixels(view, x, y, width, height, mask, TILE_W, STEPS, MASKED)
    goes_on = is_open(state, STEPS, PARITY)
    state += (tl.zeros((32,), tl.float32),) * ((3 + DEPTH + MEDIAN) * STEPS)
    if HALF:
        state += (tl.zeros((2, 32), tl.float16),) * ((4 + DEPTH) * STEPS // 2)
        unit = depth_unit(packed, ids, begin, end)
        state, taken = scan(
            shade_half, settle_half, state, (x, y, pairs_of_rows(TILE_W), 1.0 / unit), goes_on, records, packed,
            ids, masks, begin, end, order, emitted, visible, whole, view, eyes, n, fine,
            TILE_W, TILE_H, WORDS, PAUSE_HALF, FORM,
        )  # fmt: skip
        state, _ = settle_half(state, FORM)
        state = in_world_units(state, unit, FORM)
    else:
        state, taken = scan(
            shade, settle, state, (x, y, contribution_out, profiles, view * n), goes_on, records, records,
            ids, masks, begin, end, order, emitted, visible, whole, view, eyes, n, fine,
            TILE_W, TILE_H, RECORD, PAUSE, FORM,
        )  # fmt: skip
    tl.store(taken_out + program, taken)
    if extra < 0:
        store_picture(
            state, view, x, y, whole, background, mask, rgb_out, alpha_out, depth_out, median_out, width, height,
            TILE_W, MASKED, FORM,
        )  # fmt: skip
    elif CHUNK:
        store_partial(state, partial_out, extra * FINE + fine, FORM)


def blend(
    # scene:
    records: Tensor,  # [v, n, 12] float32
    lists: Lists,
    # camera:
    width: int,
    height: int,
    *,
    background: Tensor,  # [v, 3] float32
    options: Options,
    profiles: Tensor | None = None,  # [n, 4] float32
    mask: Tensor | None = None,  # [v, h, w] bool: where False, nothing is drawn
    tile: tuple[int, int] = TILE,
    eyes: int = 1,
    chunk: int = CHUNK,
) -> Blended:
    """Blend every view's splats in the order of its lists.

    Median depth and contributions need float32 and whole lists: with them `half` blends as `fast`, and no list is
    shared out. Otherwise a list longer than `chunk` entries is (0: none is), which at the default costs up to 20 bytes
    an entry of all lists, 16 without depth, and changes colours by rounding only. Profiles need float32 too: what one
    of many copies lets through is too near to 1 for float16.

    Raises:
        ValueError: there is no such tile.
    """
    views, n, device = records.shape[0], records.shape[1], records.device
    fine, (columns, rows) = fine_tiles(tile), macro_grid(width, height)
    per_view = columns * rows
    macros = views * per_view
    whole = options.median or options.contribution
    half = options.precision == "half" and not whole and profiles is None
    chunks = plan_chunks(lists, 0 if whole else chunk)

    def picture(*channels: int) -> Tensor:
        return torch.empty(views, height, width, *channels, dtype=torch.float32, device=device)

    rgb, alpha = picture(3), picture()
    depth, median = (picture() if wanted else None for wanted in (options.depth, options.median))
    steps = torch.zeros(views, n, dtype=torch.int64, device=device) if options.contribution else None
    further = chunks.further * fine
    taken = torch.empty(macros * fine + 2 * further, dtype=torch.int32, device=device)
    sums = 4 + int(options.depth)
    partial = torch.empty(further, sums, tile[0] * tile[1], dtype=torch.float32, device=device) if further else rgb
    lists_of = (lists.ids, lists.masks, lists.starts, lists.order, lists.emitted, lists.visible)
    shown = rgb if mask is None else mask.contiguous().view(torch.uint8)
    seen = (chunks.owners, chunks.ends, background.contiguous(), shown)
    rows = records if profiles is None else profiles
    outputs = (rgb, alpha, alpha if depth is None else depth)
    sizes = (n, width, height, columns, per_view, macros, eyes)
    switches = {
        **{"TILE_W": tile[0], "TILE_H": tile[1], "PARITY": options.precision == "parity", "DEPTH": options.depth},
        **{"MASKED": mask is not None, "PROFILED": profiles is not None, "CHUNK": chunks.size},
    }
    blend_kernel[(macros * fine + further,)](
        records, pack_half(records, lists, eyes) if half else records, *lists_of, rows, *seen, *outputs,
        alpha if median is None else median, lists.starts if steps is None else steps, taken, partial, *sizes,
        HALF=half, MEDIAN=options.median, CONTRIBUTION=options.contribution, **switches, **LAUNCH,
    )  # fmt: skip
    if further:
        composite_kernel[(further,)](
            records, *lists_of, rows, *seen, partial, *outputs, taken[macros * fine + further :], *sizes,
            **switches, **COMPOSITE_LAUNCH,
        )  # fmt: skip
    contribution = None if steps is None else steps * CONTRIBUTION_STEP
    return Blended(rgb, alpha, depth, median, contribution, taken)
