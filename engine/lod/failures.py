"""Pages that did not come: damaged ones, which never will, and those out of reach, which are asked for again."""

import time

import numpy as np

from .directories import Directories
from .store import DamagedPage, UnreachablePage


class Failures:
    """Attributes: `lost` [p] bool, damaged pages; `count`, of failures; `told`, warnings to be given."""

    def __init__(self, directories: Directories, first: float, longest: float) -> None:
        """None so far.

        Args:
            first: seconds until a page out of reach is asked for again; each time in a row twice as many.
            longest: seconds, at most.
        """
        self._directories, self._first, self._longest = directories, first, longest
        pages = len(directories)
        self.lost, self.count = np.zeros(pages, bool), 0
        self.told: list[str] = []
        self._tries, self._again = np.zeros(pages, np.int32), np.zeros(pages)
        self._silent: set[int] = set()  # stores of which it has been told that pages are out of reach

    def waiting(self) -> np.ndarray:
        """[p] bool, those not to be asked for yet."""
        return self._again > time.monotonic()

    def came(self, page: int) -> None:
        """A page was read after all."""
        self._tries[page] = 0

    def add(self, page: int, error: DamagedPage) -> None:
        """A page did not come; one that is damaged takes others of the same bytes with it."""
        self.count += 1
        stores, places = self._directories.stores, self._directories.places
        store = int(stores[page])
        if isinstance(error, UnreachablePage):
            pause = self._first * 2.0 ** min(self._tries[page], 60)
            self._again[page] = time.monotonic() + min(pause, self._longest)
            self._tries[page] += 1
            if store not in self._silent:
                self._silent.add(store)
                self.told.append(f"{error}; coarser nodes stand in until it can be read, as for others that may follow")
        elif not self.lost[page]:
            self.lost |= (stores == store) & (places == places[page])
            self.told.append(f"{error}; coarser nodes stand in")
