"""A scene to its .lyra file, whatever its size: whole where it is small, else chunk after chunk and a tree above them.

Of a scene in chunks, memory holds one chunk with its hierarchy, and of each that is done a few numbers. What is done
waits in the folder of the chunks, so that work that was stopped can go on from there.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..files import cause
from ..formats.format import Progress, no_progress
from ..scene.gaussians import Gaussians, merge
from .build import BuildOptions, build_tree, grow, numbered
from .chunks import Division, divide
from .encoded import Part
from .growing import Growing
from .layout import Labels
from .writer import StoreWriter, write_store

REACH = 4.0  # diagonals of the scene that the root's sphere may have as its radius


def write_scene(
    scene: Gaussians, path: Path, options: BuildOptions, labels: Labels, *, progress: Progress = no_progress
) -> None:
    """Build a scene that is in memory, and write it.

    Args:
        scene: valid splats.
        progress: told of splats.

    Raises:
        InputError: the file cannot be written, or the scene is larger than .lyra holds.
    """
    if len(scene) <= options.chunk:
        write_store(path, build_tree(scene, options, progress=progress), labels)
        return
    try:
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=path.parent) as folder:
            division = divide(scene.to("cpu", torch.float32), Path(folder), options.chunk)
            write_division(division, path, options, labels, progress=progress)
    except OSError as error:
        raise InputError(f"{path}: {cause(error)}, give a name in a folder that can be written") from error


def write_division(
    division: Division, path: Path, options: BuildOptions, labels: Labels, *, progress: Progress = no_progress
) -> None:
    """Build a scene that lies in chunks, and write it; goes on after the last chunk that was done before.

    Raises:
        InputError: as `write_scene`.
    """
    total, done = sum(division.counts), 0
    pieces = division.pieces()
    with StoreWriter(path, radius=REACH * division.diagonal, labels=labels, folder=division.folder) as writer:
        ready, several = len(writer.parts), 0
        for piece in pieces:
            count = piece[2]
            several += count > 1
            if count > 1 and several > ready:
                tree = build_tree(
                    division.read(piece), options, progress=lambda part, _, before=done: progress(before + part, total)
                )
                writer.add(tree)
            progress(done := done + count, total)
        parts = iter(writer.parts)
        hanging = [next(parts) if count > 1 else division.read((file, start, 1)) for file, start, count in pieces]
        writer.finish(*_top(hanging, options))


def _top(hanging: list[Part | Gaussians], options: BuildOptions) -> tuple:
    """The tree above parts and single splats, and the part at each leaf that is one."""
    roots = [one.root if isinstance(one, Part) else one for one in hanging]
    errors = np.array([one.error if isinstance(one, Part) else 0 for one in hanging], np.float32)
    growing = Growing(merge(roots), errors=errors)
    grow(growing, np.arange(growing.count), dataclasses.replace(options, views=0))
    top, leaves = numbered(growing)
    return top, {int(leaf): one for leaf, one in zip(leaves, hanging, strict=True) if isinstance(one, Part)}
