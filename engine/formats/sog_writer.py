"""Writes SOG version 2, as one .sog or as a folder that is named by its meta.json; `sog.py` has the layout.

Splats are sorted along the Z-order curve. What is kept of each, to nearest:
    position  1/65535 of the range of sign(x) ln(1 + |x|) per axis: about |x| times 1e-4 far out
    rotation  three components of at most sqrt(1/2) in steps of sqrt(2)/255: 0.3 degrees as a rule, 1.1 at most
    scale     256 values of ln for the whole scene, by k-means; a scale of 0 becomes the smallest normal float
    colour    256 values of f_dc for the whole scene, by k-means
    opacity   steps of 1/255
    SH        one of a palette of vectors, by k-means: as many as the largest power of two up to the number of splats,
              1024 to 65,536; their components are 256 values, by k-means
Up to 256 different scales, colours or components, and as many vectors as the palette holds, are kept exactly, so that
writing what was read from a SOG loses nothing more.
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..files import cause, check_writable, replacing
from ..scene.gaussians import Gaussians
from ..scene.morton import morton_order
from . import smallest_three
from .format import Writing, blocks
from .palette import codebook, codes, palette
from .sog_meta import PALETTE_LIMIT, PALETTE_ROW, QUAT_TAG, VERSION

SIDE_LIMIT = 16_383  # texels, of WebP
EFFORT = {"method": 1, "quality": 50}  # of libwebp: more takes thrice the time and saves nothing on such noise
SCALE_MIN = float(np.finfo(np.float32).tiny)  # ln of a scale of 0 would be -Inf
DATE = (1980, 1, 1, 0, 0, 0)  # of the parts of a .sog, so that the same scene gives the same bytes
FILES = {  # by key of meta.json
    "means": ["means_l.webp", "means_u.webp"],
    "quats": ["quats.webp"],
    "scales": ["scales.webp"],
    "sh0": ["sh0.webp"],
    "shN": ["shN_centroids.webp", "shN_labels.webp"],
}


def save(gaussians: Gaussians, path: Path, writing: Writing) -> None:
    """Writes a .sog, or a folder when the name is FOLDER/meta.json: the folder is made, other files in it are left.

    Of a folder, meta.json takes its place last, so that a scene that is cut short is none.

    Raises:
        InputError: more splats than an image can hold, another name that ends in meta.json, or the place cannot be
            written.
    """
    bundled = path.name.lower().endswith(".sog")
    if not bundled and path.name != "meta.json":
        raise InputError(f"{path}: a SOG folder is named by its meta.json, give {path.with_name('meta.json')}")
    if max(image_size(len(gaussians))) > SIDE_LIMIT:
        raise InputError(f"{path}: {len(gaussians)} splats are more than a SOG holds, write several or another format")
    (_save_bundle if bundled else _save_folder)(gaussians, path, writing)


def folder_files(path: Path) -> list[Path]:
    """The images that a scene in a folder may have, by our names; none of a .sog."""
    return [path.with_name(name) for names in FILES.values() for name in names] if path.name == "meta.json" else []


def image_size(count: int) -> tuple[int, int]:
    """Width and height in texels of an image with one for each splat, multiples of four."""
    width = 4 * math.ceil(math.sqrt(count) / 4)
    return width, 4 * math.ceil(count / width / 4)


def palette_size(count: int) -> int:
    """How many entries a palette for `count` splats has room for."""
    return min(PALETTE_LIMIT, max(1024, 1 << count.bit_length() - 1))


def _save_bundle(gaussians: Gaussians, path: Path, writing: Writing) -> None:
    with replacing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, data in _parts(gaussians, writing):
            archive.writestr(zipfile.ZipInfo(name, DATE), data)


def _save_folder(gaussians: Gaussians, path: Path, writing: Writing) -> None:
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: {cause(error)}, give a folder that can be made") from error
    check_writable(path)
    old = {file for file in folder_files(path) if path.exists()}  # of a scene that goes
    with ExitStack() as stack:  # what is entered first takes its place last
        meta = stack.enter_context(replacing(path))
        for name, data in _parts(gaussians, writing):
            (meta if name == path.name else stack.enter_context(replacing(path.parent / name))).write(data)
            old.discard(path.parent / name)
        for file in old - {path}:
            file.unlink(missing_ok=True)
        path.unlink(missing_ok=True)  # from here on the old scene is none, and neither is the new one yet


@dataclass(frozen=True)
class _Ordered:
    """The fields of a scene in the order of the file, on the CPU, a part at a time."""

    gaussians: Gaussians
    order: Tensor  # [n]

    def __len__(self) -> int:
        return len(self.order)

    def take(self, values: Tensor, part: slice | Tensor) -> Tensor:
        return values[self.order[part].to(values.device)].detach().cpu()

    def logs(self, part: slice) -> Tensor:
        """[b, 3] float64 logarithmic positions."""
        means = self.take(self.gaussians.means, part).double()
        return means.abs().log1p().copysign(means)

    def sizes(self, part: slice) -> np.ndarray:
        """[b, 3] float32 ln of the scales."""
        return self.take(self.gaussians.scales, part).double().clamp(min=SCALE_MIN).log().float().numpy()

    def colors(self, part: slice) -> np.ndarray:
        """[b, 3] float32 f_dc."""
        return self.take(self.gaussians.sh[:, 0], part).float().numpy()

    def rest(self, part: slice | Tensor) -> Tensor:
        """[b, 3k] float32 view-dependent SH."""
        return self.take(self.gaussians.sh[:, 1:], part).float().flatten(1)


def _parts(gaussians: Gaussians, writing: Writing) -> Iterator[tuple[str, bytes]]:
    """The files of a scene, by name, meta.json last."""
    scene = _Ordered(gaussians, morton_order(gaussians.means))
    n, k = len(gaussians), gaussians.sh.shape[1] - 1
    stages = 5 + 2 * bool(k)
    meta: dict[str, dict] = {}
    for stage, (name, data) in enumerate(_images(scene, meta), 1):
        yield name, data
        writing.progress(n * stage // stages, n)
    for key, part in meta.items():
        part["files"] = FILES[key]
    head = {"version": VERSION, "asset": {"generator": "Lyra"}, "count": n}
    if writing.antialiased:
        head |= {"antialias": True, "model": "antialiased"}  # the mark's first name and its present one
    if writing.note is not None:
        head["lyra"] = json.loads(writing.note)
    yield "meta.json", json.dumps(head | meta).encode()


def _images(scene: _Ordered, meta: dict[str, dict]) -> Iterator[tuple[str, bytes]]:
    """The images by name; what meta.json says of them is added to `meta`."""
    n = len(scene)
    low, high = _bounds(scene)
    meta["means"] = {"mins": _numbers(low), "maxs": _numbers(high)}
    for name, shift in zip(FILES["means"], (0, 8), strict=True):
        yield name, _image(n, lambda part, shift=shift: _fractions(scene.logs(part), low, high) >> shift & 255)
    meta["quats"] = {}
    yield FILES["quats"][0], _image(n, lambda part: _turns(scene.take(scene.gaussians.quats, part)))
    sizes = _codebook(n, scene.sizes)
    meta["scales"] = {"codebook": _numbers(sizes)}
    yield FILES["scales"][0], _image(n, lambda part: codes(sizes, scene.sizes(part)))
    colors = _codebook(n, scene.colors)
    meta["sh0"] = {"codebook": _numbers(colors)}
    yield FILES["sh0"][0], _image(n, lambda part: np.hstack([codes(colors, scene.colors(part)), _alpha(scene, part)]))
    if scene.gaussians.sh.shape[1] == 1:
        return
    k = scene.gaussians.sh.shape[1] - 1
    entries, labels = palette(n, scene.rest, palette_size(n))
    book = codebook(entries.numpy())
    meta["shN"] = {"count": len(entries), "bands": math.isqrt(k), "codebook": _numbers(book)}
    table = np.zeros((math.ceil(len(entries) / PALETTE_ROW) * PALETTE_ROW, k, 3), dtype=np.uint8)
    table[: len(entries)] = codes(book, entries.numpy()).reshape(-1, k, 3)
    yield FILES["shN"][0], _webp(table.reshape(-1, PALETTE_ROW * k, 3))
    yield FILES["shN"][1], _image(n, lambda part: _two_bytes(labels[part].numpy()))


def _bounds(scene: _Ordered) -> tuple[Tensor, Tensor]:
    """[3] float32 least and largest logarithmic position."""
    ends = [torch.stack(scene.logs(part).aminmax(dim=0)) for part in blocks(len(scene))]
    low, high = torch.stack(ends).float().unbind(dim=1)
    return low.amin(dim=0), high.amax(dim=0)


def _codebook(count: int, values: Callable[[slice], np.ndarray]) -> np.ndarray:
    """[256] numbers for [count, 3] values."""
    table = np.empty((count, 3), dtype=np.float32)
    for part in blocks(count):
        table[part] = values(part)
    return codebook(table)


def _fractions(logs: Tensor, low: Tensor, high: Tensor) -> np.ndarray:
    """[b, 3] int32 in 0..65535 between the bounds."""
    span = (high - low).double()
    return ((logs - low) / torch.where(span > 0, span, 1) * 65535).round().clamp(0, 65535).int().numpy()


def _turns(quats: Tensor) -> np.ndarray:
    """[b, 4] three components and the tag of the largest."""
    largest, stored = smallest_three.pack(quats)
    steps = ((stored * math.sqrt(0.5) + 0.5) * 255).round().clamp(0, 255)
    return torch.cat([steps, QUAT_TAG + largest[:, None]], dim=1).numpy()


def _alpha(scene: _Ordered, part: slice) -> np.ndarray:
    """[b, 1] steps of opacity."""
    opacities = scene.take(scene.gaussians.opacities, part).double()[:, None]
    return (opacities * 255).round().clamp(0, 255).byte().numpy()


def _two_bytes(labels: np.ndarray) -> np.ndarray:
    """[b, 3] low byte, high byte and zero."""
    return np.stack([labels & 255, labels >> 8, np.zeros_like(labels)], axis=1)


def _image(count: int, texels: Callable[[slice], np.ndarray]) -> bytes:
    """A WebP of one texel for each splat; the last ones that are left over are zero."""
    width, height = image_size(count)
    channels = texels(slice(0, 1)).shape[1]
    table = np.zeros((width * height, channels), dtype=np.uint8)
    for part in blocks(count):
        table[part] = texels(part)
    return _webp(table.reshape(height, width, channels))


def _webp(table: np.ndarray) -> bytes:
    """A lossless WebP of [h, w, 3 or 4] uint8 that keeps the colour of transparent texels."""
    stream = io.BytesIO()
    Image.fromarray(table).save(stream, "WEBP", lossless=True, exact=True, **EFFORT)
    return stream.getvalue()


def _numbers(values: Tensor | np.ndarray) -> list[float]:
    """float32 numbers in as few digits as bring them back."""
    return [float(str(value)) for value in np.asarray(values)]
