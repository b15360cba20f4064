"""A scene to its .lyra file, whatever its size: whole where it is small, else chunk after chunk and a tree above them.

Of a scene in chunks, memory holds one chunk with its hierarchy, and of each that is done a few numbers. What is done
waits in the folder of the chunks, so that work that was stopped can go on from there.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import cause
from ..formats.format import Progress, no_progress
from ..scene.gaussians import Gaussians, merge
from .build import BuildOptions, build_tree, grow, numbered
from .chunks import Division, divide
from .encoded import Part
from .growing import Growing
from .layout import Labels
from .pages import CAPACITY
from .tree import Tree
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
    keep = max(1, CAPACITY // len(pieces) - 1)  # so that all that is kept, and the tree above it, fit the first page
    with StoreWriter(path, radius=REACH * division.diagonal, labels=labels, folder=division.folder) as writer:
        ready = len(writer.parts)
        for number, piece in enumerate(pieces):
            if number >= ready:
                tree = build_tree(
                    division.read(piece), options, progress=lambda part, _, before=done: progress(before + part, total)
                )
                writer.add(tree, keep=keep)
            progress(done := done + piece[2], total)
        writer.finish(*top_of(writer.parts, options))


def top_of(parts: Sequence[Part], options: BuildOptions, shifts: Tensor | None = None) -> tuple[Tree, dict[int, Part]]:
    """The tree above parts, and the part at each of its leaves: what `StoreWriter.finish` takes.

    Args:
        parts: one may stand at several places.
        shifts: [parts, 3] world units, how far each is moved from where it was added; None: not at all.
    """
    roots = merge([part.crown.gaussians.select(slice(0, 1)) for part in parts])
    if shifts is not None:
        roots = dataclasses.replace(roots, means=roots.means + shifts)
    growing = Growing(roots, errors=np.array([float(part.crown.errors[0]) for part in parts], np.float32))
    grow(growing, np.arange(growing.count), dataclasses.replace(options, views=0))
    top, leaves = numbered(growing)
    return top, {int(leaf): part for leaf, part in zip(leaves, parts, strict=True)}
