"""Patterns on surfaces: a mixture of two colours, 0 to 1, at plane coordinates."""

import torch
from torch import Tensor

FAMILIES = ("solid", "checker", "stripes", "noise", "gradient", "brick", "dots")
HELD_OUT = "dots"  # never in training
SOLID, CHECKER, STRIPES, NOISE, GRADIENT, BRICK, DOTS = range(7)

MORTAR = 0.12  # of a brick's height
DOT = 0.32  # radius, of a cell
CONTRAST = 2.2  # of noise
A, B, C, D = 374761393, 668265263, 1274126177, 1103515245  # odd numbers that mix bits


def pattern(family: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The share of the second colour, and a random number 0 to 1 of the cell (a tile, a brick).

    One unit of u and v is one feature of the pattern. All arguments and results have one shape.
    """
    brick = family == BRICK
    u = torch.where(brick, u / 2, u)  # twice as wide as high
    row = v.floor()
    u = torch.where(brick, u + 0.5 * odd(row), u)
    column = u.floor()
    fu, fv = u - column, v - row
    parity = odd(column + row)
    joint = ((fu < MORTAR / 2) | (fv < MORTAR)).to(u.dtype)
    dot = ((fu - 0.5).square() + (fv - 0.5).square() < DOT * DOT).to(u.dtype)
    share = torch.where(family == CHECKER, parity, torch.zeros_like(u))
    share = torch.where(family == STRIPES, odd(column), share)
    share = torch.where(family == NOISE, noise(u / 2, v / 2), share)
    share = torch.where(family == GRADIENT, 0.5 - 0.5 * torch.cos(u * 1.5), share)
    share = torch.where(brick, joint, share)
    share = torch.where(family == DOTS, dot, share)
    striped, tiled = family == STRIPES, (family == CHECKER) | brick
    tone = hashed(column.int(), torch.where(striped, 0.0, row).int())
    return share, torch.where(tiled | striped, tone, 0.5)


def odd(x: Tensor) -> Tensor:
    """1 where a whole number is odd, else 0."""
    return x - 2 * (x / 2).floor()


def noise(u: Tensor, v: Tensor) -> Tensor:
    """Value noise of two octaves with more contrast, 0 to 1."""
    both = 0.65 * _octave(u, v) + 0.35 * _octave(2 * u + 17.0, 2 * v - 5.0)
    return (both * (CONTRAST / 2**32) + 0.5).clamp_(0, 1)


def hashed(i: Tensor, j: Tensor) -> Tensor:
    """A number 0 to 1 for each pair of int32."""
    return _mixed(i * A + j * B) / 2**32 + 0.5


def _octave(u: Tensor, v: Tensor) -> Tensor:
    column, row = u.floor(), v.floor()
    fu, fv = u - column, v - row
    fu, fv = fu * fu * (3 - 2 * fu), fv * fv * (3 - 2 * fv)
    h = column.int() * A + row.int() * B
    top = torch.lerp(_mixed(h), _mixed(h + A), fu)
    return torch.lerp(top, torch.lerp(_mixed(h + B), _mixed(h + (A + B)), fu), fv)


def _mixed(h: Tensor) -> Tensor:
    """Well mixed, as float32 from -2^31 to 2^31; int32 is meant to overflow."""
    return (((h ^ (h >> 15)) * C).bitwise_xor_(h >> 7) * D).float()
