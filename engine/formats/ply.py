"""The .ply of 3D Gaussian Splatting, as trainers write it: one row a splat, float columns, nothing quantised.

Element `vertex`, columns x y z, nx ny nz (zero, ignored), f_dc_0..2, f_rest_0..(3K - 1) with K in 0, 3, 8, 15 and
channel-major (all red, all green, all blue), opacity (logit), scale_0..2 (ln), rot_0..3 (w x y z, any length).
Read by name: any order, any scalar type, other columns ignored, normals and f_rest may be absent. Written float32 is
exact but for rounding in ln and logit: opacities within 2e-7 (0 and 1 kept), scales within 1e-5 of their size.
Source: graphdeco-inria/gaussian-splatting, scene/gaussian_model.py, save_ply and load_ply.
"""

from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..files import replacing
from ..scene.gaussians import Gaussians
from .format import BLOCK, About, Format, Reading, Writing, blocks
from .ply_header import Header, columns, header_bytes, read_header, read_rows, require, rest_columns

MEANS = ["x", "y", "z"]
NORMALS = ["nx", "ny", "nz"]
COLORS = ["f_dc_0", "f_dc_1", "f_dc_2"]
SCALES = ["scale_0", "scale_1", "scale_2"]
QUATS = ["rot_0", "rot_1", "rot_2", "rot_3"]
LOGIT_LIMIT = 20.0  # sigmoid(+-20) is 1 and 2e-9 in float32
SCALE_MIN = float(np.finfo(np.float32).tiny)  # ln of a scale of 0 would be -Inf


def load(path: Path, reading: Reading) -> Gaussians:
    """Reads a 3DGS .ply, binary of either byte order or ascii.

    Returns:
        The splats in file order, float32 on the CPU. Values are not checked.

    Raises:
        InputError: not a .ply, a mesh or a point cloud, a column missing, truncated, or empty.
    """
    header = read_header(path)
    vertex = header.find("vertex")
    if vertex is None or not any(name.startswith(("scale_", "rot_")) for name in vertex.columns):
        raise InputError(f"{path}: is {_kind(header)}, not a Gaussian scene: needs columns {', '.join(_REQUIRED)}")
    require(header, vertex, _REQUIRED)
    rest = rest_columns(header, vertex)
    n, k = vertex.count, len(rest) // 3
    rows_of = read_rows(header, vertex, reading.progress)  # the file is long enough: now memory for its splats
    scene = reading.allocate(n, 1 + k)
    for block, rows in rows_of:
        for tensor, names in ((scene.means, MEANS), (scene.quats, QUATS), (scene.sh[:, 0], COLORS)):
            tensor[block] = torch.from_numpy(columns(rows, names))
        torch.exp(torch.from_numpy(columns(rows, SCALES)), out=scene.scales[block])
        torch.sigmoid(torch.from_numpy(columns(rows, ["opacity"])[:, 0]), out=scene.opacities[block])
        if rest:
            scene.sh[block, 1:] = torch.from_numpy(columns(rows, rest)).view(-1, 3, k).transpose(1, 2)
    return scene


@torch.no_grad()
def save(gaussians: Gaussians, path: Path, writing: Writing) -> None:
    """Writes a 3DGS .ply: binary little-endian float32, standard column order; the file appears whole or not at all.

    Opacities of exactly 0 and 1 are written as logits of -20 and 20, scales of 0 as the smallest normal float.

    Raises:
        InputError: the file cannot be written, or the note is too long.
    """
    n, k = len(gaussians), gaussians.sh.shape[1] - 1
    rest = [f"f_rest_{i}" for i in range(3 * k)]
    names = [*MEANS, *NORMALS, *COLORS, *rest, "opacity", *SCALES, *QUATS]
    header = header_bytes([("vertex", n, "float", names)], path, writing)
    table = np.zeros((min(n, BLOCK), len(names)), dtype="<f4")
    with replacing(path) as stream:
        stream.write(header)
        for block in blocks(n, writing.progress):
            part = gaussians.select(block).to("cpu")
            rows = torch.from_numpy(table[: len(part)])
            rows[:, :3] = part.means
            rows[:, 6:9] = part.sh[:, 0]
            rows[:, 9:-8].view(len(part), 3, k).copy_(part.sh[:, 1:].transpose(1, 2))
            rows[:, -8] = part.opacities.double().logit().clamp_(-LOGIT_LIMIT, LOGIT_LIMIT)
            rows[:, -7:-4] = part.scales.double().clamp(min=SCALE_MIN).log_()
            rows[:, -4:] = part.quats
            stream.write(rows.numpy().data)


def matches(path: Path, head: bytes) -> bool:
    """Whether a file is a .ply of any kind but the compressed one, which is asked first."""
    return head.startswith(b"ply")


def about(path: Path) -> About:
    """What the header says."""
    header = read_header(path)
    vertex = header.find("vertex")
    return About("3DGS PLY", vertex.count if vertex else 0, antialiased=header.antialiased, note=header.note)


_REQUIRED = [*MEANS, *COLORS, "opacity", *SCALES, *QUATS]


def _kind(header: Header) -> str:
    """What a .ply without Gaussians is."""
    faces = header.find("face")
    return "a mesh" if faces is not None and faces.count else "a point cloud"


FORMAT = Format("3DGS PLY", (".ply",), "rdf", matches, load, about, save, carries_note=True)
