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
meta.json may mark a scene as antialiased (antialias: true, or model: "antialiased") and has provenance under `lyra`.
Source: developer.playcanvas.com, user manual, "The SOG Format"; the order w x y z from playcanvas/splat-transform.
"""

import io
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..files import cause
from ..scene.gaussians import Gaussians
from ..scene.morton import morton_order
from . import smallest_three
from .format import About, Format, Reading, blocks
from .sog_meta import (
    PALETTE_LIMIT,
    PALETTE_ROW,
    QUAT_TAG,
    SMALL,
    VERSION,
    Meta,
    Palette,
    Source,
    folder_parts,
    open_source,
    read_meta,
)
from .sog_writer import folder_files, save

SPLATS_PER_BYTE = 1024  # of the first image; noise, so that real scenes stay below 2


@dataclass(frozen=True)
class Texels:
    """The decoded images of a scene of n splats."""

    meta: Meta
    low: np.ndarray  # [n, 4] uint8, and so the next four
    high: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    sh0: np.ndarray
    entries: Tensor | None  # [m, k, 3] the palette
    labels: np.ndarray | None  # [n, 4] uint8


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
    with open_source(path) as source:
        meta = read_meta(source)
        texels = read_texels(source, meta)
    scene = reading.allocate(meta.count, meta.sh_count)
    for part in blocks(meta.count, reading.progress):
        decode(texels, part, scene, part)
    return scene


def about(path: Path) -> About:
    """What meta.json says."""
    with open_source(path) as source:
        meta = read_meta(source)
    return About(f"SOG version {VERSION}", meta.count, antialiased=meta.antialiased, note=meta.note)


def read_texels(source: Source, meta: Meta) -> Texels:
    """The images of a scene.

    Raises:
        InputError: one is missing, damaged, too small or far too large, or names what does not exist.
    """
    low, size = _texels(source, meta.files["means"][0], meta.count)
    high, quats, scales, sh0 = (
        _texels(source, name, meta.count, size)[0]
        for name in (meta.files["means"][1], meta.files["quats"][0], meta.files["scales"][0], meta.files["sh0"][0])
    )
    if (alpha := int(quats[:, 3].min())) < QUAT_TAG:
        told = f"{meta.files['quats'][0]} has alpha {alpha}, below {QUAT_TAG}"
        raise InputError(f"{source.path}: {told}: export it again, lossless")
    entries = labels = None
    if meta.palette:
        entries = _entries(source, meta.palette, meta.sh_count - 1)
        labels = _texels(source, meta.palette.files[1], meta.count, size)[0]
        if (largest := int(labels.view("<u2")[:, 0].max())) >= meta.palette.count:
            told = f"{meta.palette.files[1]} names entry {largest} of {meta.palette.count}"
            raise InputError(f"{source.path}: {told}, export it again")
    return Texels(meta, low, high, quats, scales, sh0, entries, labels)


def decode(texels: Texels, part: slice, scene: Gaussians, place: slice) -> None:
    """Writes the splats of `part` to `place`, a slice of the same length; SH beyond those of the file are left."""
    meta = texels.meta
    fraction = np.add(texels.high[part, :3] * np.float32(256), texels.low[part, :3], dtype=np.float32)
    logs = torch.lerp(meta.mins, meta.maxs, torch.from_numpy(fraction).div_(65535))
    scene.means[place] = logs.abs().expm1_().copysign_(logs)
    turns = torch.from_numpy(texels.quats[part, :3]).float().div_(255).sub_(0.5).mul_(math.sqrt(2))
    largest = torch.from_numpy(texels.quats[part, 3] - np.uint8(QUAT_TAG)).long()
    scene.quats[place] = smallest_three.unpack(largest, turns)
    scene.scales[place] = _look_up(meta.scales.exp(), texels.scales[part, :3])
    scene.opacities[place] = torch.from_numpy(texels.sh0[part, 3]).float().div_(255)
    scene.sh[place, 0] = _look_up(meta.sh0, texels.sh0[part, :3])
    if texels.entries is not None and texels.labels is not None:
        labels = torch.from_numpy(texels.labels.view("<u2")[part, 0].astype(np.int64))
        scene.sh[place, 1 : meta.sh_count] = texels.entries[labels]


def _entries(source: Source, palette: Palette, k: int) -> Tensor:
    """[m, k, 3] the palette of view-dependent SH."""
    name, rows = palette.files[0], -(-palette.count // PALETTE_ROW)
    image = _image(source, name)
    if image.width != PALETTE_ROW * k or not rows <= image.height <= PALETTE_LIMIT // PALETTE_ROW:
        told = f"{name} has {image.width}x{image.height} texels, {palette.count} entries of {palette.bands} bands need"
        raise InputError(f"{source.path}: {told} {PALETTE_ROW * k}x{rows}, export it again")
    return _look_up(palette.codebook, _pixels(source, name, image).reshape(-1, k, 4)[: palette.count, :, :3])


def _look_up(codebook: Tensor, index: np.ndarray) -> Tensor:
    """The codebook's value for every uint8."""
    return torch.from_numpy(np.take(codebook.numpy(), index))


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


FORMAT = Format(
    "SOG",
    (".sog", "meta.json"),
    "rdf",
    matches,
    load,
    about,
    save,
    carries_note=True,
    order=lambda scene: morton_order(scene.means),
    beside=folder_files,
    parts=folder_parts,
)
