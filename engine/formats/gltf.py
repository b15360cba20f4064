"""glTF 2.0 with KHR_gaussian_splatting, as .glb or .gltf: Gaussians as points of meshes, placed by a tree of nodes.

Attributes of a primitive of mode POINTS, beside POSITION (float; 8 or 16 bits with KHR_mesh_quantization):
    KHR_gaussian_splatting:ROTATION               VEC4 x y z w, float or normalised signed 8 or 16 bits
    KHR_gaussian_splatting:SCALE                  VEC3 linear, float or unsigned 8 or 16 bits, normalised or not
    KHR_gaussian_splatting:OPACITY                SCALAR 0..1, more is 1; float or normalised unsigned 8, 16 bits
    KHR_gaussian_splatting:SH_DEGREE_l_COEF_n     VEC3 float, m = n - l, signs of 3DGS, l from 0 to at most 3, whole
                                                  degrees without a gap
All primitives of the scene are joined in the order of its tree; lower degrees are filled up with zeros; nodes may turn,
mirror, move and scale evenly. Other meshes are left aside. Drafts of the extension had ln in SCALE: a file with scales
below 0, or of signed integers, is read so.

colorSpace `srgb_rec709_display` is what the engine blends in and is taken as it is. `lin_rec709_display` is converted:
each splat's colour is encoded as sRGB and fitted with harmonics of the same degree (least squares over the sphere,
exact for degree 0). A picture still differs where translucent splats overlap, as those files ask for linear blending.
Source: Khronos, KHR_gaussian_splatting; the sRGB curve from IEC 61966-2-1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...kernels.arguments import SH_COUNTS
from ...kernels.reference import quats_to_rotations, sh_basis
from ..errors import InputError
from ..files import cause, read_bytes
from ..scene.gaussians import Gaussians
from ..scene.transform import transform
from .format import About, Format, Reading, blocks
from .gltf_accessor import Accessor, accessor
from .gltf_file import JSON_LIMIT, MAGIC, VALUES_LIMIT, Document, element, integer, open_document, refuse
from .gltf_writer import (
    ANTIALIASED_KEY,
    EXTENSION,
    NOTE_KEY,
    PREFIX,
    buffer_files,
    coefficient_names,
    files_beside,
    save,
)

PARTS_LIMIT = 1 << 12  # primitives with splats, each placed by a node
GROWTH, SMALL = 100, 64 << 20  # a scene in memory may be so many times its files, plus so many bytes
MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)  # what JSON of other shapes leads to
UNDERSTOOD = {EXTENSION, "KHR_mesh_quantization", "KHR_materials_unlit"}  # extensions that a file may require
SMALL_INTEGERS = [(kind, normalised) for kind in ("<i1", "<u1", "<i2", "<u2") for normalised in (False, True)]
FLOAT = ("<f4", False)
KINDS = {  # of each attribute: type, and the components that it may have
    "POSITION": ("VEC3", [FLOAT, *SMALL_INTEGERS]),
    "ROTATION": ("VEC4", [FLOAT, ("<i1", True), ("<i2", True)]),
    "SCALE": ("VEC3", [FLOAT, *SMALL_INTEGERS]),
    "OPACITY": ("SCALAR", [FLOAT, ("<u1", True), ("<u2", True)]),
}
RINGS = 8  # of the quadrature that fits encoded colours, exact to degree 15
FITTED = 4096  # colour channels of splats that are encoded at a time


@dataclass(frozen=True)
class Part:
    """A primitive with splats, as one node places it."""

    raw: dict[str, Any]
    matrix: Tensor  # [4, 4] float64
    count: int  # splats
    coefficients: int  # SH, 1 to 16
    linear: bool  # colours are linear


def matches(path: Path, head: bytes) -> bool:
    """Whether a file is a .glb, or JSON that is named .gltf or speaks of the extension."""
    if head.startswith(MAGIC):
        return True
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return False
    return path.name.lower().endswith(".gltf") or EXTENSION.encode() in read_bytes(path, JSON_LIMIT)


def load(path: Path, reading: Reading) -> Gaussians:
    """Reads the splats of a .glb or .gltf.

    Returns:
        The splats in the order of the scene's tree, float32 on the CPU, in the scene's axes. Values are not checked.

    Raises:
        InputError: no splats, damaged, a part that is compressed, sheared or beyond what the extension defines.
    """
    document = open_document(path)
    try:
        parts = list(_parts(document))
        for part in parts:
            _attributes(document, part)  # all of them fit: now their splats may have memory
        n, k = sum(part.count for part in parts), max(part.coefficients for part in parts)
        if 4 * n * (11 + 3 * k) > GROWTH * document.bytes() + SMALL:
            refuse(f"{n} splats unfold from {document.bytes()} bytes")
        scene = reading.allocate(n, k)
        logarithmic = any(_below_zero(_attributes(document, part)[f"{PREFIX}SCALE"]) for part in parts)
        start = 0
        for part in parts:
            found = _attributes(document, part)
            targets = scene.tensors() | {"sh": scene.sh[:, : part.coefficients]}
            for block in blocks(part.count):
                place = slice(start + block.start, start + block.stop)
                splats = _decoded(part, found, block, logarithmic)
                for name, tensor in splats.tensors().items():
                    targets[name][place] = tensor
                reading.progress(place.stop, n)
            start += part.count
        return scene
    except MALFORMED as error:
        raise _unfit(path, error) from error


def about(path: Path) -> About:
    """What the JSON says."""
    document = open_document(path)
    try:
        count = sum(part.count for part in _parts(document))
        extras = document.json["asset"].get("extras", {})
        note, antialiased = extras.get(NOTE_KEY), extras.get(ANTIALIASED_KEY) is True
    except MALFORMED as error:
        raise _unfit(path, error) from error
    note = "".join(c if c.isprintable() else " " for c in note) if isinstance(note, str) else None
    return About(f"glTF with {EXTENSION}", count, antialiased=antialiased, note=note)


def _unfit(path: Path, error: Exception) -> InputError:
    if isinstance(error, InputError) and str(error).startswith(str(path)):
        return error
    return InputError(f"{path}: does not fit {EXTENSION} ({cause(error)}), export it again")


def _parts(document: Document) -> Iterator[Part]:
    """Every primitive with splats, in the order of the scene's tree."""
    if not str(document.json["asset"]["version"]).startswith("2."):
        refuse(f"glTF version {str(document.json['asset']['version'])[:40]!r}, only 2 is read")
    strange = set(document.json.get("extensionsRequired", [])) - UNDERSTOOD
    if strange:
        refuse(f"it requires {', '.join(sorted(map(str, strange)))[:80]}")
    splats, found, seen = 0, 0, 0
    for node, matrix in _nodes(document):
        for raw in element(document, "meshes", node["mesh"])["primitives"] if "mesh" in node else []:
            seen += 1
            if EXTENSION in raw.get("extensions", {}):
                found += 1
                part = _part(document, raw, matrix)
                splats += part.count
                if part.count:
                    yield part
            if found > PARTS_LIMIT or seen > VALUES_LIMIT:
                refuse(f"more than {PARTS_LIMIT} primitives with splats, or {VALUES_LIMIT} of any kind")
    if not splats:
        told = "a mesh, not a Gaussian scene" if seen > found else "a glTF scene without splats"
        raise InputError(f"{document.path}: is {told}: needs primitives with {EXTENSION}")


def _nodes(document: Document) -> Iterator[tuple[dict[str, Any], Tensor]]:
    """The nodes of the scene with their matrices to the world, parents first."""
    if document.json.get("scenes"):
        roots = element(document, "scenes", document.json.get("scene", 0)).get("nodes", [])
    else:
        nodes = document.json.get("nodes", [])
        roots = sorted(set(range(len(nodes))) - {child for node in nodes for child in node.get("children", [])})
    seen: set[int] = set()
    stack = [(index, torch.eye(4, dtype=torch.float64)) for index in reversed(roots)]
    while stack:
        index, matrix = stack.pop()
        node = element(document, "nodes", index)
        if index in seen:
            refuse(f"node {index} has two parents, or is its own")
        seen.add(index)
        if "EXT_mesh_gpu_instancing" in node.get("extensions", {}):
            refuse(f"node {index} is instanced")
        if not node.keys().isdisjoint(("matrix", "translation", "rotation", "scale")):
            matrix = matrix @ _local(node)
        yield node, matrix
        stack += [(child, matrix) for child in reversed(node.get("children", []))]


def _local(node: dict[str, Any]) -> Tensor:
    """[4, 4] of a node: its matrix, column by column, or translation, rotation x y z w and scale."""
    if "matrix" in node:
        return _numbers(node, "matrix", 16).view(4, 4).T
    local = torch.eye(4, dtype=torch.float64)
    x, y, z, w = _numbers(node, "rotation", 4, (0, 0, 0, 1)).tolist()
    if not 0.9 < math.hypot(x, y, z, w) < 1.1:
        refuse(f"a node's rotation {node['rotation']} is not of unit length")
    quat = torch.tensor([w, x, y, z], dtype=torch.float64)
    local[:3, :3] = quats_to_rotations(quat) * _numbers(node, "scale", 3, (1, 1, 1))
    local[:3, 3] = _numbers(node, "translation", 3, (0, 0, 0))
    return local


def _numbers(node: dict[str, Any], key: str, count: int, default: tuple[float, ...] = ()) -> Tensor:
    values = node.get(key, default)
    numbers = torch.tensor([float(value) for value in values if not isinstance(value, str)], dtype=torch.float64)
    if len(numbers) != count or not torch.isfinite(numbers).all():
        refuse(f"a node's {key} is {str(values)[:60]}")
    return numbers


def _part(document: Document, raw: dict[str, Any], matrix: Tensor) -> Part:
    extension, names = raw["extensions"][EXTENSION], raw["attributes"]
    compressed = [name for name in extension.get("extensions", {}) if "compression" in name]
    if compressed:
        refuse(f"its splats are compressed with {compressed[0]}")
    if raw.get("mode", 4) != 0:
        refuse(f"splats in a primitive of mode {str(raw.get('mode', 4))[:40]}, expected 0")
    if extension.get("kernel", "ellipse") != "ellipse":
        refuse(f"kernel {str(extension['kernel'])[:40]!r} is not ellipse")
    space = extension.get("colorSpace", "srgb_rec709_display")
    if space not in ("srgb_rec709_display", "lin_rec709_display"):
        refuse(f"colorSpace {str(space)[:40]!r} is neither srgb_rec709_display nor lin_rec709_display")
    given = {name for name in names if name.startswith(f"{PREFIX}SH_DEGREE_")}
    fitting = [k for k in SH_COUNTS if set(coefficient_names(k)) == given]
    if not fitting:
        lowest = next((name for name in coefficient_names(16) if name not in given), "SH_DEGREE_4_COEF_0")
        refuse(f"SH degrees are given in part, {lowest.removeprefix(PREFIX)} is missing or too much")
    count = integer(element(document, "accessors", names["POSITION"]), "count")
    return Part(raw, matrix, count, fitting[0], space == "lin_rec709_display")


def _attributes(document: Document, part: Part) -> dict[str, Accessor]:
    """The accessors of a part by name, checked against each other."""
    found = {}
    for name in ("POSITION", *(f"{PREFIX}{key}" for key in KINDS if key != "POSITION"), *_names(part)):
        if name not in part.raw["attributes"]:
            refuse(f"a primitive lacks {name}")
        found[name] = accessor(document, part.raw["attributes"][name])
        kind, *component = found[name].kind
        wanted, components = KINDS.get(name.removeprefix(PREFIX), ("VEC3", [FLOAT]))
        if component[0] == "<f4":
            component[1] = False  # normalised floats are floats
        if kind != wanted or tuple(component) not in components:
            normalised = "normalised " if component[1] else ""
            refuse(f"{name} is {kind} of {normalised}{component[0].removeprefix('<')}, which the extension has not")
        if found[name].count != part.count:
            refuse(f"{name} has {found[name].count} rows, POSITION has {part.count}")
    if not found["POSITION"].dense:
        refuse("POSITION is sparse alone, without a bufferView")
    return found


def _names(part: Part) -> list[str]:
    return coefficient_names(part.coefficients)


def _below_zero(scales: Accessor) -> bool:
    """Whether scales cannot be linear ones."""
    return scales.kind[1] in ("<i1", "<i2") or any((scales.read(block) < 0).any() for block in blocks(scales.count))


def _decoded(part: Part, found: dict[str, Accessor], block: slice, logarithmic: bool) -> Gaussians:
    """Some splats of a part, in the scene's axes."""
    scales = torch.from_numpy(found[f"{PREFIX}SCALE"].read(block))
    sh = np.stack([found[name].read(block) for name in _names(part)], axis=1)
    splats = Gaussians(
        means=torch.from_numpy(found["POSITION"].read(block)),
        quats=torch.from_numpy(found[f"{PREFIX}ROTATION"].read(block)[:, [3, 0, 1, 2]]),
        scales=scales.exp_() if logarithmic else scales,
        opacities=torch.from_numpy(found[f"{PREFIX}OPACITY"].read(block)[:, 0]).clamp_(max=1),
        sh=encoded(torch.from_numpy(sh)) if part.linear else torch.from_numpy(sh),
    )
    if torch.equal(part.matrix, torch.eye(4, dtype=torch.float64)):
        return splats
    return transform(splats, part.matrix)


def encoded(sh: Tensor) -> Tensor:
    """Coefficients [n, k, 3] float32 of linear colours as those of sRGB, fitted over the sphere by least squares."""
    basis, fit = _quadrature(sh.shape[1])
    k, columns = sh.shape[1], sh.transpose(0, 1).reshape(sh.shape[1], -1)  # [k, 3 n]
    fitted = torch.empty_like(columns)
    for before, after in zip(columns.split(FITTED, dim=1), fitted.split(FITTED, dim=1), strict=True):
        linear = (basis @ before + 0.5).clamp_(min=0)
        display = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
        after.copy_(fit @ (display - 0.5))
    return fitted.view(k, -1, 3).transpose(0, 1)


@cache
def _quadrature(k: int) -> tuple[Tensor, Tensor]:
    """The basis at directions over the sphere [d, k], and what takes values there to their coefficients [k, d]."""
    heights, shares = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(RINGS if k > 1 else 1))
    turns = torch.arange(2 * RINGS if k > 1 else 1, dtype=torch.float64) * (math.pi / RINGS)
    z, turn = (grid.flatten() for grid in torch.meshgrid(heights, turns, indexing="ij"))
    radius = (1 - z * z).sqrt()
    basis = sh_basis(torch.stack((radius * turn.cos(), radius * turn.sin(), z), dim=-1), k)
    weights = shares.repeat_interleave(len(turns)) * (2 * math.pi / len(turns))
    return basis.float(), (basis * weights[:, None]).T.float()


FORMAT = Format(
    "glTF", (".glb", ".gltf"), "luf", matches, load, about, save, True, beside=buffer_files, parts=files_beside
)
