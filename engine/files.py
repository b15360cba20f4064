"""Files at the border of the engine: sized, read and replaced, every error of the system told in one line."""

import errno
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import InputError


def cause(error: BaseException) -> str:
    """The reason that an exception gives, on one line and at most 200 characters."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, KeyError):
        text = f"no {text}"
    return " ".join(str(text).split())[:200]


def file_size(path: Path) -> int:
    """Bytes in a regular file.

    Raises:
        InputError: missing, out of reach, a folder, a pipe or a device, or empty.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file, check the path") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {cause(error)}, give a file that can be read") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: not a regular file, give a file")
    if status.st_size == 0:
        raise InputError(f"{path}: the file is empty, fetch or export it again")
    return status.st_size


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The whole file, or its first `limit` bytes.

    Raises:
        InputError: as `file_size`, or no permission to read.
    """
    file_size(path)
    try:
        with path.open("rb") as stream:
            return stream.read() if limit is None else stream.read(limit)
    except OSError as error:
        raise InputError(f"{path}: {cause(error)}, give a file that can be read") from error


def map_bytes(path: Path) -> np.ndarray:
    """The whole file as [size] uint8, read-only, mapped from disk instead of held in memory.

    Raises:
        InputError: as `read_bytes`.
    """
    file_size(path)
    try:
        return np.asarray(np.memmap(path, np.uint8, mode="r"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {cause(error)}, give a file that can be read") from error


def files_under(folder: Path) -> list[Path]:
    """All files in a folder and its folders, links followed once, in the order of their names."""
    found, known = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in known:
            folders.clear()
            continue
        known.add(real)
        found += [Path(place) / name for name in names if (Path(place) / name).is_file()]
    return sorted(found)


def check_writable(path: Path) -> None:
    """Try, before long work, whether `replacing` could put a file at `path`; leaves nothing behind.

    Raises:
        InputError: as `replacing`.
    """
    try:
        scratch = _scratch(_target(path))
        scratch.touch()
        scratch.unlink()
    except (OSError, ValueError) as error:
        raise _not_writable(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes become `path` when the block ends well; on any error `path` stays as it was.

    The bytes go to a hidden file in the same folder, which then takes the place of `path` in one step; of a link, the
    place of what it points to.

    Raises:
        InputError: the folder is missing or may not be written, `path` is a folder, a pipe or a device, or the disk is
            full.
    """
    try:
        target = _target(path)
        scratch = _scratch(target)
        try:
            with scratch.open("wb") as stream:
                yield stream
            os.replace(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from error
    except ValueError as error:
        if "null byte" not in str(error):
            raise
        raise _not_writable(path, error) from error


def _target(path: Path) -> Path:
    """The file that a path leads to, there or not, which a file may take the place of."""
    if not path.parent.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError("is a link in a circle")
    if target.is_dir():
        raise IsADirectoryError("is a folder")
    if target.exists() and not target.is_file():
        raise OSError("is a pipe or a device")
    return target


def _scratch(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")


def _not_writable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: {cause(error)}, give a name in a folder that can be written")
