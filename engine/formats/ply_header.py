"""What all .ply scenes share: the header, rows of fixed size after it, and columns read by name.

A header is text: `ply`, `format ... 1.0`, then `element NAME COUNT` lines, each followed by its `property TYPE NAME`
lines, up to `end_header`. The rows of each element follow in the same order. plyfile reads the header (with every count
set to 0, so that it allocates nothing); the counts are checked against the size of the file before any row is touched.
Binary rows are memory-mapped. Source: Greg Turk, "The PLY Polygon File Format", 1994.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured
from plyfile import PlyData, PlyListProperty, PlyParseError

from ...kernels.arguments import SH_COUNTS
from ..errors import InputError
from ..files import cause, file_size, read_bytes

HEADER_LIMIT = 1 << 20  # bytes; real headers hold about 2 kB


@dataclass(frozen=True)
class Element:
    """One table of a .ply."""

    name: str
    count: int  # rows
    columns: tuple[str, ...]
    dtype: np.dtype | None  # of one row in the file; None where rows hold lists and have no fixed size


@dataclass(frozen=True)
class Header:
    """The tables that a .ply promises, in file order."""

    path: Path
    size: int  # bytes, up to and with the end of the `end_header` line
    text: bool  # ascii rows
    elements: tuple[Element, ...]

    def find(self, name: str) -> Element | None:
        """The element of that name."""
        return next((element for element in self.elements if element.name == name), None)


def read_header(path: Path) -> Header:
    """The header of a .ply, checked for itself but not yet against the bytes that follow.

    Raises:
        InputError: the file cannot be read or does not begin with a whole, valid header.
    """
    head = read_bytes(path, HEADER_LIMIT)
    newline = next((end for end in (b"\r\n", b"\n", b"\r") if head.startswith(b"ply" + end)), None)
    if newline is None:
        raise InputError(f"{path}: does not begin with a 'ply' line, give a .ply file")
    end = head.find(newline + b"end_header" + newline)
    if end < 0:
        raise InputError(f"{path}: no end_header line, the file is truncated: fetch or export it again")
    lines, counts = _without_counts(path, head[:end].split(newline))
    try:
        ply = PlyData.read(io.BytesIO(b"\n".join([*lines, b"end_header", b""])))
    except (PlyParseError, ValueError) as error:
        raise InputError(f"{path}: not a valid .ply header ({cause(error)}), export it again") from error
    elements = tuple(_element(element, count, ply.byte_order) for element, count in zip(ply, counts, strict=True))
    return Header(path, end + len(b"end_header") + 2 * len(newline), bool(ply.text), elements)


def read_rows(header: Header, element: Element) -> np.ndarray:
    """The rows of one element, structured by column name: mapped from disk when binary, in memory when ascii.

    Raises:
        InputError: zero rows, fewer bytes than the header promises, malformed text, or lists in the way.
    """
    size = file_size(header.path)
    if element.count == 0:
        raise InputError(f"{header.path}: element {element.name} has 0 rows, the scene is empty: export it again")
    ahead = header.elements[: header.elements.index(element) + 1]
    if any(table.dtype is None for table in (header.elements if header.text else ahead)):
        raise InputError(f"{header.path}: rows of lists among its elements, export it without faces")
    sizes = [table.count * _row_size(header, table) for table in ahead]
    promised = header.size + sum(sizes)
    if promised - header.text > size:  # the last line of a text may lack its end
        raise InputError(
            f"{header.path}: truncated, {element.count} rows of {element.name} need {promised} bytes and the file has "
            f"{size}: fetch or export it again"
        )
    if header.text:
        return _read_text(header, element, size)
    assert element.dtype is not None
    try:
        return np.memmap(header.path, element.dtype, mode="r", offset=promised - sizes[-1], shape=(element.count,))
    except (OSError, ValueError) as error:
        raise InputError(f"{header.path}: {cause(error)}, give a file that can be read") from error


def columns(rows: np.ndarray, names: list[str], dtype: type = np.float32) -> np.ndarray:
    """Some columns of structured rows as one plain matrix.

    Returns:
        [n, len(names)] contiguous, native byte order, the caller's own; a value beyond the range of float32 becomes an
        infinity.
    """
    with np.errstate(all="ignore"):
        return np.array(structured_to_unstructured(rows[names], dtype=dtype), order="C")  # never a view of the file


def rest_columns(header: Header, element: Element) -> list[str]:
    """f_rest_0, f_rest_1, ...: the view-dependent SH columns of an element, channel-major (all red, green, then blue).

    Raises:
        InputError: their number fits no SH degree from 0 to 3, or they are not numbered from 0 without a gap.
    """
    found = [name for name in element.columns if name.startswith("f_rest_")]
    names = [f"f_rest_{i}" for i in range(len(found))]
    if len(found) not in [3 * (k - 1) for k in SH_COUNTS]:
        raise InputError(
            f"{header.path}: {len(found)} f_rest columns fit no SH degree, export it with 0, 9, 24 or 45 of them"
        )
    require(header, element, names)
    return names


def require(header: Header, element: Element, names: list[str]) -> None:
    """Checks that an element has these columns.

    Raises:
        InputError: it lacks some, which are named.
    """
    missing = [name for name in names if name not in element.columns]
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"{header.path}: element {element.name} lacks the columns {some}: export it as a 3DGS .ply")


def _without_counts(path: Path, lines: list[bytes]) -> tuple[list[bytes], list[int]]:
    """Header lines with all counts 0 and no comments (which may hold any bytes), and the counts."""
    kept, counts = [], []
    for line in lines:
        words = line.split()
        if words[:1] in ([b"comment"], [b"obj_info"]):
            continue
        if words[:1] == [b"element"] and len(words) == 3:
            if not words[2].isdigit() or len(words[2]) > 18:
                raise InputError(f"{path}: element count {words[2][:40]!r} is not a row count, export it again")
            counts.append(int(words[2]))
            line = b"element " + words[1] + b" 0"
        kept.append(line)
    return kept, counts


def _element(element, count: int, byte_order: str) -> Element:
    names = tuple(prop.name for prop in element.properties)
    lists = any(isinstance(prop, PlyListProperty) for prop in element.properties)
    return Element(element.name, count, names, None if lists else np.dtype(element.dtype(byte_order)))


def _row_size(header: Header, element: Element) -> int:
    """Bytes of a row; of an ascii row the fewest that it can have, one character and one separator a column."""
    assert element.dtype is not None
    return max(1, 2 * len(element.columns)) if header.text else element.dtype.itemsize


def _read_text(header: Header, element: Element, size: int) -> np.ndarray:
    if sum(table.count * _row_size(header, table) for table in header.elements) > size:
        raise InputError(f"{header.path}: truncated, fewer rows than its header promises: fetch or export it again")
    try:
        with np.errstate(all="ignore"):
            return PlyData.read(str(header.path))[element.name].data
    except (PlyParseError, ValueError, ArithmeticError, OSError) as error:
        raise InputError(f"{header.path}: not a valid ascii .ply ({cause(error)}), export it again") from error
