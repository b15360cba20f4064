"""The door for scene files: `load` tells the format by content, `save` by name.

Read: 3DGS .ply, PlayCanvas .compressed.ply, SOG version 2 as a bundle (.sog) and as a folder. Written: 3DGS .ply.
"""

import os
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from ..files import cause, read_bytes
from ..scene.gaussians import Gaussians, drop_invalid
from . import compressed_ply, ply, sog
from .ply_header import read_header

READABLE = ".ply, .compressed.ply, .sog, or a folder with a SOG meta.json"
WRITERS: dict[str, Callable[[Gaussians, Path], None]] = {".ply": ply.save}
NOT_SCENES = {  # first bytes of what is often found under a scene's name
    b"version https://git-lfs": "is a Git LFS pointer, fetch the file itself with `git lfs pull`",
    b"<": "is a web page or XML, download the scene itself",
}


def load(path: str | os.PathLike[str]) -> Gaussians:
    """Reads a scene.

    Args:
        path: a scene file, a folder that holds a SOG meta.json, or that meta.json.

    Returns:
        The splats in file order, float32 on the CPU, contiguous: scales linear, opacities in 0..1, quaternions wxyz of
        any length, SH with 3DGS signs. The axes are those of the file. Invalid splats are dropped with a warning.

    Raises:
        InputError: the path cannot be read, is no scene, is damaged, or holds no valid splat.
    """
    path = Path(path)
    return drop_invalid(_reader(path)(path))


def save(gaussians: Gaussians, path: str | os.PathLike[str]) -> None:
    """Writes a scene in the format that the name ends in; the file appears whole or not at all.

    Invalid splats are left out with a warning.

    Raises:
        InputError: an ending that is not written, a place that cannot be written, or nothing valid to write.
    """
    path = Path(path)
    writer = WRITERS.get(path.suffix.lower())
    if writer is None or path.name.lower().endswith(".compressed.ply"):
        raise InputError(f"{path}: this format is not written, give a name that ends in {', '.join(WRITERS)}")
    writer(drop_invalid(gaussians), path)


def _reader(path: Path) -> Callable[[Path], Gaussians]:
    """The reader for what the path holds."""
    try:
        folder = path.is_dir()
    except OSError as error:
        raise InputError(f"{path}: {cause(error)}, give a path that can be read") from error
    if folder:
        return sog.load_folder
    head = read_bytes(path, 64)
    if head.startswith(b"ply"):
        return compressed_ply.load if compressed_ply.matches(read_header(path)) else ply.load
    if head.startswith(b"PK"):
        return sog.load_bundle
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"{"):
        return sog.load_meta
    for start, told in NOT_SCENES.items():
        if text.startswith(start):
            raise InputError(f"{path}: {told}")
    raise InputError(f"{path}: not a scene, its first bytes are {head[:8].hex(' ')}: give {READABLE}")
