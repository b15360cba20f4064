"""A tree as it will be read from a .lyra file: its pages, the codes of its nodes, its directory, its bytes.

Radii and errors are made anew from what a reader will see: from the leaves up, each rounded up to a code that is above
its children's, so that the rules of a tree hold for the decoded values (`tree.check`).
"""

import dataclasses
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from ...kernels.cpu.pages import CODES, FINEST, PER_OCTAVE, climb
from ..errors import InputError
from ..scene.gaussians import Gaussians, merge
from .columns import CODE_VALUES, NO_LINK, Ranges, decode_means, encode, encode_means, pack, page_bytes, ranges_of
from .layout import ENTRY
from .pages import Pages
from .tree import Tree

ROOM = 3e-6  # of the root's radius: a sphere's over its children's, of which a reader's rounding may take a third
_WORKERS = min(4, os.cpu_count() or 1)  # each holds the temporaries of a page

Result = TypeVar("Result")


class Hangs(NamedTuple):
    """Families in the pages of a part whose parents are in the tree above."""

    nodes: np.ndarray  # [h] parents, nodes of the part's crown
    pages: np.ndarray  # [h] of the part, where the children are
    slots: np.ndarray  # [h] of the first child
    counts: np.ndarray  # [h] children
    means: np.ndarray  # [c, 3] float32, of all the children, family by family, as they will be read
    radius_codes: np.ndarray  # [c]
    error_codes: np.ndarray  # [h], of the parents


class Part(NamedTuple):
    """A subtree in the file: what the top tree has to know of it."""

    writer: int  # which writer's, by id
    number: int  # in the order of `add`
    entries: np.ndarray  # [pages] of ENTRY; offsets in the waiting file, parents from 0, -1 for the top tree
    crown: Tree  # its topmost nodes, which the top tree takes over; what has children in pages is a leaf here
    hangs: Hangs


class Grafted(NamedTuple):
    """A top tree with the crowns of its parts, and what is below them."""

    tree: Tree
    parts: list[tuple[Part, np.ndarray]]  # and how far each stands from where it was, [3] float64
    leaves: list[np.ndarray]  # of each part, the nodes [h] at which its families hang


class Encoded(NamedTuple):
    """A tree in pages with the codes of its nodes, all that can be settled before its numbers are."""

    tree: Tree
    grafted: Grafted
    pages: Pages
    ranges: list[Ranges]
    means: np.ndarray  # [n, 3] float32, as they will be read
    radius_codes: np.ndarray  # [n] int32
    error_codes: np.ndarray  # [n] int32
    page_of: np.ndarray  # [n] int32
    slot_of: np.ndarray  # [n] int32


def graft(top: Tree, parts: Mapping[int, Part]) -> Grafted:
    """Put the crowns of parts in the places of leaves.

    Args:
        parts: by leaf of the tree, in ascending order.
    """
    children, counts, errors, radii = ([column.clone()] for column in (top.children, top.counts, top.errors, top.radii))
    splats, placed, leaves, end = [top.gaussians.to("cpu", torch.float32)], [], [], len(top)
    for leaf, part in parts.items():
        crown = part.crown
        shift = (top.gaussians.means[leaf].double() - crown.gaussians.means[0].double()).numpy()
        nodes = np.arange(len(crown)) + end - 1
        nodes[0] = leaf
        links = torch.where(crown.counts > 0, crown.children + (end - 1), -1)
        children[0][leaf], counts[0][leaf], errors[0][leaf] = links[0], crown.counts[0], crown.errors[0]
        below = crown.gaussians.select(slice(1, None))
        splats.append(dataclasses.replace(below, means=(below.means.double() + torch.from_numpy(shift)).float()))
        children.append(links[1:])
        counts.append(crown.counts[1:])
        errors.append(crown.errors[1:])
        radii.append(crown.radii[1:])
        placed.append((part, shift))
        leaves.append(nodes[part.hangs.nodes])
        end += len(crown) - 1
    columns = (torch.cat(column) for column in (children, counts, errors, radii))
    return Grafted(Tree(merge(splats), *columns), placed, leaves)


def encode_tree(path: Path, grafted: Grafted, pages: Pages, reach: float) -> Encoded:
    """Settle what each node will be read as.

    Args:
        path: for messages.
        reach: at least the radius of the root's sphere, of the whole file.

    Raises:
        InputError: an error or a radius is larger than any code.
    """
    n, room, tree = len(grafted.tree), ROOM * reach, grafted.tree
    tree = dataclasses.replace(tree, gaussians=tree.gaussians.to("cpu", torch.float32))
    means = tree.gaussians.means.numpy().copy()
    page_of, slot_of = np.zeros(n, np.int32), np.zeros(n, np.int32)

    def settle(page: int) -> Ranges:
        nodes = _nodes(pages, page)
        splats = _splats(tree, nodes)
        ranges = ranges_of(splats)
        means[nodes] = decode_means(encode_means(splats.means, ranges), ranges)
        page_of[nodes], slot_of[nodes] = page, np.arange(len(nodes))
        return ranges

    ranges = list(_side_by_side(settle, len(pages.parents)))
    children, counts = tree.children.numpy(), tree.counts.numpy()
    radius_codes, error_codes = np.zeros(n, np.int32), np.zeros(n, np.int32)
    for (part, shift), leaves in zip(grafted.parts, grafted.leaves, strict=True):
        radius_codes[leaves] = _family_radii(part.hangs, means[leaves], shift, room)
        error_codes[leaves] = part.hangs.error_codes
    climb(children, counts, means, tree.errors.numpy(), room, CODE_VALUES, error_codes, radius_codes)
    if max(int(radius_codes.max()), int(error_codes.max())) >= CODES:
        most = 2.0 ** (FINEST + (CODES - 1) / PER_OCTAVE)
        raise InputError(f"{path}: the scene is wider than the {most:.3g} of .lyra: scale or crop it")
    return Encoded(tree, grafted, pages, ranges, means, radius_codes, error_codes, page_of, slot_of)


def hangs_of(encoded: Encoded, crown: np.ndarray, frontier: np.ndarray) -> Hangs:
    """What hangs from the crown of a subtree that was encoded without it.

    Args:
        crown: [m] int32 ascending, its nodes.
        frontier: [h] int32 ascending, those whose children are in pages.
    """
    children, counts = encoded.tree.children.numpy()[frontier], encoded.tree.counts.numpy()[frontier]
    families = np.concatenate([np.empty(0, np.int64), *map(np.arange, children, children + counts)])
    return Hangs(
        np.searchsorted(crown, frontier),
        encoded.page_of[children],
        encoded.slot_of[children],
        counts,
        encoded.means[families],
        encoded.radius_codes[families],
        encoded.error_codes[frontier],
    )


def _family_radii(hangs: Hangs, means: np.ndarray, shift: np.ndarray, room: float) -> np.ndarray:
    """The codes of the parents [h] with these means, whose children are those of the part."""
    parents, total = len(means), len(hangs.means)
    family = np.concatenate([means, (hangs.means + shift).astype(np.float32)])
    children, counts = np.full(parents + total, -1, np.int32), np.zeros(parents + total, np.int32)
    children[:parents], counts[:parents] = parents + np.cumsum(hangs.counts) - hangs.counts, hangs.counts
    radii = np.concatenate([np.zeros(parents, np.int32), hangs.radius_codes.astype(np.int32)])
    none = np.zeros(parents + total, np.int32)
    climb(children, counts, family, none.astype(np.float32), room, CODE_VALUES, none, radii)
    return radii[:parents]


def _nodes(pages: Pages, page: int) -> np.ndarray:
    return pages.order[pages.starts[page] : pages.starts[page + 1]]


def _splats(tree: Tree, nodes: np.ndarray) -> Gaussians:
    columns = {name: tensor.numpy().take(nodes, axis=0) for name, tensor in tree.gaussians.tensors().items()}
    return Gaussians(**{name: torch.from_numpy(column) for name, column in columns.items()})


def entries_of(encoded: Encoded) -> np.ndarray:
    """The directory of a tree's own pages; places and checksums are still open."""
    tree, pages = encoded.tree, encoded.pages
    children, counts = tree.children.numpy(), tree.counts.numpy().copy()
    for leaves in encoded.grafted.leaves:
        counts[leaves] = 1  # no leaves of the file
    entries = np.zeros(len(encoded.ranges), ENTRY)
    entries["parent"] = pages.parents
    for page, (entry, ranges) in enumerate(zip(entries, encoded.ranges, strict=True)):
        nodes = _nodes(pages, page)
        entry["nodes"], entry["bytes"] = len(nodes), page_bytes(len(nodes), tree.gaussians.sh_degree)
        entry["leaves"] = (counts[nodes] == 0).sum()
        entry["low"], entry["high"], entry["scales"], entry["sh_steps"] = ranges
        above = np.zeros(1, np.int32)
        if pages.parents[page] >= 0:
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


def part_entries(encoded: Encoded, firsts: np.ndarray) -> list[np.ndarray]:
    """The directories of the parts, where they stand.

    Args:
        firsts: [parts + 1], the number of each part's first page.

    Raises:
        InputError: the parents of a page are in several pages of the top tree.
    """
    moved = []
    for (part, shift), leaves, first in zip(encoded.grafted.parts, encoded.grafted.leaves, firsts, strict=False):
        entries = part.entries.copy()
        entries["parent"] += np.int32(first)
        entries["low"] += shift
        entries["high"] += shift
        centres = entries["centre"] + shift
        entries["centre"] = centres
        lost = np.linalg.norm(entries["centre"] - centres, axis=1)
        entries["radius"] = np.nextafter((entries["radius"] + lost).astype(np.float32), np.float32(np.inf))
        for page in np.flatnonzero(part.entries["parent"] < 0):
            above = leaves[part.hangs.pages == page]
            if len(parents := np.unique(encoded.page_of[above])) > 1:
                raise InputError(f"the crown of part {part.number} lies in {len(parents)} pages: keep fewer nodes")
            entries[page]["parent"] = parents[0]
            _set_sphere(entries[page], encoded, above)
        moved.append(entries)
    return moved


def links_of(encoded: Encoded, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids [n] int64 of first children, of leaves any, and how many children [n] there are, those in parts too.

    Args:
        firsts: [parts + 1], the number of each part's first page.
    """
    children, counts = encoded.tree.children.numpy(), encoded.tree.counts.numpy().copy()
    ids = encoded.page_of[children].astype(np.int64) << 16 | encoded.slot_of[children]
    for (part, _), leaves, first in zip(encoded.grafted.parts, encoded.grafted.leaves, firsts, strict=False):
        ids[leaves] = (first + part.hangs.pages.astype(np.int64)) << 16 | part.hangs.slots
        counts[leaves] = part.hangs.counts
    return ids, counts


def payloads(encoded: Encoded, ids: np.ndarray, counts: np.ndarray) -> Iterator[tuple[bytes, int]]:
    """The bytes of each page and their checksum, with what `links_of` returned."""

    def payload(page: int) -> tuple[bytes, int]:
        nodes = _nodes(encoded.pages, page)
        links = np.where(counts[nodes] > 0, ids[nodes] - (page << 16), NO_LINK)
        splats = _splats(encoded.tree, nodes)
        codes = encoded.radius_codes[nodes], encoded.error_codes[nodes]
        data = pack(encode(splats, encoded.ranges[page], links, counts[nodes], *codes), splats.sh_degree)
        return data, zlib.crc32(data)

    return _side_by_side(payload, len(encoded.ranges))


def _side_by_side(work: Callable[[int], Result], pages: int) -> Iterator[Result]:
    """What work on each page gives, in order."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        yield from pool.map(work, range(pages))
