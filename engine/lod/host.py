"""Pages as they were read: bytes within a budget, the least recently used of them dropped first."""

import threading
from collections import OrderedDict

from .ranges import Stop
from .store import Store


class HostPages:
    """Bytes of pages of several stores, from any thread. Pages that share their place in a file are kept once."""

    def __init__(self, limit: int) -> None:
        """Keep up to so many bytes."""
        self._limit, self._lock = limit, threading.Lock()
        self._pages: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self.held = self.read = 0  # bytes: kept now, and fetched from files so far

    def fetch(self, number: int, store: Store, page: int, stop: Stop) -> bytes:
        """A page of a store, known by that number.

        Raises:
            DamagedPage: as `Store.read`.
        """
        key = number, int(store.directory["offset"][page])
        with self._lock:
            if key in self._pages:
                self._pages.move_to_end(key)
                return self._pages[key]
        data = store.read(page, stop)
        with self._lock:
            self.read += len(data)
            self.held += len(data) - len(self._pages.pop(key, b""))  # another thread may have been as quick
            self._pages[key] = data
            while self.held > self._limit:
                self.held -= len(self._pages.popitem(last=False)[1])
        return data

    def clear(self) -> None:
        """Drop all."""
        with self._lock:
            self._pages.clear()
            self.held = 0
