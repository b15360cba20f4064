"""Spherical harmonics up to degree 4, one more than Lyra's scenes have."""

import math

import torch
from torch import Tensor

from .. import reference


def sh_basis(directions: Tensor, count: int) -> Tensor:
    """As `reference.sh_basis`, [..., count] at unit directions [..., 3]; count may be 25 too."""
    basis = reference.sh_basis(directions, min(count, 16))
    if count <= 16:
        return basis
    x, y, z = torch.unbind(directions, dim=-1)
    xx, yy, zz = x * x, y * y, z * z
    a, b, c, d = (math.sqrt(square / math.pi) for square in (315 / 16, 315 / 32, 45 / 16, 45 / 32))
    fourth = (
        a * x * y * (xx - yy),
        -b * y * z * (3 * xx - yy),
        c * x * y * (7 * zz - 1),
        -d * y * z * (7 * zz - 3),
        3 / 16 / math.sqrt(math.pi) * (zz * (35 * zz - 30) + 3),
        -d * x * z * (7 * zz - 3),
        c / 2 * (xx - yy) * (7 * zz - 1),
        -b * x * z * (xx - 3 * yy),
        a / 4 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
    )
    return torch.cat((basis, torch.stack(fourth, dim=-1)), dim=-1)
