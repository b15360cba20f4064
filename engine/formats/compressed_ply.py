"""PlayCanvas' .compressed.ply: 16 bytes a splat, quantised within the bounds of its chunk of 256 splats.

Element `chunk` (n / 256 rows, rounded up): float min_x..z max_x..z, min_scale_x..z max_scale_x..z (ln), and, in all but
the oldest files, min_r g b max_r g b. Element `vertex` (n rows) of four uint:
    packed_position  11|10|11 bits, x in the top bits, between the bounds of the chunk
    packed_rotation  2|10|10|10 bits: index of the largest of w x y z, then the others in ascending order, +-sqrt(1/2)
    packed_scale     11|10|11 bits, ln, between the bounds of the chunk
    packed_color     8|8|8|8 bits: red green blue = 0.5 + SH_C0 * f_dc between the bounds of the chunk; opacity in 0..1
Element `sh` (n rows, optional): uchar f_rest_*, channel-major, -4..4.
Source: playcanvas/splat-transform, src/readers/decompress-ply.ts and src/writers/compressed-chunk.ts.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...kernels.constants import SH_C0
from ..errors import InputError
from ..scene.gaussians import Gaussians
from . import smallest_three
from .format import About, Format, Reading
from .ply_header import Header, columns, read_header, read_rows, require, rest_columns

CHUNK = 256  # splats that share their bounds
PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
BOUNDS = [f"{end}_{axis}" for end in ("min", "max") for axis in ("x", "y", "z")]
SCALE_BOUNDS = [f"{end}_scale_{axis}" for end in ("min", "max") for axis in ("x", "y", "z")]
COLOR_BOUNDS = [f"{end}_{axis}" for end in ("min", "max") for axis in ("r", "g", "b")]


def matches(path: Path, head: bytes) -> bool:
    """Whether a file is a .ply of this kind: it has chunks, and vertices with packed positions."""
    if not head.startswith(b"ply"):
        return False
    header = read_header(path)
    vertex = header.find("vertex")
    return header.find("chunk") is not None and vertex is not None and "packed_position" in vertex.columns


def load(path: Path, reading: Reading) -> Gaussians:
    """Reads a .compressed.ply.

    Returns:
        The splats in file order (Morton order, as a rule), float32 on the CPU, quaternions of unit length. Values are
        not checked.

    Raises:
        InputError: not a compressed .ply, a column or a chunk missing, truncated, or empty.
    """
    header = read_header(path)
    chunk, vertex = header.find("chunk"), header.find("vertex")
    if chunk is None or vertex is None:
        raise InputError(f"{path}: not a compressed .ply, it lacks the elements chunk and vertex: export it again")
    require(header, chunk, BOUNDS + SCALE_BOUNDS)
    require(header, vertex, PACKED)
    n = vertex.count
    if chunk.count * CHUNK < n:
        raise InputError(f"{path}: {chunk.count} chunks hold fewer than its {n} splats, export it again")
    if vertex.dtype is not None and any(vertex.dtype[name].newbyteorder("=") != np.uint32 for name in PACKED):
        raise InputError(f"{path}: packed columns are not uint, export it again")
    rows, chunks = read_rows(header, vertex), read_rows(header, chunk)
    position, rotation, scale, color = columns(rows, PACKED, np.uint32).T
    rgb = _fields(color, (8, 8, 8, 8))
    if set(COLOR_BOUNDS) <= set(chunk.columns):
        rgb[:, :3] = _within(chunks, COLOR_BOUNDS, rgb[:, :3])
    rest = _rest(header, n)  # [n, k, 3]
    sh = torch.empty(n, 1 + rest.shape[1], 3)
    sh[:, 0] = (rgb[:, :3] - 0.5) / SH_C0
    sh[:, 1:] = rest
    turns = (_fields(rotation, (2, 10, 10, 10))[:, 1:] - 0.5) * math.sqrt(2)
    return Gaussians(
        means=_within(chunks, BOUNDS, _fields(position, (11, 10, 11))),
        quats=smallest_three.unpack(torch.from_numpy((rotation >> 30).astype(np.int64)), turns),
        scales=_within(chunks, SCALE_BOUNDS, _fields(scale, (11, 10, 11))).exp_(),
        opacities=rgb[:, 3].contiguous(),
        sh=sh,
    )


def about(path: Path) -> About:
    """What the header says."""
    vertex = read_header(path).find("vertex")
    return About("compressed PLY", vertex.count if vertex else 0)


def _fields(packed: np.ndarray, bits: tuple[int, ...]) -> Tensor:
    """[n, len(bits)] float32 in 0..1: the bit fields of [n] uint32, the first one in the top bits."""
    fields = np.empty((len(packed), len(bits)), dtype=np.float32)
    shift = 32
    for i, width in enumerate(bits):
        shift -= width
        top = (1 << width) - 1
        fields[:, i] = ((packed >> shift) & top) * np.float32(1 / top)
    return torch.from_numpy(fields)


def _within(chunks: np.ndarray, names: list[str], fraction: Tensor) -> Tensor:
    """[n, 3] between the bounds of each splat's chunk; names are the three minima, then the three maxima."""
    bounds = torch.from_numpy(columns(chunks, names))
    index = torch.arange(len(fraction)) // CHUNK
    return torch.lerp(bounds[index, :3], bounds[index, 3:], fraction)


def _rest(header: Header, n: int) -> Tensor:
    """[n, k, 3] view-dependent SH, k = 0 where the file has none."""
    element = header.find("sh")
    if element is None:
        return torch.empty(n, 0, 3)
    names = rest_columns(header, element)
    if element.count != n:
        raise InputError(f"{header.path}: {element.count} rows of sh for {n} splats, export it again")
    if element.dtype is not None and any(element.dtype[name] != np.uint8 for name in names):
        raise InputError(f"{header.path}: f_rest columns are not uchar, export it again")
    if not names:
        return torch.empty(n, 0, 3)
    values = (np.arange(256, dtype=np.float32) + 0.5) / 256
    values[[0, 255]] = 0, 1
    rest = ((values - 0.5) * 8)[columns(read_rows(header, element), names, np.uint8)]
    return torch.from_numpy(rest).view(n, 3, -1).transpose(1, 2)


FORMAT = Format("compressed PLY", (".compressed.ply",), "rdf", matches, load, about)
