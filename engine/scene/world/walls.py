"""Walls of the courtyard, each along local x in -half..half at y = 0, facing +y; z up, metres."""

import itertools

import numpy as np

from .palette import BRASS, GLASS, GLOOM, IRON, Palette, masonry, painted, timber
from .plants import shrub
from .shapes import Shape, balls, discs, joined, rects, tubes
from .solids import Hole, beams, boxes, coursed, panes, upright
from .surfels import Material, Surface
from .textures import paint, plaster, wood

_CORE = Material(paint("#a0705a", 0.2))  # keeps a brick wall closed where few splats are left for the bricks
_LINEN = Material(paint("#efe6d2", 0.05), thin=True)


def house(half: float, height: float, palette: Palette, rng: np.random.Generator) -> list[Surface]:
    """A plastered front of two floors: a door with steps, shuttered windows, an eave of clay tiles."""
    door_at = rng.choice([-0.9, 0.2, 0.9]) + rng.uniform(-0.2, 0.2)
    door = (door_at - 0.55, door_at + 0.55, 0.22, 2.42)
    beside = [x for x in (door_at - 2.45, door_at + 2.45) if abs(x) < half - 1.2]
    below: list[Hole] = [(x - 0.55, x + 0.55, 1.0, 2.3) for x in beside]
    above: list[Hole] = [(x - 0.48, x + 0.48, 3.15, 4.35) for x in (*beside, door_at)]
    wall = Material(plaster(palette.plaster, palette.stain, int(rng.integers(1000))))
    faces = panes((-half, half), (0.0, height), [door, *below, *above])
    plinth, joints = coursed((-half, half), np.array([-0.1, 0.2, 0.42]), (0.4, 0.75), 0.015, [door], rng)
    stone = masonry(palette.stones)
    out = [
        Surface(upright(faces), wall, 1.0, continuous=True),
        Surface(upright(plinth, 0.04), stone, 1.8),
        Surface(upright(joints, 0.03), Material(paint("#8d8478"), grain=4.0), 1.2),
        Surface(_ledge(half, door), stone, 1.5),
        *_door(door, palette),
        *_eave(half, height, palette),
    ]
    for hole in below:
        out += [*_window(hole, palette, wall), *_flower_box(hole, palette, rng)]
    for hole in above:
        out += _window(hole, palette, wall)
    return out


def brick_wall(half: float, height: float, gate_at: float, palette: Palette, rng: np.random.Generator) -> list[Surface]:
    """A garden wall in running bond with a board gate, a coping of stone, and piers."""
    gate = (gate_at - 0.55, gate_at + 0.55, -0.1, 2.0)
    rows = np.arange(0.0, height + 0.04, 0.088)
    bricks, joints = coursed((-half, half), rows, (0.24, 0.27), 0.013, [gate], rng)
    mortar = Material(paint("#b3a595", 0.12), grain=4.0)
    top = rows[-1]
    caps = np.linspace(-half, half, 15)
    centers = np.stack(((caps[:-1] + caps[1:]) / 2, np.full(14, -0.12), np.full(14, top + 0.05)), axis=1)
    back = panes((-half, half), (-0.1, top), [gate])
    piers = boxes([[x, 0.06, top / 2] for x in (-half + 0.14, half - 0.14)], [0.28, 0.12, top])
    return [
        Surface(upright(bricks, 0.008), masonry(palette.bricks), 1.7),
        Surface(upright(joints, 0.0), mortar, 1.0),
        Surface(upright(back, -0.035), _CORE, 0.5, continuous=True),
        Surface(boxes(centers, [caps[1] - caps[0] - 0.012, 0.42, 0.1]), masonry(palette.stones), 1.6),
        Surface(piers, masonry(palette.stones), 1.2),
        *_boards(gate, palette),
    ]


def fence(half: float, height: float, palette: Palette, rng: np.random.Generator) -> list[Surface]:
    """Upright boards of uneven height on two rails, with a lattice on top and posts."""
    edges = np.arange(-half, half, 0.145)
    tops = height + rng.uniform(-0.03, 0.03, len(edges))
    centers = np.stack((edges + 0.0725, rng.uniform(-0.012, 0.0, len(edges)), tops / 2), axis=1)
    boards = boxes(centers, np.stack((np.full(len(edges), 0.135), np.full(len(edges), 0.025), tops), axis=1))
    posts = np.linspace(-half, half, 6)
    solid = boxes([[x, 0.07, (height + 0.5) / 2] for x in posts], [0.11, 0.11, height + 0.5])
    rails = boxes([[0, 0.04, z] for z in (0.4, height - 0.3, height + 0.47)], [2 * half, 0.06, 0.08])
    steps = np.arange(-half, half - 0.36, 0.17)
    low, high = np.full(len(steps), height + 0.03), np.full(len(steps), height + 0.44)
    rising = (
        np.stack((steps, np.full(len(steps), 0.04), low), 1),
        np.stack((steps + 0.36, np.full(len(steps), 0.04), high), 1),
    )
    falling = (
        np.stack((steps, np.full(len(steps), 0.06), high), 1),
        np.stack((steps + 0.36, np.full(len(steps), 0.06), low), 1),
    )
    lattice = np.concatenate((rising[0], falling[0])), np.concatenate((rising[1], falling[1]))
    back = Surface(upright(np.array([[-half, half, -0.1, height - 0.05]]), -0.14), GLOOM, 0.4, continuous=True)
    slats = Surface(beams(*lattice, 0.012, 0.03), Material(wood("#bd9a72", "#84644a"), grain=3.0), 2.5)
    weathered = Material(wood("#bd9a72", "#84644a"), grain=3.0)
    return [Surface(boards, weathered, 1.3), Surface(joined(solid, rails), timber(palette), 1.6), slats, back]


def _window(hole: Hole, palette: Palette, wall: Material) -> list[Surface]:
    x0, x1, z0, z1 = hole
    x, z, w, h, deep = (x0 + x1) / 2, (z0 + z1) / 2, x1 - x0, z1 - z0, 0.16
    frame = [[x, -deep, z0 + 0.03], [x, -deep, z1 - 0.03], [x, -deep, z]]
    sides = [[x0 + 0.03, -deep, z], [x1 - 0.03, -deep, z], [x, -deep, z]]
    bars = joined(boxes(frame, [w, 0.05, 0.06]), boxes(sides, [0.06, 0.05, h]))
    curtain = [[x0 + 0.17, x0 + 0.02, z0, z1], [x1 - 0.02, x1 - 0.17, z0, z1]]
    leafs, slats = [], []
    for side in (-1, 1):
        middle = x + side * (w / 2 + 0.27)
        leafs += [[middle, 0.03, z0 + 0.04], [middle, 0.03, z1 - 0.04]]
        for level in np.arange(z0 + 0.12, z1 - 0.08, 0.075):
            slats.append([middle, 0.03, level])
    stiles = [[x + s * (w / 2 + 0.27) + e * 0.215, 0.03, z] for s in (-1, 1) for e in (-1, 1)]
    shutter = joined(
        boxes(leafs, [0.48, 0.045, 0.08]), boxes(stiles, [0.06, 0.045, h]), boxes(slats, [0.4, 0.02, 0.055])
    )
    return [
        Surface(_reveal(hole, deep + 0.02), wall, 3.0),
        Surface(upright(np.array([hole]), -0.45), GLOOM, 0.5, continuous=True),
        Surface(_reveal(hole, 0.45, deep + 0.03), GLOOM, 0.8),
        Surface(upright(np.array(curtain)[:, [1, 0, 2, 3]], -0.26), _LINEN, 2.0),
        Surface(upright(np.array([hole]), -deep + 0.005), GLASS, 1.5, continuous=True),
        Surface(bars, painted("#e9e4d8"), 4.0),
        Surface(boxes([[x, 0.05, z0 - 0.03]], [w + 0.24, 0.22, 0.06]), masonry(palette.stones), 3.0),
        Surface(shutter, painted(palette.paint), 3.0),
    ]


def _reveal(hole: Hole, deep: float, start: float = 0.0) -> Shape:
    """The four cheeks of an opening, from `start` to `deep` metres behind the face."""
    x0, x1, z0, z1 = hole
    y, d, w, h = -start, start - deep, x1 - x0, z1 - z0
    corners = [[x0, y, z0], [x1, y, z1], [x0, y, z1], [x1, y, z0]]
    along = [[0, 0, h], [0, 0, -h], [w, 0, 0], [-w, 0, 0]]
    return rects(np.array(corners), np.array(along, float), np.array([[0, d, 0]] * 4, float))


def _flower_box(hole: Hole, palette: Palette, rng: np.random.Generator) -> list[Surface]:
    x0, x1, z0, _ = hole
    x, w = (x0 + x1) / 2, x1 - x0
    box = [Surface(boxes([[x, 0.2, z0 - 0.13]], [w, 0.2, 0.18]), painted(palette.paint), 4.0)]
    for i in range(4):
        at = [x0 + w * (i + 0.5) / 4, 0.21, z0 + 0.02]
        flower = (palette.flower, palette.flower2)[i % 2]
        box += shrub(at, [0.17, 0.14, 0.13], rng, flower=flower)
    return box


def _door(hole: Hole, palette: Palette) -> list[Surface]:
    x0, x1, z0, z1 = hole
    x, z, w, h, deep = (x0 + x1) / 2, (z0 + z1) / 2, x1 - x0, z1 - z0, 0.14
    planks = np.linspace(x0, x1, 8)
    centers = [[(a + b) / 2, -deep, z] for a, b in itertools.pairwise(planks)]
    frame = joined(
        boxes([[x0 - 0.05, 0.0, z], [x1 + 0.05, 0.0, z]], [0.12, 0.12, h]),
        boxes([[x, 0.0, z1 + 0.05]], [w + 0.3, 0.14, 0.12]),
    )
    straps = boxes([[x, -deep + 0.03, z0 + t * h] for t in (0.16, 0.5, 0.86)], [w - 0.04, 0.03, 0.11])
    steps = boxes([[x, 0.22, 0.17], [x, 0.42, 0.06]], [[w + 0.5, 0.44, 0.12], [w + 0.9, 0.84, 0.14]])
    knob = balls([[x1 - 0.12, -deep + 0.07, z0 + 0.98]], 0.035)
    return [
        Surface(boxes(centers, [w / 7 - 0.008, 0.04, h]), painted(palette.paint), 2.6),
        Surface(straps, painted(palette.paint), 3.0),
        Surface(_reveal((x0, x1, z0, z1), deep + 0.02), painted(palette.paint), 4.0),
        Surface(upright(np.array([hole]), -deep - 0.02), GLOOM, 0.0, continuous=True),
        Surface(frame, masonry(palette.stones, 0.12), 2.2),
        Surface(steps, masonry(palette.stones), 2.2),
        Surface(knob, BRASS, 30.0),
        *wall_lamp(x1 + 0.45, 2.25),
    ]


def wall_lamp(x: float, z: float) -> list[Surface]:
    """A lantern on a bracket: iron bars, clear panes, a warm light within."""
    y, glow = 0.24, Material(paint("#ffd9a0", 0.0), glow=3.0)
    bars = [[x + i * 0.07, y + j * 0.07, z] for i in (-1, 1) for j in (-1, 1)]
    tops = np.array(bars) + [0, 0, 0.26]
    arm = tubes([[x, 0.0, z + 0.2], [x, 0.0, z + 0.42]], [[x, y, z + 0.4], [x, y, z + 0.42]], 0.012, 0.012)
    rods = tubes(
        np.concatenate((bars, arm.frames[:, :, 0])),
        np.concatenate((tops, arm.frames[:, :, 0] + arm.frames[:, :, 3])),
        0.009,
        0.009,
    )
    glass = rects(
        [[x + 0.07, y + 0.07, z], [x - 0.07, y - 0.07, z], [x + 0.07, y - 0.07, z], [x - 0.07, y + 0.07, z]],
        [[-0.14, 0, 0], [0.14, 0, 0], [0, 0.14, 0], [0, -0.14, 0]],
        [[0, 0, 0.26]] * 4,
    )
    cap = tubes([[x, y, z + 0.26]], [[x, y, z + 0.38]], 0.13, 0.015)
    return [
        Surface(rods, IRON, 18.0),
        Surface(cap, IRON, 14.0),
        Surface(discs([[x, y, z]], [0.1, 0, 0], [0, 0.1, 0]), IRON, 10.0),
        Surface(balls([[x, y, z + 0.1]], [0.035, 0.035, 0.06]), glow, 25.0),
        Surface(glass, GLASS, 6.0),
    ]


def _ledge(half: float, door: Hole) -> Shape:
    """A thin course on top of the plinth, on both sides of the door."""
    ends = [(-half, door[0] - 0.1), (door[1] + 0.1, half)]
    return boxes([[(a + b) / 2, 0.02, 0.43] for a, b in ends], [[b - a, 0.07, 0.03] for a, b in ends])


def _eave(half: float, height: float, palette: Palette) -> list[Surface]:
    """Rafters and a row of half-round clay tiles above the wall."""
    xs = np.arange(-half + 0.15, half, 0.21)
    low, high = (
        np.stack((xs, xs * 0 + 0.55, xs * 0 + height - 0.02), 1),
        np.stack((xs, xs * 0 - 0.9, xs * 0 + height + 0.5), 1),
    )
    rafters = np.arange(-half + 0.3, half, 0.62)
    beam0 = np.stack((rafters, rafters * 0 + 0.45, rafters * 0 + height - 0.13), 1)
    beam1 = np.stack((rafters, rafters * 0 - 0.3, rafters * 0 + height + 0.13), 1)
    deck = rects([half, 0.52, height - 0.05], [-2 * half, 0, 0], [0, -1.42, 0.5])
    return [
        Surface(tubes(low, high, 0.1, 0.085), masonry(palette.bricks), 0.5),
        Surface(deck, timber(palette), 0.5),
        Surface(beams(beam0, beam1, 0.09, 0.12), timber(palette), 1.4),
    ]


def _boards(gate: Hole, palette: Palette) -> list[Surface]:
    """A gate of boards with a brace."""
    x0, x1, z0, z1 = gate
    edges = np.linspace(x0, x1, 9)
    centers = [[(a + b) / 2, -0.06, (z0 + z1) / 2] for a, b in itertools.pairwise(edges)]
    planks = boxes(centers, [(x1 - x0) / 8 - 0.008, 0.03, z1 - z0])
    x = (x0 + x1) / 2
    rails = boxes([[x, -0.03, 0.35], [x, -0.03, 1.65]], [x1 - x0 - 0.05, 0.03, 0.12])
    brace = beams([[x0 + 0.08, -0.03, 0.4]], [[x1 - 0.08, -0.03, 1.6]], 0.025, 0.1)
    lintel = boxes([[x, 0.0, z1 + 0.09]], [x1 - x0 + 0.4, 0.1, 0.18])
    jambs = boxes([[x0 - 0.04, 0.0, 1.0], [x1 + 0.04, 0.0, 1.0]], [0.1, 0.1, 2.0])
    back = Surface(upright(np.array([gate]), -0.09), GLOOM, 0.0, continuous=True)
    return [
        Surface(planks, painted(palette.paint), 2.4),
        Surface(joined(rails, brace), painted(palette.paint), 3.0),
        Surface(joined(lintel, jambs), timber(palette), 2.5),
        Surface(balls([[x1 - 0.12, -0.02, 1.0]], 0.03), BRASS, 30.0),
        back,
    ]
