"""A tree cut into pages: few of them half empty, each good to draw without those below it.

A page is filled from groups of siblings, the children of the node with the largest error first. The nodes that stay
without their children are its frontier, which the pages below it share out in the order of their indices, neighbours
in space where siblings and cousins are:
    up to FAN pages of descendants    into runs that fill a page each to their leaves, all of about the same size
    more                              into at most FAN runs of whole numbers of pages; of each, one page is filled,
                                      and its own frontier is shared out again
Pages are numbered level by level, so that the first of a file are the coarsest. Within a page groups of siblings go by
the error of their parents, each time that it halves, and then in the order of the tree: what is expanded together lies
together, and a cut need not read the rest.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from ...kernels.cpu.pages import count_descendants, fill_page
from .tree import Tree

CAPACITY = 1 << 16  # nodes of a page
FAN = 8  # pages that share out the frontier of one, about
ROOT = np.zeros(1, np.int32), np.ones(1, np.int32)  # as a group of siblings
SPARE = 1 / 64  # of a page is not planned with, for groups do not part


class Pages(NamedTuple):
    """Where the nodes of a tree go; p pages."""

    order: np.ndarray  # int32, nodes page after page, in the order of their slots
    starts: np.ndarray  # [p + 1] int64, of the pages in `order`
    parents: np.ndarray  # [p] int32, the page with the parents of a page's topmost groups; -1 for the first


def crown(tree: Tree, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The top of a tree: at most so many nodes, from the root down, the children of the largest error first.

    Returns:
        Its nodes [m] int32 ascending, the root at least, and those of them [f] that have children outside.
    """
    heap, (members, frontier) = np.empty(most, np.int64), np.empty((2, most), np.int32)
    filled, left = fill_page(*ROOT, *_links(tree), heap, members, frontier)
    return np.sort(members[:filled]), np.sort(frontier[:left])


def paginate(tree: Tree, below: np.ndarray | None = None) -> Pages:
    """Divide a tree into pages.

    Args:
        below: [f] int32 ascending, the frontier of its `crown`, which is left out, kept in another tree: pages begin
            with the children of these nodes.

    Returns:
        Groups of siblings are in one page, in consecutive slots; a parent is in the same page in an earlier slot, or in
        the page's parent. Page 0 has the root. With `below`, several pages may have no parent.
    """
    children, counts, errors = _links(tree)
    halvings = _halvings(children, counts, errors)
    sizes = np.empty(len(children), np.int64)
    count_descendants(children, counts, sizes)
    heap = np.empty(CAPACITY, np.int64)
    members, frontier = np.empty(CAPACITY, np.int32), np.empty(CAPACITY, np.int32)

    parts, parents = [np.empty(0, np.int32)], []
    waiting = deque([(-1, *ROOT)])
    if below is not None:
        waiting = deque((-1, children[run], counts[run]) for run in _runs(below, sizes, counts))
    while waiting:
        parent, starts, lengths = waiting.popleft()
        filled, left = fill_page(starts, lengths, children, counts, errors, heap, members, frontier)
        for run in _runs(np.sort(frontier[:left]), sizes, counts):
            waiting.append((len(parents), children[run], counts[run]))
        sorted_members = np.sort(members[:filled])
        parts.append(sorted_members[halvings[sorted_members].argsort(kind="stable")])
        parents.append(parent)
    ends = np.cumsum([*map(len, parts)], dtype=np.int64)
    return Pages(np.concatenate(parts), ends, np.array(parents, np.int32))


def by_error(tree: Tree) -> Tree:
    """The same tree with its nodes in the order that a page has, as if all of it were one."""
    children, counts, errors = _links(tree)
    order = _halvings(children, counts, errors).argsort(kind="stable")
    places = np.empty(len(order), np.int32)
    places[order] = np.arange(len(order), dtype=np.int32)
    moved = torch.from_numpy(np.where(counts > 0, places[children], -1)[order].astype(np.int32))
    rows = torch.from_numpy(order).to(tree.children.device)
    return Tree(
        tree.gaussians.select(rows),
        moved.to(tree.children.device),
        *(column[rows] for column in (tree.counts, tree.errors, tree.radii)),
    )


def _links(tree: Tree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Children, counts, and the bits of errors [n] int32."""
    children, counts = (np.ascontiguousarray(part.cpu().numpy()) for part in (tree.children, tree.counts))
    return children, counts, np.abs(tree.errors.detach().cpu().numpy()).view(np.int32)  # no -0


def _halvings(children: np.ndarray, counts: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Of each node, how small the error of its parent is: the exponent of that, turned round."""
    inner = np.flatnonzero(counts)
    families = counts[inner]
    first = (children[inner] - (families.cumsum() - families)).repeat(families)
    found = np.zeros(len(children), np.int16)  # of the root: before all
    found[first + np.arange(len(first))] = (255 - (errors[inner] >> 23)).repeat(families)
    return found


def _runs(frontier: np.ndarray, sizes: np.ndarray, counts: np.ndarray) -> Iterator[np.ndarray]:
    """The nodes of a frontier, those together whose descendants go to one page and to those below it."""
    below = np.append(0, np.cumsum(sizes[frontier]))
    groups = np.append(0, np.cumsum(counts[frontier]))  # nodes that have to be in the very next page
    total, planned = int(below[-1]), CAPACITY * (1 - SPARE)
    several = total > FAN * planned  # pages a run
    runs = max(min(FAN, math.ceil(total / (FAN * planned))), math.ceil(groups[-1] / planned))
    share = math.ceil(total / (runs * planned)) * planned if several else 0.0
    start = 0
    while start < len(frontier):
        rest = total - below[start]
        goal = below[start] + (share if several else rest / math.ceil(rest / planned))
        end = int(np.searchsorted(below, goal))
        if end == len(below) or goal - below[end - 1] < below[end] - goal:
            end -= 1  # the nearer of two
        if not several:
            end = max(start, min(end, _most(below, start)))
            small = below[end] - below[start] < CAPACITY / 2
            if end < len(frontier) and small and sizes[frontier[end]] > CAPACITY:
                end += 1
        if below[end] - below[start] > CAPACITY and total - below[end] < CAPACITY / 2:
            end = len(frontier)  # what is shared out again takes odd ends, as above
        end = max(start + 1, min(end, _most(groups, start)))
        yield frontier[start:end]
        start = end


def _most(sums: np.ndarray, start: int) -> int:
    """How far from `start` a page reaches."""
    return int(np.searchsorted(sums, sums[start] + CAPACITY, side="right")) - 1
