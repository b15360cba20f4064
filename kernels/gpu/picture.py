"""Where a blending program begins and ends, in Triton: its share of the lists, its pixels, what it stores.

FORM is that of shade.py: (STEPS, ROWS, PARITY, DEPTH, MEDIAN, CONTRIBUTION, PROFILED). A state is STEPS tensors of a
lane's pixels each of transmittance, red, green, blue, and of depth and median where FORM has them.
"""

import triton
import triton.language as tl


@triton.jit
def find_work(slot, macros, starts, owners, ends, CHUNK: tl.constexpr):
    """Macro tile of a program, its part of the list, whether that is all of it, and the number of its further chunk.

    The number is below 0 for the first chunk of a list. Slots that no list needs come out with `begin > end`.
    """
    if CHUNK:
        extra = slot - macros
        further = extra >= 0
        owner = tl.load(owners + extra, mask=further, other=0)
        used = (owner < macros) | (slot < macros)
        macro = tl.where(further, tl.minimum(owner, macros - 1), slot)
        before = tl.load(ends + macro - 1, mask=further & (macro > 0), other=0)
        chunk = tl.where(further, extra - before + 1, 0)
        start, stop = tl.load(starts + macro), tl.load(starts + macro + 1)
        begin = start + chunk * CHUNK
        end = tl.where(used, tl.minimum(begin + CHUNK, stop), -1)
        whole = (stop - start <= CHUNK) & (slot < macros)
        return macro, begin, end, whole, extra
    else:
        return slot, tl.load(starts + slot), tl.load(starts + slot + 1), slot >= 0, slot - macros


@triton.jit
def pixels(view, x, y, s, width, height, TILE_W: tl.constexpr):
    """Number of each lane's pixel of step s in the pictures of all views, and whether the picture has it."""
    x, y = x.to(tl.int32), y.to(tl.int32) + s * (32 // TILE_W)
    return (view * height + y).to(tl.int64) * width + x, (x < width) & (y < height)


@triton.jit
def open_pixels(
    view, x, y, width, height, mask, TILE_W: tl.constexpr, STEPS: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """Numbers of the pixels, and transmittances to begin with: 1, or 0 where picture or mask lack the pixel."""
    numbers, transmittance = (), ()
    for s in tl.static_range(STEPS):
        pixel, inside = pixels(view, x, y, s, width, height, TILE_W)
        if MASKED:
            inside = inside & (tl.load(mask + pixel, mask=inside, other=0) != 0)
        numbers += (pixel,)
        transmittance += (tl.where(inside, 1.0, 0.0),)
    return numbers, transmittance


@triton.jit
def store_picture(
    state, view, x, y, whole,
    background, mask,  # [views, 3] [views, h, w]
    rgb_out, alpha_out, depth_out, median_out,  # [views, h, w, 3] and [views, h, w]
    width, height,
    TILE_W: tl.constexpr, MASKED: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """The finished pixels; or, where the list goes on in further chunks, the bare sums and the signed transmittance."""
    STEPS: tl.constexpr = FORM[0]
    DEPTH: tl.constexpr = FORM[3]
    MEDIAN: tl.constexpr = FORM[4]
    color = background + view * 3
    share = tl.where(whole, 1.0, 0.0)
    b0, b1, b2 = tl.load(color) * share, tl.load(color + 1) * share, tl.load(color + 2) * share
    for s in tl.static_range(STEPS):
        pixel, inside = pixels(view, x, y, s, width, height, TILE_W)
        alpha = 1.0 - tl.abs(state[s])
        if MASKED:  # these have no transmittance and yet no alpha
            alpha = tl.where(tl.load(mask + pixel, mask=inside, other=0) != 0, alpha, 0.0)
        clear = 1.0 - alpha
        tl.store(rgb_out + 3 * pixel, state[STEPS + s] + clear * b0, mask=inside)
        tl.store(rgb_out + 3 * pixel + 1, state[2 * STEPS + s] + clear * b1, mask=inside)
        tl.store(rgb_out + 3 * pixel + 2, state[3 * STEPS + s] + clear * b2, mask=inside)
        tl.store(alpha_out + pixel, tl.where(whole, alpha, state[s]), mask=inside)
        if DEPTH:
            weight = tl.where(whole, tl.maximum(alpha, 1e-12), 1.0)
            tl.store(depth_out + pixel, state[4 * STEPS + s] / weight, mask=inside)
        if MEDIAN:
            tl.store(median_out + pixel, state[(4 + DEPTH) * STEPS + s], mask=inside)


@triton.jit
def store_partial(state, partial_out, place, FORM: tl.constexpr):
    """The state of a further chunk, blended as if nothing stood before it: [4 or 5, STEPS, 32] at `place`."""
    COUNT: tl.constexpr = (4 + FORM[3]) * FORM[0]
    target = partial_out + place.to(tl.int64) * (COUNT * 32) + tl.arange(0, 32)
    for s in tl.static_range(COUNT):
        tl.store(target + s * 32, state[s])
