"""Small things and showpieces, each standing on z = 0 round the local origin; z up, metres."""

import numpy as np

from .palette import CLAY, EARTH, GLASS, IRON, WATER, Palette, glazed, timber
from .plants import GREENS, OLIVE, leaf, leaves, petal, shrub, straps
from .shapes import balls, discs, joined, rects, tubes
from .solids import boxes, placed, turned_on_lathe, wire
from .surfels import Material, Surface
from .textures import paint, pieces

_PAPER = Material(paint("#efe7d6", 0.08))


def pot(rng: np.random.Generator, size: float, plant: str, palette: Palette, glaze: str | None = None) -> list[Surface]:
    """A turned pot `size` metres high with earth and a plant: 'shrub', 'flower', 'straps', 'olive' or 'none'."""
    profiles = (
        [(0.3, 0.0), (0.36, 0.1), (0.46, 0.55), (0.5, 0.86), (0.56, 0.88), (0.56, 1.0)],
        [(0.26, 0.0), (0.44, 0.25), (0.52, 0.55), (0.4, 0.85), (0.42, 0.92), (0.48, 1.0)],
        [(0.3, 0.0), (0.32, 0.06), (0.4, 0.5), (0.42, 0.94), (0.46, 1.0)],
    )
    profile = [(r * size, z * size) for r, z in profiles[rng.integers(3)]]
    rim = profile[-1][0]
    look = glazed(glaze) if glaze else CLAY
    inside = tubes([[0, 0, size * 0.9]], [[0, 0, size]], rim * 0.86, rim * 0.9)
    lip = discs([[0, 0, size]], [rim, 0, 0], [0, rim, 0], 0.88)
    out = [
        Surface(turned_on_lathe(profile, [0, 0, 0]), look, 4.0),
        Surface(inside, look, 3.0),
        Surface(lip, look, 4.0),
        Surface(discs([[0, 0, size * 0.92]], [rim * 0.9, 0, 0], [0, rim * 0.9, 0]), EARTH, 3.0),
    ]
    top = [0.0, 0.0, size]
    if plant == "straps":
        out += straps(top, max(0.45, 1.1 * size), 26, rng, OLIVE)
    elif plant == "olive":
        stem = wire([[0, 0, size * 0.9], [0.02, 0.01, size + 0.3], [0, 0, size + 0.62]], 0.018)
        out += [Surface(stem, timber(palette), 8.0), *shrub([0, 0, size + 0.78], 0.32, rng, greens=OLIVE)]
    elif plant != "none":
        flower = (palette.flower, palette.flower2)[rng.integers(2)] if plant == "flower" else None
        out += shrub([0, 0, size * 1.35], [rim * 1.25, rim * 1.25, max(0.5 * size, 0.14)], rng, flower=flower)
    return out


def vase(palette: Palette, rng: np.random.Generator) -> list[Surface]:
    """A glazed vase, 0.22 m, with cut flowers."""
    body = turned_on_lathe(
        [(0.045, 0), (0.075, 0.05), (0.08, 0.1), (0.035, 0.17), (0.03, 0.19), (0.045, 0.22)], [0, 0, 0], 7
    )
    angle = np.arange(9) * 2.4
    lean = 0.05 + 0.1 * rng.random(9)
    tips = np.stack((lean * np.cos(angle), lean * np.sin(angle), 0.34 + 0.1 * rng.random(9)), axis=1)
    stems = tubes(np.tile([[0.0, 0.0, 0.18]], (9, 1)), tips, 0.004, 0.003)
    heads, facing, petals = [], [], 11
    for tip, turn in zip(tips, rng.uniform(0, 6, 9), strict=True):
        around = np.arange(petals) * 2 * np.pi / petals + turn
        ring = np.stack((np.cos(around), np.sin(around), 0 * around), axis=1)
        out = tip * [1, 1, 0] * 3 + [0, 0, 1]
        heads.append(tip + 0.02 * ring)
        facing.append(out + 0.45 * ring)
    blooms = leaves(np.concatenate(heads), np.concatenate(facing), 0.05, 0.032, rng, 0)
    green = leaves(
        tips * [0.6, 0.6, 0.8] + rng.normal(size=tips.shape) * 0.02, tips * [1, 1, 0] + [0, 0, 0.1], 0.1, 0.04, rng
    )
    return [
        Surface(body, glazed(palette.paint), 30.0),
        Surface(stems, leaf(GREENS), 25.0),
        Surface(blooms, petal(palette.flower), 30.0),
        Surface(balls(tips + [0, 0, 0.012], 0.012), petal("#e8c04a"), 40.0),
        Surface(green, leaf(GREENS), 25.0),
    ]


def fruit_bowl(palette: Palette, rng: np.random.Generator) -> list[Surface]:
    """A shallow glazed bowl of lemons and oranges."""
    bowl = turned_on_lathe([(0.05, 0), (0.06, 0.015), (0.12, 0.05), (0.15, 0.08)], [0, 0, 0], 6)
    spots = [[0.065 * np.cos(a), 0.065 * np.sin(a), 0.07] for a in np.arange(5) * 1.2566] + [[0, 0, 0.115]]
    out = [Surface(bowl, glazed(palette.accent), 25.0)]
    out.append(Surface(discs([[0, 0, 0.05]], [0.115, 0, 0], [0, 0.115, 0]), glazed(palette.accent), 20.0))
    for color, some in (("#e0782a", spots[::2]), ("#e6c33c", spots[1::2])):
        look = Material(paint(color, 0.12), gloss=0.22, sharpness=9.0)
        out.append(Surface(balls(some, [0.042, 0.042, 0.038]), look, 28.0))
    return out


def lantern(height: float = 0.3) -> list[Surface]:
    """A glass storm lantern with a candle."""
    w, h = 0.3 * height, 0.72 * height
    bars = [[i * w, j * w, 0.02] for i in (-1, 1) for j in (-1, 1)]
    rods = tubes(bars, np.array(bars) + [0, 0, h], 0.006, 0.006)
    glass = rects(
        [[w, w, 0.02], [-w, -w, 0.02], [w, -w, 0.02], [-w, w, 0.02]],
        [[-2 * w, 0, 0], [2 * w, 0, 0], [0, 2 * w, 0], [0, -2 * w, 0]],
        [[0, 0, h]] * 4,
    )
    roof = tubes(
        [[0, 0, h + 0.02], [0, 0, h + 0.06]], [[0, 0, h + 0.06], [0, 0, height]], [1.5 * w, 0.6 * w], [0.6 * w, 0.3 * w]
    )
    ring = [[0.4 * w * np.cos(a), 0, height + 0.4 * w + 0.4 * w * np.sin(a)] for a in np.linspace(-1.6, 4.7, 10)]
    return [
        Surface(joined(rods, roof, wire(ring, 0.004)), IRON, 30.0),
        Surface(boxes([[0, 0, 0.01]], [2.4 * w, 2.4 * w, 0.02]), IRON, 20.0),
        Surface(tubes([[0, 0, 0.02]], [[0, 0, 0.5 * h]], 0.4 * w, 0.4 * w), _PAPER, 30.0),
        Surface(balls([[0, 0, 0.58 * h]], [0.012, 0.012, 0.03]), Material(paint("#ffcf85", 0), glow=4.0), 60.0),
        Surface(glass, GLASS, 14.0),
    ]


def cup(color: str) -> list[Surface]:
    """A glazed cup on its saucer, with coffee."""
    wall = turned_on_lathe([(0.022, 0.012), (0.036, 0.03), (0.042, 0.07)], [0, 0, 0], 4)
    ear = wire([[0.04 + 0.022 * np.sin(a), 0, 0.042 + 0.018 * np.cos(a)] for a in np.linspace(0, 3.14, 7)], 0.005)
    saucer = turned_on_lathe([(0.035, 0.002), (0.06, 0.008), (0.078, 0.016)], [0, 0, 0], 4)
    coffee = discs([[0, 0, 0.06]], [0.039, 0, 0], [0, 0.039, 0])
    plate = discs([[0, 0, 0.006]], [0.06, 0, 0], [0, 0.06, 0])
    look = glazed(color)
    return [
        Surface(joined(wall, ear, saucer), look, 45.0),
        Surface(plate, look, 40.0),
        Surface(coffee, Material(paint("#3a2416"), gloss=0.3), 45.0),
    ]


def books(
    count: int, rng: np.random.Generator, palette: Palette, thick: tuple[float, float] = (0.02, 0.045)
) -> list[Surface]:
    """A lying stack of books."""
    heights = rng.uniform(*thick, count)
    z = np.cumsum(heights) - heights / 2
    sizes = np.stack((rng.uniform(0.13, 0.17, count), rng.uniform(0.19, 0.24, count), heights - 0.002), axis=1)
    spots = np.stack((rng.normal(size=count) * 0.008, rng.normal(size=count) * 0.008, z), axis=1)
    turns = rng.normal(size=count) * 0.2
    colors = Material(pieces((palette.accent, palette.paint, "#8a3b32", "#d9cdb4", "#3d4a5c"), 0.1, 0.1), gloss=0.08)
    return [Surface(boxes(spots, sizes, turns), colors, 16.0)]


def fountain(palette: Palette) -> list[Surface]:
    """A round stone basin with water; a draped figure stands in the middle."""
    stone = Material(pieces(palette.stones, 0.06, 0.22, 10.0), gloss=0.03)
    basin = turned_on_lathe([(0.98, 0), (0.98, 0.1), (0.9, 0.16), (0.9, 0.36), (0.98, 0.4), (0.98, 0.46)], [0, 0, 0])
    plinth = turned_on_lathe(
        [(0.32, 0.05), (0.32, 0.4), (0.24, 0.46), (0.22, 0.62), (0.27, 0.68), (0.27, 0.74)], [0, 0, 0]
    )
    lips = discs([[0, 0, 0.46]], [0.98, 0, 0], [0, 0.98, 0], 0.83)
    return [
        Surface(basin, stone, 2.6),
        Surface(lips, stone, 4.0),
        Surface(tubes([[0, 0, 0.1]], [[0, 0, 0.46]], 0.81, 0.815), stone, 1.6),
        Surface(discs([[0, 0, 0.1]], [0.82, 0, 0], [0, 0.82, 0]), Material(paint("#4d6a66", 0.2)), 1.5),
        Surface(discs([[0, 0, 0.37]], [0.81, 0, 0], [0, 0.81, 0]), WATER, 5.0),
        Surface(plinth, stone, 4.0),
        Surface(discs([[0, 0, 0.74]], [0.27, 0, 0], [0, 0.27, 0]), stone, 3.0),
        *placed(figure(stone), shift=[0, 0, 0.74]),
    ]


def figure(stone: Material) -> list[Surface]:
    """A draped figure that lifts a jar, 0.95 m."""
    robe = [
        (0.2, 0),
        (0.19, 0.05),
        (0.13, 0.25),
        (0.12, 0.4),
        (0.095, 0.5),
        (0.12, 0.62),
        (0.1, 0.69),
        (0.035, 0.72),
        (0.035, 0.76),
    ]
    folds = [
        wire(
            [
                [0.18 * np.cos(a), 0.18 * np.sin(a), 0.02],
                [0.125 * np.cos(a), 0.125 * np.sin(a), 0.25],
                [0.1 * np.cos(a + 0.3), 0.1 * np.sin(a + 0.3), 0.48],
            ],
            0.024,
            0.01,
        )
        for a in np.arange(11) * 0.571
    ]
    arms = [
        wire([[0.1, 0, 0.65], [0.19, 0.05, 0.74], [0.1, 0.06, 0.9]], 0.032, 0.022),
        wire([[-0.1, 0, 0.65], [-0.17, 0.06, 0.52], [-0.06, 0.12, 0.44]], 0.032, 0.022),
    ]
    jar = turned_on_lathe([(0.04, 0.86), (0.085, 0.93), (0.08, 0.98), (0.035, 1.03), (0.05, 1.06)], [0.08, 0.04, 0.02])
    return [
        Surface(joined(turned_on_lathe(robe, [0, 0, 0]), *folds, *arms, jar), stone, 9.0),
        Surface(
            balls([[-0.02, 0.01, 0.82], [-0.02, -0.03, 0.86]], [[0.06, 0.066, 0.08], [0.05, 0.05, 0.045]]), stone, 10.0
        ),
    ]


def ball(color: str, other: str, radius: float) -> list[Surface]:
    """A toy ball in two colours, glossy."""
    outer, band = (Material(paint(shade, 0.03), gloss=0.4, sharpness=10.0) for shade in (color, other))
    center = [0, 0, radius]
    caps = joined(balls(center, radius, -1.0, -0.3), balls(center, radius, 0.3, 1.0))
    return [Surface(caps, outer, 14.0), Surface(balls(center, radius, -0.3, 0.3), band, 14.0)]
