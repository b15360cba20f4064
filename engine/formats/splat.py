"""The .splat of antimatter15: 32 bytes a splat, no header, no view-dependent colour.

Splat i, from byte 32 i:
    float32 x y z           position
    float32 x y z           scale, linear
    uint8 red green blue    255 (0.5 + SH_C0 f_dc), so f_dc in +-1.77 in steps of 0.0139
    uint8 opacity           255 times
    uint8 w x y z           128 + 128 times the unit quaternion, so steps of 1/128 (up to 0.7 degrees)
Written with all numbers rounded to nearest and clamped; SH beyond the first coefficient, provenance and the mark for
`antialiased` have no place in it. Positions and scales are exact.
Source: antimatter15/splat, convert.py and main.js.
"""

from pathlib import Path

import numpy as np
import torch

from ...kernels.constants import SH_C0
from ..errors import InputError
from ..files import file_size, map_bytes, replacing
from ..scene.gaussians import Gaussians
from . import smallest_three
from .format import About, Format, Reading, Writing, blocks

ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("colors", "u1", 4), ("quats", "u1", 4)])
TEXT = frozenset(b"\t\n\r" + bytes(range(32, 127)))


def matches(path: Path, head: bytes) -> bool:
    """Whether a file has the name of a .splat and is no text (the format itself has no mark)."""
    return path.name.lower().endswith(".splat") and not path.is_dir() and not TEXT.issuperset(head)


def load(path: Path, reading: Reading) -> Gaussians:
    """Reads a .splat.

    Returns:
        The splats in file order, float32 on the CPU, quaternions of about unit length. Values are not checked.

    Raises:
        InputError: cannot be read, empty, or not a whole number of splats.
    """
    n = _count(path)
    rows = map_bytes(path)[: n * ROW.itemsize].view(ROW)
    scene = reading.allocate(n, 1)
    means, quats, scales, opacities, sh = (tensor.numpy() for tensor in scene.tensors().values())
    for block in blocks(n, reading.progress):
        part = rows[block]
        means[block], scales[block] = part["means"], part["scales"]
        colors = part["colors"] / np.float32(255)
        sh[block, 0], opacities[block] = (colors[:, :3] - 0.5) / SH_C0, colors[:, 3]
        quats[block] = part["quats"] / np.float32(128) - 1
    return scene


def about(path: Path) -> About:
    """What the size says."""
    return About(".splat", _count(path))


def save(gaussians: Gaussians, path: Path, writing: Writing) -> None:
    """Writes a .splat.

    Raises:
        InputError: the file cannot be written.
    """
    with replacing(path) as stream:
        for block in blocks(len(gaussians), writing.progress):
            means, quats, scales, opacities, sh = (
                tensor[block].detach().cpu() for tensor in gaussians.tensors().values()
            )
            rows = np.empty(len(means), ROW)
            rows["means"], rows["scales"] = means.float().numpy(), scales.float().numpy()
            rows["colors"][:, :3] = _bytes((sh[:, 0].double() * SH_C0 + 0.5) * 255)
            rows["colors"][:, 3] = _bytes(opacities.double() * 255)
            rows["quats"] = _bytes(smallest_three.unit(quats) * 128 + 128)
            stream.write(rows.tobytes())


def _bytes(values: torch.Tensor) -> np.ndarray:
    return values.round_().clamp_(0, 255).byte().numpy()


def _count(path: Path) -> int:
    size = file_size(path)
    if size % ROW.itemsize:
        raise InputError(
            f"{path}: {size} bytes are no whole number of splats of {ROW.itemsize} bytes, the file is truncated or no "
            ".splat: fetch or export it again"
        )
    return size // ROW.itemsize


FORMAT = Format(".splat", (".splat",), "rdf", matches, load, about, save, sh_degree=0)
