"""Highlights as real spherical harmonics, in the basis and signs of 3DGS.

A lobe exp(k (d . axis - 1)) (von Mises-Fisher, peak 1) is symmetric about its axis, so that by the Funk-Hecke theorem
its coefficients are lambda_l Y_lm(axis), with lambda_l = 2 pi int lobe(t) P_l(t) dt in closed form.
"""

import math

import numpy as np
import torch

from ....kernels.reference import sh_basis
from .shapes import Array


def lobe_bands(sharpness: float) -> Array:
    """lambda_0 .. lambda_3 of the lobe of that sharpness k, [4]; k is 0.5 or more (below, the recurrence cancels)."""
    first = 2 * math.pi * -math.expm1(-2 * sharpness) / sharpness
    second = (1 / math.tanh(sharpness) - 1 / sharpness) * first
    third = first - 3 / sharpness * second
    return np.array([first, second, third, second - 5 / sharpness * third])


def lobe_sh(axes: Array, sharpness: float, colors: Array, degree: int) -> Array:
    """Coefficients [n, (degree + 1)^2, 3] of lobes that peak with `colors` [n, 3] at unit directions `axes` [n, 3]."""
    count = (degree + 1) ** 2
    bands = np.repeat(lobe_bands(sharpness), (1, 3, 5, 7))[:count]
    basis = sh_basis(torch.from_numpy(axes), count).numpy()
    return (basis * bands)[:, :, None] * colors[:, None, :]
