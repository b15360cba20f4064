"""Compressed bytes from strangers: what they may expand to is bounded, and every way to fail is one line."""

import zlib
from collections.abc import Callable
from pathlib import Path

import zstandard

from .errors import InputError
from .files import cause, file_size

FREE, RATIO = 64 << 20, 100  # a file may expand to FREE bytes and RATIO times its own size
PIECE = 1 << 20  # bytes asked for at a time

Read = Callable[[int], bytes]  # at most so many next bytes of a stream, none at its end


def expansion_limit(path: Path) -> int:
    """Bytes that a file may expand to: more than that no scene does."""
    return FREE + RATIO * file_size(path)


def read_some(path: Path, read: Read, size: int) -> bytes:
    """What `read` gives.

    Raises:
        InputError: the bytes are no gzip, zlib or zstandard data, or cannot be read.
    """
    try:
        return read(size)
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(
            f"{path}: its compressed data is damaged ({cause(error)}), fetch or export it again"
        ) from error


def read_exactly(path: Path, read: Read, size: int) -> bytearray:
    """The next `size` bytes of a stream; memory grows with what has arrived, not with what was asked for.

    Raises:
        InputError: as `read_some`, or the stream ends before.
    """
    data = bytearray()
    while len(data) < size:
        piece = read_some(path, read, min(PIECE, size - len(data)))
        if not piece:
            raise InputError(f"{path}: truncated, {size - len(data)} bytes are missing: fetch or export it again")
        data += piece
    return data


def check_end(path: Path, read: Read, spare: int = 0) -> None:
    """Reads a stream to its end, which also checks its checksum.

    Args:
        spare: bytes that may still come, to be ignored.

    Raises:
        InputError: as `read_some`, or more bytes came.
    """
    while piece := read_some(path, read, PIECE):
        spare -= len(piece)
        if spare < 0:
            raise InputError(f"{path}: holds more data than its header promises, fetch or export it again")
