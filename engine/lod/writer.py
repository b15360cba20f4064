"""Write a tree as a .lyra file: at once, or in parts that never are in memory together.

Parts come first, and their pages wait in a file, nameless or kept; the top tree comes last, and with it the numbers of
all pages and the directory.
"""

import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ..errors import InputError
from ..files import cause, check_writable, replacing
from ..formats.format import Progress, no_progress
from ..scene.gaussians import Gaussians
from .columns import CODE_VALUES
from .encoded import Grafted, Hangs, Part, encode_tree, entries_of, graft, hangs_of, links_of, part_entries, payloads
from .layout import HEADER, PAGES_LIMIT, Header, Labels, Metadata, header_bytes, metadata_bytes
from .pages import crown, paginate
from .tree import Tree

MARGIN = 1.05  # that the root's radius may grow by in the first try
PLAIN = Labels()
WAITING = "pages"  # of a folder
LINKS = ("children", "counts", "errors", "radii")


def write_store(path: Path, tree: Tree, labels: Labels = PLAIN, *, progress: Progress = no_progress) -> None:
    """Writes a tree that is in memory; the file appears whole or not at all. The same tree gives the same bytes.

    Args:
        tree: one that `tree.check` accepts.
        progress: told of nodes.

    Raises:
        InputError: the file cannot be written, or a number of the tree is beyond what .lyra holds.
    """
    reach = MARGIN * float(tree.radii[0])
    while (radius := _write_top(path, Grafted(tree, [], []), None, reach, labels, progress)) is not None:
        reach = MARGIN * radius


class StoreWriter:
    """Writes a tree in parts: subtrees one after the other, then the tree above them.

    A context manager; what was written of a file that was not finished is gone at the end of the block, unless it has a
    folder to wait in. The disk needs room for the subtrees twice while it finishes.

    Attributes:
        parts: what was added so far, in order.
    """

    def __init__(self, path: Path, *, radius: float, labels: Labels = PLAIN, folder: Path | None = None) -> None:
        """Begin a file, or go on with one.

        Args:
            radius: at least that of the root's sphere; four times the diagonal of the scene's bounds is a safe guess.
                The spheres of nodes are made larger by 3e-6 of it.
            folder: where subtrees wait. What another writer added there, one that was stopped, even by force, is taken
                over; the caller answers for it that paths, radii and splats were the same.

        Raises:
            InputError: the file cannot be written.
        """
        check_writable(path)
        self._path, self._radius, self._labels = path, radius, labels
        self.parts: list[Part] = []
        self._folder = folder
        try:
            if folder is None:
                self._waiting = tempfile.TemporaryFile(dir=path.parent)
            else:
                self._waiting = (folder / WAITING).open("r+b" if (folder / WAITING).exists() else "w+b")
                self._take_over(folder)
        except OSError as error:
            raise InputError(f"{path}: {cause(error)}, give a name in a folder that can be written") from error

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.close()

    def add(self, subtree: Tree, *, keep: int = 1) -> Part:
        """Write a subtree. Its root is to be a leaf of the top tree.

        Args:
            keep: nodes at the top of the subtree, at most, that do not go to its own pages but to those of the top
                tree. More than the root alone only where all that is kept of all parts fits a page with the top tree.

        Raises:
            InputError: the disk is full, or a number is beyond what .lyra holds.
        """
        nodes, frontier = crown(subtree, keep)
        encoded = encode_tree(self._path, Grafted(subtree, [], []), paginate(subtree, frontier), self._radius)
        entries, none = entries_of(encoded), np.zeros(0, np.int64)
        links = links_of(encoded, none)
        try:
            for entry, (data, crc) in zip(entries, payloads(encoded, *links), strict=True):
                entry["offset"], entry["crc"] = self._waiting.tell(), crc
                self._waiting.write(data)
        except OSError as error:
            raise InputError(f"{self._path}: {cause(error)}, make room on the disk") from error
        hangs = hangs_of(encoded, nodes, frontier)
        part = Part(id(self), len(self.parts), entries, _part_of(encoded.tree, nodes, frontier), hangs)
        if self._folder is not None:
            try:
                self._waiting.flush()
                os.fsync(self._waiting.fileno())  # before there is a record of it
            except OSError as error:
                raise InputError(f"{self._path}: {cause(error)}, make room on the disk") from error
            _write_record(_record(self._folder, part.number), part)
        self.parts.append(part)
        return part

    def _take_over(self, folder: Path) -> None:
        """Parts as far as their records are whole, and the waiting pages up to there."""
        end = 0
        while (part := _read_record(_record(folder, len(self.parts)), id(self))) is not None:
            self.parts.append(part)
            end = int((part.entries["offset"] + part.entries["bytes"]).max(initial=end))
        self._waiting.truncate(end)
        self._waiting.seek(end)

    def finish(self, top: Tree, parts: Mapping[int, Part], *, progress: Progress = no_progress) -> None:
        """Write the top tree and the directory.

        Args:
            top: its leaves are splats, or roots of subtrees.
            parts: by leaf of the top tree, what `add` gave. One may stand at several leaves: its pages are shared, each
                time moved by as much as the leaf's mean is away from the subtree's root.
            progress: told of nodes of the top tree.

        Raises:
            InputError: a part of another writer or one that stands nowhere, a node that is no leaf, a root's sphere
                larger than the radius promised, too many pages, or as `write_store`.
        """
        if any(part.writer != id(self) for part in parts.values()):
            raise InputError("a part comes from another writer: give what add() of this one returned")
        if lost := set(range(len(self.parts))) - {part.number for part in parts.values()}:
            raise InputError(f"part {min(lost)} stands nowhere in the top tree: name a leaf for it")
        for leaf in parts:
            if not 0 <= leaf < len(top.counts) or int(top.counts[leaf]):
                raise InputError(f"node {leaf} of the top tree is no leaf, but a part stands there: name a leaf")
        grafted = graft(top, dict(sorted(parts.items())))
        radius = _write_top(self._path, grafted, self._waiting, self._radius, self._labels, progress)
        if radius is not None:
            told = f"the root's sphere has radius {radius:.6g}, {self._radius:.6g} was promised"
            raise InputError(f"{self._path}: {told}: begin with a larger one")


def _record(folder: Path, number: int) -> Path:
    return folder / f"part-{number:06d}.npz"


def _part_of(tree: Tree, nodes: np.ndarray, frontier: np.ndarray) -> Tree:
    """Some nodes of a tree, ascending and without gaps in families; those of a frontier are leaves, errors and all."""
    index = torch.from_numpy(nodes).long()
    children, counts = tree.children[index].clone(), tree.counts[index].clone()
    ends = torch.from_numpy(np.searchsorted(nodes, frontier))
    children[ends], counts[ends] = -1, 0
    inner = counts > 0
    children[inner] = torch.from_numpy(np.searchsorted(nodes, children[inner].numpy())).int()
    return Tree(tree.gaussians.select(index), children, counts, tree.errors[index], tree.radii[index])


def _write_record(path: Path, part: Part) -> None:
    """All of a part but its writer and its pages."""
    tensors = part.crown.gaussians.tensors() | {name: getattr(part.crown, name) for name in LINKS}
    values = {f"crown_{name}": tensor.numpy() for name, tensor in tensors.items()}
    values |= {f"hangs_{name}": array for name, array in part.hangs._asdict().items()}
    with replacing(path) as stream:
        np.savez(stream, allow_pickle=False, number=part.number, entries=part.entries, **values)


def _read_record(path: Path, writer: int) -> Part | None:
    """The part of a record; None where there is no whole one."""
    try:
        with np.load(path) as values:
            crown = {name[6:]: torch.from_numpy(values[name]) for name in values.files if name.startswith("crown_")}
            links = [crown.pop(name) for name in LINKS]
            hangs = Hangs(*(values[f"hangs_{name}"] for name in Hangs._fields))
            return Part(writer, int(values["number"]), values["entries"], Tree(Gaussians(**crown), *links), hangs)
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


def _write_top(
    path: Path,
    grafted: Grafted,
    waiting: BinaryIO | None,
    reach: float,
    labels: Labels,
    progress: Progress,
) -> float | None:
    """Write the file; where the root's sphere comes out larger than `reach`, write nothing and return its radius."""
    encoded = encode_tree(path, grafted, paginate(grafted.tree), reach)
    radius = float(CODE_VALUES[encoded.radius_codes[0]])
    if radius > reach:
        return radius
    firsts = np.cumsum([len(encoded.ranges), *(len(part.entries) for part, _ in grafted.parts)])  # pages of each part
    if firsts[-1] > PAGES_LIMIT:
        raise InputError(f"{path}: {firsts[-1]} pages, {PAGES_LIMIT} are the most: cut the scene into several files")
    entries = np.concatenate([entries_of(encoded), *part_entries(encoded, firsts)])
    metadata = metadata_bytes(_metadata(entries, grafted.tree.gaussians.sh_degree, labels))
    place = HEADER.size + len(metadata)
    start = place + entries.nbytes
    inner = len(encoded.ranges)
    entries["offset"][inner:] += np.uint64(start + int(entries["bytes"][:inner].sum(dtype=np.int64)))
    links = links_of(encoded, firsts)
    with replacing(path) as stream:
        stream.seek(start)
        done = 0
        for entry, (data, crc) in zip(entries[:inner], payloads(encoded, *links), strict=True):
            entry["offset"], entry["crc"] = stream.tell(), crc
            stream.write(data)
            progress(done := done + int(entry["nodes"]), len(encoded.means))
        if waiting is not None:
            waiting.seek(0)
            shutil.copyfileobj(waiting, stream, 1 << 20)
        directory = entries.tobytes()
        header = Header(
            stream.tell(), HEADER.size, len(metadata), zlib.crc32(metadata), place, len(entries), zlib.crc32(directory)
        )
        stream.seek(0)
        stream.write(header_bytes(header) + metadata + directory)
    return None


def _metadata(entries: np.ndarray, degree: int, labels: Labels) -> Metadata:
    (x0, y0, z0), (x1, y1, z1) = entries["low"].min(axis=0).tolist(), entries["high"].max(axis=0).tolist()
    splats, nodes = (int(entries[name].sum(dtype=np.int64)) for name in ("leaves", "nodes"))
    return Metadata(splats, nodes, degree, (x0, y0, z0), (x1, y1, z1), labels)
