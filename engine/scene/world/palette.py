"""The looks of a courtyard: colours that go together, and the materials that several things share."""

from dataclasses import dataclass
from functools import cache

from .surfels import Material
from .textures import paint, pieces, soil, wood


@dataclass(frozen=True)
class Palette:
    """Colours that go together, as display '#rrggbb'."""

    plaster: str
    stain: str
    paint: str  # doors, shutters
    accent: str  # cloth, chairs
    flower: str
    flower2: str
    bricks: tuple[str, ...]
    stones: tuple[str, ...]
    wood: tuple[str, str]  # light, dark


PALETTES = (
    Palette(
        "#e8cfa6",
        "#b08f6a",
        "#3f7f86",
        "#c8553d",
        "#d8447c",
        "#f2b441",
        ("#b5654a", "#c47a5a", "#a4553f", "#cf9070"),
        ("#c9b79c", "#b8a58b", "#d6c7ae", "#a99a86"),
        ("#a9794d", "#6d4a2e"),
    ),
    Palette(
        "#e4dccb",
        "#b9b3a6",
        "#2f5d9b",
        "#e0a63a",
        "#c23a6b",
        "#f5f0e6",
        ("#a8664f", "#b87c64", "#94584a", "#c4947a"),
        ("#b9b2a6", "#a8a197", "#cbc4b7", "#98938b"),
        ("#8c6a4d", "#57402e"),
    ),
    Palette(
        "#d99a7c",
        "#a8705a",
        "#5f7f5a",
        "#f0d9a8",
        "#f3e9dd",
        "#d9534a",
        ("#8f5545", "#a3674f", "#7d4a3d", "#b38468"),
        ("#bfa98f", "#ae9a83", "#ccb9a1", "#9d8b78"),
        ("#9a7350", "#5e4430"),
    ),
    Palette(
        "#e2bf72",
        "#b8935a",
        "#7a3b46",
        "#2f6f73",
        "#8a5fc0",
        "#f2e8d0",
        ("#ad6a4e", "#be7f60", "#9b5a43", "#cb9777"),
        ("#c2b8a6", "#aea593", "#d2c9b8", "#9c9485"),
        ("#a47f58", "#674c34"),
    ),
    Palette(
        "#c9d3c0",
        "#93a08b",
        "#b0533c",
        "#5a7fa8",
        "#e98a9c",
        "#f7e3a1",
        ("#9c6252", "#b0786a", "#8b5548", "#bd8f80"),
        ("#b7ab9a", "#a59a8a", "#c8bdac", "#968c7d"),
        ("#93704f", "#5a4330"),
    ),
)

GLASS = Material(paint("#b9d3d6", 0.02), opacity=0.22, gloss=0.55, sharpness=12.0, clear=True)
IRON = Material(paint("#2f3234", 0.1), gloss=0.25, sharpness=9.0, grain=2.0)
BRASS = Material(paint("#b08a3c", 0.05), gloss=0.5, sharpness=9.0)
EARTH = Material(soil("#4a3a2c", "#2e251d"))
CLAY = Material(pieces(("#b4643f", "#c47a52", "#a85a3c"), 0.1, 0.16, 9.0), gloss=0.05, grain=1.5)
WATER = Material(paint("#5f8f8c", 0.04), opacity=0.38, gloss=0.6, sharpness=14.0, clear=True)
GLOOM = Material(paint("#2b2a2c", 0.1))  # behind windows and boards


@cache
def timber(palette: Palette, gloss: float = 0.04) -> Material:
    """Oiled wood."""
    return Material(wood(*palette.wood), grain=3.0, gloss=gloss)


@cache
def painted(color: str, gloss: float = 0.14) -> Material:
    """Painted wood: boards of one colour, slightly glossy and slightly faded."""
    return Material(paint(color, 0.1, 0.1), grain=2.0, gloss=gloss)


@cache
def masonry(stones: tuple[str, ...], rough: float = 0.2) -> Material:
    """Bricks or cut stone."""
    return Material(pieces(stones, 0.16, rough), grain=1.4)


@cache
def glazed(color: str) -> Material:
    """Glazed pottery: a strong highlight."""
    return Material(paint(color, 0.07), gloss=0.42, sharpness=12.0)
