"""The directories of several stores as one list of pages, and how much each page matters to an eye."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...kernels.cpu.page_errors import page_errors
from ...kernels.gaze import Gaze, pack_eye
from .store import Store


class View(NamedTuple):
    """What pages are wanted for."""

    eye: Tensor  # [3] world axes, on the CPU
    gaze: Gaze | None
    threshold: float  # view error: pages hang from nodes of which one may have a larger one
    near: float  # world units
    predicted_eye: Tensor | None  # [3] where the eye will be soon


class Plan(NamedTuple):
    """What a view makes of p pages; a page has no more of anything than the one from which it hangs."""

    ranks: np.ndarray  # [p] float32, the order in which pages deserve to be resident
    wanted: np.ndarray  # [p] bool, now
    due: np.ndarray  # [p] bool, now or from the predicted eye


class Directories:
    """Attributes, of p pages, store after store:

    stores: [p] int32, the store of each.
    pages: [p] int32, its number there.
    parents: [p] int32, where in this list the page is from which it hangs, -1 for the first of a store.
    places: [p] uint64, of its bytes in its file.
    nodes: [p] int64, how many it has.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        """Join them."""
        lengths = [len(store) for store in stores]
        starts = np.cumsum([0, *lengths])
        entries = np.concatenate([store.directory for store in stores])
        self.stores = np.repeat(np.arange(len(stores), dtype=np.int32), lengths)
        self.pages = (np.arange(starts[-1]) - starts[self.stores]).astype(np.int32)
        self.parents = np.where(entries["parent"] < 0, -1, entries["parent"] + starts[self.stores]).astype(np.int32)
        self.places = entries["offset"].copy()
        self.nodes = entries["nodes"].astype(np.int64)
        self._spheres = np.concatenate([entries["centre"], entries["radius"][:, None]], axis=1).ravel()
        self._errors = entries["error"].copy()

    def __len__(self) -> int:
        return len(self.stores)

    def plan(self, view: View, lost: np.ndarray) -> Plan:
        """What to load for a view.

        A page's priority is the view error of a node that had the sphere and the largest error of those from which it
        hangs, and not above that of its parent page. Ranks are priorities, raised where the predicted eye has larger
        ones, q, to  threshold q / (threshold + q): above those of pages that nobody wants, below those wanted now.

        Args:
            lost: [p] bool, pages that will never be there; neither they nor what hangs from them has a priority.
        """
        now = self._priorities(view.eye, view, lost)
        wanted = now > view.threshold
        if view.predicted_eye is None:
            return Plan(now, wanted, wanted)
        ahead = self._priorities(view.predicted_eye, view, lost)
        least = np.float32(max(view.threshold, np.finfo(np.float32).tiny))
        return Plan(np.maximum(now, ahead * (least / (least + ahead))), wanted, wanted | (ahead > view.threshold))

    def _priorities(self, eye: Tensor, view: View, lost: np.ndarray) -> np.ndarray:
        row = pack_eye(eye, view.gaze, view.near, 0.0).numpy()
        found = np.empty(len(self), np.float32)
        page_errors(self._spheres, self._errors, self.parents, lost, row, view.gaze is not None, found)
        return found
