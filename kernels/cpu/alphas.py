"""Alpha at eight pixels from a splat's power there, on the CPU: plain, or by a profile (kernels/profile.py).

A profile takes an exponential over a wider range, a logarithm and another exponential. The logarithm is a ratio of
polynomials: its division runs beside their multiplications, and it is exact to first order where little is covered.
"""

import numpy as np

from .. import constants as c
from .. import profile as p
from .chunk import BLOCK, ENTRY
from .compiled import compiled
from .simd import LANES, element, load, put, splat, store, where

f32 = np.float32
# exp2(p) for p in -8..0 as a polynomial for exp2(p / 32), squared five times: relative error 1e-5.
_FIT = np.polynomial.chebyshev.Chebyshev.interpolate(lambda p: np.exp2(p / 32), 3, domain=[-8, 0])
_E0, _E1, _E2, _E3 = (f32(value) for value in _FIT.convert(kind=np.polynomial.Polynomial).coef)
# For p in -19..0, what a copy of a thousand covers at its edge, by exp2(p / 32) too: 7e-6.
_FIT = np.polynomial.chebyshev.Chebyshev.interpolate(lambda p: np.exp2(p / 32), 4, domain=[-19, 0])
_W0, _W1, _W2, _W3, _W4 = (f32(value) for value in _FIT.convert(kind=np.polynomial.Polynomial).coef)
# For p in -8..0 by exp2(p / 8), exact at 0, so that 1 less the result is right where it is small.
_FIT = np.polynomial.chebyshev.Chebyshev.interpolate(lambda p: np.expm1(p / 8 * np.log(2)) / p, 4, domain=[-8, 0])
_P1, _P2, _P3, _P4, _P5 = (f32(value) for value in _FIT.convert(kind=np.polynomial.Polynomial).coef)
# log2(y) / (y - 1) for y in 0.01..1, minimax in relative error: 6e-5. Below, down to 0, it stays finite.
_N0, _N1, _N2, _N3 = f32(0.003000089), f32(0.35867411), f32(3.89248085), f32(3.96515441)
_D0, _D1, _D2, _D3 = f32(0.00030268970), f32(0.061185937), f32(1.22158682), f32(3.41445589)  # and 1

_ZERO, _ONE, _FARTHEST = f32(0), f32(1), f32(-8)
_ALPHA_MAX, _LOG2_ALPHA_MIN = f32(c.ALPHA_MAX), f32(c.LOG2_ALPHA_MIN)

_PROFILE = c.RECORD  # where in an entry of a chunk's table


@compiled(inline=True)
def plain_alpha(power):
    """2^power, held to 0.99; 0 below 1/255."""
    e = splat(_E0) + power * (splat(_E1) + power * (splat(_E2) + power * splat(_E3)))
    for _ in range(5):
        e = e * e
    return where(power >= splat(_LOG2_ALPHA_MIN), min(e, splat(_ALPHA_MAX)), splat(_ZERO))


@compiled(inline=True)
def _profiled_alpha(power, exponent, log2_share, floor):
    """1 - max((1 - share 2^power)^exponent, floor); 0 where 2^power is below 1/255."""
    wide = power + log2_share
    x = splat(_W0) + wide * (splat(_W1) + wide * (splat(_W2) + wide * (splat(_W3) + wide * splat(_W4))))
    for _ in range(5):
        x = x * x
    y = splat(_ONE) - x
    above = splat(_N0) + y * (splat(_N1) + y * (splat(_N2) + y * splat(_N3)))
    below = splat(_D0) + y * (splat(_D1) + y * (splat(_D2) + y * (splat(_D3) + y)))
    log2 = max(x * exponent * (above / below), splat(_FARTHEST))
    e = splat(_P2) + log2 * (splat(_P3) + log2 * (splat(_P4) + log2 * splat(_P5)))
    e = splat(_ONE) + log2 * (splat(_P1) + log2 * e)
    e = e * e
    e = e * e
    e = e * e
    alpha = splat(_ONE) - max(e, floor)
    return where(power >= splat(_LOG2_ALPHA_MIN), alpha, splat(_ZERO))


@compiled()
def enter_profiles(profiles, ids, start, count, table_out):
    """Put the profiles, a flat array, of `count` splats of the list from `start` behind their records in the table."""
    for k in range(count):
        i, at = np.int64(element(ids, start + k)) * p.PROFILE, k * ENTRY + _PROFILE
        put(table_out, at + p.COPIES_EXPONENT, element(profiles, i + p.COPIES_EXPONENT))
        put(table_out, at + p.LOG2_SHARE, element(profiles, i + p.LOG2_SHARE))
        put(table_out, at + p.FLOOR, element(profiles, i + p.FLOOR))


@compiled()
def profiled_alphas(table, entries, count, alphas):
    """Make alphas of powers [count, BLOCK], in place, by the profiles in the table; whole plain splats stay cheap."""
    for k in range(count):
        at, left = element(entries, k) + _PROFILE, k * BLOCK
        exponent, log2_share = element(table, at + p.COPIES_EXPONENT), element(table, at + p.LOG2_SHARE)
        power0, power1 = load(alphas, left), load(alphas, left + LANES)
        if exponent == _ONE and log2_share == _ZERO:
            store(alphas, left, plain_alpha(power0))
            store(alphas, left + LANES, plain_alpha(power1))
        else:
            floor, share, times = splat(element(table, at + p.FLOOR)), splat(log2_share), splat(-exponent)
            store(alphas, left, _profiled_alpha(power0, times, share, floor))
            store(alphas, left + LANES, _profiled_alpha(power1, times, share, floor))
