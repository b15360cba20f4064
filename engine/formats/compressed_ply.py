"""PlayCanvas' .compressed.ply: 16 bytes a splat, quantised within the bounds of its chunk of 256 splats.

Element `chunk` (n / 256 rows, rounded up): float min_x..z max_x..z, min_scale_x..z max_scale_x..z (ln), and, in all but
the oldest files, min_r g b max_r g b. Element `vertex` (n rows) of four uint:
    packed_position  11|10|11 bits, x in the top bits, between the bounds of the chunk
    packed_rotation  2|10|10|10 bits: index of the largest of w x y z, then the others in ascending order, +-sqrt(1/2)
    packed_scale     11|10|11 bits, ln, between the bounds of the chunk
    packed_color     8|8|8|8 bits: red green blue = 0.5 + SH_C0 * f_dc between the bounds of the chunk; opacity in 0..1
Element `sh` (n rows, optional): uchar f_rest_*, channel-major, -4..4: byte u is 8 (u + 1/2) / 256 - 4, with 0 and 255
for the ends themselves; viewers of PlayCanvas read 8 u / 255 - 4, which differs by at most half a step.

Written in Morton order, so not in the order given. Every value becomes the nearest code:
    position, ln scale  1/2047 of the extent of the chunk (y: 1/1023), so at most half of that off; scales are held to
                        e^-20 .. e^20
    rotation            components of 1.4e-3, so at most 0.2 degrees off
    colour, opacity     1/255 of the range of the chunk, 1/255
    f_rest              1/32 within -4..4, held to that; the byte is the one that both ways of reading are nearest to
Source: playcanvas/splat-transform, src/readers/decompress-ply.ts and src/writers/compressed-chunk.ts.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...kernels.constants import SH_C0
from ..errors import InputError
from ..files import replacing
from ..scene.gaussians import Gaussians
from ..scene.morton import morton_order
from . import smallest_three
from .format import About, Format, Reading, Writing, blocks
from .ply_header import Header, columns, header_bytes, read_header, read_rows, require, rest_columns

FARTHEST = 1e38  # world units; the width of a chunk must fit float32
CHUNK = 256  # splats that share their bounds
PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
BOUNDS = [f"{end}_{axis}" for end in ("min", "max") for axis in ("x", "y", "z")]
SCALE_BOUNDS = [f"{end}_scale_{axis}" for end in ("min", "max") for axis in ("x", "y", "z")]
COLOR_BOUNDS = [f"{end}_{axis}" for end in ("min", "max") for axis in ("r", "g", "b")]
LN_LIMIT = 20.0  # of scales, as splat-transform holds them


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
    with_colors = set(COLOR_BOUNDS) <= set(chunk.columns)
    rest = _rest_columns(header, n)
    rows_of, chunks_of = read_rows(header, vertex, reading.progress), read_rows(header, chunk)
    names = BOUNDS + SCALE_BOUNDS + (COLOR_BOUNDS if with_colors else [])
    bounds = torch.cat([torch.from_numpy(columns(chunks, names).copy()) for _, chunks in chunks_of])
    scene = reading.allocate(n, 1 + len(rest) // 3)
    for block, rows in rows_of:
        position, rotation, scale, color = columns(rows, PACKED, np.uint32).T
        within = bounds[torch.arange(block.start, block.stop) // CHUNK]
        rgb = _fields(color, (8, 8, 8, 8))
        scene.opacities[block] = rgb[:, 3]
        rgb = _lerp(within[:, 12:], rgb[:, :3]) if with_colors else rgb[:, :3]
        scene.sh[block, 0] = (rgb - 0.5) / SH_C0
        scene.means[block] = _lerp(within[:, :6], _fields(position, (11, 10, 11)))
        scene.scales[block] = _lerp(within[:, 6:12], _fields(scale, (11, 10, 11))).exp_()
        turns = (_fields(rotation, (2, 10, 10, 10))[:, 1:] - 0.5) * math.sqrt(2)
        scene.quats[block] = smallest_three.unpack(torch.from_numpy((rotation >> 30).astype(np.int64)), turns)
    if rest and (element := header.find("sh")):
        for block, rows in read_rows(header, element):
            values = REST_VALUES[torch.from_numpy(columns(rows, rest, np.uint8)).int()]
            scene.sh[block, 1:] = values.view(-1, 3, len(rest) // 3).transpose(1, 2)
    return scene


@torch.no_grad()
def save(gaussians: Gaussians, path: Path, writing: Writing) -> None:
    """Writes a .compressed.ply, in Morton order; the file appears whole or not at all.

    Raises:
        InputError: the file cannot be written, or the note is too long.
    """
    n, k = len(gaussians), gaussians.sh.shape[1] - 1
    chunks, rest = -(-n // CHUNK), [f"f_rest_{i}" for i in range(3 * k)]
    tables = [("chunk", chunks, "float", BOUNDS + SCALE_BOUNDS + COLOR_BOUNDS), ("vertex", n, "uint", PACKED)]
    header = header_bytes([*tables, ("sh", n, "uchar", rest)][: 3 if k else 2], path, writing)
    if n and float(gaussians.means.abs().max()) > FARTHEST:
        far = float(gaussians.means.abs().max())
        raise InputError(f"{path}: a position of {far:.3g} is more than compressed PLY holds, {FARTHEST:g}: crop it")
    order = morton_order(gaussians.means)
    with replacing(path) as stream:
        stream.write(header)
        for block in blocks(n, writing.progress):
            part = gaussians.select(order[block]).to("cpu", torch.float32)
            first, count = block.start // CHUNK, len(part)
            bounds, words = _packed(part)
            stream.seek(len(header) + 72 * first)
            stream.write(bounds.numpy().astype("<f4").data)
            stream.seek(len(header) + 72 * chunks + 16 * block.start)
            stream.write(words.numpy().astype("<u4").data)
            if k:
                stream.seek(len(header) + 72 * chunks + 16 * n + 3 * k * block.start)
                codes = torch.bucketize(part.sh[:, 1:].transpose(1, 2).reshape(count, 3 * k), REST_STEPS)
                stream.write(codes.byte().numpy().data)


def about(path: Path) -> About:
    """What the header says."""
    header = read_header(path)
    vertex = header.find("vertex")
    return About("compressed PLY", vertex.count if vertex else 0, antialiased=header.antialiased, note=header.note)


def _fields(packed: np.ndarray, bits: tuple[int, ...]) -> Tensor:
    """[n, len(bits)] float32 in 0..1: the bit fields of [n] uint32, the first one in the top bits."""
    fields = np.empty((len(packed), len(bits)), dtype=np.float32)
    shift = 32
    for i, width in enumerate(bits):
        shift -= width
        top = (1 << width) - 1
        fields[:, i] = ((packed >> shift) & top) * np.float32(1 / top)
    return torch.from_numpy(fields)


def _lerp(bounds: Tensor, fraction: Tensor) -> Tensor:
    """[n, 3] between bounds [n, 6], the three minima, then the three maxima."""
    return torch.lerp(bounds[:, :3], bounds[:, 3:], fraction)


def _packed(splats: Gaussians) -> tuple[Tensor, Tensor]:
    """Bounds [chunks, 18] float32 and packed words [n, 4] int64 of splats in their final order."""
    n = len(splats)
    logs = splats.scales.double().log().clamp_(-LN_LIMIT, LN_LIMIT)
    position, at = _fractions(splats.means.double())
    scale, sizes = _fractions(logs)
    color, colors = _fractions(splats.sh[:, 0].double() * SH_C0 + 0.5)
    largest, others = smallest_three.pack(splats.quats)
    rotation = torch.cat((largest[:, None] / 3, others * math.sqrt(0.5) + 0.5), dim=1)
    color = torch.cat((color, splats.opacities.double()[:, None]), dim=1)
    words = (
        _word(position, (11, 10, 11)),
        _word(rotation, (2, 10, 10, 10)),
        _word(scale, (11, 10, 11)),
        _word(color, (8, 8, 8, 8)),
    )
    return torch.cat((at, sizes, colors), dim=1), torch.stack(words, dim=1)[:n]


def _fractions(values: Tensor) -> tuple[Tensor, Tensor]:
    """Where values [n, 3] float64 lie within their chunks, 0 to 1, and the bounds [chunks, 6] float32, as in a file."""
    n = len(values)
    chunks = torch.cat((values, values[-1:].expand(-n % CHUNK, 3))).view(-1, CHUNK, 3)
    low, high = chunks.amin(dim=1).float(), chunks.amax(dim=1).float()
    extent = (high.double() - low.double()).clamp(min=torch.finfo(torch.float64).tiny)
    inside = (chunks - low[:, None].double()) / extent[:, None]
    return inside.clamp_(0, 1).view(-1, 3)[:n], torch.cat((low, high), dim=1)


def _word(fractions: Tensor, bits: tuple[int, ...]) -> Tensor:
    """[n] int64: the nearest bit fields, the first one in the top bits."""
    word = torch.zeros(len(fractions), dtype=torch.int64)
    for i, width in enumerate(bits):
        top = (1 << width) - 1
        word = word << width | (fractions[:, i] * top).round_().long().clamp_(0, top)
    return word


def _rest_columns(header: Header, n: int) -> list[str]:
    """The view-dependent SH columns, none where the file has none."""
    element = header.find("sh")
    if element is None:
        return []
    names = rest_columns(header, element)
    if element.count != n:
        raise InputError(f"{header.path}: {element.count} rows of sh for {n} splats, export it again")
    if element.dtype is not None and any(element.dtype[name] != np.uint8 for name in names):
        raise InputError(f"{header.path}: f_rest columns are not uchar, export it again")
    return names


def _rest_values() -> tuple[Tensor, Tensor]:
    """What each byte of f_rest stands for [256], and the values [255] at which the next byte is the better one.

    The better byte is the one whose farther reading, of the two that are in use, is nearer to the value.
    """
    byte = torch.arange(256, dtype=torch.float64)
    exact, viewers = 8 * (byte + 0.5) / 256 - 4, 8 * byte / 255 - 4
    exact[[0, -1]] = viewers[[0, -1]]
    steps = (torch.minimum(exact, viewers)[:-1] + torch.maximum(exact, viewers)[1:]) / 2
    return exact.float(), steps.float()


REST_VALUES, REST_STEPS = _rest_values()
FORMAT = Format(
    "compressed PLY",
    (".compressed.ply",),
    "rdf",
    matches,
    load,
    about,
    save,
    carries_note=True,
    order=lambda scene: morton_order(scene.means),
)
