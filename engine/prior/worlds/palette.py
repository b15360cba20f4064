"""Colours, all linear (of sRGB's primaries)."""

import torch
from torch import Tensor

# Earth, sand, stone, wood, leaf, moss, brick, slate, sea: sRGB.
NATURAL = (
    (0.45, 0.33, 0.22),
    (0.84, 0.75, 0.56),
    (0.62, 0.60, 0.57),
    (0.58, 0.40, 0.25),
    (0.38, 0.55, 0.25),
    (0.35, 0.42, 0.22),
    (0.66, 0.32, 0.24),
    (0.40, 0.45, 0.52),
    (0.25, 0.50, 0.58),
    (0.93, 0.90, 0.85),
)

# Zenith and horizon: noon, morning, haze, evening: sRGB.
ZENITH = ((0.28, 0.50, 0.85), (0.45, 0.66, 0.92), (0.62, 0.70, 0.78), (0.33, 0.38, 0.62))
HORIZON = ((0.78, 0.87, 0.95), (0.88, 0.92, 0.95), (0.84, 0.86, 0.87), (0.95, 0.74, 0.55))


def linear(srgb: Tensor) -> Tensor:
    """Linear of display-referred values (IEC 61966-2-1)."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def encoded(colour: Tensor) -> Tensor:
    """Display-referred of linear values, held to 0 to 1 (IEC 61966-2-1)."""
    colour = colour.clamp(0, 1)
    return torch.where(colour <= 0.0031308, colour * 12.92, 1.055 * colour.clamp(min=1e-4) ** (1 / 2.4) - 0.055)


def colours(lot: Tensor) -> Tensor:
    """[.., 3] of even numbers [.., 5]: three in five saturated, the others natural."""
    choice, hue, saturation, value, jitter = lot.unbind(-1)
    saturation, value = 0.35 + 0.6 * saturation, 0.4 + 0.6 * value
    wheel = (hue[..., None] * 6 + torch.tensor([0.0, 4.0, 2.0])).remainder(6)
    ramp = ((wheel - 3).abs() - 1).clamp(0, 1)
    vivid = value[..., None] * (1 - saturation[..., None] * (1 - ramp))
    natural = torch.tensor(NATURAL)[(hue * len(NATURAL)).long().clamp(max=len(NATURAL) - 1)]
    natural = (natural * (0.75 + 0.4 * jitter[..., None])).clamp(0, 1)
    return linear(torch.where(choice[..., None] < 0.6, vivid, natural))


def warmth(lot: Tensor) -> Tensor:
    """Near white, from cool at -1 to warm at 1: [b, 3] of [b]."""
    return 1 + lot[:, None] * torch.tensor([0.08, 0.0, -0.14])


def sky(lot: Tensor) -> tuple[Tensor, Tensor]:
    """Zenith and horizon [b, 3] of [b], 0 to 1: a mixture of two neighbours of the list."""
    place = lot * (len(ZENITH) - 1)
    i = place.long().clamp(max=len(ZENITH) - 2)
    share = (place - i)[:, None]
    top, bottom = linear(torch.tensor(ZENITH)), linear(torch.tensor(HORIZON))
    return top[i].lerp(top[i + 1], share), bottom[i].lerp(bottom[i + 1], share)
