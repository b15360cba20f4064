"""The .ksplat of GaussianSplats3D (mkkellogg): sections of splats, positions relative to the centres of their buckets.

A header of 4096 bytes: uint8 0 (major version), uint8 1 or more (minor), from byte 4 uint32 sections, from 16 uint32
splats, from 20 uint16 mode 0..2, from 36 float32 least and greatest SH of mode 2 (0 means -1.5 and 1.5).
Then a header of 1024 bytes a section: uint32 splats, room for splats, splats in a full bucket, buckets, float32 side of
a bucket, uint16 bytes of a centre, from byte 24 uint32 reach (0 means 32767), from 32 uint32 full and partial buckets,
uint16 SH degree. Then each section: uint32 splats of each partial bucket, float32 centre of every bucket, full ones
first, and the splats in the order of the buckets:
    position  mode 0: float32; else uint16 u, centre + (u - reach) side / (2 reach)
    scale     linear, rotation w x y z: mode 0: float32; else float16
    colour    uint8 red green blue = 255 (0.5 + SH_C0 f_dc), uint8 255 opacity
    f_rest    of each degree all red, then green, then blue; mode 0: float32, 1: float16, 2: uint8, least to greatest
Source: mkkellogg/GaussianSplats3D, src/loaders/SplatBuffer.js (which has degrees 0 to 2; 3 is laid out alike).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...kernels.arguments import SH_COUNTS
from ...kernels.constants import SH_C0
from ..errors import InputError
from ..files import map_bytes, read_bytes
from ..scene.gaussians import Gaussians
from .format import About, Format, Reading, blocks

HEADER = np.dtype(
    {
        "names": ["major", "minor", "sections", "splats", "mode", "low", "high"],
        "formats": ["u1", "u1", "<u4", "<u4", "<u2", "<f4", "<f4"],
        "offsets": [0, 1, 4, 16, 20, 36, 40],
        "itemsize": 4096,
    }
)
SECTION = np.dtype(
    {
        "names": [
            *("splats", "room", "capacity", "buckets", "side", "bucket_size"),
            *("reach", "full", "partial", "degree"),
        ],
        "formats": ["<u4", "<u4", "<u4", "<u4", "<f4", "<u2", "<u4", "<u4", "<u4", "<u2"],
        "offsets": [0, 4, 8, 12, 16, 20, 24, 32, 36, 40],
        "itemsize": 1024,
    }
)
FLOATS, HARMONICS = ("<f4", "<f2", "<f2"), ("<f4", "<f2", "u1")  # by mode
REACH, LOW, HIGH = 32767, -1.5, 1.5  # where the file says 0
CENTRE = 12  # bytes


@dataclass(frozen=True)
class Header:
    """The first 4096 bytes, checked."""

    version: str
    sections: int
    splats: int
    mode: int
    low: float  # SH of a byte of 0
    high: float  # and of 255


@dataclass(frozen=True)
class Section:
    """A section that lies within its file."""

    splats: int
    coefficients: int  # SH a channel, with the first
    rows: np.ndarray  # [splats] mapped from disk
    ends: np.ndarray  # [buckets] int64, the first splat after each; empty in mode 0
    centres: np.ndarray  # [buckets, 3] float32
    step: float  # world units
    reach: int  # position that stands for the centre


def matches(path: Path, head: bytes) -> bool:
    """Whether a file has the name of a .ksplat and is no text (its first bytes alone are too little to go by)."""
    return path.name.lower().endswith(".ksplat") and b"\0" in head


def load(path: Path, reading: Reading) -> Gaussians:
    """Reads a .ksplat of any mode.

    Returns:
        The splats in file order, float32 on the CPU, SH of the highest degree that a section has. Values are not
        checked.

    Raises:
        InputError: another version, mode or degree, counts that disagree, or truncated.
    """
    header = _header(path)
    sections = list(_sections(path, header))
    n, k = header.splats, max(section.coefficients for section in sections)
    scene = reading.allocate(n, k)
    means, quats, scales, opacities, sh = (tensor.numpy() for tensor in scene.tensors().values())
    start = 0
    for section in sections:
        for block in blocks(section.splats):
            rows, to = section.rows[block], slice(start + block.start, start + block.stop)
            with np.errstate(all="ignore"):  # what comes out infinite is dropped with a warning later
                means[to] = _means(section, rows, block)
                scales[to], quats[to] = rows["scales"], rows["quats"]
                colors = rows["colors"] / np.float32(255)
                sh[to, 0], opacities[to] = (colors[:, :3] - 0.5) / SH_C0, colors[:, 3]
                _rest(header, section, rows, sh[to])
            reading.progress(to.stop, n)
        start += section.splats
    return scene


def about(path: Path) -> About:
    """What the header says."""
    header = _header(path)
    return About(f".ksplat {header.version}, mode {header.mode}", header.splats)


def _means(section: Section, rows: np.ndarray, block: slice) -> np.ndarray:
    if not len(section.ends):
        return rows["means"]
    bucket = np.searchsorted(section.ends, np.arange(block.start, block.stop), side="right")
    return (rows["means"].astype(np.float64) - section.reach) * section.step + section.centres[bucket]


def _rest(header: Header, section: Section, rows: np.ndarray, sh: np.ndarray) -> None:
    """Fills [m, k, 3] but for its first coefficients; what is beyond the degree of the section is 0."""
    sh[:, section.coefficients :] = 0
    first = 1
    for count in SH_COUNTS[1 : SH_COUNTS.index(section.coefficients) + 1]:
        values = rows["sh"][:, 3 * (first - 1) : 3 * (count - 1)].astype(np.float32)
        if header.mode == 2:
            values = header.low + values * np.float32((header.high - header.low) / 255)
        sh[:, first:count] = values.reshape(len(rows), 3, count - first).transpose(0, 2, 1)
        first = count


def _header(path: Path) -> Header:
    raw = read_bytes(path, HEADER.itemsize)
    if len(raw) < HEADER.itemsize:
        raise InputError(f"{path}: truncated, {len(raw)} bytes are less than a header: fetch or export it again")
    major, minor, sections, splats, mode, low, high = np.frombuffer(raw, HEADER)[0].item()
    if major != 0 or minor < 1:
        raise InputError(f"{path}: .ksplat version {major}.{minor}, only 0.1 and up are read: export it again")
    if mode >= len(FLOATS):
        raise InputError(f"{path}: compression mode {mode}, only 0, 1 and 2 are known: export it again")
    if splats == 0 or sections == 0:
        raise InputError(f"{path}: holds {splats} splats in {sections} sections, the scene is empty: export it again")
    return Header(f"{major}.{minor}", sections, splats, mode, low or LOW, high or HIGH)


def _sections(path: Path, header: Header) -> Iterator[Section]:
    """The sections, each proven to lie in the file; their splats add up to those of the header."""
    data, place = map_bytes(path), HEADER.itemsize + header.sections * SECTION.itemsize
    if place > len(data):
        told = f"{header.sections} sections need {place} bytes of headers and the file has {len(data)}"
        raise InputError(f"{path}: truncated, {told}: fetch or export it again")
    left = header.splats
    for index, raw in enumerate(data[HEADER.itemsize : place].view(SECTION)):
        section, place = _section(f"{path}: section {index}", header.mode, data, raw, place)
        left -= section.splats
        if section.splats:
            yield section
    if left:
        told = f"{header.splats} splats in its header, {header.splats - left} in its sections"
        raise InputError(f"{path}: {told}: export it again")


def _section(name: str, mode: int, data: np.ndarray, raw: np.void, place: int) -> tuple[Section, int]:
    """A section that begins at `place`, and where it ends."""
    splats, room, capacity, buckets, side, bucket_size, reach, full, partial, degree = raw.item()
    if degree >= len(SH_COUNTS):
        raise InputError(f"{name} has SH degree {degree}, only 0 to 3 are read: export it again")
    row = _row(mode, SH_COUNTS[degree])
    centres = place + 4 * partial
    rows = centres + bucket_size * buckets
    end = rows + row.itemsize * room
    if end > len(data) or splats > room:
        told = f"{splats} splats in room for {room} up to byte {end} of {len(data)}"
        raise InputError(f"{name} is truncated, {told}: fetch or export it again")
    if mode == 0:
        full, partial, buckets, centres = 0, 0, 0, rows
    elif bucket_size != CENTRE or full + partial > buckets:
        told = f"{full} full and {partial} partial buckets, {buckets} centres of {bucket_size} bytes"
        raise InputError(f"{name} has {told}, expected one of {CENTRE} bytes for each: export it again")
    partly = data[place : place + 4 * partial].view("<u4")
    ends = np.cumsum(np.concatenate([np.full(full, capacity, np.int64), partly.astype(np.int64)]))
    if mode and splats > (held := int(ends[-1]) if len(ends) else 0):
        raise InputError(f"{name} has {splats} splats and buckets for {held}: export it again")
    reach = reach or REACH
    return (
        Section(
            splats=splats,
            coefficients=SH_COUNTS[degree],
            rows=data[rows : rows + splats * row.itemsize].view(row),
            ends=ends,
            centres=data[centres:rows].view("<f4").reshape(-1, 3),
            step=side / 2 / reach,
            reach=reach,
        ),
        end,
    )


def _row(mode: int, coefficients: int) -> np.dtype:
    """One splat."""
    number = FLOATS[mode]
    return np.dtype(
        [
            ("means", "<f4" if mode == 0 else "<u2", 3),
            ("scales", number, 3),
            ("quats", number, 4),
            ("colors", "u1", 4),
            ("sh", HARMONICS[mode], 3 * (coefficients - 1)),
        ]
    )


FORMAT = Format(".ksplat", (".ksplat",), "rdf", matches, load, about)
