"""The .ply of 3D Gaussian Splatting, as trainers write it: one row a splat, float columns, nothing quantised.

Element `vertex`, columns x y z, nx ny nz (zero, ignored), f_dc_0..2, f_rest_0..(3K - 1) with K in 0, 3, 8, 15 and
channel-major (all red, all green, all blue), opacity (logit), scale_0..2 (ln), rot_0..3 (w x y z, any length).
Read by name: any order, any scalar type, other columns ignored, normals and f_rest may be absent.
Source: graphdeco-inria/gaussian-splatting, scene/gaussian_model.py, save_ply and load_ply.
"""

from pathlib import Path

import numpy as np
import torch
from plyfile import PlyData, PlyElement

from ..errors import InputError
from ..files import replacing
from ..scene.gaussians import Gaussians
from .format import About, Format, Reading, Writing
from .ply_header import Header, columns, read_header, read_rows, require, rest_columns

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
    rows = read_rows(header, vertex)
    colors = torch.from_numpy(columns(rows, COLORS + rest))  # [n, 3 + 3K]
    n, k = len(colors), len(rest) // 3
    sh = torch.empty(n, 1 + k, 3)
    sh[:, 0] = colors[:, :3]
    sh[:, 1:] = colors[:, 3:].view(n, 3, k).transpose(1, 2)
    return Gaussians(
        means=torch.from_numpy(columns(rows, MEANS)),
        quats=torch.from_numpy(columns(rows, QUATS)),
        scales=torch.from_numpy(columns(rows, SCALES)).exp_(),
        opacities=torch.from_numpy(columns(rows, ["opacity"])[:, 0]).sigmoid_(),
        sh=sh,
    )


def save(gaussians: Gaussians, path: Path, writing: Writing) -> None:
    """Writes a 3DGS .ply: binary little-endian float32, standard column order; the file appears whole or not at all.

    Opacities of exactly 0 and 1 are written as logits of -20 and 20, scales of 0 as the smallest normal float.

    Raises:
        InputError: the file cannot be written.
    """
    n, k = len(gaussians), gaussians.sh.shape[1] - 1
    parts = [
        gaussians.means,
        torch.zeros_like(gaussians.means),
        gaussians.sh[:, 0],
        gaussians.sh[:, 1:].transpose(1, 2).reshape(n, 3 * k),
        gaussians.opacities.double().logit().clamp(-LOGIT_LIMIT, LOGIT_LIMIT)[:, None],
        gaussians.scales.double().clamp(min=SCALE_MIN).log(),
        gaussians.quats,
    ]
    names = [*MEANS, *NORMALS, *COLORS, *(f"f_rest_{i}" for i in range(3 * k)), "opacity", *SCALES, *QUATS]
    table = np.empty((n, len(names)), dtype="<f4")
    table[:] = torch.cat([part.detach().float().cpu() for part in parts], dim=1).numpy()
    rows = table.view([(name, "<f4") for name in names])[:, 0]
    with replacing(path) as stream:
        PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(stream)


def matches(path: Path, head: bytes) -> bool:
    """Whether a file is a .ply of any kind but the compressed one, which is asked first."""
    return head.startswith(b"ply")


def about(path: Path) -> About:
    """What the header says."""
    vertex = read_header(path).find("vertex")
    return About("3DGS PLY", vertex.count if vertex else 0)


_REQUIRED = [*MEANS, *COLORS, "opacity", *SCALES, *QUATS]


def _kind(header: Header) -> str:
    """What a .ply without Gaussians is."""
    faces = header.find("face")
    return "a mesh" if faces is not None and faces.count else "a point cloud"


FORMAT = Format("3DGS PLY", (".ply",), "rdf", matches, load, about, save)
