"""Scenes to measure: all that the engine opens, gsplat's own profiling scene, and copies side by side for size."""

import io
import math
import re
from dataclasses import replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from ..engine.errors import InputError
from ..engine.files import cause, read_bytes
from ..engine.scene.camera import Camera
from ..engine.scene.gaussians import Gaussians
from ..engine.scene.paths import Framing, frame_scene
from ..engine.source import open_scene
from ..kernels.constants import SH_C0

GARDEN_REACH = 2.0  # world units; gsplat's tests cut their garden to this cube round the origin
GARDEN_SCALES = (1e-4, 0.02)  # between which they draw standard deviations
MOST_COPIES = 10_000


def open_bench_scene(source: str, *, up: str = "y-") -> tuple[Gaussians, Framing]:
    """As `engine.source.open_scene`, and more.

    Args:
        source: also `garden:PATH.npz`, the points that gsplat is tested and profiled with, and any source followed by
            `@K`, for K copies of it side by side.
        up: which way is up in a file.

    Raises:
        InputError: no such scene, or K is out of range.
    """
    copied = re.fullmatch(r"(.+)@(\d{1,9})", source)
    if copied and not Path(source).exists():
        if not 1 <= int(copied[2]) <= MOST_COPIES:
            raise InputError(f"scene {source!r}: {copied[2]} copies are out of range, give 1 to {MOST_COPIES}")
        gaussians, framing = open_bench_scene(copied[1], up=up)
        return side_by_side(gaussians, framing, int(copied[2])), framing
    kind, _, path = source.partition(":")
    if kind == "garden":
        gaussians = garden(Path(path))
        return gaussians, replace(frame_scene(gaussians), up=(0.0, 0.0, 1.0))
    return open_scene(source, up=up)


def garden(path: Path, *, seed: int = 42) -> Gaussians:
    """Points of a file in the layout of gsplat's test_garden.npz, made splats as gsplat's tests make them.

    Raises:
        InputError: the file is missing or holds no such points.
    """
    data = read_bytes(path)
    try:
        with _arrays(data) as file:
            means, colors = (torch.from_numpy(file[name]).float() for name in ("means3d", "colors"))
        inside = (means.abs() <= GARDEN_REACH).all(dim=1)
        means, colors = means[inside], colors[inside] / 255.0
    except (ValueError, KeyError, TypeError, IndexError, RuntimeError, BadZipFile) as error:
        raise InputError(f"{path}: no points of a garden ({cause(error)}), give gsplat's test_garden.npz") from None
    if means.dim() != 2 or len(means) == 0:
        raise InputError(f"{path}: no point lies within {GARDEN_REACH} of the origin, give gsplat's test_garden.npz")
    random = torch.Generator().manual_seed(seed)
    low, high = GARDEN_SCALES
    return Gaussians(
        means=means,
        quats=torch.nn.functional.normalize(torch.randn(len(means), 4, generator=random), dim=1),
        scales=low + (high - low) * torch.rand(len(means), 3, generator=random),
        opacities=torch.rand(len(means), generator=random),
        sh=((colors - 0.5) / SH_C0)[:, None],
    )


def own_cameras(source: str) -> list[Camera]:
    """The cameras that come with a garden, also with copies of it; none for any other scene.

    Raises:
        InputError: the file holds no cameras.
    """
    kind, _, path = source.partition(":")
    if kind != "garden":
        return []
    path = re.sub(r"@\d+$", "", path)
    with _arrays(read_bytes(Path(path))) as file:
        try:
            size = int(file["width"]), int(file["height"])
            views = zip(file["viewmats"], file["Ks"], strict=True)
            return [Camera(view, K[0, 0], K[1, 1], K[0, 2], K[1, 2], *size) for view, K in views]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{path}: no cameras ({cause(error)}), give gsplat's test_garden.npz") from None


def _arrays(data: bytes) -> NpzFile:
    """Not from the path: numpy leaves a file open that it finds damaged."""
    file = np.load(io.BytesIO(data), allow_pickle=False)
    if not isinstance(file, NpzFile):
        raise ValueError("no archive of arrays")
    return file


def side_by_side(gaussians: Gaussians, framing: Framing, count: int) -> Gaussians:
    """Copies on the ground round the original, as far apart as most of the scene is wide."""
    shifts = lattice(framing.up, count) * widths(gaussians)
    means = (gaussians.means + shifts[:, None].to(gaussians.means)).flatten(0, 1)
    rest = {
        name: tensor.repeat(count, *(1 for _ in tensor.shape[1:]))
        for name, tensor in gaussians.tensors().items()
        if name != "means"
    }
    return Gaussians(means=means, **rest)


def lattice(up: tuple[float, float, float], count: int) -> Tensor:
    """Places [count, 3] of a square lattice on the ground, one apart: the origin, and round it, the nearest first."""
    side = math.ceil(math.sqrt(count))
    cells = [(i - (side - 1) // 2, j - (side - 1) // 2) for i in range(side) for j in range(side)]
    cells = sorted(cells, key=lambda cell: (cell[0] ** 2 + cell[1] ** 2, cell))[:count]
    first, second = (axis for axis in range(3) if axis != int(np.abs(up).argmax()))
    places = torch.zeros(count, 3)
    places[:, (first, second)] = torch.tensor(cells, dtype=torch.float32)
    return places


def widths(gaussians: Gaussians) -> Tensor:
    """How wide most of a scene is along each axis [3], world units."""
    some = gaussians.means[:: max(1, len(gaussians) // 100_000)]
    low, high = torch.quantile(some, torch.tensor([0.02, 0.98], dtype=some.dtype), dim=0)
    return high - low
