"""A furnished courtyard, composed anew for every seed.

Plan coordinates: x towards the house, y to its left, z up, metres; the middle of the paving is the origin. What the
camera paths cross (a ring of radius 2.2 to 3.2 and the straight way in from behind) is kept free above 0.9 m.
"""

import math

import numpy as np

from .furniture import awning, barrel, bench, chair, crate, pergola, railing, shelf, string_of_lights, table
from .lighting import Sky
from .ornaments import ball, books, cup, fountain, fruit_bowl, lantern, pot, vase
from .palette import EARTH, PALETTES, Palette, masonry, timber
from .plants import GREENS, OLIVE, climber, litter, shrub, tree, treetops, tufts
from .shapes import Array, Shape, ground, joined, rects, swell
from .solids import Hole, boxes, coursed, placed
from .surfels import Material, Surface
from .textures import fbm, soil
from .walls import brick_wall, fence, house

HALF = 5.0  # metres from the middle to a wall
REACH = 8.4  # metres from the origin to the farthest corner that casts a shadow

_PAVING = (0.007, 0.7)  # height and phase of its swell
_FIELD = 2 * HALF
_TREES = ((-8.6, -5.5, 3.0), (-9.6, -1, 3.4), (-8.4, 3.4, 2.9), (-4, -8.6, 3.3), (2.6, -9.2, 3.6), (-3.4, 9, 3.4))


def daylight(seed: int) -> Sky:
    """Sun and sky of a clear late morning or afternoon; the sun stands behind the one who looks at the house."""
    rng = _rng(seed, 1)
    rise, turn = math.radians(rng.uniform(38, 50)), math.radians(rng.uniform(28, 52)) * rng.choice((-1, 1))
    sun = (-math.cos(rise) * math.cos(turn), math.cos(rise) * math.sin(turn), math.sin(rise))
    return Sky(sun, (2.9, 2.42, 1.8), (0.2, 0.42, 0.98), (0.52, 0.76, 1.1))


def compose(seed: int) -> list[Surface]:
    """All surfaces of the courtyard but the sky."""
    rng = _rng(seed, 0)
    palette = PALETTES[seed % len(PALETTES)]
    side = 1 if seed % 2 == 0 else -1  # which of the long walls carries the pergola
    beds: list[Hole] = [_sorted(2.35, HALF, side * 2.3, side * HALF), _sorted(-HALF, -4.1, side * -3.2, side * 3.4)]
    out = [*_floor(beds, palette, rng), *_walls(side, palette, rng), *_center(palette, rng)]
    out += _garden(beds, side, palette, rng)
    out += placed(pergola(palette), math.pi if side > 0 else 0.0, [-0.9, side * HALF, 0])
    out += placed(bench(palette), math.pi if side > 0 else 0.0, [-0.9, side * (HALF - 0.55), 0])
    out += placed(awning(palette), 0.0 if side > 0 else math.pi, [-0.3, -side * HALF, 0])
    out += placed(shelf(palette, rng), 0.0 if side > 0 else math.pi, [-0.5, -side * (HALF - 0.25), 0])
    out += _corner(side, palette, rng)
    out += _lights(side, palette)
    return _merged(out)


def _walls(side: int, palette: Palette, rng: np.random.Generator) -> list[Surface]:
    high = rng.uniform(4.75, 5.1)
    with_pergola = brick_wall(HALF, rng.uniform(2.55, 2.8), -side * 1.5, palette, rng)
    with_awning = brick_wall(HALF, rng.uniform(2.6, 2.8), side * 1.75, palette, rng)
    left, right = (with_pergola, with_awning) if side > 0 else (with_awning, with_pergola)
    return [
        *placed(house(HALF + 0.3, high, palette, rng), math.pi / 2, [HALF, 0, 0]),
        *placed(left, math.pi, [0, HALF, 0]),
        *placed(right, 0.0, [0, -HALF, 0]),
        *placed(fence(HALF + 0.1, rng.uniform(1.75, 1.95), palette, rng), -math.pi / 2, [-HALF, 0, 0]),
        *_climbers(side, palette, rng),
        *treetops(np.array(_TREES), 1.9, rng),
    ]


def _climbers(side: int, palette: Palette, rng: np.random.Generator) -> list[Surface]:
    """Leaves up the corner of the house, along a brick wall and over the pergola."""
    spots = rng.uniform(0, 1, (5200, 2)) * [3.1, 4.4]
    dense = fbm(np.concatenate((spots * 1.1, np.full((len(spots), 1), float(rng.integers(90)))), 1), 3)
    on_house = spots[dense > 0.36 + 0.17 * spots[:, 0] / 3.1 + 0.13 * spots[:, 1] / 4.4 + 0.06]
    house_spots = np.stack((0 * on_house[:, 0] + HALF, side * (HALF - on_house[:, 0]), on_house[:, 1]), axis=1)
    along = rng.uniform(0, 1, (3800, 2)) * [5.0, 1.5]
    dense = fbm(np.concatenate((along * 0.9, np.full((len(along), 1), float(rng.integers(90)))), 1), 4)
    on_wall = along[dense > 0.42 + 0.14 * along[:, 1] / 1.5]
    wall_spots = np.stack((on_wall[:, 0], 0 * on_wall[:, 0] - side * HALF, 2.45 - on_wall[:, 1]), axis=1)
    roof = rng.uniform(-1, 1, (750, 2)) * [1.75, 0.85]
    roof_spots = np.stack((roof[:, 0] - 0.9, side * (HALF - 0.8 + roof[:, 1]), 2.58 + 0.1 * rng.random(750)), axis=1)
    return [
        *climber(house_spots, [-1.0, 0, 0], rng, GREENS, palette.flower),
        *climber(wall_spots, [0, float(side), 0], rng, GREENS, None),
        *climber(roof_spots, [0, 0, 1.0], rng, GREENS, palette.flower2),
    ]


def _floor(beds: list[Hole], palette: Palette, rng: np.random.Generator) -> list[Surface]:
    rows = [-HALF]
    while rows[-1] < HALF - 0.3:
        rows.append(rows[-1] + rng.uniform(0.34, 0.56))
    rows[-1] = HALF
    stones, joints = coursed((-HALF, HALF), np.array(rows), (0.42, 0.72), 0.022, beds, rng)
    lost = (rng.random(len(stones)) < 0.05) & (np.hypot(stones[:, :2].mean(1), stones[:, 2:].mean(1)) > 1.9)
    flags = _laid(stones[~lost], 0.0, rng, 0.003)
    moss = Material(soil("#6f7350", "#565243"), grain=4.0)
    spots = [
        np.stack((rng.uniform(a, b, 16), rng.uniform(c, d, 16), np.full(16, -0.02)), 1) for a, b, c, d in stones[lost]
    ]
    out = [
        Surface(flags, masonry(palette.stones, 0.32), 1.5),
        Surface(_laid(joints, -0.008, rng, 0.0), moss, 2.0),
        Surface(
            rects([-HALF, -HALF, -0.12], [_FIELD, 0, 0], [0, _FIELD, 0]), Material(soil("#8a7f6a", "#6a6350")), 0.3
        ),
        Surface(_laid(stones[lost], -0.025, rng, 0.0), moss, 2.2),
        *tufts(np.concatenate(spots), rng.uniform(0.05, 0.13, 16 * len(spots)), rng, 8),
    ]
    for x0, x1, y0, y1 in beds:
        phase = rng.uniform(0, 6)
        out.append(Surface(ground([x0, y0, 0.1], [x1 - x0, 0, 0], [0, y1 - y0, 0], 0.022, phase), EARTH, 1.3))
        edge = 0.09
        middle, size = [(x0 + x1) / 2, (y0 + y1) / 2], [x1 - x0, y1 - y0]
        kerbs = boxes(
            [[middle[0], y, 0.06] for y in (y0, y1)] + [[x, middle[1], 0.06] for x in (x0, x1)],
            [[size[0] + edge, edge, 0.22]] * 2 + [[edge, size[1] - edge, 0.22]] * 2,
        )
        out.append(Surface(kerbs, masonry(palette.stones, 0.3), 2.2))
    return out


def _laid(rectangles: Array, lift: float, rng: np.random.Generator, uneven: float) -> Shape:
    """Stones [m, 4] (x0, x1, y0, y1) laid on the swelling ground, each a flat slab that follows its slope."""
    x0, x1, y0, y1 = rectangles.T
    z, slope_x, slope_y = swell((x0 + x1) / 2 / _FIELD, (y0 + y1) / 2 / _FIELD, *_PAVING)
    dx, dy = (x1 - x0) / 2, (y1 - y0) / 2
    rise_x, rise_y = slope_x * dx / _FIELD, slope_y * dy / _FIELD
    z = z + lift + uneven * rng.normal(size=len(z))
    zero = np.zeros_like(z)
    corner = np.stack((x0, y0, z - rise_x - rise_y), axis=1)
    a, b = np.stack((2 * dx, zero, 2 * rise_x), axis=1), np.stack((zero, 2 * dy, 2 * rise_y), axis=1)
    tall = (dy > dx)[:, None]  # the grain runs along the longer side
    shifted_corner = np.where(tall, corner + a, corner)
    return rects(shifted_corner, np.where(tall, b, a), np.where(tall, -a, b))


def _level(x: Array, y: Array) -> Array:
    """Height of the paving, metres."""
    return swell(x / _FIELD, y / _FIELD, *_PAVING)[0]


def _center(palette: Palette, rng: np.random.Generator) -> list[Surface]:
    """A laid table with chairs round it, and toys beside."""
    turn = rng.uniform(-0.3, 0.3)
    out = placed(table(palette), turn)
    angles = [0.35, 1.75, -1.1] + ([2.75] if rng.random() < 0.5 else [])
    for i, angle in enumerate(angles):
        angle = angle + rng.uniform(-0.2, 0.2)
        away = rng.uniform(0.78, 0.98)
        seat = chair(palette.accent if i % 2 else palette.paint)
        out += placed(
            seat, angle + math.pi / 2 + rng.uniform(-0.3, 0.3), [away * math.cos(angle), away * math.sin(angle), 0]
        )
    tops = [vase(palette, rng), fruit_bowl(palette, rng), lantern(0.3), books(4, rng, palette)]
    start = rng.uniform(0, 6)
    for i, thing in enumerate(tops):
        away = 0.06 if i == 0 else rng.uniform(0.3, 0.38)
        angle = start + 2.1 * i
        out += placed(thing, rng.uniform(0, 6), [away * math.cos(angle), away * math.sin(angle), 0.738])
    for angle in (start + 1.05, start + 5.3):
        out += placed(cup("#f1efe6"), angle, [0.43 * math.cos(angle), 0.43 * math.sin(angle), 0.738])
    out += placed(ball(palette.accent, "#f2eee2", 0.13), 1.0, [1.55, rng.uniform(-1.6, -1.1), 0])
    return out


def _garden(beds: list[Hole], side: int, palette: Palette, rng: np.random.Generator) -> list[Surface]:
    """The two beds: a tree among shrubs and grass by the house, a hedge along the fence; weeds between stones."""
    (x0, x1, *_), _ = beds
    lift = 0.1
    greens = (GREENS, OLIVE)[rng.integers(2)]
    out = tree([3.75, side * 3.75, lift], rng.uniform(3.0, 3.5), rng.uniform(1.05, 1.2), rng, greens)
    for x, y, size, flower in (
        (2.9, 4.35, 0.42, palette.flower),
        (4.45, 2.85, 0.4, palette.flower2),
        (3.1, 3.2, 0.26, None),
        (2.75, 2.75, 0.2, palette.flower2),
        (4.5, 4.4, 0.5, None),
        (3.7, 2.7, 0.22, palette.flower),
    ):
        size = size * rng.uniform(0.85, 1.15)
        at = [x + rng.uniform(-0.1, 0.1), side * (y + rng.uniform(-0.1, 0.1)), lift + 0.75 * size]
        out += shrub(at, [size, size, 0.85 * size], rng, flower=flower)
    for y in np.arange(-2.7, 3.1, 0.72):
        size = rng.uniform(0.27, 0.42)
        flower = (None, palette.flower, None, palette.flower2)[rng.integers(4)]
        at = [-4.55 + rng.uniform(-0.07, 0.07), side * (y + rng.uniform(-0.1, 0.1)), lift + 0.7 * size]
        out += shrub(at, [size, size, 0.9 * size], rng, flower=flower, greens=(GREENS, OLIVE)[rng.integers(2)])
    spots = [
        np.stack((rng.uniform(a + 0.1, b - 0.1, 60), rng.uniform(c + 0.1, d - 0.1, 60), np.full(60, lift)), 1)
        for a, b, c, d in beds
    ]
    out += tufts(np.concatenate(spots), rng.uniform(0.12, 0.32, 120), rng)
    weeds = rng.uniform(-4.8, 4.8, (26, 2))
    edge = np.stack((np.full(22, x0 - 0.09), side * rng.uniform(2.2, 4.9, 22)), axis=1)
    walls = np.stack((rng.uniform(-4, 4.6, 34), np.where(np.arange(34) % 2, 4.93, -4.93)), axis=1)
    low = np.concatenate((weeds[np.abs(weeds).max(1) > 1.6], edge, walls))
    out += tufts(np.concatenate((low, np.zeros((len(low), 1))), 1), rng.uniform(0.06, 0.16, len(low)), rng, 9)
    fallen = rng.normal(size=(260, 2)) * [1.6, 1.9] + [1.9, side * 1.6]
    fallen = fallen[(np.abs(fallen) < 4.7).all(axis=1)]
    ground_there = np.stack((*fallen.T, _level(*fallen.T) + 0.012), axis=1)
    out += litter(ground_there[::2], 0.05, palette.flower, rng)
    out += litter(ground_there[1::2], 0.07, "#a8913f", rng)
    rail = placed(railing(x1 - x0 - 0.3), 0.0, [(x0 + x1) / 2, side * 2.3, 0.16])
    return [*out, *rail]


def _corner(side: int, palette: Palette, rng: np.random.Generator) -> list[Surface]:
    """The fountain by the house, and pots, crates and a barrel along the walls."""
    out = placed(fountain(palette), 2.2 * side, [3.35, -side * 3.3, 0])
    kinds = ["flower", "straps", "olive", "shrub", "flower", "straps"]
    spots = [
        (4.55, 1.55),
        (4.6, -1.75),
        (4.55, -4.5),
        (2.55, -4.65),
        (2.1, 4.3),
        (0.86, 4.62),
        (2.12, 4.72),
        (-3.0, 4.5),
        (-3.5, 4.6),
        (1.02, -4.62),
        (-4.4, -4.35),
    ]
    for i, (x, y) in enumerate(spots):
        size = rng.uniform(0.28, 0.52)
        glaze = (None, palette.paint, None, palette.accent, None)[rng.integers(5)]
        out += placed(pot(rng, size, kinds[(i + rng.integers(3)) % 6], palette, glaze), 0.0, [x, side * y, 0])
    out += placed(barrel(palette), 0.0, [-4.35, side * 4.35, 0])
    out += placed(crate(palette), 0.3, [-2.55, -side * 4.55, 0])
    out += placed(crate(palette, 0.4), -0.2, [-2.5, -side * 4.58, 0.46])
    out += placed(crate(palette), 0.9, [-3.15, -side * 4.5, 0])
    out += placed(pot(rng, 0.3, "flower", palette), 0.0, [-3.15, -side * 4.5, 0.4])
    out += placed(ball(palette.flower2, palette.paint, 0.09), 2.0, [-1.9, side * 3.3, 0])
    return out


def _lights(side: int, palette: Palette) -> list[Surface]:
    masts = [[-4.85, side * 3.9, 3.0], [-4.85, -side * 3.9, 3.0]]
    poles = boxes([[x, y, z / 2] for x, y, z in masts], [[0.09, 0.09, z] for *_, z in masts])
    return [
        Surface(poles, timber(palette), 4.0),
        *string_of_lights(masts[0], [HALF, -side * 1.9, 3.9], 0.75, palette),
        *string_of_lights(masts[1], [HALF, side * 1.9, 3.9], 0.75, palette),
    ]


def _merged(surfaces: list[Surface]) -> list[Surface]:
    """Surfaces of one look in one batch: fewer and larger arrays. The order is that of first use."""
    groups: dict[tuple, list[Surface]] = {}
    for surface in surfaces:
        key = (surface.shape.kind, id(surface.material), surface.density, surface.continuous)
        groups.setdefault(key, []).append(surface)
    return [
        Surface(joined(*(s.shape for s in group)), group[0].material, group[0].density, group[0].continuous)
        for group in groups.values()
    ]


def _sorted(x0: float, x1: float, y0: float, y1: float) -> Hole:
    return (x0, x1, min(y0, y1), max(y0, y1))


def _rng(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, stream])))
