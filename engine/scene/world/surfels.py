"""Surfaces with a material, turned into flat Gaussians that lie on them.

Splat i of a surface stands at step i of a golden-ratio lattice over the surface's area: even at every scale and for
every aspect ratio, so that long thin splats cover as well as round ones, and no two runs differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ....kernels.constants import SH_C0
from .gloss import lobe_sh
from .lighting import Daylight, display, irradiance
from .shapes import Array, Samples, Shape, areas, sample
from .textures import Texture

PLAN_TO_WORLD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])  # plan: z up; world: y down

_CHUNK = 1 << 17  # splats made at once: bounds the memory
_GOLDEN = 0.6180339887498949
_SPREAD = 0.64  # standard deviation over mean spacing: closed, with little overlap
_EDGE = 0.3  # standard deviation over the width of a thin primitive, at most
_SLIMMEST = 7.0  # square of how much longer a splat may be than a round one of its area
_ROOM = 0.6  # standard deviation over the way to the nearest edge
_JITTER = 0.22  # of the spacing: hides the lattice, opens no hole
_INSET = 0.4  # standard deviations by which splats keep away from the edge of a separate piece
_RIM = 1e-4  # of a primitive's size: float32 rounding must not carry a centre over the edge
_FLATNESS = 0.1  # deviation along the normal over the smaller one in the surface
_SKY_SHARPNESS = 2.0


@dataclass(frozen=True)
class Material:
    """How a surface looks."""

    texture: Texture
    opacity: float = 0.96
    gloss: float = 0.0  # height of the sun's highlight, display units; 0 is matt
    sharpness: float = 7.0  # of the highlight
    grain: float = 1.0  # length over width of a splat, along the surface's tangent
    thin: bool = False  # light comes through
    glow: float = 0.0  # of its own, over the albedo
    clear: bool = False  # translucent: no part of the opaque geometry

    @property
    def casts_shadow(self) -> bool:
        """Cloth does, glass and water do not."""
        return not self.clear or self.opacity >= 0.5


@dataclass(frozen=True, eq=False)
class Surface:
    """A batch of primitives of one material."""

    shape: Shape
    material: Material
    density: float = 1.0  # splats per area, relative to a plain wall; 0 is geometry alone
    continuous: bool = False  # primitives join edge to edge, so that splats need not keep inside each


@dataclass(frozen=True, eq=False)
class Splats:
    """Rows of the scene's arrays, float32, in world coordinates; written in place."""

    means: Array  # [n, 3]
    quats: Array  # [n, 4]
    scales: Array  # [n, 3]
    opacities: Array  # [n]
    sh: Array  # [n, k, 3]
    normals: Array  # [n, 3]

    @staticmethod
    def empty(count: int, coefficients: int) -> "Splats":
        """Memory for `count` splats of so many SH coefficients."""
        shapes = ((3,), (4,), (3,), (), (coefficients, 3), (3,))
        return Splats(*(np.empty((count, *shape), np.float32) for shape in shapes))

    def rows(self, start: int, end: int) -> "Splats":
        """The same memory from row `start` to `end`."""
        arrays = (self.means, self.quats, self.scales, self.opacities, self.sh, self.normals)
        return Splats(*(array[start:end] for array in arrays))


def allot(surfaces: Sequence[Surface], count: int) -> list[int]:
    """How many of `count` splats each surface gets: by area times density, at least one if its density is not 0."""
    weights = np.array([float(areas(surface.shape).sum()) * surface.density for surface in surfaces])
    ideal = weights / weights.sum() * (count - np.count_nonzero(weights))
    counts = np.floor(ideal).astype(np.int64) + (weights > 0)
    order = np.argsort(np.floor(ideal) - ideal, kind="stable")
    counts[order[: count - int(counts.sum())]] += 1
    return counts.tolist()


def cover(surface: Surface, light: Daylight, rng: np.random.Generator, out: Splats) -> None:
    """Fill every row of `out` with splats that together cover the surface."""
    count = len(out.means)
    extent = areas(surface.shape)
    ends = np.cumsum(extent)
    shift = rng.random(2)
    for start in range(0, count, _CHUNK):
        steps = np.arange(start, min(start + _CHUNK, count))
        place = (steps + shift[0]) / count * ends[-1]
        which = np.minimum(np.searchsorted(ends, place, side="right"), len(ends) - 1)
        v = np.clip((place - ends[which] + extent[which]) / extent[which], 0, 1)
        u = (steps * _GOLDEN + shift[1]) % 1
        u, v = _scattered(surface, which, u, v, extent, ends[-1] / count, rng)
        spots = sample(surface.shape, which, u, v)
        _write(surface, spots, which, ends[-1] / count, count, light, rng, out.rows(start, start + len(steps)))


def _scattered(
    surface: Surface, which: Array, u: Array, v: Array, extent: Array, share: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The lattice jittered, and drawn in from the edges of separate flat pieces; `share` is square metres a splat."""
    kind, grain = surface.shape.kind, surface.material.grain
    lengths = np.linalg.norm(surface.shape.frames[:, :, 1:], axis=1)  # [m, 3]
    around = {"rect": 1.0, "ground": 1.0}.get(kind, np.pi)
    length = (around * lengths[:, 0])[which]
    noise = rng.uniform(-_JITTER, _JITTER, (2, len(u))) * np.sqrt(share)
    u, v = u + noise[0] / length, v + noise[1] * length / extent[which]
    if kind in ("rect", "ground"):
        for_u = np.minimum(_SPREAD * np.sqrt(share * grain) / lengths[which, 0], _EDGE)
        for_v = np.minimum(_SPREAD * np.sqrt(share / grain) / lengths[which, 1], _EDGE)
        inset = 0.0 if surface.continuous else _INSET
        u = np.clip(inset * for_u + (1 - 2 * inset * for_u) * u, _RIM, 1 - _RIM)
        return u, np.clip(inset * for_v + (1 - 2 * inset * for_v) * v, _RIM, 1 - _RIM)
    return u % 1, np.clip(v, _RIM, 1 - _RIM)


def _deviations(kind: str, spots: Samples, share: Array, grain: float, crowd: float) -> Array:
    """Standard deviations [n, 2] along and across the grain: their product covers `share`, each within the piece.

    Near an edge a splat is no longer than a round one would be, lest its tip stand out like a needle.
    """
    product = _SPREAD**2 * share
    even = np.sqrt(product)[:, None]
    limit = np.minimum(_EDGE * crowd * spots.spans, np.sqrt(_SLIMMEST) * even)
    limit = np.minimum(limit, np.maximum(_ROOM * spots.rooms, even))
    if kind == "tube":  # most tubes are links of a chain: its joints are no edges
        limit[:, 0] = np.maximum(limit[:, 0], np.minimum(even[:, 0], spots.spans[:, 1]))
    along = np.minimum(np.sqrt(product * grain), limit[:, 0])
    across = np.minimum(product / along, limit[:, 1])
    along = np.minimum(np.maximum(product / across, along), limit[:, 0])
    return np.stack((along, across), axis=1)


def _write(
    surface: Surface,
    spots: Samples,
    which: Array,
    share: float,
    count: int,
    light: Daylight,
    rng: np.random.Generator,
    out: Splats,
) -> None:
    material = surface.material
    crowd = np.sqrt(max(1.0, len(surface.shape) / count))  # fewer splats than leaves: each stands for several
    sizes = _deviations(surface.shape.kind, spots, share * spots.stretch, material.grain, crowd)
    out.scales[:, :2] = sizes
    out.scales[:, 2] = _FLATNESS * sizes.min(axis=1)
    out.opacities[:] = np.clip(material.opacity + rng.uniform(-0.03, 0.03, len(sizes)), 0.05, 0.99)
    albedo = np.asarray(material.texture(spots.points, spots.uv, surface.shape.ids[which]), dtype=np.float64)
    light_in, sun = irradiance(light, spots.points, spots.normals, material.thin)
    color = display(np.maximum(albedo, 0) * (light_in + material.glow))
    normals, tangents = spots.normals @ PLAN_TO_WORLD.T, spots.tangents @ PLAN_TO_WORLD.T
    tangents = tangents - normals * (normals * tangents).sum(axis=1, keepdims=True)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    out.means[:] = spots.points @ PLAN_TO_WORLD.T
    out.normals[:] = normals
    out.quats[:] = quaternions(np.stack((tangents, np.cross(normals, tangents), normals), axis=2))
    out.sh[:] = 0
    if material.gloss > 0:
        out.sh[:] = _highlights(material, light, normals, sun, out.sh.shape[1])
    out.sh[:, 0] += (color - 0.5) / SH_C0


def _highlights(material: Material, light: Daylight, normals: Array, sun: Array, coefficients: int) -> Array:
    """SH of the sun and of the open sky, mirrored in the surface, as seen along the ray from the eye."""
    degree = int(np.sqrt(coefficients)) - 1
    lit = (normals @ (PLAN_TO_WORLD @ light.sky.sun) > 0) * sun * material.gloss
    sunlight = np.array(light.sky.sunlight) / max(light.sky.sunlight)
    skylight = np.array(light.sky.zenith) / max(light.sky.zenith) * 0.3 * material.gloss
    total = lobe_sh(_mirrored(normals, PLAN_TO_WORLD @ light.sky.sun), material.sharpness, np.outer(lit, sunlight), 3)
    up = _mirrored(normals, np.array([0.0, -1.0, 0.0]))
    total += lobe_sh(up, _SKY_SHARPNESS, np.broadcast_to(skylight, (len(normals), 3)), 3)
    return total[:, : (degree + 1) ** 2]


def _mirrored(normals: Array, toward: Array) -> Array:
    """Direction of sight, from the eye, in which a mirror with those normals shows what lies `toward`."""
    return toward - 2 * (normals @ toward)[:, None] * normals


def quaternions(rotations: Array) -> Array:
    """Unit quaternions wxyz [n, 4] of rotation matrices [n, 3, 3]."""
    m = rotations
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    # The four rows are the quaternion times 4w, 4x, 4y and 4z: take the longest.
    table = np.empty((len(m), 4, 4))
    table[:, 0, 0], table[:, 1, 1] = 1 + xx + yy + zz, 1 + xx - yy - zz
    table[:, 2, 2], table[:, 3, 3] = 1 - xx + yy - zz, 1 - xx - yy + zz
    for i, j, k in ((1, 2, 3), (2, 3, 1), (3, 1, 2)):
        table[:, 0, i] = table[:, i, 0] = m[:, k - 1, j - 1] - m[:, j - 1, k - 1]
        table[:, j, k] = table[:, k, j] = m[:, k - 1, j - 1] + m[:, j - 1, k - 1]
    best = np.argmax(np.einsum("nii->ni", table), axis=1)
    rows = table[np.arange(len(m)), best]
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
