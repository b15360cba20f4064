"""Random worlds: all numbers from one generator, for all scenes at once.

The unit of length is drawn too, and the camera's ball of free space comes first: things and walls keep off it.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ...errors import InputError
from . import palette, paths, shapes, textures
from .record import FAR, FLOOR, WALL, Finishes, Objects, Rig, Surround, Worlds

SPLITS = ("train", "validation", "generators")
CLEARANCE = 0.33  # of the distance to the focus, between the camera's ball and anything that stands upright
CANDIDATES = 12  # places tried for an object
DOME = 20.0  # of the distance to the focus


@dataclass(frozen=True)
class WorldOptions:
    """What worlds are like. "generators" always holds the shape, texture and path that the other splits never show."""

    split: str = "train"
    moving: float = 0.3  # share of scenes with moving things
    open: float = 0.45  # share of scenes under a sky
    objects: tuple[int, int] = (3, 8)  # least and most in a scene
    supersampling: int = 2  # rays a pixel and axis

    def __post_init__(self) -> None:
        least, most = self.objects
        if self.split not in SPLITS:
            raise InputError(f"split {self.split!r} is unknown: give {', '.join(SPLITS)}")
        if not 1 <= least <= most:
            raise InputError(f"objects {self.objects} is no range of counts: give the least, from 1, and the most")
        if not (0 <= self.moving <= 1 and 0 <= self.open <= 1):
            raise InputError(f"moving {self.moving} and open {self.open} are shares of scenes: give 0 to 1")
        if self.supersampling < 1:
            raise InputError(f"supersampling {self.supersampling} is no count of rays: give 1 or more")


def sample(options: WorldOptions, count: int, generator: Generator) -> Worlds:
    """Worlds on the CPU, drawn from a CPU generator. Which split they belong to is the caller's choice of stream."""
    dice = Dice(generator)
    rig = _rig(options, dice, count)
    objects = _objects(options, dice, rig)
    surround = _surround(options, dice, rig, objects)
    return Worlds(objects, _finishes(options, dice, rig, objects, surround), surround, rig)


@dataclass(frozen=True)
class Dice:
    """Random tensors of any shape."""

    generator: Generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Even between two numbers."""
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def scaled(self, low: float, high: float, *shape: int) -> Tensor:
        """Even in the logarithm."""
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def chance(self, share: float, *shape: int) -> Tensor:
        """True with a probability."""
        return torch.rand(shape, generator=self.generator) < share

    def pick(
        self, names: tuple[str, ...], without: str | None, *shape: int, weights: dict[str, float] | None = None
    ) -> Tensor:
        """Indices of names, all equally likely unless weighted, one of them never."""
        odds = torch.tensor([0.0 if name == without else (weights or {}).get(name, 1.0) for name in names])
        return torch.multinomial(odds, math.prod(shape), True, generator=self.generator).reshape(shape)

    def directions(self, *shape: int) -> Tensor:
        """Unit vectors, all equally likely."""
        v = torch.randn((*shape, 3), generator=self.generator)
        return v / v.norm(dim=-1, keepdim=True).clamp(min=1e-6)

    def rotations(self, *shape: int) -> Tensor:
        """Rotations [.., 3, 3], all equally likely (of a random unit quaternion)."""
        q = torch.randn((*shape, 4), generator=self.generator)
        q = q / q.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        return shapes.turned(q[..., 1:] / q[..., 1:].norm(dim=-1, keepdim=True), 2 * q[..., 0].clamp(-1, 1).acos())


def _rig(options: WorldOptions, dice: Dice, b: int) -> Rig:
    held_out = options.split == "generators"
    path = torch.full((b,), paths.CRANE) if held_out else dice.pick(paths.PATHS, paths.HELD_OUT, b)
    distance = dice.scaled(2.0, 8.0, b)
    reach = distance * dice.scaled(0.12, 0.6, b)
    room = paths.ball(distance, reach)
    height = torch.maximum(distance * dice.uniform(0.2, 0.75, b), room + 0.08 * distance)
    azimuth = dice.uniform(-math.pi, math.pi, b)
    along = (distance.square() - (height * 0.7).square()).sqrt()  # so that the focus is about at the origin
    base = torch.stack((-azimuth.sin() * along, -height, -azimuth.cos() * along), -1)
    focus = dice.uniform(-0.12, 0.12, b, 3) * distance[:, None]
    focus[:, 1] = -height * dice.uniform(0.05, 0.5, b)  # below the camera: the ground fills half of the picture
    distance = (focus - base).norm(dim=-1)
    roll = torch.randn(b, generator=dice.generator) * math.radians(3)
    fov = torch.deg2rad(dice.uniform(35, 75, b))
    return Rig(path, base, focus, distance, reach, dice.uniform(-math.pi, math.pi, b), roll, fov)


def _objects(options: WorldOptions, dice: Dice, rig: Rig) -> Objects:
    b, (least, most) = len(rig.path), options.objects
    if options.split == "generators":
        kind = dice.pick(shapes.KINDS, None, b, most)
        kind[:, 0] = shapes.CYLINDER
    else:
        kind = dice.pick(shapes.KINDS, shapes.HELD_OUT, b, most)
    number = torch.randint(least, most + 1, (b, 1), generator=dice.generator)
    kind = torch.where(torch.arange(most) < number, kind, -1)
    wide = (rig.fov / 2).tan().sqrt()[:, None]  # where more is seen, things are somewhat larger
    size = rig.distance[:, None] * wide * dice.scaled(0.12, 0.36, b, most)
    scale = size[..., None] * dice.uniform(0.6, 1.5, b, most, 3)
    round_ = dice.chance(0.5, b, most) & (kind != shapes.BOX)
    scale = torch.where(round_[..., None], torch.stack((scale[..., 0], scale[..., 1], scale[..., 0]), -1), scale)
    ball = (round_ & (kind == shapes.ELLIPSOID) & dice.chance(0.6, b, most))[..., None]
    scale = torch.where(ball, scale[..., :1], scale)

    moving = dice.chance(options.moving, b, 1) & dice.chance(0.6, b, most)
    moving[:, 0] |= moving.any(1)
    velocity = dice.directions(b, most) * torch.tensor([1.0, 0.25, 1.0]) * rig.distance[:, None, None]
    velocity = velocity * (moving * dice.uniform(0.15, 0.5, b, most))[..., None]
    spin = moving * dice.uniform(-1.8, 1.8, b, most)

    lot = dice.uniform(0, 1, b, most)
    floating, tumbled = lot > 0.8, lot > 0.65
    up = torch.tensor([0.0, 1.0, 0.0]).expand(b, most, 3)
    yaw = shapes.turned(up, dice.uniform(-math.pi, math.pi, b, most))
    rotation = torch.where(tumbled[..., None, None], dice.rotations(b, most), yaw)
    axis = torch.where(floating[..., None], dice.directions(b, most), up)
    velocity[..., 1] = torch.where(floating, velocity[..., 1], 0.0)

    below = shapes.height(kind, rotation, scale)
    extent = scale.norm(dim=-1)  # of the sphere that holds the shape however it turns
    lift = extent + velocity[..., 1].abs() / 2 + rig.distance[:, None] * dice.scaled(0.02, 0.35, b, most)
    centre = _places(dice, rig, extent + velocity.norm(dim=-1) / 2, kind >= 0)
    centre = torch.stack((centre[..., 0], -torch.where(floating, lift, below), centre[..., 1]), -1)
    return Objects(kind, centre, rotation, scale, velocity, axis, spin)


def _places(dice: Dice, rig: Rig, extent: Tensor, present: Tensor) -> Tensor:
    """Where discs of these radii [b, o] stand: x and z [b, o, 2], before the camera and, if there is room, apart."""
    b, o = extent.shape
    distance, ball = rig.distance[:, None], paths.ball(rig.distance, rig.reach)[:, None]
    forward = (rig.focus - rig.base)[:, [0, 2]]
    forward = forward / forward.norm(dim=-1, keepdim=True)
    right = torch.stack((forward[:, 1], -forward[:, 0]), -1)
    wide = (rig.fov / 2).tan()[:, None] * 0.95
    placed = torch.zeros(b, o, 2)
    for i in range(o):
        nearest = ball + CLEARANCE * distance + extent[:, i : i + 1]
        ahead = nearest + (1.9 * distance - nearest).clamp(min=0) * dice.uniform(0, 1, b, CANDIDATES)
        across = ahead * wide * dice.uniform(-1, 1, b, CANDIDATES)
        tried = rig.base[:, None, [0, 2]] + ahead[..., None] * forward[:, None] + across[..., None] * right[:, None]
        score = 1e-3 * dice.uniform(0, 1, b, CANDIDATES)
        if i:
            gap = (
                (tried[:, :, None] - placed[:, None, :i]).norm(dim=-1) - extent[:, None, :i] - extent[:, i, None, None]
            )
            gap = torch.where(present[:, None, :i], gap, torch.inf).amin(-1)
            score = score + gap.clamp(max=0)
        best = score.argmax(1)
        placed[:, i] = tried[torch.arange(b), best]
    return placed


def _surround(options: WorldOptions, dice: Dice, rig: Rig, objects: Objects) -> Surround:
    b = len(rig.path)
    open_ = dice.chance(options.open, b)
    distance = rig.distance[:, None]
    extent = objects.scale.norm(dim=-1, keepdim=True) + objects.velocity.norm(dim=-1, keepdim=True) / 2
    present = objects.kind[..., None] >= 0
    ball = paths.ball(rig.distance, rig.reach)[:, None] + 0.42 * distance
    low = torch.where(present, objects.centre - extent, torch.inf).amin(1).minimum(rig.base - ball)
    high = torch.where(present, objects.centre + extent, -torch.inf).amax(1).maximum(rig.base + ball)
    low = low - distance * dice.scaled(0.03, 0.6, b, 3)
    high = high + distance * dice.scaled(0.03, 0.6, b, 3)
    dome = DOME * rig.distance
    low = torch.where(open_[:, None], -4 * dome[:, None], low)
    high = torch.where(open_[:, None], 4 * dome[:, None], high)
    high[:, 1] = 0

    tall, middle = -low[:, 1], (low + high) / 2
    inside = dice.uniform(-0.3, 0.3, b, 3) * (high - low) + middle
    inside[:, 1] = low[:, 1] + 0.08 * tall
    sun_up = torch.deg2rad(dice.uniform(25, 70, b))
    sun_at = dice.uniform(-math.pi, math.pi, b)
    flat = sun_up.cos()
    sun = torch.stack((flat * sun_at.cos(), -sun_up.sin(), flat * sun_at.sin()), -1)
    lamp = torch.where(open_[:, None], sun * 15 * distance, inside)

    warm = palette.warmth(dice.uniform(-1, 1, b))
    strength = dice.uniform(0.75, 1.15, b, 1)
    fill_from = dice.directions(b)
    fill_from[:, 1] = -fill_from[:, 1].abs()
    zenith, horizon = palette.sky(dice.uniform(0, 1, b))
    ambient = torch.where(
        open_[:, None], 0.5 * (zenith + horizon) * 0.5 + 0.08, 0.2 * palette.warmth(-0.3 * warm[:, 0])
    )
    fill = 0.22 * dice.uniform(0.5, 1, b, 1) * palette.warmth(dice.uniform(-1, 1, b))
    return Surround(open_, low, high, dome, zenith, horizon, lamp, warm * strength, fill_from, fill, ambient)


WEIGHTS = {"solid": 0.8, "gradient": 0.7, "noise": 1.3, "checker": 1.0, "stripes": 0.8, "brick": 0.9, "dots": 1.0}
AROUND = WEIGHTS | {"solid": 0.3, "gradient": 0.4}  # large plain surfaces teach little


def _finishes(options: WorldOptions, dice: Dice, rig: Rig, objects: Objects, surround: Surround) -> Finishes:
    b, o = objects.kind.shape
    held_out = options.split == "generators"
    without = None if held_out else textures.HELD_OUT
    family = torch.cat(
        [dice.pick(textures.FAMILIES, without, b, n, weights=w) for n, w in ((o, WEIGHTS), (3, AROUND))], 1
    )
    if held_out:
        family[:, 0] = textures.DOTS
    size = objects.scale.mean(-1)
    feature = torch.cat((size * dice.scaled(0.4, 1.3, b, o), rig.distance[:, None] * dice.scaled(0.1, 0.45, b, 3)), 1)
    turn = dice.uniform(-math.pi, math.pi, b, o + 3) * (family != textures.BRICK)
    colours = [palette.colours(dice.uniform(0, 1, b, o + 3, 5)) for _ in range(2)]
    shade = dice.scaled(0.3, 0.7, b, o + 3, 1)
    first, other = colours
    second = torch.where(dice.chance(0.5, b, o + 3, 1), first * shade, other)

    # Walls and ceilings are paler than things.
    pale = dice.uniform(0.1, 0.6, b, 3, 1) * torch.tensor([0.5, 1.0, 1.0])[:, None]
    first[:, o:], second[:, o:] = (pale * 0.7 + (1 - pale) * c[:, o:] for c in (first, second))
    # The sky is a surface too, with clouds of noise.
    zenith, horizon = surround.zenith, surround.horizon
    open_ = surround.open
    cloudy = torch.where(dice.chance(0.6, b), textures.NOISE, textures.SOLID)
    family[:, o + FAR] = torch.where(open_, cloudy, family[:, o + FAR])
    feature[:, o + FAR] = torch.where(open_, dice.scaled(0.25, 0.8, b), feature[:, o + FAR])
    first[:, o + FAR] = torch.where(open_[:, None], zenith, first[:, o + FAR])
    second[:, o + FAR] = torch.where(open_[:, None], horizon, second[:, o + FAR])
    feature[:, o + FLOOR] *= torch.where(open_, 1.6, 1.0)
    feature[:, o + WALL] *= 1.2
    vary = dice.uniform(0, 0.5, b, o + 3)
    shine = dice.uniform(0.05, 0.4, b, o + 3) * dice.chance(0.35, b, o + 3)
    shine[:, o:] = 0
    return Finishes(family, feature, turn, dice.uniform(-8, 8, b, o + 3, 2), first, second, vary, shine)
