"""Writes scenes as glTF 2.0 with KHR_gaussian_splatting: one .glb, or a .gltf with a .bin beside it.

All numbers are float32 and exact, but for quaternions, which the extension wants of unit length. COLOR_0 (linear RGBA
in 8 bits) is what viewers without splats show. One mesh under one node that does not move it; the colour space is
srgb_rec709_display. `asset.extras` carries the provenance and the mark `antialiased`.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import numpy as np
import torch
from torch import Tensor

from ... import __version__
from ...kernels.constants import SH_C0
from ..errors import InputError
from ..files import read_bytes, replacing
from ..scene.gaussians import Gaussians
from .format import Writing, blocks

EXTENSION = "KHR_gaussian_splatting"
PREFIX = f"{EXTENSION}:"
NOTE_KEY, ANTIALIASED_KEY = "lyra", "lyra_antialiased"  # in asset.extras
GLB_LIMIT = (1 << 32) - 1  # bytes
FLOAT, BYTE = 5126, 5121
ARRAY_BUFFER = 34962
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


@dataclass(frozen=True)
class Attribute:
    """One table of the buffer, a row a splat."""

    name: str
    kind: str  # SCALAR, VEC3 or VEC4
    component: int
    start: int  # bytes into the buffer

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return WIDTHS[self.kind] * (4 if self.component == FLOAT else 1)


def coefficient_names(k: int) -> list[str]:
    """The attributes of k SH coefficients, k in 1, 4, 9, 16, in the order of the scene's tensor."""
    degrees = range(round(k**0.5))
    return [f"{PREFIX}SH_DEGREE_{degree}_COEF_{i}" for degree in degrees for i in range(2 * degree + 1)]


def buffer_files(path: Path) -> list[Path]:
    """Where the buffer of a .gltf goes; a .glb has its own inside."""
    return [path.with_suffix(".bin")] if path.suffix.lower() == ".gltf" else []


def files_beside(path: Path) -> list[Path]:
    """The buffers of a valid .gltf that are files; none of a .glb."""
    if read_bytes(path, 4) == b"glTF":
        return []
    buffers = json.loads(read_bytes(path)).get("buffers", ())
    uris = [buffer.get("uri", "data:") for buffer in buffers]
    return [path.parent / unquote(uri) for uri in dict.fromkeys(uris) if not uri.startswith("data:")]


@torch.no_grad()
def save(gaussians: Gaussians, path: Path, writing: Writing) -> None:
    """Writes a .glb, or, where the name ends so, a .gltf and its buffer in a .bin of the same stem.

    Files appear whole or not at all, the .bin before the .gltf; a .bin of that name is replaced.

    Raises:
        InputError: a file cannot be written, or a .glb would exceed 4 GiB.
    """
    attributes = list(_layout(len(gaussians), gaussians.sh.shape[1]))
    size = attributes[-1].start + attributes[-1].row * len(gaussians)
    described = _described(gaussians, attributes, size, writing)
    if path.name.lower().endswith(".gltf"):
        (beside,) = buffer_files(path)
        if not beside.name.isprintable():
            raise InputError(f"{path!s:.200}: a name that glTF cannot tell, give one of printable letters")
        described["buffers"][0]["uri"] = quote(beside.name)
        with replacing(path) as text, replacing(beside) as stream:
            text.write(json.dumps(described, indent=1).encode())
            _write(stream, 0, gaussians, attributes, writing)
        return
    told = json.dumps(described, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 4)
    total = 28 + len(told) + size
    if total > GLB_LIMIT:
        raise InputError(f"{path}: {total} bytes, a .glb holds at most {GLB_LIMIT}: give a name that ends in .gltf")
    with replacing(path) as stream:
        stream.write(struct.pack("<4s4I", b"glTF", 2, total, len(told), 0x4E4F534A) + told)
        stream.write(struct.pack("<2I", size, 0x004E4942))
        _write(stream, 28 + len(told), gaussians, attributes, writing)


def _layout(n: int, k: int) -> Iterator[Attribute]:
    """The tables of the buffer, one after the other; all are of whole words."""
    start = 0
    tables = [("POSITION", "VEC3"), ("COLOR_0", "VEC4"), (f"{PREFIX}ROTATION", "VEC4"), (f"{PREFIX}SCALE", "VEC3")]
    tables += [(f"{PREFIX}OPACITY", "SCALAR"), *((name, "VEC3") for name in coefficient_names(k))]
    for name, kind in tables:
        attribute = Attribute(name, kind, BYTE if name == "COLOR_0" else FLOAT, start)
        start += attribute.row * n
        yield attribute


def _described(gaussians: Gaussians, attributes: list[Attribute], size: int, writing: Writing) -> dict[str, Any]:
    """The JSON of a file with these tables."""
    n = len(gaussians)
    views = [
        {"buffer": 0, "byteOffset": table.start, "byteLength": table.row * n, "target": ARRAY_BUFFER}
        for table in attributes
    ]
    accessors: list[dict[str, Any]] = [
        {"bufferView": i, "componentType": table.component, "count": n, "type": table.kind}
        for i, table in enumerate(attributes)
    ]
    accessors[0] |= {name: _bound(gaussians.means, name) for name in ("min", "max")}
    accessors[1]["normalized"] = True
    extras: dict[str, Any] = {NOTE_KEY: writing.note} if writing.note else {}
    if writing.antialiased:
        extras[ANTIALIASED_KEY] = True
    extension = {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    primitive = {
        "attributes": {table.name: i for i, table in enumerate(attributes)},
        "mode": 0,
        "extensions": {EXTENSION: extension},
    }
    return {
        "asset": {"version": "2.0", "generator": f"Lyra {__version__}"} | ({"extras": extras} if extras else {}),
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": size}],
    }


def _bound(means: Tensor, name: str) -> list[float]:
    """The least or greatest coordinates as they are in the file."""
    return (means.amin(dim=0) if name == "min" else means.amax(dim=0)).float().tolist()


def _write(stream: BinaryIO, start: int, gaussians: Gaussians, attributes: list[Attribute], writing: Writing) -> None:
    """The buffer, from byte `start` of a stream."""
    for block in blocks(len(gaussians), writing.progress):
        part = gaussians.select(block).to("cpu")
        quats = torch.nn.functional.normalize(part.quats.double(), dim=1, eps=0.0)
        tables = [part.means, _fallback(part), quats[:, [1, 2, 3, 0]], part.scales, part.opacities, *part.sh.unbind(1)]
        for attribute, table in zip(attributes, tables, strict=True):
            stream.seek(start + attribute.start + attribute.row * block.start)
            dtype = "<f4" if attribute.component == FLOAT else "u1"
            stream.write(np.ascontiguousarray(table.to(torch.float32).numpy(), dtype=dtype).data)


def _fallback(splats: Gaussians) -> Tensor:
    """[n, 4] 0 to 255: the view-independent colour, linear, and the opacity."""
    display = (splats.sh[:, 0].float() * SH_C0 + 0.5).clamp(0, 1)
    linear = torch.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    return (torch.cat((linear, splats.opacities.float()[:, None]), dim=1) * 255).round_()
