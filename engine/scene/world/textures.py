"""Seeded procedural albedo: noise, and the materials of a courtyard.

A texture maps (points [n, 3] metres, uv [n, 2] metres along and across the grain, ids [n]) to linear-light albedo
[n, 3] in 0..1; pieces with one id share their tint. Colours are named as display sRGB hex, as a painter would.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .shapes import Array

Texture = Callable[[Array, Array, Array], Array]

_PRIMES = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D], dtype=np.uint32)


def linear(color: str) -> Array:
    """Linear-light RGB [3] of a display colour '#rrggbb'."""
    display = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)


def hashed(ids: Array, seed: int = 0) -> Array:
    """One even random number in 0..1 for every integer; the same integer gives the same number."""
    return _mixed(ids.astype(np.uint32) * _PRIMES[0] + np.uint32(seed * 0x27D4EB2F & 0xFFFFFFFF))


def noise(points: Array, seed: int = 0) -> Array:
    """Smooth value noise in 0..1 with features of size 1; points [n, d], d from 1 to 3."""
    cell = np.floor(points)
    step = (points - cell).astype(np.float32)
    step = step * step * (3 - 2 * step)
    keys = cell.astype(np.int64).astype(np.uint32) * _PRIMES[: points.shape[1]]
    total = np.zeros(len(points), np.float32)
    for corner in range(1 << points.shape[1]):
        bits = [corner >> axis & 1 for axis in range(points.shape[1])]
        key, weight = np.full(len(points), seed * 0x27D4EB2F & 0xFFFFFFFF, np.uint32), np.float32(1)
        for axis, bit in enumerate(bits):
            key = key ^ (keys[:, axis] + (_PRIMES[axis] if bit else np.uint32(0)))
            weight = weight * (step[:, axis] if bit else 1 - step[:, axis])
        total += weight * _mixed(key)
    return total


def fbm(points: Array, seed: int = 0, octaves: int = 3) -> Array:
    """Fractal noise in 0..1, mean 0.5: `octaves` layers, each twice as fine and half as strong as the one before."""
    layers = [noise(points * 2.0**k + 17.3 * k, seed + k) * 0.5**k for k in range(octaves)]
    return np.sum(layers, axis=0) / (2 - 0.5 ** (octaves - 1))


def paint(color: str, vary: float = 0.06, tint: float = 0.0) -> Texture:
    """One colour, slightly uneven; `tint` makes pieces differ in lightness."""

    def albedo(points: Array, uv: Array, ids: Array) -> Array:
        light = 1 + vary * 2 * (fbm(points * 6.0, 3) - 0.5) + tint * 2 * (hashed(ids, 5) - 0.5)
        return linear(color) * light[:, None]

    return albedo


def pieces(colors: Sequence[str], vary: float = 0.15, rough: float = 0.25, scale: float = 14.0) -> Texture:
    """Stones, bricks, books: every id takes a colour between two of the list, with stains and grit of its own."""
    palette = np.stack([linear(color) for color in colors])

    def albedo(points: Array, uv: Array, ids: Array) -> Array:
        pick = hashed(ids, 1) * len(colors)
        first = np.minimum(pick.astype(np.int64), len(colors) - 1)
        base = _mix(palette[first], palette[(first + 1) % len(colors)], 0.35 * (pick - first))
        grit = fbm(points * scale + 5.0 * hashed(ids, 3)[:, None], 11)
        broad = fbm(points * 1.1, 23, 2)
        light = (1 + vary * 2 * (hashed(ids, 2) - 0.5)) * (1 + rough * 2 * (grit - 0.5)) * (0.8 + 0.4 * broad)
        return base * light[:, None]

    return albedo


def plaster(color: str, stain: str, seed: int = 0) -> Texture:
    """A limewashed wall: clouds of two tones, damp and splashes at the foot, fine grain."""

    def albedo(points: Array, uv: Array, ids: Array) -> Array:
        cloud = np.clip(2.2 * fbm(points * [0.9, 0.9, 0.7], seed, 4) - 0.6, 0, 1)
        grain = noise(points * 21.0, seed + 9)
        runs = np.clip(2.5 * fbm(points * [3.0, 3.0, 0.35], seed + 5) - 1.2, 0, 1)
        foot = np.clip(1.15 - points[:, 2] / (0.35 + 0.5 * noise(points[:, :2] * 1.7, seed + 3)), 0, 1)
        wear = np.clip(0.22 * cloud + 0.3 * runs + 0.5 * foot, 0, 1)
        return _mix(linear(color), linear(stain), wear) * (0.93 + 0.14 * grain)[:, None]

    return albedo


def wood(color: str, dark: str, vary: float = 0.18) -> Texture:
    """Boards whose grain runs along the first texture axis, each of its own tone, with a few knots."""

    def albedo(points: Array, uv: Array, ids: Array) -> Array:
        shift = 31.0 * hashed(ids, 7)
        place = np.stack((uv[:, 0] * 1.6 + shift, uv[:, 1] * 38.0 + shift), axis=1)
        place[:, 1] += 2.5 * noise(np.stack((uv[:, 0] * 2.3 + shift, uv[:, 1] * 6.0), axis=1), 4)
        streak = fbm(place, 13, 2)
        light = 1 + vary * 2 * (hashed(ids, 8) - 0.5)
        return _mix(linear(color), linear(dark), np.clip(1.9 * streak - 0.55, 0, 1)) * light[:, None]

    return albedo


def foliage(colors: Sequence[str]) -> Texture:
    """Leaves: each between the greens of the list, lighter towards the tip and in patches of sun-fed growth."""
    palette = np.stack([linear(color) for color in colors])

    def albedo(points: Array, uv: Array, ids: Array) -> Array:
        patch = np.clip(1.6 * fbm(points * 1.8, 2, 2) - 0.3, 0, 1)
        pick = np.clip(0.6 * hashed(ids, 1) + 0.4 * patch, 0, 0.999) * (len(colors) - 1)
        first = pick.astype(np.int64)
        base = _mix(palette[first], palette[first + 1], pick - first)
        return base * (0.85 + 0.3 * hashed(ids, 9) + 1.2 * np.clip(uv[:, 0], -0.1, 0.1))[:, None]

    return albedo


def stripes(one: str, other: str, width: float) -> Texture:
    """Woven cloth with stripes along the first texture axis, each `width` metres wide."""

    def albedo(points: Array, uv: Array, ids: Array) -> Array:
        which = np.floor(uv[:, 1] / width) % 2
        return _mix(linear(one), linear(other), which) * (0.94 + 0.12 * noise(uv * 60.0, 3))[:, None]

    return albedo


def soil(color: str, other: str) -> Texture:
    """Earth, gravel or moss: grit at three sizes."""

    def albedo(points: Array, uv: Array, ids: Array) -> Array:
        mix = np.clip(2.0 * fbm(points * 5.0, 6, 4) - 0.5, 0, 1)
        return _mix(linear(color), linear(other), mix) * (0.75 + 0.5 * noise(points * 30.0, 8))[:, None]

    return albedo


def _mix(one: Array, other: Array, share: Array) -> Array:
    return one + (other - one) * share[:, None]


def _mixed(key: Array) -> Array:
    """Integer hash (lowbias32) to floats in 0..1."""
    key = (key ^ (key >> np.uint32(16))) * np.uint32(0x7FEB352D)
    key = (key ^ (key >> np.uint32(15))) * np.uint32(0x846CA68B)
    return (key ^ (key >> np.uint32(16))).astype(np.float32) * np.float32(2.0**-32)
