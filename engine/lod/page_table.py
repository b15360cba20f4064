"""Which page is in which slot: pages are given slots, linked, and taken out, so that the parent of each is linked."""

import numpy as np

from .pool import Above


class PageTable:
    """Attributes:

    slots: [p] int32, the slot of each linked page, -1 for the others.
    pages: [s] int32, the page linked in each slot, or -1.
    """

    def __init__(self, parents: np.ndarray, slots: int) -> None:
        """All slots are free.

        Args:
            parents: [p] int32, -1 for pages that never go.
        """
        self.slots, self.pages = np.full(len(parents), -1, np.int32), np.full(slots, -1, np.int32)
        self._parents = parents
        self._below = np.zeros(len(parents), np.int32)  # pages below that have a slot, linked or not yet
        self._free = list(range(slots))[::-1]

    def has_room(self) -> bool:
        """Whether a slot is free."""
        return bool(self._free)

    def take(self, page: int) -> int:
        """A free slot for a page whose parent is linked, and now stays."""
        if self._parents[page] >= 0:
            self._below[self._parents[page]] += 1
        return self._free.pop()

    def give_back(self, page: int, slot: int) -> None:
        """The slot of a page that is not linked, or no longer."""
        self._below[self._parents[page]] -= 1
        self._free.append(slot)

    def link(self, page: int, slot: int) -> None:
        """A page is there."""
        self.slots[page], self.pages[slot] = slot, page

    def unlink(self, page: int) -> int:
        """A page goes; returns its slot, which is free."""
        slot = int(self.slots[page])
        self.slots[page] = self.pages[slot] = -1
        self.give_back(page, slot)
        return slot

    def is_below_linked(self, pages: np.ndarray | int) -> np.ndarray:
        """Whether the parents of pages that have one are linked; False of others."""
        parents = self._parents[pages]
        return (parents >= 0) & (self.slots[parents] >= 0)

    def above(self, page: int) -> Above | None:
        """Where a page hangs; None for one without a parent."""
        parent = int(self._parents[page])
        return None if parent < 0 else Above(int(self.slots[parent]), page - parent)

    def leaving(self, ranks: np.ndarray) -> np.ndarray:
        """The linked pages that can go, lowest rank first."""
        pages = self.pages[self.pages >= 0]
        pages = pages[(self._below[pages] == 0) & (self._parents[pages] >= 0)]
        return pages[ranks[pages].argsort(kind="stable")]
