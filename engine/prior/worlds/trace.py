"""Pictures of worlds, by rays, in batches on any device.

Rays are [b, v, n]: scenes, views, rays of a view, and vectors are tuples of their components. A ray's direction has
z = 1 in the camera's axes, so its t is the depth.
"""

import torch
from torch import Tensor

from . import palette, shapes, textures
from .record import FAR, FLOOR, WALL, Objects, Surround, Worlds
from .scenes import turned
from .shapes import Vector, dot

RAYS_AT_ONCE = {"cpu": 1 << 16, "cuda": 1 << 23}  # what fits the caches, or keeps the memory small
LIFT = 1e-3  # of the distance to the focus: a shadow's ray starts so far off its surface
HAZE = (0.2, 0.9)  # of the dome's radius: where the ground begins and ends to fade into the horizon


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
    w, h = size
    b, v = times.shape
    offsets = (torch.arange(supersampling, device=K.device) + 0.5) / supersampling
    dx, dy = offsets.repeat(supersampling), offsets.repeat_interleave(supersampling)
    samples = supersampling**2
    if samples > 1:  # one more, through the pixel's centre, for the depth
        half = offsets.new_full((1,), 0.5)
        dx, dy = torch.cat((half, dx)), torch.cat((half, dy))
    x = (torch.arange(w, device=K.device) + dx[:, None, None]).expand(-1, h, -1).flatten()
    y = (torch.arange(h, device=K.device)[:, None] + dy[:, None, None]).expand(-1, -1, w).flatten()
    step = max(1, RAYS_AT_ONCE["cpu" if K.device.type == "cpu" else "cuda"] // (v * len(x)))
    rgb, depth = K.new_empty(b, v, 3, h, w), K.new_empty(b, v, h, w)
    for first in range(0, b, step):
        part = slice(first, first + step)
        colour, z = _scenes(worlds.scenes(part), world_to_camera[part], K[part], times[part], x, y, samples * w * h)
        colour = torch.stack(colour, 2).unflatten(-1, (samples, h, w)).mean(3)
        rgb[part], depth[part] = palette.encoded(colour), z[..., : w * h].unflatten(-1, (h, w))
    return rgb, depth, torch.ones_like(depth)


def _scenes(
    worlds: Worlds, world_to_camera: Tensor, K: Tensor, times: Tensor, x: Tensor, y: Tensor, shaded: int
) -> tuple[Vector, Tensor]:
    """The linear colours of the last `shaded` rays, and the depths of all, for rays through pixels x, y."""
    rotation = world_to_camera[..., :3, :3]
    eye = -(rotation.mT @ world_to_camera[..., :3, 3:])  # [b, v, 3, 1]
    u = (x - K[..., 0, 2, None]) / K[..., 0, 0, None]
    v = (y - K[..., 1, 2, None]) / K[..., 1, 1, None]
    ray = rotation.mT @ torch.stack((u, v, torch.ones_like(u)), -2)  # [b, v, 3, n]
    to_unit, centre = unit_frames(worlds.objects, times)
    t, surface = _first(worlds, to_unit, centre, eye, ray)
    last = slice(-shaded, None)
    point, ray = eye + ray[..., last] * t[..., None, last], ray[..., last]
    return _shaded(worlds, to_unit, centre, point, ray, surface[..., last]), t


def unit_frames(objects: Objects, times: Tensor) -> tuple[Tensor, Tensor]:
    """Of each object at times [b, v]: world to unit shape [b, v, o, 3, 3], and its centre [b, v, o, 3]."""
    since = times[..., None] - 0.5
    spun = turned(objects.axis[:, None], objects.spin[:, None] * since)
    to_unit = (spun @ objects.rotation[:, None]).mT / objects.scale[:, None, :, :, None]
    return to_unit, objects.centre[:, None] + objects.velocity[:, None] * since[..., None]


def _intervals(worlds: Worlds, to_unit: Tensor, centre: Tensor, origin: Tensor, ray: Tensor):  # type: ignore[no-untyped-def]
    """For each kind: scenes and slots [m] of its objects, and where rays are inside of them, [m, v, n] twice."""
    for kind in range(len(shapes.KINDS)):
        scene, slot = (worlds.objects.kind == kind).nonzero(as_tuple=True)
        if len(scene):
            frame = to_unit[scene, :, slot]  # [m, v, 3, 3]
            o = frame @ (origin[scene] - centre[scene, :, slot, :, None])
            d = frame @ ray[scene]
            yield scene, slot, *shapes.inside(kind, o.unbind(-2), d.unbind(-2))


def _first(worlds: Worlds, to_unit: Tensor, centre: Tensor, eye: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """The depth along rays from the eye, and which surface is there: an object's slot, or o + FLOOR, WALL, FAR."""
    b, o = worlds.objects.kind.shape
    best, which = _behind(worlds.surround, eye, ray)
    which += o
    found = best.new_full((b, o, *best.shape[1:]), torch.inf)
    for scene, slot, low, high in _intervals(worlds, to_unit, centre, eye, ray):
        found[scene, slot] = torch.where((low < high) & (low > 0), low, torch.inf)
    for slot in range(o):
        which.masked_fill_(found[:, slot] < best, slot)
        best = torch.minimum(best, found[:, slot])
    return best, which


def _behind(surround: Surround, eye: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays meet the room, or the ground and the dome."""
    half = ((surround.high - surround.low) / 2)[:, None, :, None]
    middle = ((surround.high + surround.low) / 2)[:, None, :, None]
    safe = torch.where(ray.abs() < 1e-9, 1e-9, ray)
    x, y, z = ((half.copysign(safe) - (eye - middle)) / safe).unbind(-2)
    room = torch.minimum(torch.minimum(x, y), z)
    which = torch.where(y <= room, torch.where(ray[..., 1, :] > 0, FLOOR, FAR), WALL)
    o, d = eye.unbind(-2), ray.unbind(-2)
    _, dome = shapes.between(dot(d, d), dot(o, d), dot(o, o) - surround.dome[:, None, None].square())
    sky = surround.open[:, None, None] & (dome < room)
    return torch.where(sky, dome, room), torch.where(sky, FAR, which)


def _shadowed(worlds: Worlds, to_unit: Tensor, centre: Tensor, point: Tensor, to_lamp: Tensor) -> Tensor:
    """Whether an object is between points and the lamp, bool [b, v, n]."""
    hidden = torch.zeros_like(point[..., 0, :])
    for scene, _, low, high in _intervals(worlds, to_unit, centre, point, to_lamp):
        hidden.index_add_(0, scene, ((low < high) & (high > 0) & (low < 1)).to(hidden.dtype))
    return hidden > 0


def _shaded(worlds: Worlds, to_unit: Tensor, centre: Tensor, point: Tensor, ray: Tensor, surface: Tensor) -> Vector:
    """The linear colours that rays see at points [b, v, 3, n] of surfaces [b, v, n]."""
    o = worlds.objects.kind.shape[1]
    around, finishes = worlds.surround, worlds.finishes
    kind, frame, offset, stretch = _frames(worlds, to_unit, centre)

    def of(table: Tensor) -> Tensor:  # [b, v or 1, s] to [b, v, n]
        return table.expand(-1, surface.shape[1], -1).gather(2, surface)

    rows = [[of(frame[..., i, j]) for j in range(3)] for i in range(3)]
    p = point.unbind(-2)
    local = tuple(dot(tuple(row), p) - of(offset[..., i]) for i, row in enumerate(rows))  # type: ignore[arg-type]
    kinds = of(kind[:, None])
    m = shapes.normal(kinds, local)  # type: ignore[arg-type]
    # The normal goes by the transpose; what is round everything is seen from inside.
    n = tuple(rows[0][j] * m[0] + rows[1][j] * m[1] + rows[2][j] * m[2] for j in range(3))
    scale = torch.where(surface < o, 1.0, -1.0) * dot(n, n).clamp(min=1e-12).rsqrt()  # type: ignore[arg-type]
    n = (n[0] * scale, n[1] * scale, n[2] * scale)

    sky = (surface == o + FAR) & around.open[:, None, None]
    x, y, z = (local[i] * of(stretch[..., i]) for i in range(3))
    mx, my, mz = (c.abs() for c in m)
    flat, side = (my >= mx) & (my >= mz), mx > mz
    u = torch.where(flat, x, torch.where(side, z, x))
    w = torch.where(flat, z, y)
    lower = (0.25 - local[1]).clamp(min=0.25).reciprocal()
    u, w = torch.where(sky, local[0] * lower, u), torch.where(sky, local[2] * lower, w)
    turn, shift = finishes.turn[:, None], finishes.shift[:, None]
    cos, sin = of(turn.cos()), of(turn.sin())
    size = of(finishes.feature[:, None].reciprocal())
    share, tone = textures.pattern(
        of(finishes.family[:, None]),
        (u * cos - w * sin) * size + of(shift[..., 0]),
        (u * sin + w * cos) * size + of(shift[..., 1]),
    )
    tone = 1 + (tone - 0.5) * of(finishes.vary[:, None])
    first, second = finishes.first[:, None], finishes.second[:, None]

    eye_off = around.dome[:, None, None, None] * (LIFT / 20)
    lifted = point + torch.stack(n, -2) * eye_off
    to_lamp = around.lamp[:, None, :, None] - lifted
    lamp = to_lamp.unbind(-2)
    near = dot(lamp, lamp).rsqrt()
    facing = (dot(n, lamp) * near).clamp(min=0)
    lit = torch.where(_shadowed(worlds, to_unit, centre, lifted, to_lamp), 0.0, facing)
    fill = [c[:, None, None] for c in around.fill_from.unbind(-1)]
    filled = dot(n, tuple(fill)).clamp(min=0)  # type: ignore[arg-type]
    above = 0.75 - 0.25 * n[1]
    # Blinn and Phong's highlight.
    away = dot(ray.unbind(-2), ray.unbind(-2)).rsqrt()
    h = [l * near - r * away for l, r in zip(lamp, ray.unbind(-2), strict=True)]
    gleam = (dot(n, tuple(h)).clamp(min=0).square() / dot(tuple(h), tuple(h)).clamp(min=1e-9)) ** 16  # type: ignore[arg-type]
    gleam = gleam * of(finishes.shine[:, None]) * (lit > 0)

    # Haze: the ground by its distance from the origin, the sky by its height, both the same in every view.
    from_origin = dot(p, p).sqrt() / around.dome[:, None, None]
    ground = ((from_origin - HAZE[0]) / (HAZE[1] - HAZE[0])).clamp(0, 1)
    haze = torch.where(sky, (1 + local[1]).clamp(0, 1) ** 4, ground * around.open[:, None, None])
    result = []
    for i in range(3):
        albedo = torch.lerp(of(first[..., i]), of(second[..., i]), share) * tone
        key, ambient, by_fill = (c[:, i, None, None] for c in (around.key, around.ambient, around.fill))
        colour = albedo * (lit * key + filled * by_fill + above * ambient) + gleam * key
        colour = torch.where(sky, albedo, colour)
        result.append(torch.lerp(colour, around.horizon[:, i, None, None].expand_as(colour), haze))
    return result[0], result[1], result[2]


def _frames(worlds: Worlds, to_unit: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of all o + 3 surfaces: kinds [b, s]; A [b, v, s, 3, 3] and c so that A x - c is on a unit shape; its scale."""
    around = worlds.surround
    b, v = to_unit.shape[:2]
    open_ = around.open[:, None]
    half, middle = (around.high - around.low) / 2, (around.high + around.low) / 2
    far = torch.where(open_, around.dome[:, None].expand(-1, 3), half)
    halves = torch.stack((half, half, far), 1)  # [b, 3, 3]
    middles = torch.stack((middle, middle, torch.where(open_, 0.0, middle)), 1)
    kinds = torch.full((b, 3), shapes.BOX, device=half.device)
    kinds[:, FAR] = torch.where(around.open, shapes.ELLIPSOID, shapes.BOX)
    frame = torch.cat((to_unit, torch.diag_embed(1 / halves)[:, None].expand(-1, v, -1, -1, -1)), 2)
    centres = torch.cat((centre, middles[:, None].expand(-1, v, -1, -1)), 2)
    stretch = torch.cat((worlds.objects.scale, halves), 1)[:, None]
    return (
        torch.cat((worlds.objects.kind, kinds), 1),
        frame,
        (frame @ centres[..., None])[..., 0],
        stretch,
    )
