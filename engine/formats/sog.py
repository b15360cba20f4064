"""SOG version 2 (spatially ordered Gaussians, PlayCanvas): a meta.json and lossless images, in a folder or a .sog zip.

Texel i of every image, row-major, belongs to splat i; texels beyond `count` are ignored.
    means.files[0], [1]  RGB: low and high byte of a 16-bit fraction q per axis; v = lerp(mins, maxs, q / 65535),
                         position = sign(v) (e^|v| - 1)
    quats.files[0]       RGB: three components in +-sqrt(1/2), ascending; A = 252 + index of the largest of w x y z
    scales.files[0]      RGB: indices into scales.codebook, ln
    sh0.files[0]         RGB: indices into sh0.codebook, f_dc; A = 255 * opacity
    shN.files[0]         palette: entry e is texels (e % 64) * K .. + K - 1 of row e / 64, with K = 3, 8, 15
                         for bands = 1, 2, 3; RGB: indices into shN.codebook, f_rest
    shN.files[1]         R | G << 8: entry of each splat
Source: developer.playcanvas.com, user manual, "The SOG Format"; the order w x y z from playcanvas/splat-transform.
"""

import io
import json
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..files import cause, file_size, read_bytes
from ..scene.gaussians import Gaussians
from . import smallest_three
from .format import About, Format, Reading

VERSION = 2
COEFFICIENTS = {1: 3, 2: 8, 3: 15}  # SH coefficients per channel, without the first, by number of bands
PALETTE_ROW = 64  # entries in a row of the palette
PALETTE_LIMIT = 65_536  # entries that a label can name
QUAT_TAG = 252  # alpha of the quaternion image when w is the largest
SPLATS_PER_BYTE = 1024  # of the first image; noise, so that real scenes stay below 2
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


def matches(path: Path, head: bytes) -> bool:
    """Whether a path is a zip, a JSON object or a folder."""
    return path.is_dir() or head.startswith(b"PK") or head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def load(path: Path, reading: Reading) -> Gaussians:
    """Reads a .sog file, a folder with a meta.json, or that meta.json with its images beside it.

    Returns:
        The splats in file order, float32 on the CPU, quaternions of unit length. Values are not checked.

    Raises:
        InputError: an image or a field is missing, damaged or does not fit, another version, or a streamed SOG.
    """
    with _open(path) as source:
        return _decode(source)


def about(path: Path) -> About:
    """What meta.json says."""
    with _open(path) as source:
        return About(f"SOG version {VERSION}", _meta(source).count)


@contextmanager
def _open(path: Path) -> Iterator[Source]:
    if path.is_dir():
        yield _folder(path)
    elif read_bytes(path, 2) == b"PK":
        with _bundle(path) as source:
            yield source
    else:
        yield _beside(path)


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
    if "lod-meta.json" in names:
        raise _streamed(path / "lod-meta.json")
    raise InputError(f"{path}: a folder without a meta.json is no scene, give a scene file or a SOG folder")


def _beside(path: Path) -> Source:
    """The meta.json at `path`, its images beside it."""
    return Source(path, lambda name: read_bytes(path if name == "meta.json" else path.parent / name))


def _decode(source: Source) -> Gaussians:
    meta = _meta(source)
    low, size = _texels(source, meta.files["means"][0], meta.count)
    high, quats, scales, sh0 = (
        _texels(source, name, meta.count, size)[0]
        for name in (meta.files["means"][1], meta.files["quats"][0], meta.files["scales"][0], meta.files["sh0"][0])
    )
    logs = torch.lerp(meta.mins, meta.maxs, torch.from_numpy(low[:, :3] + 256.0 * high[:, :3]).float() / 65535)
    largest = torch.from_numpy(quats[:, 3].astype(np.int64)) - QUAT_TAG
    if (largest < 0).any():
        name, alpha = meta.files["quats"][0], int(largest.min()) + QUAT_TAG
        raise InputError(f"{source.path}: {name} has alpha {alpha}, below {QUAT_TAG}: export it again, lossless")
    turns = (torch.from_numpy(quats[:, :3]).float() / 255 - 0.5) * math.sqrt(2)
    sh = torch.empty(meta.count, 1 + (COEFFICIENTS[meta.palette.bands] if meta.palette else 0), 3)
    sh[:, 0] = _look_up(meta.sh0, sh0[:, :3])
    if meta.palette:
        sh[:, 1:] = _rest(source, meta.palette, meta.count, size)
    return Gaussians(
        means=logs.sign() * logs.abs().expm1(),
        quats=smallest_three.unpack(largest, turns),
        scales=_look_up(meta.scales.exp(), scales[:, :3]),
        opacities=torch.from_numpy(sh0[:, 3].copy()).float() / 255,
        sh=sh,
    )


def _rest(source: Source, palette: Palette, count: int, size: tuple[int, int]) -> Tensor:
    """[n, k, 3] view-dependent SH of every splat."""
    k, rows = COEFFICIENTS[palette.bands], -(-palette.count // PALETTE_ROW)
    name, labels_name = palette.files[:2]
    image = _image(source, name)
    if image.width != PALETTE_ROW * k or not rows <= image.height <= PALETTE_LIMIT // PALETTE_ROW:
        told = f"{name} has {image.width}x{image.height} texels, {palette.count} entries of {palette.bands} bands need"
        raise InputError(f"{source.path}: {told} {PALETTE_ROW * k}x{rows}, export it again")
    entries = _pixels(source, name, image).reshape(-1, k, 4)[: palette.count, :, :3]
    texels = _texels(source, labels_name, count, size)[0].astype(np.int64)
    labels = torch.from_numpy(texels[:, 0] | texels[:, 1] << 8)
    if labels.max() >= palette.count:
        told = f"{labels_name} names entry {int(labels.max())} of {palette.count}"
        raise InputError(f"{source.path}: {told}, export it again")
    return _look_up(palette.codebook, entries)[labels]


def _look_up(codebook: Tensor, index: np.ndarray) -> Tensor:
    """The codebook's value for every uint8."""
    return torch.from_numpy(codebook.numpy()[index])


def _texels(
    source: Source, name: str, count: int, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, tuple[int, int]]:
    """[count, 4] uint8 of a per-splat image, and its size in texels, which must be `size` where that is given."""
    image = _image(source, name, count // SPLATS_PER_BYTE if size is None and count > SMALL else 0)
    texels = image.width * image.height
    if not count <= texels <= 2 * count + 65_536 or size not in (None, image.size):
        wanted = f"{count} splats" if size is None else f"{size[0]}x{size[1]} for {count} splats"
        told = f"{name} has {image.width}x{image.height} texels, expected {wanted}"
        raise InputError(f"{source.path}: {told}: export it again")
    return _pixels(source, name, image).reshape(-1, 4)[:count], image.size


def _image(source: Source, name: str, least: int = 0) -> Image.Image:
    """An opened image of at least so many bytes: its size is known, its pixels are not yet decoded."""
    data = source.read(name)
    if len(data) < least:
        told = f"{name} has {len(data)} bytes, far too few for the count in meta.json"
        raise InputError(f"{source.path}: {told}: export it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(data), formats=("WEBP", "PNG"))
    except Exception as error:  # Pillow's plugins raise almost anything on damaged bytes
        raise InputError(f"{source.path}: {name} is not a readable image ({cause(error)}), export it again") from error


def _pixels(source: Source, name: str, image: Image.Image) -> np.ndarray:
    """[h, w, 4] uint8; an image without alpha is opaque."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array(image.convert("RGBA"))
    except Exception as error:  # Pillow's plugins raise almost anything on damaged bytes
        raise InputError(f"{source.path}: {name} is a damaged image ({cause(error)}), export it again") from error


def _meta(source: Source) -> Meta:
    """meta.json, with every field that is used checked for kind and length."""
    text = source.read("meta.json")
    try:
        raw: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source.path}: meta.json is not JSON ({cause(error)}), export it again") from error
    if not isinstance(raw, dict):
        raise InputError(f"{source.path}: meta.json is not a JSON object, export it again")
    if "tree" in raw and "filenames" in raw:
        raise _streamed(source.path)
    if raw.get("version") != VERSION:
        told = f"SOG version {str(raw.get('version', '1 or older'))[:40]}, only {VERSION} is read"
        raise InputError(f"{source.path}: {told}: convert it with splat-transform")
    try:
        return Meta(
            count=_count(raw["count"]),
            mins=_floats(raw["means"]["mins"], 3),
            maxs=_floats(raw["means"]["maxs"], 3),
            scales=_codebook(raw["scales"]),
            sh0=_codebook(raw["sh0"]),
            files={key: _files(raw[key], 2 if key == "means" else 1) for key in ("means", "quats", "scales", "sh0")},
            palette=_palette(raw["shN"]) if raw.get("shN") else None,
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{source.path}: meta.json does not fit SOG ({cause(error)}), export it again") from error


def _palette(raw: Any) -> Palette:
    if raw["bands"] not in COEFFICIENTS:
        raise ValueError(f"shN.bands {str(raw['bands'])[:40]} is not 1, 2 or 3")
    count = _count(raw["count"])
    if count > PALETTE_LIMIT:
        raise ValueError(f"shN.count {count} is above {PALETTE_LIMIT}")
    return Palette(count, int(raw["bands"]), _codebook(raw), _files(raw, 2))


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"count {str(value)[:40]} is not a positive integer")
    return value


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
        if not isinstance(name, str) or name in ("", ".", "..", "meta.json") or any(c in name for c in "/\\:\0\n"):
            raise ValueError(f"{str(name)[:40]!r} is not a plain file name")
    return names


def _streamed(path: Path) -> InputError:
    """A streamed SOG is many scenes."""
    try:
        levels = sorted(entry.parent.name for entry in path.parent.glob("*/meta.json"))
    except OSError:
        levels = []
    level = path.parent / (levels or ["0_0"])[0]
    return InputError(f"{path}: a streamed SOG of several levels, name one level's folder such as {level}")


def _bad_archive(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: not a readable .sog archive ({cause(error)}), fetch or export it again")


FORMAT = Format("SOG", (".sog",), "rdf", matches, load, about)
