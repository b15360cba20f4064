"""What of hierarchies is drawn, frame after frame: pages brought up to date, the cut, and what it shows.

The buffers are allocated once, for the budget. On a GPU nothing waits: the threshold that the cache and the next cut
go by is that of the last frame whose number has come back.
"""

import torch
from torch import Tensor

from ...kernels.frames import Span, no_span
from ...kernels.gaze import Gaze
from ...kernels.lod import Drawn, Nodes, cut, gather
from ..cache import PageCache
from .pages import by_error
from .tree import Tree, as_nodes

NEAR = 1e-3  # of the root's radius: distances are not taken to be less
STAGES = ("pages", "cut", "gather", "profile")  # the spans, in order; the renderer does the last


class Detail:
    """Draws from a tree in memory, or from the pages of a cache.

    Attributes:
        threshold: [] view error of the last cut, None before the first.
        number: [] int32 nodes that it drew.
        room: the buffers.
    """

    def __init__(self, source: Tree | PageCache, *, budget: int, backend: str, device: torch.device) -> None:
        """
        Args:
            budget: splats to draw, at most; 1 or more.
            backend: a resolved one.
        """
        self._source, self._budget, self._backend = source, budget, backend
        self._tree: Nodes | None = None
        if isinstance(source, Tree):
            self._tree = Nodes(*(tensor.to(device) for tensor in as_nodes(by_error(source))))
            self._roots = torch.zeros(1, dtype=torch.int32, device=device)
            self._near = NEAR * float(source.radii[0])
        else:
            self._roots, self._near = source.roots, NEAR * source.radius
        self._near = max(self._near, 1e-12)  # of a single splat
        rows = max(budget, len(self._roots))
        shapes = [tensor.shape[1:] for tensor in self._nodes[:5]]
        columns = (torch.zeros(rows, *shape, device=device) for shape in shapes)
        self.room = Drawn(*columns, exponents=torch.ones(rows, device=device))
        self.threshold: Tensor | None = None
        self.number = torch.zeros((), dtype=torch.int32, device=device)
        self._known = torch.zeros((), pin_memory=device.type == "cuda")  # the threshold, once it has come back
        self._arrived = torch.cuda.Event() if device.type == "cuda" else None
        self._seen = 0.0

    @property
    def _nodes(self) -> Nodes:
        return self._source.nodes if isinstance(self._source, PageCache) else self._tree  # type: ignore[return-value]

    def draw(self, eye: Tensor, gaze: Gaze | None, predicted_eye: Tensor | None = None, span: Span = no_span) -> Drawn:
        """The splats to draw for an eye [3] on the CPU; overwritten by the next call.

        On a GPU there are as many rows as the budget; those that are not used have opacity 0.
        """
        if isinstance(self._source, PageCache):
            with span("pages"):
                self._source.update(eye, gaze, self._last(), self._near, predicted_eye)
        with span("cut"):
            found = cut(
                self._nodes, self._roots, eye.to(self._roots.device).float(), budget=self._budget, near=self._near,
                gaze=gaze, previous=self.threshold, backend=self._backend,
            )  # fmt: skip
        self.threshold, self.number = found.threshold, found.number
        self._known.copy_(found.threshold, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
        with span("gather"):
            return gather(self._nodes, found.ids, found.exponents, out=self.room, backend=self._backend)

    def _last(self) -> float:
        """The last threshold that has come back."""
        if self._arrived is None or self._arrived.query():
            self._seen = float(self._known)
        return self._seen
