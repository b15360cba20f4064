"""Resident pages of .lyra files larger than memory: what an eye needs is loaded while the frames go on.

A page is read by a thread and decoded into a free slot of the pool, from where the renderer's thread links it into the
tree between two frames. Nothing waits: until a page is there, the nodes from which it hangs stand in for it. Where no
slot is free, the page goes that matters least, has none below it, and matters less than the one that comes.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..kernels.gaze import Gaze
from ..kernels.lod import Nodes
from .cache_options import CacheOptions
from .errors import InputError
from .lod.directories import Directories, Plan, View
from .lod.failures import Failures
from .lod.host import HostPages
from .lod.page_table import PageTable
from .lod.pool import Filled, pool_for
from .lod.ranges import Stop
from .lod.store import DamagedPage, Store

PLAIN = CacheOptions()


@dataclass(frozen=True)
class Counters:
    """What a cache has done so far, and what it holds now."""

    frames: int = 0  # updates
    hits: int = 0  # pages wanted and resident, summed over frames
    misses: int = 0  # pages wanted and not resident, damaged ones left out, summed over frames
    stalls: int = 0  # frames with misses
    prefetches: int = 0  # pages asked for before they were wanted
    evictions: int = 0
    failures: int = 0  # pages that were damaged or out of reach when asked for
    bytes_read: int = 0  # from files and servers
    bytes_uploaded: int = 0  # of linked nodes
    host_bytes: int = 0  # held
    device_bytes: int = 0  # of slots with a linked page
    device_nodes: int = 0  # of linked pages


class _Job(NamedTuple):
    """A page on its way."""

    slot: int | None  # None: it is only fetched to the host
    future: Future[Any]  # Filled, or bytes without a slot


class PageCache:
    """Keeps the pages of several stores that a view needs in one pool; a context manager.

    All is called from the thread that renders, on a GPU with the stream current on which it draws. The first page of
    each store is resident from the beginning, and always. Stores stay open when the cache is closed, and may be those
    of other caches too.

    Attributes:
        nodes: the pool, for `kernels.lod`. It changes when `update` is called, and then only.
        roots: [stores] int32, where the stores' roots are in it.
        radius: of the largest store's sphere, world units.
    """

    def __init__(
        self, stores: Sequence[Store], *, options: CacheOptions = PLAIN, device: torch.device | str = "cpu"
    ) -> None:
        """Allocate the pool and read the first page of each store.

        Warns where the budget has no room for these; they are taken in all the same.

        Raises:
            InputError: no stores, or a first page is damaged or out of reach.
            ValueError: a budget beyond 2^31 nodes.
        """
        if not stores:
            raise InputError("no stores, give at least one")
        self._stores, self._options = list(stores), options
        self._directories = Directories(stores)
        self._host, self._stop = HostPages(options.host_bytes), Stop()
        self._pool = pool_for(stores, options.device_bytes, torch.device(device))
        self.nodes: Nodes = self._pool.nodes
        firsts = np.flatnonzero(self._directories.parents < 0)
        self.roots = torch.arange(len(firsts), dtype=torch.int32, device=device) * self._pool.size
        self.radius = max(float(store.directory["radius"][0]) for store in stores)

        self._table = PageTable(self._directories.parents, self._pool.slots)
        self._failures = Failures(self._directories, options.retry, options.longest_retry)
        self._jobs: dict[int, _Job] = {}
        self._counts = dict.fromkeys(Counters.__dataclass_fields__, 0)
        self._view: View | None = None
        self._closed = False
        for page in firsts.tolist():
            try:
                self._link(page, slot := self._table.take(page), self._load(page, slot))
            except DamagedPage as error:
                raise InputError(f"{error}: nothing can stand in for the first page, fetch it again") from error
        self._threads = ThreadPoolExecutor(options.workers, "lyra-cache")

    def __enter__(self) -> "PageCache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut short what is read, and end the threads. The pool stays as it is, for as long as it is referred to."""
        self._closed = True
        self._stop.set()
        self._threads.shutdown(cancel_futures=True)
        self._pool.close()
        self._jobs.clear()
        self._host.clear()

    def update(
        self, eye: Tensor, gaze: Gaze | None, threshold: float, near: float, predicted_eye: Tensor | None = None
    ) -> None:
        """Link what has come, and ask for what is wanted: once a frame, before the cut. Never waits for a file.

        Args:
            eye: [3] on the CPU, world axes, as for `kernels.lod.cut`; and so are `gaze` and `near`.
            threshold: of the last cut; 0 before the first.
            predicted_eye: [3] where the eye will be by the time that a page takes to load. What it wants comes after
                all that is wanted now.

        Raises:
            ValueError: the cache is closed, or a value is out of range.
        """
        if self._closed:
            raise ValueError("the cache is closed, open another")
        for name, point in (("eye", eye), ("predicted_eye", predicted_eye)):
            if point is not None and point.device.type != "cpu":
                raise ValueError(f"{name} is on {point.device}, expected it on the CPU, where pages are chosen")
        if not 0.0 <= (threshold := float(threshold)) < float("inf"):
            raise ValueError(f"threshold is {threshold}, expected a view error, 0 or more")
        self._view = View(eye, gaze, threshold, near, predicted_eye)
        plan = self._directories.plan(self._view, self._failures.lost)
        self._receive(plan)
        self._request(plan)
        self._count(plan)
        while self._failures.told:
            warnings.warn(self._failures.told.pop(0), stacklevel=2)

    def settle(self, timeout: float, frame: Callable[[], object] | None = None) -> bool:
        """Wait until all that is wanted is resident, as far as there is room, or has failed; for stills and tests.

        Args:
            timeout: seconds.
            frame: called again and again; it has to call `update`. None: `update` as it was last called.

        Returns:
            Whether all came to an end in time.

        Raises:
            ValueError: neither a frame is given nor was `update` called before.
        """
        end = time.monotonic() + timeout
        while True:
            if frame is not None:
                frame()
            elif self._view is None:
                raise ValueError("update has not been called: call it first, or give a frame")
            else:
                self.update(*self._view)
            if not self._jobs:
                return True
            if (left := end - time.monotonic()) <= 0:
                return False
            pending = [future for _, future in self._jobs.values() if not future.done()]
            if len(pending) == len(self._jobs):
                wait(pending, left, FIRST_COMPLETED)
            else:
                time.sleep(0.001)  # for copies to a GPU, or only for the next frame's links

    def counters(self) -> Counters:
        """What was done so far."""
        linked = self._table.slots >= 0
        now = {
            "failures": self._failures.count,
            "bytes_read": self._host.read,
            "host_bytes": self._host.held,
            "device_bytes": int(linked.sum()) * self._pool.slot_bytes,
            "device_nodes": int(self._directories.nodes[linked].sum()),
        }
        return Counters(**self._counts | now)

    def _fetch(self, page: int) -> bytes:
        """Take a page to the host: what threads do while there is no slot for it."""
        number, at = int(self._directories.stores[page]), int(self._directories.pages[page])
        return self._host.fetch(number, self._stores[number], at, self._stop)

    def _load(self, page: int, slot: int) -> Filled:
        """Decode a page into a slot, from the host or through it: what threads do when there is one."""
        number, at = int(self._directories.stores[page]), int(self._directories.pages[page])
        return self._pool.fill(slot, self._stores[number].decode(at, self._fetch(page)))

    def _receive(self, plan: Plan) -> None:
        """Take note of jobs that are done, and drop those that have not begun and are no longer due."""
        links = self._options.links
        for page in sorted(self._jobs, key=lambda page: -plan.ranks[page]):
            slot, future = self._jobs[page]
            if not future.done():
                if not plan.due[page] and future.cancel():
                    self._drop(page)
            elif (error := future.exception()) is not None:
                self._drop(page)
                if not isinstance(error, DamagedPage):
                    raise error
                self._failures.add(page, error)
            elif slot is None:
                self._drop(page)
                self._give_slot(page, plan)
            elif links and (filled := future.result()).is_there():
                links -= 1
                del self._jobs[page]
                self._link(page, slot, filled)

    def _give_slot(self, page: int, plan: Plan) -> None:
        """Give a page that is on the host by now a slot, if it still deserves one."""
        if plan.due[page] and self._table.is_below_linked(page):
            if not self._table.has_room():
                leaving = self._table.leaving(plan.ranks)[:1]
                if not self._replaces(page, leaving, plan):
                    return
                self._evict(int(leaving[0]))
            self._start(page, self._table.take(page))

    def _request(self, plan: Plan) -> None:
        """Ask for pages that are due, the most important first, if there is room or a page that they replace."""
        pages = np.flatnonzero(plan.due & (self._table.slots < 0) & ~self._failures.barred())
        pages = pages[self._table.is_below_linked(pages)]
        pages = pages[(-plan.ranks[pages]).argsort(kind="stable")][: self._options.requests]
        leaving = self._table.leaving(plan.ranks)
        spoken = sum(slot is None for slot, _ in self._jobs.values())
        for page in pages.tolist():
            if page in self._jobs:
                continue
            if len(self._jobs) >= self._options.requests:
                return
            slot = None
            if self._table.has_room():
                slot = self._table.take(page)
            elif self._replaces(page, leaving[spoken : spoken + 1], plan):
                spoken += 1
            else:
                return
            self._counts["prefetches"] += not plan.wanted[page]
            self._start(page, slot)

    def _replaces(self, page: int, leaving: np.ndarray, plan: Plan) -> bool:
        """Whether a page matters enough more than another, if there is one."""
        return bool((plan.ranks[page] > (1 + self._options.margin) * plan.ranks[leaving]).any())

    def _start(self, page: int, slot: int | None) -> None:
        submit = self._threads.submit
        future = submit(self._fetch, page) if slot is None else submit(self._load, page, slot)
        self._jobs[page] = _Job(slot, future)

    def _drop(self, page: int) -> None:
        slot, _ = self._jobs.pop(page)
        if slot is not None:
            self._table.give_back(page, slot)

    def _link(self, page: int, slot: int, filled: Filled) -> None:
        self._pool.link(slot, filled, self._table.above(page))
        self._table.link(page, slot)
        self._failures.came(page)
        self._counts["bytes_uploaded"] += filled.nodes * self._pool.slot_bytes // self._pool.size

    def _evict(self, page: int) -> None:
        above = self._table.above(page)
        assert above is not None
        self._pool.unlink(self._table.unlink(page), above)
        self._counts["evictions"] += 1

    def _count(self, plan: Plan) -> None:
        linked = self._table.slots[plan.wanted] >= 0
        missing = int((~linked).sum())
        found = {"frames": 1, "hits": len(linked) - missing, "misses": missing, "stalls": int(missing > 0)}
        for name, more in found.items():
            self._counts[name] += more
