"""Opacities and profiles of a level of detail on the CPU, in one pass: kernels/profile.py has the formula.

Nearly all splats are single or have arrived: what these need no exponentials for is not computed.
"""

import math

import numpy as np
import torch
from numba import get_num_threads, prange
from torch import Tensor

from ..constants import ALPHA_MAX, ALPHA_MIN
from ..profile import PROFILE
from .compiled import compiled
from .simd import element, put
from .threads import all_cores

f32 = np.float32
_ZERO, _ONE = f32(0), f32(1)
_MISSED = math.log1p(-ALPHA_MIN)  # logarithm of what one copy lets through where it is cut off
_LET_THROUGH = math.log(1 - ALPHA_MAX)
_FLOOR = f32(1 - ALPHA_MAX)


@compiled(parallel=True)
def _profiles(opacities, exponents, threads, opacities_out, profiles_out):
    n = len(opacities)
    for thread in prange(threads):
        for i in range(n * thread // threads, n * (thread + 1) // threads):
            opacity, exponent = element(opacities, i), element(exponents, i)
            copies, share, log2_share, floor = _ONE, _ONE, _ZERO, _FLOOR
            if opacity > _ONE:
                whole = -math.expm1(_MISSED / np.float64(opacity)) / ALPHA_MIN
                copies, share, log2_share = opacity, f32(whole), f32(math.log2(whole))
            if exponent != _ONE:
                floor = f32(math.exp(_LET_THROUGH * np.float64(exponent)))
            put(opacities_out, i, min(opacity, _ONE) / share)
            row = i * PROFILE
            put(profiles_out, row, copies * exponent)
            put(profiles_out, row + 1, log2_share)
            put(profiles_out, row + 2, floor)
            put(profiles_out, row + 3, _ZERO)


def make_profiles(opacities: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """As `profile.make_profiles`, of float32."""
    effective = torch.empty_like(opacities, memory_format=torch.contiguous_format)
    profiles = torch.empty(*opacities.shape, PROFILE)
    given, found = (opacities, exponents), (effective, profiles)
    arrays = [tensor.detach().contiguous().numpy().reshape(-1) for tensor in (*given, *found)]
    with all_cores():
        _profiles(*arrays[:2], get_num_threads(), *arrays[2:])
    return effective, profiles
