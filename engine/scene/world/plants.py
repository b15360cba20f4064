"""Plants in plan coordinates (z up, metres): every leaf, petal and blade is an ellipse of its own."""

from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from .shapes import Array, Shape, discs, joined
from .solids import wire
from .surfels import Material, Surface
from .textures import foliage, paint, pieces

GREENS = ("#35522b", "#4d7036", "#688a40", "#86a04e")
OLIVE = ("#556b45", "#76895a", "#95a478", "#b0ba8e")
BARK = Material(pieces(("#6b5442", "#7d6651", "#5d4a3c"), 0.1, 0.6, 30.0), grain=2.5)


@cache
def leaf(greens: tuple[str, ...], gloss: float = 0.05) -> Material:
    """A leaf that light comes through."""
    return Material(foliage(greens), opacity=0.94, gloss=gloss, grain=1.6, thin=True)


def leaves(
    centers: Array, normals: Array, length: float, width: float, rng: np.random.Generator, droop: float = 0.4
) -> Shape:
    """Ellipses at `centers` [m, 3] that face about `normals` [m, 3], tips turned down by about `droop`."""
    count = len(centers)
    facing = _unit(_unit(normals) + 0.55 * rng.normal(size=(count, 3)))
    aim = rng.normal(size=(count, 3)) - np.array([0.0, 0.0, 2 * droop])
    along = _unit(aim - (aim * facing).sum(1, keepdims=True) * facing)
    scale = rng.uniform(0.7, 1.25, (count, 1)) / 2
    return discs(centers, along * (length * scale), np.cross(facing, along) * (width * scale))


def blob(center: ArrayLike, radii: ArrayLike, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Places [count, 3] in the outer half of a ragged ellipsoid, and outward directions there that tend upward."""
    way = _unit(rng.normal(size=(count, 3)))
    ragged = 1 + 0.16 * np.sin(5 * way[:, :1] + 3) * np.cos(6 * way[:, 1:2] + 4 * way[:, 2:])
    depth = 1 - 0.45 * rng.random((count, 1)) ** 1.7
    places = np.asarray(center, float) + way * np.asarray(radii, float) * ragged * depth
    return places, _unit(way) + [0.0, 0.0, 0.35]


def shrub(
    center: ArrayLike,
    radii: ArrayLike,
    rng: np.random.Generator,
    *,
    greens: tuple[str, ...] = GREENS,
    flower: str | None = None,
) -> list[Surface]:
    """A round bush, in bloom if `flower` names a colour."""
    size = float(np.prod(np.asarray(radii, float)) ** (1 / 3))
    count = int(np.clip(1300 * size**1.6, 140, 1400))
    places, out = blob(center, radii, count, rng)
    keep = places[:, 2] > 0.02
    parts = [Surface(leaves(places[keep], out[keep], 0.095, 0.05, rng), leaf(greens), 4.5)]
    if flower:
        places, out = blob(center, np.asarray(radii, float) * 1.06, count // 5, rng)
        keep = places[:, 2] > 0.05
        parts.append(Surface(leaves(places[keep], out[keep], 0.06, 0.055, rng, 0), petal(flower), 6.0))
    return parts


@cache
def petal(color: str) -> Material:
    """A petal."""
    return Material(paint(color, 0.1, 0.25), opacity=0.95, thin=True)


def tree(
    base: ArrayLike, height: float, spread: float, rng: np.random.Generator, greens: tuple[str, ...]
) -> list[Surface]:
    """A small tree: a leaning trunk, branches to some clouds of leaves."""
    foot = np.asarray(base, float)
    lean = rng.normal(size=2) * 0.12
    rise = np.linspace(0, 1, 7)[:, None]
    bend = np.concatenate((lean * rise + 0.05 * rng.normal(size=(7, 2)) * rise, 0.55 * height * rise), axis=1)
    trunk = foot + bend
    wood = [wire(trunk, 0.09 * spread, 0.05 * spread)]
    surfaces, count = [], 7
    turn = rng.uniform(0, 2 * np.pi)
    for i in range(count):
        angle, level = turn + i * 2.4, (0.35 + 0.65 * np.sqrt(i / count)) if i else 0.0
        side = spread * 0.62 * level * np.array([np.cos(angle), np.sin(angle)])
        tip = trunk[-1] + [*side, height * (0.33 - 0.16 * level + 0.08 * rng.random())]
        middle = (trunk[-1 - i % 2] + tip) / 2 + [0, 0, -0.06] + 0.05 * rng.normal(size=3)
        wood.append(wire([trunk[-1 - i % 2], middle, tip], 0.04 * spread, 0.012 * spread))
        places, out = blob(
            tip, spread * np.array([0.5, 0.5, 0.4]) * rng.uniform(0.85, 1.15), int(310 * spread**1.5), rng
        )
        surfaces.append(Surface(leaves(places, out, 0.12, 0.055, rng, 0.8), leaf(greens), 3.4))
    return [*surfaces, Surface(joined(*wood), BARK, 5.0)]


def treetops(spots: Array, size: float, rng: np.random.Generator) -> list[Surface]:
    """Crowns of far trees, coarse, centred at `spots` [m, 3]."""
    places, out = zip(*(blob(at, size * rng.uniform(0.7, 1.2, 3) * [1, 1, 0.8], 420, rng) for at in spots), strict=True)
    return [Surface(leaves(np.concatenate(places), np.concatenate(out), 0.42, 0.26, rng), leaf(GREENS), 0.35)]


def litter(spots: Array, size: float, color: str, rng: np.random.Generator) -> list[Surface]:
    """Petals or leaves that lie flat at `spots` [m, 3]."""
    up = np.tile([[0.0, 0.0, 4.0]], (len(spots), 1))
    return [Surface(leaves(spots, up, size, 0.75 * size, rng, 0.0), petal(color), 6.0)]


def tufts(spots: Array, height: ArrayLike, rng: np.random.Generator, blades: int = 13) -> list[Surface]:
    """Grass: blades that lean out from every spot [m, 3]; `height` is one number or [m]."""
    foot = np.repeat(spots, blades, axis=0)
    tall = np.repeat(np.broadcast_to(height, len(spots)), blades)[:, None] * rng.uniform(0.55, 1.1, (len(foot), 1))
    angle = rng.uniform(0, 2 * np.pi, len(foot))
    out = np.stack((np.cos(angle), np.sin(angle), np.zeros(len(foot))), axis=1)
    foot = foot + out * tall * 0.12 * rng.random((len(foot), 1))
    lean = rng.uniform(0.1, 0.5, (len(foot), 1))
    middle = foot + tall * ([0.0, 0.0, 0.55] + 0.45 * lean * out)
    tip = middle + tall * ([0.0, 0.0, 0.38] + 1.1 * lean * out)
    side = np.cross(out, [0.0, 0.0, 1.0])
    return [Surface(joined(_blade(foot, middle, side, 0.0055), _blade(middle, tip, side, 0.0045)), leaf(GREENS), 5.0)]


def straps(
    center: ArrayLike, length: float, count: int, rng: np.random.Generator, greens: tuple[str, ...]
) -> list[Surface]:
    """Long arching leaves from one point, as of an agave or a fern."""
    angle = np.arange(count) * 2.4 + rng.uniform(0, 6)
    out = np.stack((np.cos(angle), np.sin(angle), np.zeros(count)), axis=1)
    tall = length * rng.uniform(0.75, 1.1, (count, 1))
    lift = rng.uniform(0.35, 1.0, (count, 1))
    foot = np.asarray(center, float) + 0.02 * out
    knots = [foot]
    for step in range(4):
        way = _unit(out * (0.5 + 0.35 * step * (1.3 - lift)) + [0.0, 0.0, 1.0] * (1.3 * lift - 0.33 * step))
        knots.append(knots[-1] + way * tall / 4)
    side = np.cross(out, [0.0, 0.0, 1.0])
    widths = np.array([0.05, 0.062, 0.05, 0.03]) * length
    parts = [_blade(p, q, side, w) for p, q, w in zip(knots[:-1], knots[1:], widths, strict=True)]
    return [Surface(joined(*parts), leaf(greens, 0.12), 4.5)]


def climber(
    spots: Array, outward: ArrayLike, rng: np.random.Generator, greens: tuple[str, ...], flower: str | None
) -> list[Surface]:
    """Leaves that lie over a wall or a roof at `spots` [m, 3] facing `outward`, with some flowers."""
    facing = np.broadcast_to(np.asarray(outward, float), spots.shape)
    lifted = spots + facing * rng.uniform(0.02, 0.12, (len(spots), 1))
    parts = [Surface(leaves(lifted, facing + [0.0, 0.0, 0.3], 0.11, 0.085, rng, 0.7), leaf(greens), 4.0)]
    if flower:
        some = lifted[rng.random(len(lifted)) < 0.28] + 0.05 * facing[0]
        parts.append(
            Surface(leaves(some, facing[: len(some)] + [0.0, 0.0, 0.2], 0.075, 0.065, rng), petal(flower), 5.0)
        )
    return parts


def _blade(start: Array, end: Array, side: Array, half_width: ArrayLike) -> Shape:
    along = (end - start) * 0.56  # neighbours overlap a little
    return discs((start + end) / 2, along, side * half_width)


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
