"""How surfaces look: their patterns, in the light of one lamp with shadows, one without, and the sky."""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import hits, shapes, textures
from .hits import Frames
from .record import FAR, Finishes, Surround, Worlds
from .shapes import Vector, applied, dot, parts

LIFT = 5e-5  # of the dome's radius: a shadow's ray starts so far off its surface
HAZE = 0.08, 0.5  # of the dome's radius: where the ground begins and ends to fade into the horizon


def colours(worlds: Worlds, things: Frames, point: Tensor, ray: Tensor, surface: Tensor) -> Vector:
    """The linear colours that rays see at points [b, v, k, 3, m] of surfaces [b, v, k, m]."""
    around, finishes, of = worlds.surround, worlds.finishes, Lookup(surface)
    unit, local, unit_normal, normal = _touched(worlds, things, point, of)
    sky = (surface == things.kind.shape[1] + FAR) & around.open[:, None, None, None]
    share, tone = _patterned(finishes, of, *_plane(unit, local, unit_normal, sky))
    lit, gleam = _lamp_light(around, things, point, ray, normal)
    gleam = gleam * of(finishes.shine[:, None])
    filled, above = dot(normal, _each(around.fill_from)).clamp(min=0), 0.75 - 0.25 * normal[1]
    haze = _haze(around, parts(point), unit[1], sky)
    first, second = finishes.first[:, None], finishes.second[:, None]
    key, ambient, fill, horizon = (_each(c) for c in (around.key, around.ambient, around.fill, around.horizon))

    def channel(i: int) -> Tensor:
        albedo = torch.lerp(of(first[..., i]), of(second[..., i]), share) * tone
        colour = albedo * (lit * key[i] + filled * fill[i] + above * ambient[i]) + gleam * key[i]
        return torch.lerp(torch.where(sky, albedo, colour), horizon[i], haze)

    return channel(0), channel(1), channel(2)


@dataclass(frozen=True, eq=False)
class Lookup:
    """What tables say of each ray's surface."""

    surface: Tensor  # [b, v, k, m]

    def __call__(self, table: Tensor) -> Tensor:
        """[b, v, k, m] of [b, v or 1, s]."""
        index = self.surface.flatten(2)
        return table.expand(-1, index.shape[1], -1).contiguous().gather(2, index).view(self.surface.shape)

    def vector(self, table: Tensor) -> Vector:
        """The same of [b, v or 1, s, 3]."""
        return self(table[..., 0]), self(table[..., 1]), self(table[..., 2])


def _each(table: Tensor) -> Vector:
    """[b, 3] as a vector that broadcasts."""
    return table[:, 0, None, None, None], table[:, 1, None, None, None], table[:, 2, None, None, None]


def _touched(worlds: Worlds, things: Frames, point: Tensor, of: Lookup) -> tuple[Vector, Vector, Vector, Vector]:
    """Points on their unit shapes, the same in world units, the normals there, and those of the world (unit)."""
    kind, frame, offset, stretch = _unit_frames(worlds, things)
    a, b, c = (of.vector(frame[..., i, :]) for i in range(3))
    p, back, s = parts(point), of.vector(offset), of.vector(stretch)
    unit = dot(a, p) - back[0], dot(b, p) - back[1], dot(c, p) - back[2]
    m = shapes.normal(of(kind[:, None]), unit)
    # Normals go by the transpose. What is round everything is seen from inside.
    n = dot(m, (a[0], b[0], c[0])), dot(m, (a[1], b[1], c[1])), dot(m, (a[2], b[2], c[2]))
    out = torch.where(of.surface < things.kind.shape[1], 1.0, -1.0) * dot(n, n).clamp(min=1e-20).rsqrt()
    return unit, (unit[0] * s[0], unit[1] * s[1], unit[2] * s[2]), m, (n[0] * out, n[1] * out, n[2] * out)


def _plane(unit: Vector, local: Vector, normal: Vector, sky: Tensor) -> tuple[Tensor, Tensor]:
    """Plane coordinates: the two that the normal's greatest component leaves; of the sky, those of a ceiling."""
    x, y, z = (c.abs() for c in normal)
    flat = (y >= x) & (y >= z)
    u, v = torch.where(flat | (x <= z), local[0], local[2]), torch.where(flat, local[2], local[1])
    lower = (0.25 - unit[1]).clamp(min=0.25).reciprocal()
    return torch.where(sky, unit[0] * lower, u), torch.where(sky, unit[2] * lower, v)


def _patterned(finishes: Finishes, of: Lookup, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The share of the second colour, and a factor of brightness."""
    turn, shift, finer = finishes.turn[:, None], finishes.shift[:, None], finishes.feature[:, None].reciprocal()
    cos, sin = of(turn.cos() * finer), of(turn.sin() * finer)
    u, v = u * cos - v * sin + of(shift[..., 0]), u * sin + v * cos + of(shift[..., 1])
    share, tone = textures.pattern(of(finishes.family[:, None]), u, v)
    return share, 1 + (tone - 0.5) * of(finishes.vary[:, None])


def _lamp_light(around: Surround, things: Frames, point: Tensor, ray: Tensor, normal: Vector) -> tuple[Tensor, Tensor]:
    """How much of the lamp's light falls on points, with shadows, and how much a mirror would gleam."""
    lifted = point + torch.stack(normal, -2) * (around.dome * LIFT)[:, None, None, None, None]
    lamp = around.lamp[:, None, None, :, None]
    free = (1 - hits.hidden(things, lifted, lamp)).clamp(min=0)
    to_lamp, r = parts(lamp - lifted), parts(ray)
    near, away = dot(to_lamp, to_lamp).rsqrt(), dot(r, r).rsqrt()
    # Blinn's highlight, of exponent 32, round the vector halfway between lamp and eye.
    half = to_lamp[0] * near - r[0] * away, to_lamp[1] * near - r[1] * away, to_lamp[2] * near - r[2] * away
    gleam = dot(normal, half).clamp(min=0).square() / dot(half, half).clamp(min=1e-9)
    return (dot(normal, to_lamp) * near).clamp(min=0) * free, gleam.square().square().square().square() * free


def _haze(around: Surround, p: Vector, down: Tensor, sky: Tensor) -> Tensor:
    """How much of the horizon's colour there is: more far from the origin and low in the sky; of places, not views."""
    far = dot(p, p).sqrt() / around.dome[:, None, None, None]
    ground = ((far - HAZE[0]) / (HAZE[1] - HAZE[0])).clamp(0, 1) * around.open[:, None, None, None]
    return torch.where(sky, (1 + down).clamp(0, 1).square().square(), ground)


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
