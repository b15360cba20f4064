"""What the Gaussian decoder is trained by: renderings of its Gaussians beside frames of the student or true ones."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ....kernels.frames import Rendering
from ....kernels.options import Options
from ....kernels.rasterize import rasterize
from ..clips import Clips, normalised, unit_of
from ..inference import decode, generated
from ..rays import pixel_directions
from ..worlds.source import WorldSource
from ..worlds.trace import trace
from .losses import picture_loss
from .options import PriorOptions

LEAST_ALPHA = 0.5  # of a pixel whose depth is compared


@dataclass(frozen=True, eq=False)
class Frames:
    """Posed views to learn from, in normalised units."""

    seen: Clips  # what the decoder sees
    wanted: Clips  # what its Gaussians are compared with, all at the time of the scene that is wanted


def draw_frames(
    clips: Clips, student: nn.Module, options: PriorOptions, truth: bool, generator: torch.Generator
) -> Frames:
    """True views, or those that the student makes of one to three of them: Lyra's self-distillation.

    Args:
        clips: of scenes in which nothing moves.
        student: of four steps.
        options: of the prior.
        truth: whether the views are the true ones.
        generator: of random numbers.
    """
    decoder = options.decoder
    if not truth:
        most = min(options.clean[1], decoder.views)
        known = int(torch.randint(options.clean[0], most + 1, (), generator=generator))
        rgb = generated(student, clips, known, options.planes, 4, generator, use_rays=options.rays)
        clips = replace(clips, rgb=rgb)
    return Frames(clips.views(slice(decoder.views)), clips)


def draw_moving(source: WorldSource, count: int, options: PriorOptions, generator: torch.Generator) -> Frames:
    """True views of worlds in which things move, each at its own time, and all views again at one time.

    As in Lyra, Gaussians at a time are a set of their own; such frames are what they are learned from.
    """
    decoder = options.decoder
    worlds = source.worlds(count, generator)
    poses, K, times = source.cameras(worlds, decoder.views + decoder.held_out, options.size, generator)
    wanted = torch.rand(count, 1, generator=generator).to(times).expand_as(times)

    def at(times: Tensor) -> Clips:
        return Clips(*trace(worlds, poses, K, times, options.size, source.options.supersampling), poses, K, times)

    seen, asked = at(times), at(wanted)
    scale = unit_of(seen)
    return Frames(normalised(seen, scale).views(slice(decoder.views)), normalised(asked, scale))


def draw_gaussians(found: dict[str, Tensor], clips: Clips, *, normals: bool = False) -> Rendering:
    """The Gaussians from each view of the clips."""
    width, height = clips.size
    return rasterize(
        found["means"],
        found["quats"],
        found["scales"],
        found["opacities"],
        found["colors"],
        clips.world_to_camera,
        clips.K,
        width,
        height,
        options=Options(normals=normals),
    )


def decoder_loss(decoder: nn.Module, frames: Frames, prior: PriorOptions, sparse: bool) -> Tensor:
    """Colour, inverse depth, normals, sparse opacity and a prior of scales.

    The terms are those of Lyra (arXiv 2509.19296) with SSIM in place of LPIPS, and of 2DGS (normals).

    Args:
        decoder: the network.
        frames: of some scenes.
        prior: whose decoder's weights count.
        sparse: whether opacity costs.
    """
    clips, options = frames.wanted, prior.decoder
    found = decode(decoder, frames.seen, clips.times[:, 0], prior.planes, fused=options.fused, use_rays=prior.rays)
    drawn = draw_gaussians(found, clips, normals=options.normal > 0)
    depth = drawn.depth
    assert depth is not None
    rgb = drawn.rgb.permute(0, 1, 4, 2, 3)
    loss = picture_loss(rgb.flatten(0, 1), clips.rgb.flatten(0, 1), options.ssim)
    known = (clips.depth > 0) & (drawn.alpha > LEAST_ALPHA)
    if options.depth:
        loss = loss + options.depth * inverse_depth_error(depth, clips.depth, known)
    if options.normal:
        loss = loss + options.normal * normal_error(drawn, clips, known)
    if options.opacity and sparse:
        loss = loss + options.opacity * found["opacities"].mean()
    if options.scale:
        footprint = clips.depth[:, :1].clamp(min=0.1).mean() / clips.K[:, 0, 0, 0].mean()
        loss = loss + options.scale * (found["scales"] / footprint).mean()
    return loss


def inverse_depth_error(found: Tensor, wanted: Tensor, known: Tensor) -> Tensor:
    """Mean absolute error of 1 / z where both are known."""
    share = known.to(found.dtype)
    error = (1 / found.clamp(min=0.05) - 1 / wanted.clamp(min=0.05)).abs() * share
    return error.sum() / share.sum().clamp(min=1)


def normal_error(drawn: Rendering, clips: Clips, known: Tensor) -> Tensor:
    """1 - cosine between the normals of splats and of the rendered depth, where its neighbours agree (2DGS, eq. 14)."""
    depth = drawn.depth
    assert drawn.normals is not None and depth is not None
    local = pixel_directions(clips.K, clips.size) * depth[:, :, None]
    shifted = local - clips.world_to_camera[..., :3, 3, None, None]
    points = torch.einsum("bvji,bvjhw->bvihw", clips.world_to_camera[..., :3, :3], shifted)
    across = points[..., 1:-1, 2:] - points[..., 1:-1, :-2]
    down = points[..., 2:, 1:-1] - points[..., :-2, 1:-1]
    surface = torch.linalg.cross(down, across, dim=2)  # towards the camera, as y points down
    surface = surface / surface.norm(dim=2, keepdim=True).clamp(min=1e-6)
    splats = drawn.normals.permute(0, 1, 4, 2, 3)[..., 1:-1, 1:-1]
    middle = depth[..., 1:-1, 1:-1]
    bend = (depth[..., 1:-1, 2:] - depth[..., 1:-1, :-2]).abs() / middle.clamp(min=0.05)
    share = (known[..., 1:-1, 1:-1] & (bend < 0.2)).to(middle.dtype).detach()
    cosine = (splats * surface).sum(dim=2)
    return ((1 - cosine) * share).sum() / share.sum().clamp(min=1)
