"""One splat over the pixels of a tile, in Triton, float32.

A lane owns a column of STEPS pixels, ROWS apart; what depends on the splat alone is computed once. A splat is three
16-byte loads from its 48-byte record, and one from its profile (kernels/profile.py) where it has one. FORM says how:
(STEPS, ROWS, PARITY, DEPTH, MEDIAN, CONTRIBUTION, PROFILED), see blend.py.
"""

import triton
import triton.language as tl

from .compiled import COMPILED
from .constants import ALPHA_MAX, LOG2_ALPHA_MIN, PROFILE, STOP
from .scan import is_open, load_four

CONTRIBUTION_STEP = 2.0**-20

PAUSE = tl.constexpr(8)  # splats between two looks at the transmittance
STEPS_A_UNIT = tl.constexpr(1.0 / CONTRIBUTION_STEP)
ALMOST_ALL = tl.constexpr(-1e-6)  # log2 of the most that a copy covers, so that what it lets through has a logarithm


@triton.jit
def _pass(weight, after, transmittance, PARITY: tl.constexpr):
    """Weight of a splat and transmittance behind it; in parity the one that stops a pixel is left out, and marks it."""
    if PARITY:
        stays = after > STOP
        weight = tl.where(stays, weight, 0.0)
        after = tl.where(stays, after, -tl.abs(transmittance))
    return weight, after


@triton.jit
def weigh(u, v, log2_opacity, transmittance, PARITY: tl.constexpr):
    """Weight of a splat at offsets in units of its falloff, and the transmittance behind it."""
    power = (log2_opacity - v * v) - u * u
    alpha = tl.exp2(power)
    if PARITY:
        alpha = tl.minimum(alpha, ALPHA_MAX)
    alpha = tl.where(power >= LOG2_ALPHA_MIN, alpha, 0.0)
    weight = alpha * transmittance
    after = transmittance - weight
    return _pass(weight, after, transmittance, PARITY)


@triton.jit
def _log2(x):
    """Of a normal number, to 2^-22, one instruction; the interpreter knows no assembly."""
    if COMPILED:
        return tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)
    else:
        return tl.log2(x)


@triton.jit
def profile_of(profiles, i, log2_opacity):
    """What `weigh_profiled` takes of a splat: log2 of what one copy covers and the least that counts, exponent, floor.

    The exponent is a quarter of the profile's, for the logarithm of a fourth power.
    """
    exponent, log2_share, floor, _ = load_four(profiles + tl.multiple_of(i.to(tl.int64) * PROFILE, 4))
    return tl.minimum(log2_opacity + log2_share, ALMOST_ALL), LOG2_ALPHA_MIN + log2_share, 0.25 * exponent, floor


@triton.jit
def weigh_profiled(u, v, profile, transmittance, PARITY: tl.constexpr):
    """As `weigh`, by a profile, which both forms hold to its floor: with a small exponent that is far from opaque.

    The logarithm is off by 2^-22, which a thousand copies would show; of a fourth power it counts a quarter.
    """
    log2_most, log2_least, exponent, floor = profile
    power = (log2_most - v * v) - u * u
    lets = 1.0 - tl.exp2(power)
    lets = lets * lets
    lets = tl.maximum(tl.exp2(_log2(lets * lets) * exponent), floor)
    after = tl.where(power >= log2_least, transmittance * lets, transmittance)
    weight = transmittance - after
    return _pass(weight, after, transmittance, PARITY)


@triton.jit
def weigh_steps(state, x, y, record, profiles, i, FORM: tl.constexpr, PROFILED: tl.constexpr):
    """Weights of a splat at a lane's pixels, the transmittances behind it, and the two floats after its opacity."""
    STEPS: tl.constexpr = FORM[0]
    ROWS: tl.constexpr = FORM[1]
    PARITY: tl.constexpr = FORM[2]
    mean_x, mean_y, l0, l1 = load_four(record)
    l2, log2_opacity, first, second = load_four(record + 4)
    if PROFILED:
        covers = profile_of(profiles, i, log2_opacity)
    else:
        covers = log2_opacity
    dy = y - mean_y
    u, v = l0 * (x - mean_x) + l1 * dy, l2 * dy
    weights, transmittance = (), ()
    for s in tl.static_range(STEPS):
        if s == 0:
            us, vs = u, v
        else:
            us, vs = u + l1 * (s * ROWS), v + l2 * (s * ROWS)
        if PROFILED:
            weight, after = weigh_profiled(us, vs, covers, state[s], PARITY)
        else:
            weight, after = weigh(us, vs, covers, state[s], PARITY)
        weights += (weight,)
        transmittance += (after,)
    return weights, transmittance, first, second


@triton.jit
def shade(state, given, record, i, FORM: tl.constexpr):
    """One splat over the pixels of a tile: see `scan`. The state is STEPS tensors of each quantity."""
    STEPS: tl.constexpr = FORM[0]
    DEPTH: tl.constexpr = FORM[3]
    MEDIAN: tl.constexpr = FORM[4]
    CONTRIBUTION: tl.constexpr = FORM[5]
    x, y, contribution_out, profiles, before = given
    weights, transmittance, r, g = weigh_steps(state, x, y, record, profiles, i - before, FORM, FORM[6])
    b, z, _, _ = load_four(record + 8)
    red, green, blue, depth, median = (), (), (), (), ()
    given_here = tl.zeros((32,), tl.float32)
    for s in tl.static_range(STEPS):
        red += (state[STEPS + s] + weights[s] * r,)
        green += (state[2 * STEPS + s] + weights[s] * g,)
        blue += (state[3 * STEPS + s] + weights[s] * b,)
        if DEPTH:
            depth += (state[4 * STEPS + s] + weights[s] * z,)
        if MEDIAN:
            falls = (state[s] > 0.5) & (transmittance[s] <= 0.5)
            median += (tl.where(falls, z, state[(4 + DEPTH) * STEPS + s]),)
        if CONTRIBUTION:
            given_here += weights[s]
    if CONTRIBUTION:
        total = tl.sum(given_here, axis=0)
        steps = (total * STEPS_A_UNIT + 0.5).to(tl.int64)
        tl.atomic_add(contribution_out + i, steps, mask=steps > 0, sem="relaxed")
    return transmittance + red + green + blue + depth + median


@triton.jit
def settle(state, FORM: tl.constexpr):
    """The state as it is, and whether a pixel is open."""
    return state, is_open(state, FORM[0], FORM[2])
