"""A tree as it will be read from a .lyra file: its pages, the codes of its nodes, its directory, its bytes.

Radii and errors are made anew from what a reader will see: from the leaves up, each rounded up to a code that is above
its children's, so that the rules of a tree hold for the decoded values (`tree.check`).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...kernels.cpu.pages import CODES, FINEST, PER_OCTAVE, climb
from ..errors import InputError
from ..scene.gaussians import Gaussians
from .columns import CODE_VALUES, NO_LINK, Ranges, decode_means, encode, encode_means, pack, page_bytes, ranges_of
from .layout import ENTRY
from .pages import Pages
from .tree import Tree

ROOM = 3e-6  # of the root's radius: a sphere's over its children's, of which a reader's rounding may take a third


class Part(NamedTuple):
    """A subtree in the file: what the top tree has to know of it."""

    writer: int  # which writer's, by id
    number: int  # in the order of `add`
    entries: np.ndarray  # [pages] of ENTRY; offsets in the waiting file, parents from 0, -1 for the top tree
    root: Gaussians  # [1], as it was given
    error: float  # of the root, as it was given
    means: np.ndarray  # [c, 3] float32, of the root's children, as they will be read
    radius_codes: np.ndarray  # [c]
    error_code: int  # of the root


class Encoded(NamedTuple):
    """A tree in pages with the codes of its nodes, all that can be settled before its numbers are."""

    tree: Tree
    pages: Pages
    ranges: list[Ranges]
    means: np.ndarray  # [n, 3] float32, as they will be read
    radius_codes: np.ndarray  # [n] int32
    error_codes: np.ndarray  # [n] int32
    page_of: np.ndarray  # [n] int32
    slot_of: np.ndarray  # [n] int32


def encode_tree(path: Path, tree: Tree, pages: Pages, parts: Mapping[int, Part], reach: float) -> Encoded:
    """Settle what each node will be read as.

    Args:
        path: for messages.
        parts: by leaf of the tree of which it is the root.
        reach: at least the radius of the root's sphere, of the whole file.

    Raises:
        InputError: an error or a radius is larger than any code.
    """
    n, room = len(tree.gaussians), ROOM * reach
    tree = dataclasses.replace(tree, gaussians=tree.gaussians.to("cpu", torch.float32))
    means = tree.gaussians.means.numpy().copy()
    page_of, slot_of = np.zeros(n, np.int32), np.zeros(n, np.int32)
    ranges = []
    for page in range(len(pages.parents)):
        nodes = _nodes(pages, page)
        splats = _splats(tree, nodes)
        ranges.append(ranges_of(splats))
        means[nodes] = decode_means(encode_means(splats.means, ranges[-1]), ranges[-1])
        page_of[nodes], slot_of[nodes] = page, np.arange(len(nodes))
    children, counts = tree.children.numpy(), tree.counts.numpy()
    radius_codes, error_codes = np.zeros(n, np.int32), np.zeros(n, np.int32)
    for leaf, part in parts.items():
        radius_codes[leaf] = _part_radius(part, means[leaf], _shift(tree, leaf, part), room)
        error_codes[leaf] = part.error_code
    climb(children, counts, means, tree.errors.numpy(), room, CODE_VALUES, error_codes, radius_codes)
    if max(int(radius_codes.max()), int(error_codes.max())) >= CODES:
        most = 2.0 ** (FINEST + (CODES - 1) / PER_OCTAVE)
        raise InputError(f"{path}: the scene is wider than the {most:.3g} of .lyra: scale or crop it")
    return Encoded(tree, pages, ranges, means, radius_codes, error_codes, page_of, slot_of)


def _shift(tree: Tree, leaf: int, part: Part) -> np.ndarray:
    """[3] float64, from where a part was to where it stands."""
    return (tree.gaussians.means[leaf].double() - part.root.means[0].double()).numpy()


def _part_radius(part: Part, mean: np.ndarray, shift: np.ndarray, room: float) -> int:
    """The code of a leaf of the top tree that is the root of a part: its children are those of the part."""
    family = np.concatenate([mean[None], (part.means + shift).astype(np.float32)])
    count = len(part.means)
    children, counts = np.full(count + 1, -1, np.int32), np.zeros(count + 1, np.int32)
    children[0], counts[0] = 1, count
    radii, none = np.concatenate([np.zeros(1, np.int32), part.radius_codes]), np.zeros(count + 1, np.int32)
    climb(children, counts, family, none.astype(np.float32), room, CODE_VALUES, none, radii)
    return int(radii[0])


def _nodes(pages: Pages, page: int) -> np.ndarray:
    return pages.order[pages.starts[page] : pages.starts[page + 1]]


def _splats(tree: Tree, nodes: np.ndarray) -> Gaussians:
    columns = {name: tensor.numpy().take(nodes, axis=0) for name, tensor in tree.gaussians.tensors().items()}
    return Gaussians(**{name: torch.from_numpy(column) for name, column in columns.items()})


def entries_of(encoded: Encoded, parts: Mapping[int, Part]) -> np.ndarray:
    """The directory of a tree's own pages; places and checksums are still open."""
    tree, pages = encoded.tree, encoded.pages
    children, counts = tree.children.numpy(), tree.counts.numpy().copy()
    counts[list(parts)] = 1  # no leaves
    entries = np.zeros(len(encoded.ranges), ENTRY)
    entries["parent"] = pages.parents
    for page, (entry, ranges) in enumerate(zip(entries, encoded.ranges, strict=True)):
        nodes = _nodes(pages, page)
        entry["nodes"], entry["bytes"] = len(nodes), page_bytes(len(nodes), tree.gaussians.sh_degree)
        entry["leaves"] = (counts[nodes] == 0).sum()
        entry["low"], entry["high"], entry["scales"], entry["sh_steps"] = ranges
        above = np.zeros(1, np.int32)
        if page:
            above = _nodes(pages, int(pages.parents[page]))
            above = above[(children[above] >= 0) & (encoded.page_of[children[above]] == page)]
        _set_sphere(entry, encoded, above)
    return entries


def _set_sphere(entry: np.void, encoded: Encoded, nodes: np.ndarray) -> None:
    """A sphere round those of the nodes from which a page hangs, and their largest error."""
    means, codes = encoded.means[nodes].astype(np.float64), encoded.radius_codes[nodes]
    radii = CODE_VALUES[codes].astype(np.float64)
    low, high = (means - radii[:, None]).min(axis=0), (means + radii[:, None]).max(axis=0)
    centre = ((low + high) / 2).astype(np.float32)
    radius = (np.linalg.norm(means - centre, axis=1) + radii).max()
    entry["centre"], entry["radius"] = centre, np.nextafter(np.float32(radius), np.float32(np.inf))
    entry["error"] = CODE_VALUES[encoded.error_codes[nodes].max()]


def part_entries(encoded: Encoded, parts: Mapping[int, Part], firsts: np.ndarray) -> list[np.ndarray]:
    """The directories of the parts, where they stand.

    Args:
        firsts: [parts + 1], the number of each part's first page.
    """
    moved = []
    for (leaf, part), first in zip(parts.items(), firsts[:-1], strict=True):
        entries, shift = part.entries.copy(), _shift(encoded.tree, leaf, part)
        entries["parent"] = np.where(entries["parent"] < 0, encoded.page_of[leaf], entries["parent"] + first)
        entries["low"] += shift
        entries["high"] += shift
        centres = entries["centre"] + shift
        entries["centre"] = centres
        lost = np.linalg.norm(entries["centre"] - centres, axis=1)
        entries["radius"] = np.nextafter((entries["radius"] + lost).astype(np.float32), np.float32(np.inf))
        _set_sphere(entries[0], encoded, np.array([leaf]))
        moved.append(entries)
    return moved


def payload(encoded: Encoded, page: int, part_pages: np.ndarray, parts: Mapping[int, Part]) -> bytes:
    """The bytes of a page.

    Args:
        part_pages: [n], the first page of the part at a leaf.
    """
    nodes = _nodes(encoded.pages, page)
    firsts, counts = encoded.tree.children.numpy()[nodes], encoded.tree.counts.numpy()[nodes]
    ids = encoded.page_of[firsts].astype(np.int64) << 16 | encoded.slot_of[firsts]
    links = np.where(counts > 0, ids - (page << 16), NO_LINK)
    for slot in np.flatnonzero(part_pages[nodes]):
        links[slot] = (part_pages[nodes[slot]] - page) << 16
        counts = counts.copy()
        counts[slot] = len(parts[int(nodes[slot])].means)
    splats = _splats(encoded.tree, nodes)
    codes = encoded.radius_codes[nodes], encoded.error_codes[nodes]
    return pack(encode(splats, encoded.ranges[page], links, counts, *codes), splats.sh_degree)
