"""The door for scene files: `load` and `about` tell the format by content, `save` by name."""

import os
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..files import cause, files_under, read_bytes
from ..scene.gaussians import Gaussians, drop_invalid
from ..scene.provenance import read_sidecar, sidecar_of, write_sidecar
from . import compressed_ply, gltf, ksplat, lyra1, lyra_store, ply, sog, splat, spz, streamed_sog
from .format import PLAIN_READING, PLAIN_WRITING, About, Format, Reading, Writing

FORMATS: tuple[Format, ...] = (  # the first that matches reads: by content, then by bare names
    compressed_ply.FORMAT,
    ply.FORMAT,
    gltf.FORMAT,
    streamed_sog.FORMAT,
    lyra1.FORMAT,
    sog.FORMAT,
    spz.FORMAT,
    lyra_store.FORMAT,
    ksplat.FORMAT,
    splat.FORMAT,
)
NOT_SCENES = {  # first bytes of what is often found under a scene's name
    b"version https://git-lfs": "is a Git LFS pointer, fetch the file itself with `git lfs pull`",
    b"<": "is a web page or XML, download the scene itself",
}


def load(path: str | os.PathLike[str], reading: Reading = PLAIN_READING) -> Gaussians:
    """Reads a scene.

    Args:
        path: a scene file, or a folder that holds a SOG.

    Returns:
        The splats in file order, float32 on the CPU, contiguous: scales linear, opacities in 0..1, quaternions wxyz of
        any length, SH with 3DGS signs. The axes are those of the file. Invalid splats are dropped with a warning.

    Raises:
        InputError: the path cannot be read, is no scene, is damaged, or holds no valid splat.
    """
    path = Path(path)
    format = recognise(path)
    if reading.level and (levels := format.about(path).levels) <= reading.level:
        raise InputError(f"{path}: level {reading.level} is out of range, it has {levels}: give 0 to {levels - 1}")
    return _valid(format.load(path, reading), path)


def about(path: str | os.PathLike[str]) -> About:
    """What a scene file says of itself.

    Raises:
        InputError: as `load`, as far as can be seen without the splats.
    """
    format = recognise(Path(path))
    said = format.about(Path(path))
    return said if format.carries_note else replace(said, note=read_sidecar(Path(path)))


def save(gaussians: Gaussians, path: str | os.PathLike[str], writing: Writing = PLAIN_WRITING) -> int:
    """Writes a scene in the format that the name ends in; a file appears whole or not at all.

    Invalid splats are left out with a warning.

    Returns:
        How many splats were written.

    Raises:
        InputError: an ending that is not written, a place that cannot be written, nothing valid to write, or an opacity
            above 1 (an inner node of a level-of-detail tree).
    """
    path = Path(path)
    format = format_of_name(path)
    if format.save is None:
        raise InputError(f"{path}: {format.name} is read but not written, give a name that ends in {_written()}")
    valid = _valid(gaussians, path)
    if (valid.opacities > 1).any():
        told = f"opacity {float(valid.opacities.max()):.4g} is above 1, which {format.name} cannot hold"
        raise InputError(f"{path}: {told}: clamp it or keep the leaves only")
    format.save(valid, path, writing)
    if not format.carries_note:
        write_sidecar(path, writing.note)
    return len(valid)


def outputs(path: Path) -> list[Path]:
    """All files that `save` may write or take away for a path.

    Raises:
        InputError: as `format_of_name`.
    """
    format = format_of_name(path)
    return [path, *format.beside(path), *([] if format.carries_note else [sidecar_of(path)])]


def files_of(path: Path) -> list[Path]:
    """All files of the scene at a path, itself first; of a folder, all files in it.

    Raises:
        InputError: as `recognise`.
    """
    return files_under(path) if path.is_dir() else [path, *recognise(path).parts(path)]


def format_of_name(path: Path) -> Format:
    """The format that a name ends in.

    Raises:
        InputError: no such ending.
    """
    name = path.name.lower()
    fitting = [(len(ending), format) for format in FORMATS for ending in format.endings if name.endswith(ending)]
    if not fitting:
        raise InputError(f"{path}: names no format, give a name that ends in {_written()}")
    return max(fitting, key=lambda pair: pair[0])[1]


def recognise(path: Path) -> Format:
    """The format of what the path holds.

    Raises:
        InputError: the path cannot be read, or is no scene.
    """
    try:
        head = b"" if path.is_dir() else read_bytes(path, 64)
    except OSError as error:
        raise InputError(f"{path}: {cause(error)}, give a path that can be read") from error
    for format in FORMATS:
        if format.matches(path, head):
            return format
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, told in NOT_SCENES.items():
        if text.startswith(start):
            raise InputError(f"{path}: {told}")
    readable = ", ".join(ending for format in FORMATS for ending in format.endings)
    raise InputError(
        f"{path}: not a scene, its first bytes are {head[:8].hex(' ')}: give {readable}, or a folder with a SOG"
    )


def _valid(gaussians: Gaussians, path: Path) -> Gaussians:
    try:
        return drop_invalid(gaussians)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _written() -> str:
    return ", ".join(ending for format in FORMATS if format.save for ending in format.endings)
