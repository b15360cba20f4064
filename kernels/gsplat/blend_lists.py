"""Blend splats tile by tile along given lists, in plain torch, forward and backward: any order, any channels.

Memory is CHUNK x the pixels of a tile, however long the lists are; nothing but inputs and outputs is kept between the
passes. One tile after the other, so this is slow.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..constants import ALPHA_MAX, ALPHA_MIN, STOP

CHUNK = 256  # splats blended at once


class Tile(NamedTuple):
    image: int
    top: int
    left: int
    start: int
    end: int


def find_tiles(offsets: Tensor, count: int, masks: Tensor | None, tile_size: int) -> list[Tile]:
    """What is to be drawn of the lists that begin at `offsets` [..., rows, columns], `count` entries in all."""
    rows, columns = offsets.shape[-2:]
    starts = offsets.flatten().tolist()
    drawn = [True] * len(starts) if masks is None else masks.flatten().tolist()
    return [
        Tile(index // (rows * columns), index // columns % rows * tile_size, index % columns * tile_size, start, end)
        for index, (start, end, wanted) in enumerate(zip(starts, (*starts[1:], count), drawn, strict=True))
        if wanted and end > start
    ]


class _Chunk(NamedTuple):
    """CHUNK splats of one tile at its pixels."""

    ids: Tensor  # [g]
    dx: Tensor  # [g, p] pixel minus mean
    dy: Tensor  # [g, p]
    fade: Tensor  # [g, p] exp(-sigma)
    alpha: Tensor  # [g, p]
    before: Tensor  # [g, p] transmittance in front of the splat
    counts: Tensor  # [g, p] whether it is blended


def _chunks(tile: Tile, flatten_ids: Tensor, pixels: Tensor, means2d: Tensor, conics: Tensor, opacities: Tensor):
    """The list of a tile, CHUNK at a time, front to back, until every pixel has stopped."""
    transmittance = torch.ones_like(pixels[:, 0])
    for start in range(tile.start, tile.end, CHUNK):
        ids = flatten_ids[start : min(start + CHUNK, tile.end)].long()
        dx, dy = (pixels[None] - means2d[ids][:, None]).unbind(dim=-1)
        xx, xy, yy = (conics[ids][:, i, None] for i in range(3))
        sigma = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
        fade = torch.exp(-sigma)
        alpha = (opacities[ids][:, None] * fade).clamp(max=ALPHA_MAX)
        alpha = torch.where((sigma >= 0) & (alpha >= ALPHA_MIN), alpha, 0.0)
        after = transmittance * torch.cumprod(1 - alpha, dim=0)
        before = torch.cat((transmittance[None], after[:-1]))
        yield _Chunk(ids, dx, dy, fade, alpha, before, (alpha > 0) & (after > STOP))
        transmittance = after[-1]
        if bool((transmittance <= STOP).all()):
            return


def _pixels(tile: Tile, tile_size: int, size: tuple[int, int, int], like: Tensor) -> tuple[tuple[Any, ...], Tensor]:
    """Where the tile lies in [I, h, w], and its pixel centres [p, 2]."""
    bottom, right = min(tile.top + tile_size, size[1]), min(tile.left + tile_size, size[2])
    y, x = torch.meshgrid(torch.arange(tile.top, bottom), torch.arange(tile.left, right), indexing="ij")
    centres = torch.stack((x, y), dim=-1).reshape(-1, 2).to(like) + 0.5
    return (tile.image, slice(tile.top, bottom), slice(tile.left, right)), centres


class Blend(torch.autograd.Function):
    """Both passes walk front to back; the second knows what lies behind a splat from the finished pixel."""

    @staticmethod
    def forward(ctx: Any, means2d, conics, colors, opacities, flatten_ids, tiles, tile_size, size, absgrad):  # type: ignore[override]
        ctx.fixed = tiles, tile_size, size, absgrad
        splats = means2d.reshape(-1, 2), conics.reshape(-1, 3), opacities.reshape(-1)
        shades = colors.reshape(-1, colors.shape[-1])
        rgb, alpha = colors.new_zeros(*size, colors.shape[-1]), colors.new_zeros(size)
        for tile in tiles:
            where, pixels = _pixels(tile, tile_size, size, means2d)
            block, cover = rgb[where], alpha[where]
            for chunk in _chunks(tile, flatten_ids, pixels, *splats):
                weights = torch.where(chunk.counts, chunk.alpha * chunk.before, 0.0)
                block += (weights.T @ shades[chunk.ids]).reshape(block.shape)
                cover += weights.sum(dim=0).reshape(cover.shape)
        ctx.save_for_backward(means2d, conics, colors, opacities, flatten_ids, rgb, alpha)
        return rgb, alpha

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_rgb, grad_alpha):  # type: ignore[override]
        tiles, tile_size, size, absgrad = ctx.fixed
        means2d, conics, colors, opacities, flatten_ids, rgb, alpha = ctx.saved_tensors
        splats = means2d.reshape(-1, 2), conics.reshape(-1, 3), opacities.reshape(-1)
        shades = colors.reshape(-1, colors.shape[-1])
        to_means, to_conics, to_opacities = (torch.zeros_like(tensor) for tensor in splats)
        to_colors, absolute = torch.zeros_like(shades), torch.zeros_like(to_means)
        totals = (rgb * grad_rgb).sum(dim=-1) + alpha * grad_alpha
        for tile in tiles:
            where, pixels = _pixels(tile, tile_size, size, means2d)
            to_pixels, to_cover = grad_rgb[where].flatten(0, 1), grad_alpha[where].flatten()
            rest = totals[where].flatten()  # of the weighted values, from the splat on
            for chunk in _chunks(tile, flatten_ids, pixels, *splats):
                ids, dx, dy = chunk.ids, chunk.dx, chunk.dy
                weights = torch.where(chunk.counts, chunk.alpha * chunk.before, 0.0)
                values = shades[ids] @ to_pixels.T + to_cover
                behind = rest - (weights * values).cumsum(dim=0)
                to_alpha = chunk.before * values - behind / (1 - chunk.alpha)
                free = chunk.counts & (opacities.reshape(-1)[ids][:, None] * chunk.fade <= ALPHA_MAX)
                to_fade = torch.where(free, to_alpha, 0.0) * chunk.fade  # also that of the opacity
                to_sigma = -to_fade * splats[2][ids][:, None]
                xx, xy, yy = (splats[1][ids][:, i, None] for i in range(3))
                to_mean = -torch.stack((to_sigma * (xx * dx + xy * dy), to_sigma * (xy * dx + yy * dy)), dim=-1)
                products = torch.stack((0.5 * dx * dx, dx * dy, 0.5 * dy * dy), dim=-1)
                to_means.index_add_(0, ids, to_mean.sum(dim=1))
                absolute.index_add_(0, ids, to_mean.abs().sum(dim=1))
                to_conics.index_add_(0, ids, (to_sigma[..., None] * products).sum(dim=1))
                to_opacities.index_add_(0, ids, to_fade.sum(dim=1))
                to_colors.index_add_(0, ids, weights @ to_pixels)
                rest = behind[-1]
        if absgrad:
            means2d.absgrad = absolute.reshape(means2d.shape)
        gradients = (to_means, to_conics, to_colors, to_opacities)
        inputs = (means2d, conics, colors, opacities)
        return *(g.reshape(t.shape) for g, t in zip(gradients, inputs, strict=True)), *(None,) * 5
