"""How a splat of a level of detail covers its pixels: opacities above 1, and a share of the profile in a transition.

The formula is Lyra's own. A splat that stands for others has opacity o, which may exceed 1, and falloff
g = exp(-z^2 / 2) at Mahalanobis distance z. Its profile is that of m = max(o, 1) coincident copies,

    A = 1 - (1 - min(o, 1) g)^m,  not drawn where A < 1/255, held to 0.99,

and it is drawn with exponent e as alpha = 1 - (1 - A)^e: since what is let through multiplies, K coincident siblings
with e = 1/K come to exactly the A of one, at every distance; with e = 1 a splat is drawn whole. So

    alpha = 1 - max((1 - min(o, 1) g)^(m e), 0.01^e)  where  min(o, 1) g >= T(m) = 1 - (254/255)^(1/m).

Projection knows nothing of this: it gets the opacity o' = min(o, 1) / (255 T(m)), for which o' g >= 1/255 says the same
as A >= 1/255. Where it has found o' g, blending goes back by the factor 255 T(m).
"""

import math

import torch
from torch import Tensor

from .constants import ALPHA_MAX, ALPHA_MIN

PROFILE = 4  # floats a splat
COPIES_EXPONENT, LOG2_SHARE, FLOOR = range(3)  # m e, log2(255 T(m)), 0.01^e; the last is unused


def make_profiles(opacities: Tensor, exponents: Tensor, *, backend: str = "reference") -> tuple[Tensor, Tensor]:
    """What projection and blending take in place of opacities [..., n] and exponents [..., n] in (0, 1].

    Args:
        backend: `cpu` finds them in one pass, of float32 without gradients; all others by torch, where the tensors are.

    Returns:
        The opacities o' [..., n] and the profiles [..., n, 4], of the same float type. Of an opacity of 1 or less they
        are the opacity itself and, with exponent 1, the row (1, 0, 0.01, 0).
    """
    differentiated = torch.is_grad_enabled() and (opacities.requires_grad or exponents.requires_grad)
    if backend == "cpu" and not differentiated:
        from .cpu import profiles as on_cpu

        return on_cpu.make_profiles(opacities, exponents)
    copies = opacities.clamp(min=1.0)
    threshold = -torch.expm1(math.log1p(-ALPHA_MIN) / copies)
    share = torch.where(copies > 1, threshold / ALPHA_MIN, 1.0)  # exactly 1 of a single copy
    floor = torch.pow(1 - ALPHA_MAX, exponents)
    rows = (copies * exponents, share.log2(), floor, torch.zeros_like(floor))
    return opacities.clamp(max=1.0) / share, torch.stack(rows, dim=-1)
