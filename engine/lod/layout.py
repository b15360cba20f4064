"""The head of a .lyra file: 64 bytes of header, metadata as JSON, and a directory with a record for each page.

Behind them come the pages, the coarsest first, so that a file that was cut short can still be drawn from.
docs/store.md has the layout byte by byte.
"""

import json
import math
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..files import cause
from ..formats.lyra_store import MAGIC
from .columns import LARGEST, Ranges, page_bytes
from .pages import CAPACITY

VERSION = 1
HEADER = struct.Struct("<4sIQQIIQIIII4xI")  # the last is a checksum of those before
PAGES_LIMIT = (1 << 16) - 1  # that links can name
METADATA_LIMIT = 1 << 20
ALIGNMENT = 8
LOG_LIMIT = 90.0  # of scales
ENTRY = np.dtype(
    [
        ("offset", "<u8"),
        ("bytes", "<u4"),
        ("crc", "<u4"),
        ("nodes", "<u4"),
        ("leaves", "<u4"),
        ("parent", "<i4"),
        ("error", "<f4"),
        ("centre", "<f4", 3),
        ("radius", "<f4"),
        ("low", "<f8", 3),
        ("high", "<f8", 3),
        ("scales", "<f4", 2),
        ("sh_steps", "<f4", 3),
        ("unused", "<u4"),
    ]
)


class Header(NamedTuple):
    """Where things are in a file."""

    file_bytes: int
    metadata_place: int
    metadata_bytes: int
    metadata_crc: int
    directory_place: int
    pages: int
    directory_crc: int

    @property
    def directory_bytes(self) -> int:
        """Size of the directory."""
        return self.pages * ENTRY.itemsize

    @property
    def end(self) -> int:
        """Where the pages begin."""
        return self.directory_place + self.directory_bytes


@dataclass(frozen=True)
class Labels:
    """What a file says of itself beyond its splats."""

    options: dict[str, Any] = field(default_factory=dict)  # of the builder, JSON values
    levels: tuple[str, ...] = ()  # names, if it was made of levels of detail
    note: str | None = None  # provenance, one line of JSON
    antialiased: bool = False  # trained for `Options.antialiased`


@dataclass(frozen=True)
class Metadata:
    """What a file holds."""

    splats: int  # leaves
    nodes: int
    sh_degree: int
    low: tuple[float, float, float]  # bounds of all positions
    high: tuple[float, float, float]
    labels: Labels = Labels()


def header_bytes(header: Header) -> bytes:
    """64 bytes."""
    size, place, length, crc, *directory = header
    head = HEADER.pack(MAGIC, VERSION, size, place, length, crc, *directory, ENTRY.itemsize, 0, 0)[:-4]
    return head + struct.pack("<I", zlib.crc32(head))


def read_header(name: str, data: bytes) -> Header:
    """The header from the first bytes of a file.

    Raises:
        InputError: no .lyra, another version, damaged, or a size out of range.
    """
    if data[:4] != MAGIC:
        raise InputError(f"{name}: begins with {data[:4].hex(' ') or 'nothing'} instead of LYRA: give a .lyra file")
    if len(data) < HEADER.size:
        raise InputError(f"{name}: truncated within its header, fetch or build it again")
    _, version, *values, entry, _, crc = HEADER.unpack(data[: HEADER.size])
    if version != VERSION:
        raise InputError(f"{name}: .lyra version {version}, only {VERSION} is read: build it again")
    header = Header(*values)
    if crc != zlib.crc32(data[: HEADER.size - 4]) or entry != ENTRY.itemsize:
        raise InputError(f"{name}: its header is damaged, fetch or build it again")
    if not 1 <= header.pages <= PAGES_LIMIT or header.metadata_bytes > METADATA_LIMIT:
        told = f"{header.pages} pages and {header.metadata_bytes} bytes of metadata"
        raise InputError(f"{name}: {told}, the limits are {PAGES_LIMIT} and {METADATA_LIMIT}: build it again")
    places = (HEADER.size, header.metadata_place, header.metadata_bytes, header.directory_place, header.end)
    if not (
        places[0] <= places[1]
        and places[1] + places[2] <= places[3]
        and header.directory_place % ALIGNMENT == 0
        and header.end <= header.file_bytes < 1 << 63
    ):
        raise InputError(f"{name}: its parts do not lie one behind the other, build it again")
    return header


def metadata_bytes(metadata: Metadata) -> bytes:
    """JSON, padded with blanks to a multiple of ALIGNMENT.

    Raises:
        InputError: longer than METADATA_LIMIT.
    """
    labels = metadata.labels
    values = {
        "antialiased": labels.antialiased,
        "bounds": [metadata.low, metadata.high],
        "levels": labels.levels,
        "nodes": metadata.nodes,
        "options": labels.options,
        "provenance": None if labels.note is None else json.loads(labels.note),
        "sh_degree": metadata.sh_degree,
        "splats": metadata.splats,
    }
    text = json.dumps(values, separators=(",", ":")).encode()
    if len(text) > METADATA_LIMIT - ALIGNMENT:
        raise InputError(f"metadata of {len(text)} bytes is too long, at most {METADATA_LIMIT}: shorten the options")
    return text + b" " * (-len(text) % ALIGNMENT)


def read_metadata(name: str, header: Header, data: bytes) -> Metadata:
    """What the JSON says.

    Raises:
        InputError: damaged, or a value is missing or does not fit.
    """
    if len(data) != header.metadata_bytes or zlib.crc32(data) != header.metadata_crc:
        raise InputError(f"{name}: its metadata is damaged, fetch or build it again")
    try:
        raw = json.loads(data)
        (x0, y0, z0), (x1, y1, z1) = ((float(x) for x in corner) for corner in raw["bounds"])
        low, high = (x0, y0, z0), (x1, y1, z1)
        if not all(map(math.isfinite, low + high)):
            raise ValueError("bounds are no numbers")
        if raw["sh_degree"] not in (0, 1, 2, 3):
            raise ValueError(f"SH degree {str(raw['sh_degree'])[:40]}")
        levels = tuple(str(level) for level in raw["levels"])
        note = None if raw["provenance"] is None else json.dumps(raw["provenance"])
        labels = Labels(dict(raw["options"]), levels, note, raw["antialiased"] is True)
        return Metadata(int(raw["splats"]), int(raw["nodes"]), int(raw["sh_degree"]), low, high, labels)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{name}: its metadata does not fit .lyra ({cause(error)}), build it again") from error


def read_directory(name: str, header: Header, metadata: Metadata, data: bytes) -> np.ndarray:
    """The records of the pages [pages] of ENTRY; several may share the bytes of one.

    Raises:
        InputError: damaged, or a page that lies outside the file or is no page.
    """
    if len(data) != header.directory_bytes or zlib.crc32(data) != header.directory_crc:
        raise InputError(f"{name}: its directory is damaged, fetch or build it again")
    entries = np.frombuffer(data, ENTRY)
    pages = np.arange(len(entries))
    sizes = np.zeros(CAPACITY + 1, np.int64)
    whole = np.unique(np.minimum(entries["nodes"], CAPACITY))
    sizes[whole] = [page_bytes(int(nodes), metadata.sh_degree) for nodes in whole]
    numbers = ("error", "centre", "radius", "low", "high", "scales", "sh_steps")
    finite = [np.abs(entries[key]).reshape(len(pages), -1).max(axis=1) <= LARGEST for key in numbers]
    right = {
        "size": (entries["nodes"] >= 1) & (entries["nodes"] <= CAPACITY) & (entries["leaves"] <= entries["nodes"]),
        "place": (entries["offset"] >= header.end)
        & (entries["offset"] <= header.file_bytes)
        & (entries["bytes"] <= header.file_bytes - np.minimum(entries["offset"], header.file_bytes))
        & (entries["bytes"] == sizes[np.minimum(entries["nodes"], CAPACITY)]),
        "parent": np.where(pages > 0, (entries["parent"] >= 0) & (entries["parent"] < pages), entries["parent"] == -1),
        "range": np.all(finite, axis=0)
        & (entries["low"] <= entries["high"]).all(axis=1)
        & (np.abs(entries["scales"]) <= LOG_LIMIT).all(axis=1)
        & (entries["scales"][:, 0] <= entries["scales"][:, 1])
        & (entries["error"] >= 0)
        & (entries["radius"] >= 0),
    }
    for what, fine in right.items():
        if not fine.all():
            raise InputError(f"{name}: the {what} of page {int(np.argmin(fine))} does not fit, build it again")
    for key, told in (("leaves", metadata.splats), ("nodes", metadata.nodes)):
        if (total := int(entries[key].sum(dtype=np.int64))) != told:
            raise InputError(f"{name}: its pages have {total} {key} where {told} are declared, build it again")
    return entries


def ranges_of_entry(entry: np.void) -> Ranges:
    """What the codes of a page are relative to."""
    return Ranges(entry["low"], entry["high"], entry["scales"], entry["sh_steps"])
