"""Clips changed in ways that leave their geometry true: light, sharpness, crop, the arrow of time, and mirrors."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..clips import Clips

LEAST = 1e-4  # alpha below which a pixel has no colour


@dataclass(frozen=True)
class AugmentOptions:
    """How often (0 to 1, drawn for each scene) and how far clips are changed."""

    light: float = 0.5
    """How often exposure and white balance change, in linear light, the same in all views."""
    stops: float = 0.5
    """Standard deviation of the exposure, powers of two."""
    tint: float = 0.1
    """Standard deviation of the logarithm of each channel's gain."""
    flicker: float = 0.0
    """Standard deviation of the exposure of each view beside that, powers of two."""
    blur: float = 0.2
    """How often pictures are blurred."""
    sigma: tuple[float, float] = (0.3, 1.0)
    """Standard deviation of that blur, pixels, from and to."""
    crop: float = 0.5
    """How often a part is cut out and enlarged, the same in all views: the focal length grows."""
    zoom: float = 1.2
    """The most by which it is enlarged."""
    reverse: float = 0.5
    """How often time runs backward."""
    mirror: float = 0.5
    """How often left and right change places."""


def augment(clips: Clips, generator: torch.Generator, options: AugmentOptions = AugmentOptions()) -> Clips:
    """Clips of the same kind; poses, intrinsics, depth and alpha stay right. The same seed gives the same clips."""
    b, v = clips.times.shape
    device = clips.rgb.device

    def happens(share: float) -> Tensor:
        return (torch.rand(b, generator=generator) < share).to(device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(b, *shape, generator=generator).to(device)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(b, *shape, generator=generator).to(device)

    lit, exposure, tint, flicker = happens(options.light), normal(1, 1), normal(1, 3), normal(v, 1)
    gain = torch.exp(math.log(2) * (options.stops * exposure + options.flicker * flicker) + options.tint * tint)
    if options.light:
        clips = relit(clips, torch.where(lit[:, None, None], gain, 1.0))
    blurred_, share = happens(options.blur), uniform()
    if options.blur:
        sigma = options.sigma[0] + share * (options.sigma[1] - options.sigma[0])
        clips = blurred(clips, torch.where(blurred_, sigma, 0.0))
    cut, enlarged, place = happens(options.crop), uniform(), uniform(2)
    if options.crop:
        clips = zoomed(clips, torch.where(cut, 1 + (options.zoom - 1) * enlarged, 1.0), place)
    clips = reversed_where(clips, happens(options.reverse))
    return mirrored_where(clips, happens(options.mirror))


def relit(clips: Clips, gain: Tensor) -> Clips:
    """Colours times a gain [b, 1 or v, 3] in linear light, cut off at white; what is black stays black."""
    alpha = clips.alpha[:, :, None]
    straight = torch.where(alpha > LEAST, clips.rgb / alpha.clamp(min=LEAST), 0.0).clamp(0, 1)
    changed = _from_linear((_to_linear(straight) * gain[..., None, None]).clamp(0, 1)) * alpha
    same = (gain == 1).all(-1)[..., None, None, None]  # not through powers and back
    return dataclasses.replace(clips, rgb=torch.where(same, clips.rgb, changed))


def blurred(clips: Clips, sigma: Tensor) -> Clips:
    """Colour and alpha blurred by a Gaussian of sigma [b] pixels, 0 for none; depth stays."""
    b, v, _, h, w = clips.rgb.shape
    reach = max(1, math.ceil(3 * float(sigma.max())))
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)[:, None]) ** 2)
    weights = (weights / weights.sum(1, keepdim=True)).repeat_interleave(4 * v, 0)  # [b v 4, taps]
    planes = torch.cat((clips.rgb, clips.alpha[:, :, None]), 2).reshape(1, -1, h, w)
    across, down = (weights[:, None, None], (reach, reach, 0, 0)), (weights[:, None, :, None], (0, 0, reach, reach))
    for kernel, pad in (across, down):
        planes = functional.conv2d(functional.pad(planes, pad, mode="replicate"), kernel, groups=len(weights))
    planes = planes.reshape(b, v, 4, h, w).clamp(0, 1)
    return dataclasses.replace(clips, rgb=planes[:, :, :3], alpha=planes[:, :, 3])


def zoomed(clips: Clips, zoom: Tensor, place: Tensor) -> Clips:
    """A crop of 1 / zoom [b] of each side, at least 1, enlarged to the old size, at a place [b, 2], 0 to 1 of the room.

    Colour and alpha are interpolated linearly, depth is that of the nearest pixel.
    """
    b, v, _, h, w = clips.rgb.shape
    sides = torch.tensor([w, h], device=zoom.device, dtype=zoom.dtype)
    corner = place * sides * (1 - 1 / zoom)[:, None]  # [b, 2] pixels
    centres = [
        (corner[:, i : i + 1] + (torch.arange(n, device=zoom.device) + 0.5) / zoom[:, None]) * 2 / n - 1
        for i, n in enumerate((w, h))
    ]
    x, y = centres[0][:, None, :].expand(b, h, w), centres[1][:, :, None].expand(b, h, w)
    grid = torch.stack((x, y), -1)
    planes = torch.cat((clips.rgb, clips.alpha[:, :, None]), 2).reshape(b, 4 * v, h, w)
    planes = functional.grid_sample(planes, grid, padding_mode="border", align_corners=False).reshape(b, v, 4, h, w)
    depth = functional.grid_sample(clips.depth, grid, mode="nearest", padding_mode="border", align_corners=False)
    onto = torch.zeros(b, 1, 3, 3, device=zoom.device, dtype=zoom.dtype)
    onto[:, 0, 0, 0] = onto[:, 0, 1, 1] = zoom
    onto[:, 0, :2, 2] = -corner * zoom[:, None]
    onto[:, 0, 2, 2] = 1
    same = (zoom == 1)[:, None]
    return dataclasses.replace(
        clips,
        rgb=torch.where(same[..., None, None, None], clips.rgb, planes[:, :, :3]),
        alpha=torch.where(same[..., None, None], clips.alpha, planes[:, :, 3]),
        depth=torch.where(same[..., None, None], clips.depth, depth),
        K=torch.where(same[..., None, None], clips.K, onto @ clips.K),
    )


def reversed_where(clips: Clips, chosen: Tensor) -> Clips:
    """Time runs backward in the chosen scenes, [b] bool; views stay where they are."""
    return dataclasses.replace(clips, times=torch.where(chosen[:, None], 1 - clips.times, clips.times))


def mirrored_where(clips: Clips, chosen: Tensor) -> Clips:
    """The world mirrored in x in the chosen scenes, [b] bool; with S = diag(-1, 1, 1), x' = S x and R' = S R S.

    A camera then sees its old picture with left and right exchanged.
    """
    flip = clips.K.new_tensor([-1.0, 1.0, 1.0, 1.0])
    turned = clips.K.new_tensor([[-1.0, 0.0, clips.size[0]], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    changed = Clips(
        rgb=clips.rgb.flip(-1),
        depth=clips.depth.flip(-1),
        alpha=clips.alpha.flip(-1),
        world_to_camera=clips.world_to_camera * flip * flip[:, None],
        K=turned @ clips.K * flip[:3],
        times=clips.times,
    )
    pairs = ((name, tensor, clips.tensors()[name]) for name, tensor in changed.tensors().items())
    return Clips(**{name: torch.where(_across(chosen, new), new, old) for name, new, old in pairs})


def _across(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.reshape(-1, *[1] * (like.dim() - 1))


def _to_linear(colour: Tensor) -> Tensor:
    """IEC 61966-2-1."""
    return torch.where(colour <= 0.04045, colour / 12.92, ((colour.clamp(min=0.04) + 0.055) / 1.055) ** 2.4)


def _from_linear(light: Tensor) -> Tensor:
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=0.003) ** (1 / 2.4) - 0.055)
