"""Where the parts of a SOG lie, and its meta.json: found, read and checked; `sog.py` has the layout."""

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..files import cause, file_size, files_under, read_bytes

VERSION = 2
COEFFICIENTS = {1: 3, 2: 8, 3: 15}  # SH coefficients per channel, without the first, by number of bands
PALETTE_ROW = 64  # entries in a row of the palette
PALETTE_LIMIT = 65_536  # entries that a label can name
QUAT_TAG = 252  # alpha of the quaternion image when w is the largest
SMALL = 1 << 20  # so many splats or bytes are let in unproven


@dataclass(frozen=True)
class Source:
    """Where the parts of a scene are."""

    path: Path  # for messages
    read: Callable[[str], bytes]  # the bytes of a part, by name


@dataclass(frozen=True)
class Palette:
    """View-dependent colour as meta.json describes it."""

    count: int  # entries
    bands: int
    codebook: Tensor  # [256]
    files: list[str]


@dataclass(frozen=True)
class Meta:
    """A checked meta.json."""

    count: int  # splats
    mins: Tensor  # [3] of the logarithmic positions
    maxs: Tensor  # [3]
    scales: Tensor  # [256] ln
    sh0: Tensor  # [256]
    files: dict[str, list[str]]
    palette: Palette | None
    antialiased: bool
    note: str | None

    @property
    def sh_count(self) -> int:
        """SH coefficients per channel: 1, 4, 9 or 16."""
        return 1 + (COEFFICIENTS[self.palette.bands] if self.palette else 0)


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """The parts of a .sog file, of a folder with a meta.json, or of that meta.json with its images beside it.

    Raises:
        InputError: out of reach, no archive, or a folder without a meta.json.
    """
    if path.is_dir():
        yield _folder(path)
    elif read_bytes(path, 2) == b"PK":
        with _bundle(path) as source:
            yield source
    else:
        yield _beside(path)


def folder_parts(path: Path) -> list[Path]:
    """The other files in the folder of a .json; none of a .sog."""
    return [file for file in files_under(path.parent) if file != path] if path.suffix.lower() == ".json" else []


@contextmanager
def _bundle(path: Path) -> Iterator[Source]:
    limit = SMALL + 4 * file_size(path)  # images do not shrink in a zip: what grows more is no scene

    def read(name: str) -> bytes:
        if name not in archive.namelist():
            raise InputError(f"{path}: no {name} at the root of the archive, export it again")
        try:
            with archive.open(name) as stream:
                data = stream.read(limit + 1)
        except Exception as error:  # zipfile raises almost anything on damaged bytes
            raise _bad_archive(path, error) from error
        if len(data) > limit:
            raise InputError(f"{path}: {name} is far larger than the archive, export it again")
        return data

    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # zipfile raises almost anything on damaged bytes
        raise _bad_archive(path, error) from error
    with archive:
        yield Source(path, read)


def _folder(path: Path) -> Source:
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise InputError(f"{path}: {cause(error)}, give a folder that can be read") from error
    if "meta.json" in names:
        return _beside(path / "meta.json")
    raise InputError(f"{path}: a folder without a meta.json is no scene, give a scene file or a SOG folder")


def _beside(path: Path) -> Source:
    """The meta.json at `path`, its images beside it."""
    return Source(path, lambda name: read_bytes(path if name == "meta.json" else path.parent / name))


def read_meta(source: Source) -> Meta:
    """meta.json, with every field that is used checked for kind and length.

    Raises:
        InputError: no JSON, another version, or a field that is missing or does not fit.
    """
    raw = parse_json(source.path, "meta.json", source.read("meta.json"))
    if "tree" in raw and "filenames" in raw:
        raise InputError(f"{source.path}: the index of a streamed SOG, name it lod-meta.json and give that")
    if raw.get("version") != VERSION:
        told = f"SOG version {str(raw.get('version', '1 or older'))[:40]}, only {VERSION} is read"
        raise InputError(f"{source.path}: {told}: convert it with splat-transform")
    try:
        return Meta(
            count=whole(raw["count"], "count"),
            mins=_floats(raw["means"]["mins"], 3),
            maxs=_floats(raw["means"]["maxs"], 3),
            scales=_codebook(raw["scales"]),
            sh0=_codebook(raw["sh0"]),
            files={key: _files(raw[key], 2 if key == "means" else 1) for key in ("means", "quats", "scales", "sh0")},
            palette=_palette(raw["shN"]) if raw.get("shN") else None,
            antialiased=raw.get("antialias") is True or raw.get("model") == "antialiased",
            note=json.dumps(raw["lyra"]) if isinstance(raw.get("lyra"), dict) else None,
        )
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{source.path}: meta.json does not fit SOG ({cause(error)}), export it again") from error


def parse_json(path: Path, name: str, text: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        raw: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {name} is not JSON ({cause(error)}), export it again") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: {name} is not a JSON object, export it again")
    return raw


def whole(value: Any, name: str, least: int = 1) -> int:
    """A whole number of at least `least`, else a ValueError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} {str(value)[:40]} is not a {'positive' if least else 'non-negative'} integer")
    return value


def plain_name(name: Any) -> bool:
    """Whether a name leads to no other folder, on any system."""
    return isinstance(name, str) and name not in ("", ".", "..") and not any(c in name for c in "/\\:\0\n")


def _palette(raw: Any) -> Palette:
    if raw["bands"] not in COEFFICIENTS:
        raise ValueError(f"shN.bands {str(raw['bands'])[:40]} is not 1, 2 or 3")
    count = whole(raw["count"], "count")
    if count > PALETTE_LIMIT:
        raise ValueError(f"shN.count {count} is above {PALETTE_LIMIT}")
    return Palette(count, int(raw["bands"]), _codebook(raw), _files(raw, 2))


def _floats(values: Any, count: int) -> Tensor:
    numbers = torch.tensor([float(value) for value in values], dtype=torch.float64).float()
    if len(numbers) != count:
        raise ValueError(f"{len(numbers)} numbers where {count} belong")
    return numbers


def _codebook(raw: Any) -> Tensor:
    """[256]; what a shorter book leaves open is NaN, so that splats that use it are dropped."""
    book = raw["codebook"]
    if not 1 <= len(book) <= 256:
        raise ValueError(f"a codebook of {len(book)} numbers")
    return torch.cat([_floats(book, len(book)), torch.full((256 - len(book),), math.nan)])


def _files(raw: Any, count: int) -> list[str]:
    """Names of images; only plain names, so that a scene reads nothing outside itself."""
    names = raw["files"]
    if not isinstance(names, list) or len(names) < count:
        raise ValueError(f"files names fewer than {count} images")
    for name in names:
        if not plain_name(name) or name == "meta.json":
            raise ValueError(f"{str(name)[:40]!r} is not a plain file name")
    return names


def _bad_archive(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a readable .sog archive ({cause(error)}), fetch or export it again")
