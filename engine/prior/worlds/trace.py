"""Pictures of worlds, by rays, in batches on any device: what rays meet (hits.py) in the light of the scene."""

import torch
from torch import Tensor

from . import hits, palette, shapes, textures
from .hits import Frames
from .record import FAR, Surround, Worlds
from .shapes import Vector, applied, dot, parts

RAYS_AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 23}  # what fits the caches, or keeps the memory small
TILE = 8  # most pixels of a bundle's side
LIFT = 5e-5  # of the dome's radius: a shadow's ray starts so far off its surface
HAZE = 0.08, 0.5  # of the dome's radius: where the ground begins and ends to fade into the horizon


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
    rays = x.shape[-1]
    step = max(1, RAYS_AT_ONCE["cpu" if K.device.type == "cpu" else "cuda"] // (v * x.numel()))
    rgb, depth = K.new_empty(b, v, 3, h, w), K.new_empty(b, v, h, w)
    tile = _side(h), _side(w)
    for start in range(0, b, step):
        part = slice(start, start + step)
        shaded = rays // (samples + (samples > 1)) * samples
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
    return torch.stack(_shaded(worlds, things, point, ray, surface[..., -shaded:]), 2), t


def _shaded(worlds: Worlds, things: Frames, point: Tensor, ray: Tensor, surface: Tensor) -> Vector:
    """The linear colours that rays see at points [b, v, k, 3, m] of surfaces [b, v, k, m]."""
    o = things.kind.shape[1]
    around, finishes = worlds.surround, worlds.finishes
    kind, frame, offset, stretch = _unit_frames(worlds, things)
    index = surface.flatten(2)

    def of(table: Tensor) -> Tensor:  # [b, v or 1, s] to [b, v, k, m]
        return table.expand(-1, index.shape[1], -1).contiguous().gather(2, index).view(surface.shape)

    def each(table: Tensor) -> Vector:  # [b, 3] to vectors that broadcast
        return table[:, 0, None, None, None], table[:, 1, None, None, None], table[:, 2, None, None, None]

    p, r = parts(point), parts(ray)
    rows = [(of(frame[..., i, 0]), of(frame[..., i, 1]), of(frame[..., i, 2])) for i in range(3)]
    x, y, z = (dot(row, p) - of(offset[..., i]) for i, row in enumerate(rows))
    m = shapes.normal(of(kind[:, None]), (x, y, z))
    # Normals go by the transpose. What is round everything is seen from inside.
    n = _combined(m, rows)
    outward = torch.where(surface < o, 1.0, -1.0) * dot(n, n).clamp(min=1e-20).rsqrt()
    n = n[0] * outward, n[1] * outward, n[2] * outward

    sky = (surface == o + FAR) & around.open[:, None, None, None]
    local = x * of(stretch[..., 0]), y * of(stretch[..., 1]), z * of(stretch[..., 2])
    u, w = _plane(local, m)
    lower = (0.25 - y).clamp(min=0.25).reciprocal()  # clouds as on a ceiling
    u, w = torch.where(sky, x * lower, u), torch.where(sky, z * lower, w)
    turn, shift, finer = finishes.turn[:, None], finishes.shift[:, None], finishes.feature[:, None].reciprocal()
    cos, sin = of(turn.cos() * finer), of(turn.sin() * finer)
    u, w = u * cos - w * sin + of(shift[..., 0]), u * sin + w * cos + of(shift[..., 1])
    share, tone = textures.pattern(of(finishes.family[:, None]), u, w)
    tone = 1 + (tone - 0.5) * of(finishes.vary[:, None])

    lifted = point + torch.stack(n, -2) * (around.dome * LIFT)[:, None, None, None, None]
    lamp = around.lamp[:, None, None, :, None]
    to_lamp = parts(lamp - lifted)
    near = dot(to_lamp, to_lamp).rsqrt()
    free = (1 - hits.hidden(things, lifted, lamp)).clamp(min=0)
    lit = (dot(n, to_lamp) * near).clamp(min=0) * free
    filled, above = dot(n, each(around.fill_from)).clamp(min=0), 0.75 - 0.25 * n[1]
    # Blinn's highlight, of exponent 32, round the vector halfway between lamp and eye.
    away = dot(r, r).rsqrt()
    half = to_lamp[0] * near - r[0] * away, to_lamp[1] * near - r[1] * away, to_lamp[2] * near - r[2] * away
    gleam = dot(n, half).clamp(min=0).square() / dot(half, half).clamp(min=1e-9)
    gleam = gleam.square().square().square().square() * of(finishes.shine[:, None]) * free

    haze = _haze(around, p, y, sky)
    first, second = finishes.first[:, None], finishes.second[:, None]
    key, ambient, fill, horizon = (each(c) for c in (around.key, around.ambient, around.fill, around.horizon))

    def channel(i: int) -> Tensor:
        albedo = torch.lerp(of(first[..., i]), of(second[..., i]), share) * tone
        colour = albedo * (lit * key[i] + filled * fill[i] + above * ambient[i]) + gleam * key[i]
        return torch.lerp(torch.where(sky, albedo, colour), horizon[i], haze)

    return channel(0), channel(1), channel(2)


def _combined(m: Vector, rows: list[Vector]) -> Vector:
    (a, b, c), (x, y, z) = rows, m
    return dot(m, (a[0], b[0], c[0])), dot(m, (a[1], b[1], c[1])), x * a[2] + y * b[2] + z * c[2]


def _plane(p: Vector, normal: Vector) -> tuple[Tensor, Tensor]:
    """The two coordinates of p that a normal's greatest component leaves."""
    x, y, z = (c.abs() for c in normal)
    flat = (y >= x) & (y >= z)
    return torch.where(flat | (x <= z), p[0], p[2]), torch.where(flat, p[2], p[1])


def _haze(around: Surround, p: Vector, up: Tensor, sky: Tensor) -> Tensor:
    """How much of the horizon's colour there is: more far from the origin and low in the sky; of places, not views."""
    far = dot(p, p).sqrt() / around.dome[:, None, None, None]
    ground = ((far - HAZE[0]) / (HAZE[1] - HAZE[0])).clamp(0, 1) * around.open[:, None, None, None]
    return torch.where(sky, (1 + up).clamp(0, 1).square().square(), ground)


def _unit_frames(worlds: Worlds, things: Frames) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of all o + 3 surfaces: kinds [b, s]; A [b, v, s, 3, 3] and c so that A x - c is on a unit shape; its scale."""
    around, v = worlds.surround, things.to_unit.shape[1]
    low, high = around.low, around.high
    far = torch.where(around.open[:, None], around.dome[:, None], (high - low) / 2)
    scale = torch.stack(((high - low) / 2, (high - low) / 2, far), 1)  # [b, 3, 3]
    middle = (high + low) / 2
    middle = torch.stack((middle, middle, torch.where(around.open[:, None], 0.0, middle)), 1)
    far_kind = torch.where(around.open, shapes.ELLIPSOID, shapes.BOX)[:, None]
    kind = torch.cat((things.kind, torch.full_like(far_kind, shapes.BOX).expand(-1, 2), far_kind), 1)
    frame = torch.cat((things.to_unit, torch.diag_embed(1 / scale)[:, None].expand(-1, v, -1, -1, -1)), 2)
    centre = torch.cat((things.centre, middle[:, None].expand(-1, v, -1, -1)), 2)
    stretch = torch.cat((worlds.objects.scale, scale), 1)[:, None]
    return kind, frame, applied(frame, centre[..., None])[..., 0], stretch
