"""A .lyra file opened for reading: a level-of-detail tree page by page, from disk or over HTTP.

Pages are checked when they are read. One that is damaged or out of reach raises `DamagedPage`, and the nodes from which
it hangs are there to stand in for it.
"""

import os
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..formats.format import Progress, no_progress
from ..scene.gaussians import Gaussians, merge
from .columns import CODE_VALUES, NO_LINK, Columns, decode, unpack
from .layout import HEADER, ranges_of_entry, read_directory, read_header, read_metadata
from .ranges import NEVER, SCHEMES, FileRanges, HttpRanges, Patience, Stop, Unreachable

PATIENT = Patience()
NAMED = 8  # damaged pages that a warning names


class DamagedPage(Exception):
    """A page that cannot be used."""

    def __init__(self, file: str, page: int, cause: str) -> None:
        """Say which and why, on one line."""
        super().__init__(f"{file}: page {page}: {cause}")
        self.file, self.page, self.cause = file, page, cause


class UnreachablePage(DamagedPage):
    """A page that could not be read now; later it may be."""


class Page(NamedTuple):
    """n nodes, all tensors on the CPU."""

    gaussians: Gaussians  # [n] float32; opacities of inner nodes may exceed 1
    children: Tensor  # [n] int64, id of the first child less the id of the page's first node, -1 for a leaf
    counts: Tensor  # [n] int32, of children
    errors: Tensor  # [n] float32, world units
    radii: Tensor  # [n] float32, world units


class Store:
    """An open .lyra file; its methods may be called from any thread.

    A node's id is its page << 16 | its slot there.

    Attributes:
        name: path or address, for messages.
        metadata: what the file says of itself.
        directory: [pages] of `layout.ENTRY`: nodes and leaves, bounds, and for priorities a sphere (`centre`, `radius`)
            round those of the nodes in the page `parent` from which the page hangs, with their largest `error`; of page
            0, the root's own.
    """

    def __init__(self, name: str, source: FileRanges | HttpRanges) -> None:
        """Read the head of a source, which is closed with the store.

        Raises:
            InputError: as `open_store`.
        """
        self.name, self._source = name, source
        try:
            head = source.read(0, HEADER.size)
            header = read_header(name, head)
            if source.size > header.file_bytes or source.size < header.end:
                told = f"has {source.size} bytes where {header.file_bytes} belong"
                raise InputError(f"{name}: {told}, fetch or build it again")
            self.metadata = read_metadata(name, header, source.read(header.metadata_place, header.metadata_bytes))
            directory = source.read(header.directory_place, header.directory_bytes)
        except Unreachable as error:
            raise InputError(f"{name}: {error}, check that it can be read") from error
        self.directory = read_directory(name, header, self.metadata, directory)
        self.directory.flags.writeable = False
        if source.size < header.file_bytes:
            lost = self.directory["offset"] + self.directory["bytes"] > source.size
            told = f"truncated, {header.file_bytes - source.size} bytes and {int(lost.sum())} of {len(lost)} pages lost"
            warnings.warn(f"{name}: {told}, fetch it again", stacklevel=3)

    def __len__(self) -> int:
        """Pages."""
        return len(self.directory)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; reading raises from now on."""
        self._source.close()

    def read(self, page: int, stop: Stop = NEVER) -> bytes:
        """The bytes of a page, unless `stop` is set.

        Raises:
            DamagedPage: truncated, or not what was written; UnreachablePage where trying again may help.
        """
        entry = self.directory[page]
        try:
            data = self._source.read(int(entry["offset"]), int(entry["bytes"]), stop)
        except Unreachable as error:
            raise UnreachablePage(self.name, page, str(error)) from error
        if len(data) != entry["bytes"]:
            raise DamagedPage(self.name, page, f"truncated, {len(data)} of {entry['bytes']} bytes are there")
        if zlib.crc32(data) != entry["crc"]:
            raise DamagedPage(self.name, page, "its checksum is wrong")
        return data

    def decode(self, page: int, data: bytes) -> Page:
        """The nodes of a page from its bytes.

        Raises:
            DamagedPage: they are no nodes of this file.
        """
        entry = self.directory[page]
        columns = unpack(data, int(entry["nodes"]), self.metadata.sh_degree)
        links = columns.links.astype(np.int64)
        links[columns.links == NO_LINK] = -1
        if problem := _problem(self.directory, page, columns, links):
            raise DamagedPage(self.name, page, problem)
        return Page(
            decode(columns, ranges_of_entry(entry)),
            torch.from_numpy(links),
            torch.from_numpy(columns.counts.astype(np.int32)),
            torch.from_numpy(CODE_VALUES[columns.errors]),
            torch.from_numpy(CODE_VALUES[columns.radii]),
        )


def open_store(source: str | os.PathLike[str], patience: Patience = PATIENT) -> Store:
    """Opens a .lyra file; a context manager.

    A file that is cut short behind its directory opens with a warning.

    Args:
        source: a path, or an http or https address on a server that answers range requests.
        patience: with a server.

    Raises:
        InputError: missing, out of reach, no .lyra, another version, a damaged head, or a server without ranges.
    """
    name = os.fspath(source)
    ranges = HttpRanges(name, patience) if name.split("://")[0].lower() in SCHEMES else FileRanges(Path(source))
    try:
        return Store(name, ranges)
    except BaseException:
        ranges.close()
        raise


def leaves(store: Store, progress: Progress = no_progress) -> Gaussians:
    """The scene at full detail: all leaves, page after page, in the order of their slots.

    For what hangs from a damaged page, the nodes from which that hangs stand in, with a warning that names the pages.

    Args:
        progress: told of leaves.

    Raises:
        InputError: page 0 is damaged, or one that was well is not when it is needed again.
    """
    parts: list[Gaussians] = []
    lost: list[DamagedPage] = []
    gone: set[int] = set()
    ends = store.directory["leaves"].cumsum(dtype=np.int64)
    for page in range(len(store)):
        parent = int(store.directory["parent"][page])
        if parent in gone:
            gone.add(page)
        else:
            try:
                nodes = store.decode(page, store.read(page))
                parts.append(nodes.gaussians.select(nodes.counts == 0))
            except DamagedPage as error:
                if not page:
                    raise InputError(f"{error}: nothing can stand in for the first page, fetch it again") from error
                gone.add(page)
                lost.append(error)
                parts.append(_stand_ins(store, parent, page))
        progress(int(ends[page]), int(ends[-1]))
    if lost:
        told = ", ".join(f"page {error.page} ({error.cause})" for error in lost[:NAMED])
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        warnings.warn(f"{store.name}: damaged: {told}{more}; coarser nodes stand in", stacklevel=2)
    return merge(parts)


def _stand_ins(store: Store, parent: int, page: int) -> Gaussians:
    """The nodes from which a page hangs."""
    try:
        nodes = store.decode(parent, store.read(parent))
    except DamagedPage as error:  # it was read before
        raise InputError(f"{error}: it changes or comes and goes, make a copy first") from error
    return nodes.gaussians.select(nodes.children >> 16 == page - parent)


def _problem(directory: np.ndarray, page: int, columns: Columns, links: np.ndarray) -> str:
    """Why the nodes of a page cannot be those of a tree; empty where they can."""
    slots = np.flatnonzero(links >= 0)
    counts, firsts = columns.counts[slots].astype(np.int64), links[slots]
    if len(slots) != np.count_nonzero(columns.counts) or not counts.all():
        return "a node has children without a place, or a place without children"
    if len(links) - len(slots) != directory["leaves"][page]:
        return f"{len(links) - len(slots)} leaves where {directory['leaves'][page]} are declared"
    targets = page + (firsts >> 16)
    if not len(slots):
        return "" if np.isfinite(columns.colors).all() else "a colour is no number"
    if targets.max() >= len(directory):
        return f"children in page {targets.max()} of {len(directory)}"
    if ((targets == page) & (firsts <= slots)).any() or (directory["parent"][targets[targets != page]] != page).any():
        return "children in a page that does not hang from this one, or before their parents"
    if ((firsts & 0xFFFF) + counts > directory["nodes"][targets]).any():
        return "children beyond the end of their page"
    runs = np.sort(firsts << 8 | counts)
    if (runs[1:] >> 8 < (runs[:-1] >> 8) + (runs[:-1] & 0xFF)).any():
        return "a node has two parents"
    return "" if np.isfinite(columns.colors).all() else "a colour is no number"
