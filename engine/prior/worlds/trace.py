"""Pictures of worlds, by rays, in batches on any device: what they meet (hits.py) and how that looks (shading.py)."""

import torch
from torch import Tensor

from . import hits, palette
from .record import Worlds
from .shading import colours
from .shapes import applied

RAYS_AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 23}  # what fits the caches, or keeps the memory small
TILE = 8  # most pixels of a bundle's side


def trace(
    worlds: Worlds, world_to_camera: Tensor, K: Tensor, times: Tensor, size: tuple[int, int], supersampling: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Any views of worlds, all on one device.

    Args:
        worlds: b scenes.
        world_to_camera: [b, v, 4, 4]; the cameras are outside of all objects and inside of the rooms.
        K: [b, v, 3, 3] pixels, without skew.
        times: [b, v], 0 to 1.
        size: Width and height.
        supersampling: Rays a pixel and axis; their colours are averaged in linear light.

    Returns:
        rgb [b, v, 3, h, w] sRGB, 0 to 1; depth [b, v, h, w], z of what the middle of the pixel sees, the sky being
        a dome; alpha [b, v, h, w], 1 everywhere.
    """
    (w, h), (b, v) = size, times.shape
    x, y, samples = _places(size, supersampling, K.device)
    step = max(1, RAYS_AT_ONCE["cpu" if K.device.type == "cpu" else "cuda"] // (v * x.numel()))
    rgb, depth = K.new_empty(b, v, 3, h, w), K.new_empty(b, v, h, w)
    tile = _side(h), _side(w)
    shaded = samples * tile[0] * tile[1]
    for start in range(0, b, step):
        part = slice(start, start + step)
        colour, z = _scenes(worlds.scenes(part), world_to_camera[part], K[part], times[part], x, y, shaded)
        colour = colour.unflatten(-1, (samples, -1)).mean(-2)  # [b, v, 3, k, pixels of a tile]
        rgb[part] = _picture(palette.encoded(colour), size, tile)
        depth[part] = _picture(z[..., : tile[0] * tile[1]], size, tile)
    return rgb, depth, torch.ones_like(depth)


def _side(length: int) -> int:
    return max(side for side in range(1, TILE + 1) if length % side == 0)


def _places(size: tuple[int, int], supersampling: int, device: torch.device) -> tuple[Tensor, Tensor, int]:
    """Where rays go through the picture, x and y [k, m] by tiles, and the samples of a pixel.

    A tile's rays are all first samples of its pixels, then all second ones; before them, if there are several, come
    those through the middles of the pixels, for the depth.
    """
    w, h = size
    steps = (torch.arange(supersampling, device=device) + 0.5) / supersampling
    dx, dy = steps.repeat(supersampling), steps.repeat_interleave(supersampling)
    if supersampling > 1:
        dx, dy = (torch.cat((steps.new_full((1,), 0.5), d)) for d in (dx, dy))
    grid = torch.zeros(len(dx), h, w, device=device)
    places = [
        grid + torch.arange(w, device=device) + dx[:, None, None],
        grid + torch.arange(h, device=device)[:, None] + dy[:, None, None],
    ]
    th, tw = _side(h), _side(w)
    x, y = (p.unflatten(2, (-1, tw)).unflatten(1, (-1, th)).permute(1, 3, 0, 2, 4) for p in places)
    return x.flatten(2).flatten(0, 1), y.flatten(2).flatten(0, 1), supersampling**2


def _picture(tiles: Tensor, size: tuple[int, int], tile: tuple[int, int]) -> Tensor:
    """[.., h, w] of [.., k, pixels]."""
    (w, h), (th, tw) = size, tile
    tiles = tiles.unflatten(-1, (th, tw)).unflatten(-3, (h // th, w // tw))
    return tiles.transpose(-3, -2).flatten(-2).flatten(-3, -2)


def _scenes(
    worlds: Worlds, world_to_camera: Tensor, K: Tensor, times: Tensor, x: Tensor, y: Tensor, shaded: int
) -> tuple[Tensor, Tensor]:
    """The linear colours [b, v, 3, k, shaded] of each bundle's last rays, and the depths [b, v, k, m] of all."""
    to_world = world_to_camera[:, :, None, :3, :3].mT
    eye = -applied(to_world, world_to_camera[:, :, None, :3, 3:])  # [b, v, 1, 3, 1]
    f, c = K[..., (0, 1), (0, 1), None, None], K[..., (0, 1), 2, None, None]
    u, w = (x - c[:, :, 0]) / f[:, :, 0], (y - c[:, :, 1]) / f[:, :, 1]
    ray = applied(to_world, torch.stack((u, w, torch.ones_like(u)), -2))  # z is 1 before a camera: t is the depth
    things = hits.frames(worlds.objects, times)
    t, surface = hits.first(worlds, things, eye, ray)
    ray = ray[..., -shaded:]
    point = eye + ray * t[..., None, -shaded:]
    return torch.stack(colours(worlds, things, point, ray, surface[..., -shaded:]), 2), t
