"""A seeded procedural world: a courtyard of 3D Gaussians together with its exact geometry.

World axes are those of 3DGS captures: y down, metres, the middle of the paving at the origin.
"""

import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels.arguments import SH_COUNTS
from ...kernels.cache_folder import cache_folder
from ..errors import InputError
from ..files import replacing
from .camera import Camera
from .gaussians import Gaussians
from .paths import Framing
from .world.courtyard import REACH, compose, daylight
from .world.lighting import Daylight, bake
from .world.shapes import moved
from .world.sky import dome
from .world.surfels import PLAN_TO_WORLD, Splats, Surface, allot, cover
from .world.visibility import Target, View, first_hits, normals_of, targets

VERSION = 1  # of what is generated: part of the name of a cache file
COUNTS = (1_000, 10_000_000)

_FRAMING = Framing((0.0, -0.95, 0.0), radius=2.8, elevation=0.24)
_SKY_SHARE = 0.015
_WORKERS = min(4, os.cpu_count() or 1)  # each holds the temporaries of one chunk


@dataclass(frozen=True, eq=False)
class ProceduralScene:
    """Splats, and the surfaces that they lie on."""

    gaussians: Gaussians
    normals: Tensor  # [n, 3] float32, unit, outward; towards the middle for splats of the sky
    framing: Framing  # orbit, dolly and walk keep inside the walls
    surfaces: tuple[Target, ...]  # opaque geometry in world coordinates, for `raycast`
    sky_count: int  # how many splats, at the end of the scene, are sky


def generate(count: int, *, seed: int = 0, sh_degree: int = 3) -> ProceduralScene:
    """A courtyard of exactly `count` splats on the CPU; the same arguments give the same bytes.

    Raises:
        InputError: `count` is not 1,000 to 10,000,000, `seed` is negative, or `sh_degree` is not 0 to 3.
    """
    _check(count, seed, sh_degree)
    surfaces, light = _world(seed)
    rows = Splats.empty(count, SH_COUNTS[sh_degree])
    sky_count = max(48, min(6000, round(_SKY_SHARE * count)))
    counts = allot(surfaces, count - sky_count)
    starts = np.concatenate(([0], np.cumsum(counts))).tolist()
    with ThreadPoolExecutor(_WORKERS) as pool:  # a surface owns its rows and its stream: the order does not matter
        jobs = [
            pool.submit(cover, surface, light, _stream(seed, index), rows.rows(start, start + number))
            for index, (surface, start, number) in enumerate(zip(surfaces, starts, counts, strict=False))
            if number
        ]
        for job in jobs:
            job.result()
    dome(light.sky, seed, rows.rows(count - sky_count, count))
    tensors = {name: torch.from_numpy(array) for name, array in vars(rows).items()}
    normals = tensors.pop("normals")
    opaque = [moved(s.shape, PLAN_TO_WORLD) for s in surfaces if not s.material.clear]
    return ProceduralScene(Gaussians(**tensors), normals, _FRAMING, targets(opaque), sky_count)


def cached(count: int, *, seed: int = 0, sh_degree: int = 3) -> tuple[Gaussians, Framing]:
    """The splats of `generate`, kept on disk between runs, and how to look at them.

    The file lies in the user's cache folder, or in the folder that the environment variable LYRA_CACHE names. A damaged
    file is made anew; where nothing can be written, nothing is kept.

    Raises:
        InputError: as `generate`.
    """
    _check(count, seed, sh_degree)
    file = cache_folder() / f"procedural-v{VERSION}-{count}-{seed}-{sh_degree}.npz"
    gaussians = _read(file, count, sh_degree)
    if gaussians is None:
        gaussians = generate(count, seed=seed, sh_degree=sh_degree).gaussians
        _keep(gaussians, file)
    return gaussians, _FRAMING


def raycast(scene: ProceduralScene, camera: Camera) -> tuple[Tensor, Tensor]:
    """Exact geometry of the opaque surfaces at every pixel centre.

    Returns:
        depth: [h, w] float64, metres along the camera's axis, +inf where the sky is seen.
        normals: [h, w, 3] float64, unit, world, on the side of the camera; zero where the sky is seen.
    """
    pose = camera.world_to_camera.numpy()
    focal, middle = (camera.fx, camera.fy), (camera.cx, camera.cy)
    view = View(pose[:3, :3], camera.position.numpy(), focal, middle, camera.width, camera.height)
    hits = first_hits(scene.surfaces, view)
    return torch.from_numpy(hits.depth), torch.from_numpy(normals_of(scene.surfaces, view, hits))


def _check(count: int, seed: int, sh_degree: int) -> None:
    if not COUNTS[0] <= count <= COUNTS[1]:
        raise InputError(f"procedural scene of {count} splats is out of range: give {COUNTS[0]} to {COUNTS[1]}")
    if seed < 0:
        raise InputError(f"seed {seed} is negative: give 0 or more")
    if sh_degree not in range(len(SH_COUNTS)):
        raise InputError(f"SH degree {sh_degree} is out of range: give 0, 1, 2 or 3")


@lru_cache(maxsize=2)  # a scene is often wanted in several sizes, and half of the time goes into its light
def _world(seed: int) -> tuple[list[Surface], Daylight]:
    surfaces = compose(seed)
    return surfaces, bake(daylight(seed), [s.shape for s in surfaces if s.material.casts_shadow], REACH)


def _stream(seed: int, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, 2, index])))


def _read(file: Path, count: int, sh_degree: int) -> Gaussians | None:
    """The splats in a cache file, or None if there is no whole one."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            gaussians = Gaussians(**{name: torch.from_numpy(arrays[name]) for name in arrays.files})
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile):
        return None
    right = len(gaussians) == count and gaussians.sh_degree == sh_degree and gaussians.means.dtype == torch.float32
    return gaussians if right else None


def _keep(gaussians: Gaussians, file: Path) -> None:
    """Write a cache file whole or not at all."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as stream:
            arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in gaussians.tensors().items()}
            np.savez(stream, **arrays)
    except (OSError, InputError):
        return
