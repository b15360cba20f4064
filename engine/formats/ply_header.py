"""What all .ply scenes share: the header with its comments, rows of fixed size after it, columns read by name.

A header is text: `ply`, `format ... 1.0`, then `element NAME COUNT` lines, each followed by its `property TYPE NAME`
lines, up to `end_header`. The rows of each element follow in the same order. plyfile reads the header (with every count
set to 0, so that it allocates nothing); the counts are checked against the size of the file before any row is touched.
Rows are read block by block. Source: Greg Turk, "The PLY Polygon File Format", 1994.

Comments that mean something: `lyra NOTE` carries provenance; `SplatRenderMode: mip` (Brush) and `antialiased 1`
(Postshot) say that a scene was trained antialiased, in any case of letters, the last one counts.
"""

import io
import json
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured
from plyfile import PlyData, PlyListProperty, PlyParseError

from ...kernels.arguments import SH_COUNTS
from ..errors import InputError
from ..files import cause, file_size, read_bytes
from .format import BLOCK, Progress, Writing, blocks, no_progress

HEADER_LIMIT = 1 << 20  # bytes; real headers hold about 2 kB
NOTE_LIMIT = 1 << 16  # bytes that are written; readers such as splat-transform take headers of up to 128 kB
NOTE_KEY, MODE_KEY, ANTIALIASED_KEY = "lyra ", "splatrendermode:", "antialiased "


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
    comments: tuple[str, ...]  # without the word comment; what cannot be printed is a blank

    def find(self, name: str) -> Element | None:
        """The element of that name."""
        return next((element for element in self.elements if element.name == name), None)

    @property
    def note(self) -> str | None:
        """Provenance as it was written."""
        notes = [comment[len(NOTE_KEY) :] for comment in self.comments if comment.startswith(NOTE_KEY)]
        return notes[-1] if notes else None

    @property
    def antialiased(self) -> bool:
        """Whether the scene was trained for `Options.antialiased`."""
        found = False
        for comment in self.comments:
            lower = comment.strip().lower()
            if lower.startswith(MODE_KEY) and (mode := lower[len(MODE_KEY) :].strip()) in ("mip", "default", "2dgs"):
                found = mode == "mip"
            elif lower.startswith(ANTIALIASED_KEY) and (flag := lower[len(ANTIALIASED_KEY) :].strip()) in ("0", "1"):
                found = flag == "1"
        return found


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
    lines, counts, comments = _parts(path, head[:end].split(newline))
    try:
        ply = PlyData.read(io.BytesIO(b"\n".join([*lines, b"end_header", b""])))
    except (PlyParseError, ValueError) as error:
        raise InputError(f"{path}: not a valid .ply header ({cause(error)}), export it again") from error
    elements = tuple(_element(element, count, ply.byte_order) for element, count in zip(ply, counts, strict=True))
    return Header(path, end + len(b"end_header") + 2 * len(newline), bool(ply.text), elements, tuple(comments))


def header_bytes(tables: Iterable[tuple[str, int, str, Iterable[str]]], path: Path, writing: Writing) -> bytes:
    """The header of a binary little-endian .ply.

    Args:
        tables: of each element its name, its rows, the type of all its columns, and their names.
        path: for messages.

    Raises:
        InputError: the note is too long for the readers of such files.
    """
    lines = ["ply", "format binary_little_endian 1.0"]
    if writing.antialiased:
        lines += ["comment SplatRenderMode: mip", "comment antialiased 1"]
    if writing.note:
        note = _ascii(writing.note)
        if len(note) > NOTE_LIMIT:
            raise InputError(f"{path}: a note of {len(note)} bytes, a .ply holds at most {NOTE_LIMIT}: shorten it")
        lines.append(f"comment {NOTE_KEY}{note}")
    for name, count, kind, columns_ in tables:
        lines += [f"element {name} {count}", *(f"property {kind} {column}" for column in columns_)]
    return "\n".join([*lines, "end_header", ""]).encode("ascii")


def read_rows(header: Header, element: Element, progress: Progress = no_progress) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows of one element in blocks: which ones, and the rows, structured by column name.

    A block's rows are overwritten by the next. What can be told from sizes is checked at once, the rest as blocks come.

    Raises:
        InputError: zero rows, fewer bytes than the header promises, malformed text, or lists in the way.
    """
    size = file_size(header.path)
    if element.count == 0:
        raise InputError(f"{header.path}: element {element.name} has 0 rows, the scene is empty: export it again")
    ahead = header.elements[: header.elements.index(element) + 1]
    needed = header.elements if header.text else ahead
    if any(table.dtype is None for table in needed):
        raise InputError(f"{header.path}: rows of lists among its elements, export it without faces")
    promised = header.size + sum(table.count * _row_size(header, table) for table in needed)
    if promised - header.text > size:  # the last line of a text may lack its end
        raise InputError(
            f"{header.path}: truncated, {element.count} rows of {element.name} need {promised} bytes and the file has "
            f"{size}: fetch or export it again"
        )
    if header.text:
        return _text_blocks(header, element, sum(table.count for table in ahead[:-1]), progress)
    return _binary_blocks(header, element, promised - element.count * _row_size(header, element), progress)


def columns(rows: np.ndarray, names: list[str], dtype: type = np.float32) -> np.ndarray:
    """Some columns of structured rows as one matrix.

    Returns:
        [n, len(names)] in native byte order, a view of the rows where they allow one; a value beyond the range of
        float32 becomes an infinity.
    """
    wanted, fields = np.dtype(dtype), rows.dtype.names or ()
    if all(rows.dtype[name] == wanted for name in fields):  # then rows are a matrix already
        table, index = rows.view(wanted).reshape(len(rows), len(fields)), [fields.index(name) for name in names]
        if index == list(range(index[0], index[0] + len(index))):
            return table[:, index[0] : index[0] + len(index)]
        return table.take(index, axis=1)
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(structured_to_unstructured(rows[names], dtype=wanted))


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


def _ascii(note: str) -> str:
    """JSON that says the same in printable ASCII on one line, so that it ends neither its line nor the header."""
    return "".join(c if " " <= c <= "~" else " " if c < " " else json.dumps(c)[1:-1] for c in note).strip()


def _parts(path: Path, lines: list[bytes]) -> tuple[list[bytes], list[int], list[str]]:
    """Header lines with all counts 0 and no comments (which may hold any bytes), the counts, and the comments."""
    kept, counts, comments = [], [], []
    for line in lines:
        words = line.split()
        if words[:1] in ([b"comment"], [b"obj_info"]):
            if line.startswith(b"comment "):
                text = line[len(b"comment ") :].decode("utf-8", errors="replace")
                comments.append("".join(c if c.isprintable() else " " for c in text))
            continue
        if words[:1] == [b"element"] and len(words) == 3:
            if not words[2].isdigit() or len(words[2]) > 18:
                raise InputError(f"{path}: element count {words[2][:40]!r} is not a row count, export it again")
            counts.append(int(words[2]))
            line = b"element " + words[1] + b" 0"
        kept.append(line)
    return kept, counts, comments


def _element(element, count: int, byte_order: str) -> Element:
    names = tuple(prop.name for prop in element.properties)
    lists = any(isinstance(prop, PlyListProperty) for prop in element.properties)
    return Element(element.name, count, names, None if lists else np.dtype(element.dtype(byte_order)))


def _row_size(header: Header, element: Element) -> int:
    """Bytes of a row; of an ascii row the fewest that it can have, one character and one separator a column."""
    assert element.dtype is not None
    return max(1, 2 * len(element.columns)) if header.text else element.dtype.itemsize


def _binary_blocks(
    header: Header, element: Element, start: int, progress: Progress
) -> Iterator[tuple[slice, np.ndarray]]:
    rows = np.empty(min(element.count, BLOCK), element.dtype)
    try:
        with header.path.open("rb", buffering=0) as stream:
            stream.seek(start)
            for block in blocks(element.count, progress):
                part = rows[: block.stop - block.start]
                left = part.view(np.uint8).data
                while left:
                    if not (got := stream.readinto(left)):
                        raise InputError(f"{header.path}: truncated while it was read, fetch or export it again")
                    left = left[got:]
                yield block, part
    except OSError as error:
        raise InputError(f"{header.path}: {cause(error)}, give a file that can be read") from error


def _text_blocks(
    header: Header, element: Element, skipped: int, progress: Progress
) -> Iterator[tuple[slice, np.ndarray]]:
    """One line a row, `skipped` lines stepped over."""
    try:
        with header.path.open("rb") as stream:
            stream.seek(header.size)
            lines = io.TextIOWrapper(stream, encoding="latin-1")
            next(islice(lines, skipped, skipped), None)
            for block in blocks(element.count, progress):
                count = block.stop - block.start
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of values beyond float32, and of no lines at all
                    rows = np.loadtxt(islice(lines, count), element.dtype, comments=None, ndmin=1)
                if len(rows) != count:
                    raise ValueError(f"{block.start + len(rows)} rows of {element.name} where {element.count} belong")
                yield block, rows
    except (ValueError, ArithmeticError) as error:
        raise InputError(f"{header.path}: not a valid ascii .ply ({cause(error)}), export it again") from error
    except OSError as error:
        raise InputError(f"{header.path}: {cause(error)}, give a file that can be read") from error
