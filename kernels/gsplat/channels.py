"""Colours, harmonics and further signals as gsplat's callers give them, as colours and features of Lyra, and back.

B batches of scenes (any dimensions, or none), C cameras, N splats, D channels.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..arguments import SH_COUNTS
from ..frames import Rendering
from .stages import spherical_harmonics


class Paint(NamedTuple):
    """Channels, dealt out to what `rasterize` knows: three of them are its colours, the rest its features."""

    colors: Tensor  # [*B, N, k, 3] or [*B, N, 3]
    features: Tensor | None  # [*B, (C,) N, D - direct]
    direct: int  # channels of `colors` that count
    background: Tensor | None  # [*B, C, 3]
    rest: Tensor | None  # [*B, C, D - direct], the background of the features

    @property
    def others(self) -> int:
        """D - direct."""
        return 0 if self.features is None else self.features.shape[-1]


def paint_of(
    means: Tensor, viewmats: Tensor, colors: Tensor | None, sh_degree: int | None, backgrounds: Tensor | None
) -> Paint:
    cameras = viewmats.shape[-3]
    if colors is None:  # depth alone; a background has no depth
        return Paint(means.new_zeros(*means.shape[:-1], 3), None, 0, None, None)
    if backgrounds is not None and backgrounds.shape != (*viewmats.shape[:-2], colors.shape[-1]):
        expected = [*viewmats.shape[:-2], colors.shape[-1]]
        raise ValueError(f"backgrounds has shape {list(backgrounds.shape)}, expected {expected}")
    if sh_degree is not None:
        coefficients = _coefficients("colors", colors, sh_degree, means, cameras)
        if colors.shape[-1] == 3 and coefficients.dim() == means.dim() + 1 and coefficients.shape[-2] in SH_COUNTS:
            return Paint(coefficients, None, 3, backgrounds, None)
        values = (_shade(means, viewmats, coefficients, sh_degree) + 0.5).clamp(min=0.0)
    else:
        values = _channels("colors", colors, means, cameras)
    direct = 0 if values.dim() > means.dim() else min(values.shape[-1], 3)  # only features are given by camera
    first = pad(values[..., :direct], (0, 3 - direct)) if direct else means.new_zeros(*means.shape[:-1], 3)
    background, rest = None, None
    if backgrounds is not None:
        background, rest = pad(backgrounds[..., :direct], (0, 3 - direct)), backgrounds[..., direct:]
    return Paint(first, values[..., direct:] if values.shape[-1] > direct else None, direct, background, rest)


def extra_of(means: Tensor, viewmats: Tensor, signals: Tensor, sh_degree: int | None) -> Tensor:
    """[*B, (C,) N, E]; harmonics with the 0.5 of a colour, but not cut at 0."""
    cameras = viewmats.shape[-3]
    if sh_degree is None:
        return _channels("extra_signals", signals, means, cameras)
    return _shade(means, viewmats, _coefficients("extra_signals", signals, sh_degree, means, cameras), sh_degree) + 0.5


def _channels(name: str, values: Tensor, means: Tensor, cameras: int) -> Tensor:
    batch, n = means.shape[:-2], means.shape[-2]
    if values.shape[:-1] not in ((*batch, n), (*batch, cameras, n)) or not values.shape[-1]:
        raise ValueError(
            f"{name} has shape {list(values.shape)}, expected {[*batch, n, 'D']} or {[*batch, cameras, n, 'D']} "
            "with D above 0; for harmonics give sh_degree"
        )
    return values


def _coefficients(name: str, values: Tensor, sh_degree: int, means: Tensor, cameras: int) -> Tensor:
    """[*B, (C,) N, k, D] with the k that `sh_degree` uses; gsplat 1.6 gives one [N, K, D] to all batches."""
    batch, n = means.shape[:-2], means.shape[-2]
    if sh_degree not in range(5):
        raise ValueError(f"sh_degree is {sh_degree!r}, expected 0 to 4")
    count = (int(sh_degree) + 1) ** 2
    if values.shape[:-2] not in ((*batch, n), (*batch, cameras, n), (n,)) or values.shape[-2] < count:
        raise ValueError(
            f"{name} has shape {list(values.shape)}, expected {[*batch, n, 'K', 3]} or {[*batch, cameras, n, 'K', 3]} "
            f"with K of {count} or more for sh_degree {sh_degree}"
        )
    used = values[..., :count, :]
    return used if values.dim() > 3 else used.expand(*batch, *used.shape)


def _shade(means: Tensor, viewmats: Tensor, coefficients: Tensor, sh_degree: int) -> Tensor:
    """Harmonics [*B, C, N, D] as each camera sees them."""
    eyes = -(viewmats[..., :3, :3].transpose(-1, -2) @ viewmats[..., :3, 3:])[..., 0]  # [*B, C, 3]
    directions = means[..., None, :, :] - eyes[..., None, :]
    if coefficients.dim() == means.dim() + 1:
        coefficients = coefficients[..., None, :, :, :]
    return spherical_harmonics(sh_degree, directions, coefficients.expand(*directions.shape[:-1], -1, -1))


def side_by_side(first: Tensor | None, second: Tensor | None, cameras: int) -> Tensor | None:
    """Channels side by side; a copy for each camera where only one of both has that."""
    if first is None or second is None:
        return second if first is None else first
    if first.dim() != second.dim():
        both = (t if t.dim() == max(first.dim(), second.dim()) else t[..., None, :, :] for t in (first, second))
        first, second = (t.expand(*t.shape[:-3], cameras, -1, -1) for t in both)
    return torch.cat((first, second), dim=-1)


def picture_of(frame: Rendering, paint: Paint, render_mode: str) -> Tensor:
    """The channels of a frame as gsplat returns them: colours, and what `render_mode` says of depth."""
    alphas = frame.alpha[..., None]
    channels = [frame.rgb[..., : paint.direct]]
    if frame.features is not None and paint.others:
        channels.append(frame.features[..., : paint.others])
        if paint.rest is not None:
            channels[-1] = channels[-1] + (1 - alphas) * paint.rest[..., None, None, :]
    if frame.depth is not None:
        depth = frame.depth[..., None]
        channels.append(depth if "ED" in render_mode else depth * alphas)
    return torch.cat(channels, dim=-1)
