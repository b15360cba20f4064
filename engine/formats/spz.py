"""Niantic's .spz: 20 to 65 bytes a splat before compression. Versions 1 to 4 are read, 2 to 4 written.

What is stored (containers: `spz_streams`), how, and therefore how exactly it is written, rounded to nearest:
    means      int24 / 2^fraction bits: at most 1.2e-7 of the scene's reach; the writer takes the most bits, from 23 (a
               reach of 1) to 4 (524,288), that hold every splat, where others always take 12. Version 1: float16
    scales     uint8 u, ln = u / 16 - 10: within 3.2 %, from 4.5e-5 to 379, clamped
    quats      from version 3 on the largest of x y z w by index and the others in ascending order, each a sign and 9
               bits of sqrt(1/2): within 0.26 degrees. Before, uint8 u for each of x y z, u / 127.5 - 1, with w >= 0
               from unit length: within 0.7 degrees near the identity, up to 12 degrees where w is near 0
    opacities  uint8, 255 times
    colors     uint8 u, f_dc = (u / 255 - 0.5) / 0.15: steps of 0.026 within +-3.33, clamped
    sh         uint8 u, (u - 128) / 128: steps of 1/128 within -1..0.992, clamped; coefficient-major, red green blue
SH of degree 4 are read as of degree 3, with a warning. There is no place for provenance that readers ignore. Nominal
axes are right, up, back; the numbers are neither turned on reading nor on writing.
Source: nianticlabs/spz, src/cc/load-spz.cc and src/cc/splat-types.h.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import replacing
from ..scene.gaussians import Gaussians
from . import smallest_three
from .format import About, Format, Progress, Reading, Writing, blocks
from .spz_streams import GZIP, MAGIC, Header, open_streams, read_header, write_streams

WRITTEN_VERSIONS = (2, 3, 4)
SMALLEST_THREE_VERSION = 3
FRACTION_BITS = range(23, 3, -1)  # that the writer chooses from, the finest first
INT24 = 1 << 23
COLOR_SCALE = 0.15
DEGREE = 3  # the highest that a scene has
XYZW, WXYZ = [1, 2, 3, 0], [3, 0, 1, 2]  # from the other order

BYTES: np.ndarray = np.arange(256)
COLORS = ((BYTES / 255 - 0.5) / COLOR_SCALE).astype(np.float32)
SCALES = np.exp(BYTES / 16 - 10).astype(np.float32)


def matches(path: Path, head: bytes) -> bool:
    """Whether a file begins as an .spz, or as a gzip, which only this format is."""
    return head.startswith((MAGIC, GZIP))


def load(path: Path, reading: Reading) -> Gaussians:
    """Reads an .spz of version 1 to 4.

    Returns:
        The splats in file order, float32 on the CPU, quaternions of unit length. Values are not checked.

    Raises:
        InputError: another version, truncated, damaged, empty, or larger than its header or its file allows.
    """
    with open_streams(path) as (header, read):
        n, degree = header.splats, min(header.degree, DEGREE)
        first = memoryview(read("means", n * header.widths["means"]))  # proves the count before the scene is allocated
        scene = reading.allocate(n, (degree + 1) ** 2)
        targets = {name: tensor.numpy() for name, tensor in scene.tensors().items()}
        targets |= {"colors": targets["sh"][:, 0], "sh": targets["sh"][:, 1:]}
        for name, width in header.widths.items():
            for block in blocks(n, _share(header, name, reading.progress)):
                at = slice(width * block.start, width * block.stop)
                data = first[at] if name == "means" else read(name, at.stop - at.start)
                raw = np.frombuffer(data, np.uint8).reshape(-1, width)
                targets[name][block] = DECODERS[name](header, raw)
    if header.degree > DEGREE:
        warnings.warn(f"{path}: SH of degree {header.degree} are read as of degree {DEGREE}", stacklevel=2)
    return scene


def about(path: Path) -> About:
    """What the header says."""
    header = read_header(path)
    return About(f"SPZ version {header.version}", header.splats, antialiased=header.antialiased)


def save(gaussians: Gaussians, path: Path, writing: Writing) -> None:
    """Writes an .spz of version `writing.spz_version`.

    Raises:
        InputError: a version that is not written, a position beyond +-524,288, or the file cannot be written.
    """
    if writing.spz_version not in WRITTEN_VERSIONS:
        raise InputError(f"{path}: SPZ version {writing.spz_version} is not written, give 2, 3 or 4")
    bits = _fraction_bits(path, gaussians.means)
    header = Header(writing.spz_version, len(gaussians), gaussians.sh_degree, bits, writing.antialiased)
    sources = {
        "means": gaussians.means,
        "opacities": gaussians.opacities,
        "colors": gaussians.sh[:, 0],
        "scales": gaussians.scales,
        "quats": gaussians.quats,
        "sh": gaussians.sh[:, 1:],
    }

    def pieces(name: str) -> Iterator[bytes]:
        for block in blocks(header.splats, _share(header, name, writing.progress)):
            yield ENCODERS[name](header, sources[name][block].detach().cpu()).tobytes()

    with replacing(path) as stream:
        write_streams(stream, header, map(pieces, header.widths))


def _share(header: Header, name: str, progress: Progress) -> Progress:
    """The progress of one attribute as that of the whole, by bytes."""
    names, widths = list(header.widths), list(header.widths.values())
    before, width, total = sum(widths[: names.index(name)]), header.widths[name], sum(widths)
    return lambda done, count: progress((before * count + width * done) // total, count)


def _fraction_bits(path: Path, means: Tensor) -> int:
    low, high = float(means.min()), float(means.max())
    for bits in FRACTION_BITS:
        if round(low * 2**bits) >= -INT24 and round(high * 2**bits) < INT24:
            return bits
    far, reach = max(low, high, key=abs), (INT24 - 1) / 2 ** FRACTION_BITS[-1]
    raise InputError(f"{path}: a position of {far:.6g} is beyond the {reach:,.0f} of .spz: scale or crop the scene")


def _decode_means(header: Header, raw: np.ndarray) -> np.ndarray:
    if header.version == 1:
        return raw.view("<f2")
    words = np.zeros((len(raw), 3, 4), np.uint8)
    words[..., 1:] = raw.reshape(-1, 3, 3)
    return (words.view("<i4")[..., 0] >> 8) * np.float32(2.0**-header.fraction_bits)


def _encode_means(header: Header, means: Tensor) -> np.ndarray:
    words = (means.double() * 2.0**header.fraction_bits).round().int().numpy().astype("<i4", copy=False)
    return words[..., None].view(np.uint8)[..., :3]


def _decode_quats(header: Header, raw: np.ndarray) -> Tensor:
    if header.version < SMALLEST_THREE_VERSION:
        xyz = torch.from_numpy(raw / 127.5 - 1)  # float64, as w is a small difference
        w = (1 - xyz.square().sum(dim=1, keepdim=True)).clamp(min=0).sqrt()
        return torch.nn.functional.normalize(torch.cat((w, xyz), dim=1), dim=1)
    words = raw.view("<u4").astype(np.int64)
    fields = words >> [20, 10, 0] & 1023
    stored = np.float32((fields & 511) * (math.sqrt(0.5) / 511)) * np.where(fields > 511, np.float32(-1), np.float32(1))
    return smallest_three.unpack(torch.from_numpy(words[:, 0] >> 30), torch.from_numpy(stored))[:, WXYZ]


def _encode_quats(header: Header, quats: Tensor) -> np.ndarray:
    if header.version < SMALLEST_THREE_VERSION:
        units = smallest_three.unit(quats)
        return _bytes(torch.where(units[:, :1] < 0, -units, units)[:, 1:] * 127.5 + 127.5)
    largest, stored = smallest_three.pack(quats[:, XYZW])
    fields = (stored.abs() * (511 * math.sqrt(2))).round().long() | (stored < 0).long() << 9
    return (largest << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]).numpy().astype("<u4")


def _bytes(values: Tensor) -> np.ndarray:
    return values.round_().clamp_(0, 255).byte().numpy()


DECODERS: dict[str, Callable[[Header, np.ndarray], np.ndarray | Tensor]] = {  # [m, width] uint8
    "means": _decode_means,
    "opacities": lambda header, raw: raw[:, 0] / np.float32(255),
    "colors": lambda header, raw: COLORS[raw],
    "scales": lambda header, raw: SCALES[raw],
    "quats": _decode_quats,
    "sh": lambda header, raw: (raw / np.float32(128) - 1).reshape(len(raw), -1, 3)[:, : (DEGREE + 1) ** 2 - 1],
}
ENCODERS: dict[str, Callable[[Header, Tensor], np.ndarray]] = {  # of a block of splats, on the CPU
    "means": _encode_means,
    "opacities": lambda header, opacities: _bytes(opacities.double() * 255),
    "colors": lambda header, colors: _bytes((colors.double() * COLOR_SCALE + 0.5) * 255),
    "scales": lambda header, scales: _bytes((scales.double().log() + 10) * 16),
    "quats": _encode_quats,
    "sh": lambda header, sh: _bytes(sh.float() * 128 + 128),
}

FORMAT = Format("SPZ", (".spz",), "rub", matches, load, about, save)
