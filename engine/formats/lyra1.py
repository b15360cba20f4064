"""What NVIDIA's Lyra-1 saves as `gaussians_N.ply`: no PLY, but one tensor written by torch.save (a zip with a pickle).

The tensor is [1, n, 14] or [n, 14], any float type, activated: position 3, opacity 1 (0..1), scale 3 (linear),
rotation 4 (w x y z), RGB 3 (0..1, no harmonics). Only tensors are unpickled (torch's `weights_only`): a pickle that
names anything else is refused before it runs. The PLY that Lyra-1 writes on `save_gaussians_orig` is that of 3DGS.
Source: nv-tlabs/lyra, Lyra-1/src/models/utils/render.py (save_ply) and src/rendering/gs.py (the columns).
"""

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.constants import SH_C0
from ..errors import InputError
from ..files import cause, file_size
from ..scene.gaussians import Gaussians
from .format import About, Format, Reading, blocks

COLUMNS = 14
LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # torch.save before 1.6: a bare pickle


def matches(path: Path, head: bytes) -> bool:
    """Whether torch.save wrote the file."""
    if head.startswith(LEGACY):
        return True
    if not head.startswith(b"PK"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def load(path: Path, reading: Reading) -> Gaussians:
    """Reads a tensor of Gaussians.

    Returns:
        The splats in file order, float32 on the CPU, without view-dependent colour. Values are not checked.

    Raises:
        InputError: damaged, written before torch 1.6, more than one tensor, or one of another layout.
    """
    rows = _rows(path)
    scene = reading.allocate(len(rows), 1)
    for block in blocks(len(rows), reading.progress):
        part = rows[block].float()
        scene.means[block], scene.opacities[block] = part[:, :3], part[:, 3]
        scene.scales[block], scene.quats[block] = part[:, 4:7], part[:, 7:11]
        scene.sh[block, 0] = (part[:, 11:] - 0.5) / SH_C0
    return scene


def about(path: Path) -> About:
    """What the file says of itself; its tensor is read for that.

    Raises:
        InputError: as `load`.
    """
    return About("tensor of Lyra-1", len(_rows(path)))


def _rows(path: Path) -> Tensor:
    """[n, 14], with no more memory than the file is long."""
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        told = "its pickle holds more than a tensor, which may run code"
        raise InputError(f"{path}: {told}: it was not opened, save the tensor alone with torch.save") from None
    except Exception as error:  # whatever damaged bytes make torch say
        raise InputError(f"{path}: damaged ({cause(error)}), fetch or export it again") from None
    if not isinstance(content, Tensor):
        raise InputError(f"{path}: holds a {type(content).__name__}, expected one tensor [1, n, {COLUMNS}]")
    if content.layout != torch.strided or content.device.type != "cpu" or not content.is_floating_point():
        told = f"{content.dtype}, {content.layout}, on {content.device}"
        raise InputError(f"{path}: holds a tensor of {told}, expected plain floats")
    shape = list(content.shape)
    if shape[-1:] != [COLUMNS] or shape[:-2] not in ([], [1]) or len(shape) < 2 or not shape[-2]:
        raise InputError(f"{path}: holds a tensor {shape}, expected [1, n, {COLUMNS}] with n of at least 1")
    if not content.is_contiguous():  # strides of 0 would make a small file a large scene
        raise InputError(f"{path}: its tensor is not contiguous, save tensor.contiguous()")
    return content.detach().reshape(-1, COLUMNS)


def _check_archive(path: Path) -> None:
    """Refuses what would take more memory than the file is long."""
    size = file_size(path)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: a bare pickle of torch before 1.6, save the tensor again with a newer one")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: damaged ({cause(error)}), fetch or export it again") from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or (
        sum(member.file_size for member in members) > size
    ):
        raise InputError(f"{path}: its parts are compressed, which torch.save never does: save the tensor again")


FORMAT = Format("tensor of Lyra-1", (".pt",), "rdf", matches, load, about, sh_degree=0)
