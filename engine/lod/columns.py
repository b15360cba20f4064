"""A page's columns as bytes and back: structure of arrays, little-endian, each column padded to 8 bytes.

What is stored of a node (docs/store.md has the layout), and how exactly:
    links      uint32, the first child's id less the id of the page's first node, page << 16 | slot; NO_LINK for a leaf
    counts     uint8, children
    means      24 bits a coordinate over the page's bounds, as uint16 low parts and uint8 high parts: half a step
    scales     uint16, 0 for 0; else logarithms over the page's range, 1 for the least, 65535 for the largest
    quats      uint32, index of the largest of w x y z above, the others in ascending order, 10 bits each: u of 0..1022
               is (u - 511) / 511 sqrt(1/2): within 0.25 degrees
    opacities  uint16, up to OPAQUE linear over 0..1, from there on logarithmic to 1024: within 1.6e-5, or 1.1e-4 of it
    colors     float16, the first coefficients of the harmonics
    sh         int8, the other coefficients in steps of their band, rounded to nearest: half a step
    radii      uint16, codes of kernels.cpu.pages, rounded up
    errors     the same
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...kernels.cpu.pages import CODES, code_values, largest_magnitudes, pack_quats, round_rows, unpack_quats
from ..errors import InputError
from ..scene.gaussians import Gaussians

NO_LINK = 0xFFFFFFFF
STEPS = (1 << 24) - 1  # of a coordinate
SCALE_CODES = 65535  # the largest; 0 is a scale of 0
SH_CODES = 127
TURN = 511  # quaternion steps of sqrt(1/2)
OPAQUE = 32767  # code of opacity 1
OCTAVES = 10  # of opacity, from 1 on
SMALLEST, LARGEST = 1e-37, 1e37  # scales within this are told apart, coordinates within +-LARGEST stored
HALF = 65504.0  # the largest float16
CODE_VALUES = code_values()
BANDS = (3, 5, 7)  # coefficients in each


class Ranges(NamedTuple):
    """What the codes of a page are relative to."""

    low: np.ndarray  # [3] float64, of means
    high: np.ndarray  # [3] float64
    scales: np.ndarray  # [2] float32, least and largest logarithm
    sh_steps: np.ndarray  # [3] float32, a band


class Columns(NamedTuple):
    """Codes of a page of n nodes, in the order of the file."""

    links: np.ndarray  # [n] uint32
    counts: np.ndarray  # [n] uint8
    means_low: np.ndarray  # [n, 3] uint16
    means_high: np.ndarray  # [n, 3] uint8
    scales: np.ndarray  # [n, 3] uint16
    quats: np.ndarray  # [n] uint32
    opacities: np.ndarray  # [n] uint16
    colors: np.ndarray  # [n, 3] float16
    sh: np.ndarray  # [n, k - 1, 3] int8
    radii: np.ndarray  # [n] uint16
    errors: np.ndarray  # [n] uint16


def layout(nodes: int, degree: int) -> dict[str, tuple[int, np.dtype, tuple[int, ...]]]:
    """Place, type and shape of each column of a page, in the order of `Columns`."""
    rest = (degree + 1) ** 2 - 1
    types = {
        "links": ("<u4", ()),
        "counts": ("u1", ()),
        "means_low": ("<u2", (3,)),
        "means_high": ("u1", (3,)),
        "scales": ("<u2", (3,)),
        "quats": ("<u4", ()),
        "opacities": ("<u2", ()),
        "colors": ("<f2", (3,)),
        "sh": ("i1", (rest, 3)),
        "radii": ("<u2", ()),
        "errors": ("<u2", ()),
    }
    places, place = {}, 0
    for name, (code, shape) in types.items():
        dtype = np.dtype(code)
        places[name] = place, dtype, (nodes, *shape)
        place += -(-dtype.itemsize * nodes * int(np.prod(shape, dtype=int)) // 8) * 8
    return places


def page_bytes(nodes: int, degree: int) -> int:
    """Size of a page."""
    place, dtype, shape = layout(nodes, degree)["errors"]
    return place + -(-dtype.itemsize * shape[0] // 8) * 8


def pack(columns: Columns, degree: int) -> bytes:
    """The bytes of a page."""
    nodes = len(columns.links)
    data = np.zeros(page_bytes(nodes, degree), np.uint8)
    for name, (place, dtype, shape) in layout(nodes, degree).items():
        column = data[place : place + dtype.itemsize * int(np.prod(shape))].view(dtype)
        column.reshape(shape)[...] = getattr(columns, name)
    return data.tobytes()


def unpack(data: bytes, nodes: int, degree: int) -> Columns:
    """The columns in the bytes of a page, as views of them; there are `page_bytes` of them."""
    return Columns(
        *(
            np.frombuffer(data, dtype, int(np.prod(shape)), place).reshape(shape)
            for place, dtype, shape in layout(nodes, degree).values()
        )
    )


def ranges_of(gaussians: Gaussians) -> Ranges:
    """The ranges of a page's splats.

    Raises:
        InputError: a position or a scale beyond LARGEST.
    """
    means, scales = gaussians.means.numpy(), gaussians.scales.numpy()
    low, high, largest = means.min(axis=0), means.max(axis=0), float(scales.max())
    for name, value in (("position", float(max(-low.min(), high.max()))), ("scale", largest)):
        if value > LARGEST:
            raise InputError(f"a {name} of {value:.6g} is beyond the {LARGEST:g} of .lyra: scale or crop the scene")
    least = float(scales.min(where=scales > SMALLEST, initial=LARGEST))
    logs = np.log(np.clip([min(least, max(largest, SMALLEST)), largest], SMALLEST, LARGEST))
    most = np.zeros(3 * sum(BANDS), np.float32)
    rest = _rest(gaussians)
    largest_magnitudes(rest, most[: rest.shape[1]])
    bands = np.split(most, 3 * np.cumsum(BANDS)[:-1])
    steps = np.array([band.max() / SH_CODES for band in bands], np.float32)
    return Ranges(low.astype(np.float64), high.astype(np.float64), logs.astype(np.float32), steps)


def encode_means(means: Tensor, ranges: Ranges) -> np.ndarray:
    """[n, 3] int64 codes of float32 positions."""
    span = np.where(ranges.high > ranges.low, ranges.high - ranges.low, 1)
    return np.rint((means.numpy().astype(np.float64) - ranges.low) * (STEPS / span)).astype(np.int64)


def decode_means(codes: np.ndarray, ranges: Ranges) -> np.ndarray:
    """[n, 3] float32 positions of codes of any integer type."""
    return (codes * ((ranges.high - ranges.low) / STEPS) + ranges.low).astype(np.float32)


def encode(
    gaussians: Gaussians,
    ranges: Ranges,
    links: np.ndarray,
    counts: np.ndarray,
    radius_codes: np.ndarray,
    error_codes: np.ndarray,
) -> Columns:
    """The columns of a page.

    Args:
        gaussians: [n] on the CPU, float32, valid.
        links: [n] integers relative to the page's first node, NO_LINK for a leaf.
        counts: [n] integers, 0 to 255.
        radius_codes: [n] of `kernels.cpu.pages.climb`, and so are `error_codes`.
    """
    means = encode_means(gaussians.means, ranges)
    n, k = gaussians.sh.shape[:2]
    words = np.empty(n, np.uint32)
    pack_quats(gaussians.quats.numpy(), TURN, words)
    steps = _steps(ranges, k)
    sh = np.empty((n, k - 1, 3), np.int8)
    factors = np.where(steps > 0, 1 / np.maximum(steps, SMALLEST), 0).astype(np.float32)
    round_rows(_rest(gaussians), factors, np.float32(SH_CODES), sh.reshape(n, 3 * (k - 1)))
    return Columns(
        links=links.astype(np.uint32),
        counts=counts.astype(np.uint8),
        means_low=(means & 0xFFFF).astype(np.uint16),
        means_high=(means >> 16).astype(np.uint8),
        scales=_encode_scales(gaussians.scales, ranges),
        quats=words,
        opacities=_encode_opacities(gaussians.opacities),
        colors=np.clip(gaussians.sh.numpy()[:, 0], -HALF, HALF).astype(np.float16),
        sh=sh,
        radii=radius_codes.astype(np.uint16),
        errors=error_codes.astype(np.uint16),
    )


def decode(columns: Columns, ranges: Ranges) -> Gaussians:
    """The splats of a page, float32 on the CPU; quaternions of about unit length."""
    means = columns.means_high.astype(np.float64)
    means *= 1 << 16
    means += columns.means_low
    n, rest = columns.sh.shape[:2]
    quats, sh = np.empty((n, 4), np.float32), np.empty((n, 1 + rest, 3), np.float32)
    unpack_quats(columns.quats, TURN, quats)
    sh[:, 0] = columns.colors
    np.multiply(columns.sh.reshape(n, 3 * rest), _steps(ranges, 1 + rest), out=sh.reshape(n, -1)[:, 3:])
    scales, opacities = _scale_values(ranges)[columns.scales], OPACITIES[columns.opacities]
    return Gaussians(*map(torch.from_numpy, (decode_means(means, ranges), quats, scales, opacities, sh)))


def _rest(gaussians: Gaussians) -> np.ndarray:
    """[n, 3 (k - 1)], the harmonics but the first."""
    return gaussians.sh.numpy().reshape(len(gaussians), -1)[:, 3:]


def _steps(ranges: Ranges, k: int) -> np.ndarray:
    """[3 (k - 1)] float32, the step of each channel of each coefficient after the first."""
    return np.repeat(ranges.sh_steps, 3 * np.array(BANDS))[: 3 * (k - 1)]


def _encode_scales(scales: Tensor, ranges: Ranges) -> np.ndarray:
    low, high = ranges.scales.astype(np.float64)
    span = high - low if high > low else 1.0
    values = scales.numpy()
    codes = np.log(np.maximum(values, SMALLEST), dtype=np.float64)
    codes -= low
    codes *= (SCALE_CODES - 1) / span
    codes = np.clip(np.rint(codes, out=codes) + 1, 1, SCALE_CODES)
    return np.where(values > SMALLEST, codes, 0).astype(np.uint16)


def _scale_values(ranges: Ranges) -> np.ndarray:
    """[CODES] float32 of which a page's codes choose: quicker than as many powers as it has scales."""
    low, high = ranges.scales.astype(np.float64)
    values = np.exp((low + (np.arange(CODES) - 1) * ((high - low) / (SCALE_CODES - 1))).astype(np.float32))
    values[0] = 0
    return values


def _encode_opacities(opacities: Tensor) -> np.ndarray:
    values = opacities.numpy().astype(np.float64)
    high = OPAQUE + np.rint(np.log2(np.maximum(values, 1)) * ((CODES - 1 - OPAQUE) / OCTAVES))
    return np.where(values <= 1, np.rint(values * OPAQUE), np.minimum(high, CODES - 1)).astype(np.uint16)


def _opacity_values() -> np.ndarray:
    codes = np.arange(CODES)
    high = np.exp2((codes - OPAQUE) * (OCTAVES / (CODES - 1 - OPAQUE)))
    return np.where(codes <= OPAQUE, codes / OPAQUE, high).astype(np.float32)


OPACITIES = _opacity_values()
