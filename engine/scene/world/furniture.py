"""Furniture and light structures, each standing on z = 0 round the local origin, front towards +y; z up, metres."""

import numpy as np

from .ornaments import lantern, pot
from .palette import BRASS, EARTH, IRON, WATER, Palette, painted, timber
from .shapes import balls, discs, joined, rects, tubes
from .solids import beams, boxes, placed, sagging, turned_on_lathe, wire
from .surfels import Material, Surface
from .textures import paint, pieces, stripes


def table(palette: Palette) -> list[Surface]:
    """A round table of boards on a turned foot, 0.74 m high, 1.2 m wide."""
    xs = np.linspace(-0.59, 0.59, 11)
    middle = (xs[:-1] + xs[1:]) / 2
    reach = 2 * np.sqrt(0.6**2 - np.maximum(np.abs(xs[:-1]), np.abs(xs[1:])) ** 2)
    spots = np.stack((middle, 0 * middle, 0 * middle + 0.72), axis=1)
    top = boxes(spots, np.stack((0 * middle + 0.112, reach, 0 * middle + 0.035), axis=1))
    turns = np.linspace(0, 2 * np.pi, 41)
    rim = wire(np.stack((0.6 * np.cos(turns), 0.6 * np.sin(turns), 0 * turns + 0.718), axis=1), 0.022)
    under = discs([0, 0, 0.727], [0.6, 0, 0], [0, 0.6, 0])
    foot = turned_on_lathe([(0.05, 0.12), (0.1, 0.2), (0.05, 0.32), (0.07, 0.5), (0.045, 0.62), (0.12, 0.7)], [0, 0, 0])
    legs = [
        wire(
            [[0, 0, 0.2], [0.22 * np.cos(a), 0.22 * np.sin(a), 0.15], [0.42 * np.cos(a), 0.42 * np.sin(a), 0.0]],
            0.035,
            0.022,
        )
        for a in np.arange(4) * np.pi / 2 + 0.4
    ]
    wood = timber(palette, 0.12)
    return [
        Surface(top, wood, 9.0),
        Surface(under, wood, 5.0),
        Surface(rim, wood, 12.0),
        Surface(joined(foot, *legs), wood, 5.0),
    ]


def chair(color: str) -> list[Surface]:
    """A slatted garden chair; its back stands at -y."""
    legs = tubes(
        [[-0.2, 0.2, 0], [0.2, 0.2, 0], [-0.21, -0.26, 0], [0.21, -0.26, 0]],
        [[-0.19, 0.18, 0.45], [0.19, 0.18, 0.45], [-0.2, -0.2, 0.45], [0.2, -0.2, 0.45]],
        0.016,
        0.019,
    )
    ups = tubes([[-0.2, -0.2, 0.45], [0.2, -0.2, 0.45]], [[-0.2, -0.31, 0.9], [0.2, -0.31, 0.9]], 0.018, 0.014)
    rungs = tubes(
        [[-0.2, 0.19, 0.2], [-0.21, -0.23, 0.2], [0.21, -0.23, 0.2]],
        [[0.2, 0.19, 0.2], [-0.2, 0.19, 0.2], [0.2, 0.19, 0.2]],
        0.01,
        0.01,
    )
    seat = boxes([[0, y, 0.462] for y in np.linspace(-0.18, 0.2, 6)], [0.44, 0.06, 0.02])
    back = boxes([[0, -0.222 - 0.11 * t, 0.45 + 0.45 * t] for t in (0.3, 0.53, 0.76, 0.97)], [0.42, 0.016, 0.065])
    look = painted(color)
    return [Surface(joined(legs, ups, rungs), look, 9.0), Surface(joined(seat, back), look, 7.0)]


def bench(palette: Palette) -> list[Surface]:
    """A plank bench with a back, 1.5 m long."""
    planks = boxes([[0, y, 0.44] for y in (-0.15, 0.0, 0.15)], [1.5, 0.13, 0.035])
    back = boxes([[0, -0.24, z] for z in (0.62, 0.78)], [1.5, 0.03, 0.12])
    legs = boxes(
        [[x, y, h / 2] for x in (-0.65, 0.65) for y, h in ((0.16, 0.42), (-0.22, 0.86))],
        [[0.07, 0.07, h] for _ in "ab" for h in (0.42, 0.86)],
    )
    return [Surface(joined(planks, back, legs), timber(palette), 3.5)]


def crate(palette: Palette, size: float = 0.46) -> list[Surface]:
    """An open crate of boards."""
    s, b = size, size / 4.4
    levels = [(i + 0.5) * size / 4 for i in range(4)]
    ends = boxes([[x, 0, z] for x in (-s / 2, s / 2) for z in levels], [0.016, s * 0.98, b])
    sides = boxes([[0, y, z] for y in (-s / 2, s / 2) for z in levels], [s * 1.02, 0.016, b])
    posts = boxes([[i * (s / 2 - 0.03), j * (s / 2 - 0.03), s / 2] for i in (-1, 1) for j in (-1, 1)], [0.04, 0.04, s])
    floor = boxes([[0, 0, 0.02]], [s * 0.97, s * 0.97, 0.02])
    return [Surface(joined(ends, sides, posts, floor), timber(palette), 4.0)]


def barrel(palette: Palette) -> list[Surface]:
    """A barrel with hoops, full of water."""
    bulge = [(0.27, 0.0), (0.32, 0.25), (0.335, 0.42), (0.32, 0.6), (0.27, 0.85)]
    hoops = [
        tubes([[0, 0, z]], [[0, 0, z + 0.035]], r, r)
        for r, z in ((0.306, 0.13), (0.345, 0.34), (0.344, 0.5), (0.309, 0.7))
    ]
    return [
        Surface(turned_on_lathe(bulge, [0, 0, 0]), timber(palette), 3.0),
        Surface(joined(*hoops), IRON, 5.0),
        Surface(tubes([[0, 0, 0.6]], [[0, 0, 0.85]], 0.3, 0.255), timber(palette), 2.0),
        Surface(discs([[0, 0, 0.6]], [0.3, 0, 0], [0, 0.3, 0]), EARTH, 1.5),
        Surface(discs([[0, 0, 0.78]], [0.26, 0, 0], [0, 0.26, 0]), WATER, 4.0),
    ]


def shelf(palette: Palette, rng: np.random.Generator) -> list[Surface]:
    """A shelf 1.3 m wide with books, small pots and a lantern; its back stands at y = -0.17."""
    levels = (0.12, 0.55, 0.98, 1.41)
    boards = boxes([[0, 0, z] for z in levels], [1.3, 0.34, 0.03])
    ends = boxes([[x, 0, 0.74] for x in (-0.66, 0.66)], [0.035, 0.34, 1.48])
    back = boxes([[0, -0.165, 0.15 + 0.19 * i] for i in range(7)], [1.3, 0.012, 0.182])
    out = [Surface(joined(boards, ends), timber(palette), 4.0), Surface(back, timber(palette), 2.0)]
    widths = rng.uniform(0.022, 0.05, 19)
    x = -0.6 + np.cumsum(widths) - widths / 2
    tall = rng.uniform(0.2, 0.31, 19)
    spots = np.stack((x, -0.02 + 0.02 * rng.random(19), 0.995 + tall / 2), axis=1)
    colors = Material(
        pieces((palette.accent, palette.paint, "#8a3b32", "#d9cdb4", "#3d4a5c", "#c08d45"), 0.1, 0.1), gloss=0.08
    )
    out.append(Surface(boxes(spots, np.stack((widths - 0.002, 0 * x + 0.19, tall), 1)), colors, 8.0))
    kinds = ("flower", "straps", "none", "shrub")
    glazes = (palette.paint, None, palette.accent, None)
    for i, (px, pz) in enumerate(
        ((0.35, 1.0), (-0.45, 0.57), (0.0, 0.57), (0.42, 0.57), (-0.3, 0.14), (0.3, 0.14), (-0.4, 1.43), (0.1, 1.43))
    ):
        size = rng.uniform(0.14, 0.22)
        out += placed(pot(rng, size, kinds[(i + rng.integers(4)) % 4], palette, glazes[i % 4]), shift=[px, 0.0, pz])
    return [*out, *placed(lantern(0.28), shift=[0.48, 0, 1.43])]


def awning(palette: Palette, width: float = 2.6, reach: float = 1.35, top: float = 2.5) -> list[Surface]:
    """Striped cloth on two poles, fixed to a wall at y = 0."""
    cloth = Material(stripes("#f1ead9", palette.accent, 0.26), opacity=0.5, thin=True, clear=True)
    t = np.linspace(0, 1, 9)
    y, z = reach * t, top - 0.42 * t - 0.14 * np.sin(np.pi * t)
    flap = np.stack((np.append(y, y[-1] + 0.02), np.append(z, z[-1] - 0.18)), axis=1)
    count = len(flap) - 1
    starts = np.stack((np.zeros(count) + width / 2, *flap[:-1].T), axis=1)
    slope = np.stack((np.zeros(count), *np.diff(flap, axis=0).T), axis=1)
    sheet = rects(starts, slope, [-width, 0, 0])
    poles = [[s * (width / 2 - 0.04), y[-1], 0] for s in (-1, 1)]
    rods = tubes(poles, np.array(poles) + [0, 0, z[-1]], 0.022, 0.018)
    bar = tubes(
        [[-width / 2, y[-1], z[-1]], [-width / 2, 0.02, top]],
        [[width / 2, y[-1], z[-1]], [width / 2, 0.02, top]],
        0.018,
        0.018,
    )
    return [Surface(sheet, cloth, 2.6, continuous=True), Surface(joined(rods, bar), painted("#e9e4d8"), 9.0)]


def pergola(palette: Palette, width: float = 3.4, reach: float = 1.5, height: float = 2.35) -> list[Surface]:
    """Posts, two beams and a roof of slats, fixed to a wall at y = 0."""
    xs = (-width / 2 + 0.15, width / 2 - 0.15)
    posts = boxes([[x, reach - 0.15, height / 2] for x in xs], [0.1, 0.1, height])
    beam = boxes([[0, reach - 0.15, height + 0.06], [0, 0.08, height + 0.06]], [width + 0.3, 0.06, 0.13])
    slats = np.linspace(-width / 2, width / 2, 15)
    roof = boxes([[x, reach / 2 + 0.05, height + 0.17] for x in slats], [0.04, reach + 0.35, 0.09])
    braces = beams(
        [[x, reach - 0.15, height - 0.45] for x in xs],
        [[x * 0.76, reach - 0.15, height + 0.02] for x in xs],
        0.05,
        0.05,
    )
    return [Surface(joined(posts, beam, braces), timber(palette), 3.5), Surface(roof, timber(palette), 4.0)]


def railing(length: float, height: float = 0.72) -> list[Surface]:
    """Iron bars between two rails along x."""
    xs = np.arange(-length / 2, length / 2 + 0.01, 0.115)
    bars = tubes([[x, 0, 0.03] for x in xs], [[x, 0, height - 0.04] for x in xs], 0.007, 0.007)
    posts = tubes(
        [[s * length / 2, 0, 0] for s in (-1, 1)], [[s * length / 2, 0, height + 0.06] for s in (-1, 1)], 0.02, 0.02
    )
    rails = boxes([[0, 0, 0.09], [0, 0, height - 0.03]], [length, 0.025, 0.02])
    knobs = balls([[s * length / 2, 0, height + 0.09] for s in (-1, 1)], 0.035)
    return [Surface(joined(bars, posts), IRON, 9.0), Surface(rails, IRON, 9.0), Surface(knobs, BRASS, 15.0)]


def string_of_lights(start: list[float], end: list[float], sag: float, palette: Palette) -> list[Surface]:
    """A cord from point to point with paper lanterns that glow."""
    cord = sagging(start, end, sag, 28)
    spots = cord[3:-2:4] - [0, 0, 0.13]
    hooks = tubes(cord[3:-2:4], spots + [0, 0, 0.08], 0.003, 0.003)
    out = [Surface(joined(wire(cord, 0.006), hooks), IRON, 22.0)]
    for i, color in enumerate(("#f6e3b4", palette.flower, palette.accent)):
        if len(spots[i::3]):
            look = Material(paint(color, 0.05), opacity=0.45, glow=0.9, thin=True, clear=True)
            out.append(Surface(balls(spots[i::3], [0.095, 0.095, 0.085], -0.93, 0.93), look, 9.0))
    bulbs = Material(paint("#fff0cf", 0), glow=2.5)
    return [*out, Surface(balls(spots, 0.03), bulbs, 14.0)]
