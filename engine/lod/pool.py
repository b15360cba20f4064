"""The nodes of many pages in one pool, as kernels read them: slots of one size, each unused or with a page.

A slot is filled while it is no part of the tree: its nodes have errors of 0 there, and nothing leads to them. Linking
gives it its errors and its parents their children, unlinking takes both away. So one thread may fill slots while
another cuts and draws; only the latter links and unlinks, between frames. On a GPU slots are filled on a stream of
their own, which waits for what was drawn before a slot was unlinked; linking and unlinking are in the order of the
current stream.
"""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...kernels.constants import CLUSTER
from ...kernels.lod import MOST_NODES, Nodes, cluster_spheres
from .store import Page, Store


class Hanging(NamedTuple):
    """Nodes of a page whose children are in others, page by page; g arrays on the CPU."""

    pages: np.ndarray  # [g] ascending: number of the children's page less that of this one
    rows: np.ndarray  # [g] int32, of the nodes, in their page
    firsts: np.ndarray  # [g] int32, of the first child, in its page
    counts: np.ndarray  # [g] int32, children

    def to(self, page: int) -> "Hanging":
        """Those with children in one page."""
        some = slice(*np.searchsorted(self.pages, [page, page + 1]))
        return Hanging(*(part[some] for part in self))


class Filled(NamedTuple):
    """What linking a filled slot takes."""

    nodes: int
    errors: Tensor  # [size], pinned for a GPU
    cluster_errors: Tensor  # [size / 256]
    hanging: Hanging
    copied: torch.cuda.Event | None

    def is_there(self) -> bool:
        """Whether a GPU has copied all of it by now."""
        return self.copied is None or self.copied.query()


class Above(NamedTuple):
    """Where a page hangs."""

    slot: int  # of the parent page
    page: int  # its number less that of the parent page


def slot_bytes(size: int, coefficients: int) -> int:
    """Memory that a slot of `size` nodes takes, with so many SH coefficients."""
    return size * 4 * (16 + 3 * coefficients) + size // CLUSTER * 20


def pool_for(stores: Sequence[Store], budget: int, device: torch.device) -> "Pool":
    """A pool with as many slots as a budget in bytes has room for and the stores have pages; at least one for each.

    Warns where that is more than the budget.

    Raises:
        ValueError: as `Pool`.
    """
    size = -(-max(int(store.directory["nodes"].max()) for store in stores) // CLUSTER) * CLUSTER
    coefficients = max((store.metadata.sh_degree + 1) ** 2 for store in stores)
    each, least = slot_bytes(size, coefficients), len(stores)
    if budget < least * each:
        told = f"a budget of {budget} bytes has no room for the first pages, {least * each} are used"
        warnings.warn(f"{told}: scenes are drawn coarsely, give more", stacklevel=3)
    return Pool(max(least, min(budget // each, sum(map(len, stores)))), size, coefficients, device)


class Pool:
    """Slots and the nodes in them. Attributes: `nodes`, `slots`, `size` (rows of a slot)."""

    def __init__(self, slots: int, size: int, coefficients: int, device: torch.device) -> None:
        """Allocate all slots, unused.

        Args:
            size: nodes that a slot has room for, a multiple of 256.
            coefficients: of the harmonics, for all pages; those of pages with fewer are zeros.

        Raises:
            ValueError: more nodes than int32 can name.
        """
        m = slots * size
        if m > MOST_NODES:
            raise ValueError(f"{slots} slots of {size} nodes are more than {MOST_NODES}: give a smaller budget")
        shapes = {"means": [m, 3], "quats": [m, 4], "scales": [m, 3], "sh": [m, coefficients, 3]}
        shapes |= {"cluster_bounds": [m // CLUSTER, 4], "cluster_errors": [m // CLUSTER]}
        whole = "children", "counts", "parents"
        types = {name: torch.int32 if name in whole else torch.float32 for name in Nodes._fields}
        self.nodes = Nodes(**{name: _zeros(shapes.get(name, [m]), types[name], device) for name in Nodes._fields})
        for links in (self.nodes.children, self.nodes.parents):
            links.fill_(-1)
        self.slots, self.size, self._device = slots, size, device
        self._hanging: dict[int, Hanging] = {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._left = [self._now()] * slots

    @property
    def slot_bytes(self) -> int:
        """Memory of a slot."""
        return slot_bytes(self.size, self.nodes.sh.shape[1])

    def close(self) -> None:
        """Wait for copies under way, so that the memory may be let go."""
        if self._stream is not None:
            self._stream.synchronize()

    def fill(self, slot: int, page: Page) -> Filled:
        """Put a page into a slot that is not linked; from any thread, but one for a slot."""
        begin, n = slot * self.size, len(page.counts)
        hanging, children, parents = _links(page, begin, self.size)
        bounds, largest = cluster_spheres(page.gaussians.means, page.radii, page.errors)
        columns = page.gaussians.tensors() | {"radii": page.radii, "counts": page.counts}
        sh = columns.pop("sh")
        errors = self._pinned(torch.from_numpy(_padded(page.errors.numpy(), self.size)))
        cluster_errors = self._pinned(torch.from_numpy(_padded(largest.numpy(), self.size // CLUSTER)))
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            if self._stream is not None and (left := self._left[slot]) is not None:
                self._stream.wait_event(left)
            for name, values in columns.items():
                self._copy(getattr(self.nodes, name)[begin : begin + n], values)
            self._copy(self.nodes.sh[begin : begin + n, : sh.shape[1]], sh)
            if sh.shape[1] < self.nodes.sh.shape[1]:
                self.nodes.sh[begin : begin + n, sh.shape[1] :].zero_()
            self._copy(self.nodes.children[begin : begin + self.size], torch.from_numpy(children))
            self._copy(self.nodes.parents[begin : begin + self.size], torch.from_numpy(parents))
            self._copy(self.nodes.cluster_bounds[begin // CLUSTER :][: len(bounds)], bounds)
            return Filled(n, errors, cluster_errors, hanging, self._now())

    def link(self, slot: int, filled: Filled, above: Above | None) -> None:
        """Make a filled slot part of the tree, below the page that is linked at `above`; None: page 0 of a file."""
        self._hanging[slot] = filled.hanging
        self._set_errors(slot, filled.errors, filled.cluster_errors)
        if above is not None:
            family = self._hanging[above.slot].to(above.page)
            rows, begin = family.rows + above.slot * self.size, slot * self.size
            self._put(self.nodes.children, rows, family.firsts + begin)
            self._put(self.nodes.parents, _groups(family.firsts, family.counts) + begin, rows.repeat(family.counts))

    def unlink(self, slot: int, above: Above) -> None:
        """Take a slot that has no linked pages below it out of the tree; it may be filled again at once."""
        rows = self._hanging[above.slot].to(above.page).rows + above.slot * self.size
        self._put(self.nodes.children, rows, np.full(len(rows), -1, np.int32))
        self._set_errors(slot, torch.zeros(self.size), torch.zeros(self.size // CLUSTER))
        del self._hanging[slot]
        self._left[slot] = self._now()

    def _set_errors(self, slot: int, errors: Tensor, cluster_errors: Tensor) -> None:
        self._copy(self.nodes.errors[slot * self.size :][: self.size], errors)
        self._copy(self.nodes.cluster_errors[slot * self.size // CLUSTER :][: self.size // CLUSTER], cluster_errors)

    def _now(self) -> torch.cuda.Event | None:
        """What the current stream of a GPU has been told to do by now."""
        if self._stream is None:
            return None
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _pinned(self, values: Tensor) -> Tensor:
        """Where the GPU can fetch it while the CPU goes on; torch keeps the memory until it has."""
        return values if self._stream is None else values.contiguous().pin_memory()

    def _copy(self, target: Tensor, values: Tensor) -> None:
        """On the CPU by NumPy, on one core: torch would wait for threads that others hold up."""
        if self._stream is None:
            np.copyto(target.numpy(), values.numpy())
        else:
            target.copy_(self._pinned(values), non_blocking=True)

    def _put(self, target: Tensor, rows: np.ndarray, values: np.ndarray) -> None:
        if self._stream is None:
            target.numpy()[rows] = values
        else:
            index, numbers = (self._pinned(torch.from_numpy(part)) for part in (rows.astype(np.int64), values))
            index = index.to(self._device, non_blocking=True)
            target.index_copy_(0, index, numbers.to(self._device, non_blocking=True))


def _zeros(shape: list[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On the CPU, memory that the system provides when it is touched."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, np.int32 if dtype == torch.int32 else np.float32))


def _links(page: Page, begin: int, size: int) -> tuple[Hanging, np.ndarray, np.ndarray]:
    """Nodes with children in other pages, and a slot's children and parents [size] int32, those within the page."""
    links, counts = page.children.numpy(), page.counts.numpy()
    targets = links >> 16
    own, away = np.flatnonzero(targets == 0), np.flatnonzero(targets > 0)
    children, parents = np.full(size, -1, np.int32), np.full(size, -1, np.int32)
    children[own] = links[own] + begin
    parents[_groups(links[own], counts[own])] = (own + begin).repeat(counts[own])
    away = away[targets[away].argsort(kind="stable")]
    hanging = Hanging(
        targets[away].astype(np.int32), away.astype(np.int32), (links[away] & 0xFFFF).astype(np.int32), counts[away]
    )
    return hanging, children, parents


def _groups(firsts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Rows of all children, group by group."""
    starts = counts.cumsum() - counts
    return (firsts - starts).repeat(counts) + np.arange(counts.sum())


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    """With zeros behind."""
    padded = np.zeros(size, values.dtype)
    padded[: len(values)] = values
    return padded
