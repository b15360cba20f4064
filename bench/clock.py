"""Time of each stage, of the whole frame and of a training step: the wall on a CPU, events on a GPU."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

FRAME = "frame"  # the span round all others
STEP = "step"  # the same of a frame and its backward pass


class Clock:
    """Collects spans in milliseconds, one value a span and frame.

    Any thread may open spans, one at a time each: autograd runs the backward pass of a GPU in its own, on the stream of
    the forward. No span waits for the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: dict[str, list[tuple[Any, Any]]] = {}

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time what happens inside, under `name`."""
        before = self._mark()
        yield
        self._marks.setdefault(name, []).append((before, self._mark()))

    def milliseconds(self) -> dict[str, np.ndarray]:
        """All values of each span so far, in the order of the frames; waits for the GPU."""
        if self._on_gpu:
            torch.cuda.synchronize()
            return {n: np.array([a.elapsed_time(b) for a, b in marks]) for n, marks in self._marks.items()}
        return {n: np.array([(b - a) * 1e3 for a, b in marks]) for n, marks in self._marks.items()}

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
