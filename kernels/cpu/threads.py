"""One frame at a time: a frame uses all cores, and not every threading layer of Numba bears two callers."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from numba.np.ufunc.parallel import threading_layer


class _State:
    lock = threading.Lock()
    lost = False  # this process was forked from one that ran OpenMP, whose threads a fork does not copy


@contextmanager
def all_cores() -> Iterator[None]:
    """Hold the cores for one frame.

    Raises:
        RuntimeError: in a child that was forked after its parent had rendered; GNU OpenMP would kill it.
    """
    if _State.lost:
        raise RuntimeError(
            "this process was forked from one that had rendered on the CPU, and OpenMP's threads do not survive a"
            ' fork: start processes with multiprocessing.set_start_method("spawn")'
        )
    with _State.lock:
        yield


def _after_fork() -> None:
    _State.lock = threading.Lock()  # another thread may have held it
    try:
        _State.lost = threading_layer() == "omp"
    except ValueError:  # Numba has started no threads
        _State.lost = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
