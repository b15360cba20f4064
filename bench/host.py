"""What this machine's cores and memory can do at most, measured in a second or two: the CPU's `roofline.Machine`.

Two loops on all cores. One sums an array far larger than any cache. The other evaluates polynomials on numbers that
stay in the first-level cache, one multiply-add a lane and step, with more of them independent than any core overlaps.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange

from ..engine.machine import cpu_name
from ..kernels.cpu.threads import all_cores
from .roofline import Machine

STREAM = 1 << 25  # floats, 128 MiB
LOCAL = 2048  # floats, 8 KiB
ROUNDS = 8000
REPEATS = 15


@njit(parallel=True, fastmath=True, cache=False)
def _sum(values: Any, parts: Any) -> None:
    share = len(values) // len(parts)
    for part in prange(len(parts)):
        total = np.float32(0.0)
        for i in range(part * share, (part + 1) * share):
            total += values[i]
        parts[part] = total


@njit(parallel=True, fastmath={"contract"}, error_model="numpy", cache=False)  # in this order, but fused
def _polynomials(parts: Any, rounds: int) -> None:
    for part in prange(len(parts)):
        values = np.full(LOCAL, np.float32(0.5), dtype=np.float32)
        slope, shift = np.float32(0.999), np.float32(0.0005)
        for _ in range(rounds):
            for i in range(LOCAL):
                v = values[i]
                v = v * slope + shift
                v = v * slope + shift
                v = v * slope + shift
                v = v * slope + shift
                v = v * slope + shift
                v = v * slope + shift
                v = v * slope + shift
                v = v * slope + shift
                values[i] = v
        parts[part] = values[0]


STEPS = 8  # multiply-adds in the body above


@cache
def host_machine() -> Machine:
    """Of the best of some runs, since nothing but haste can make a run too fast."""
    parts = np.zeros(get_num_threads(), dtype=np.float32)
    values = np.ones(STREAM, dtype=np.float32)
    with all_cores():
        streamed = values.nbytes / _best(lambda: _sum(values, parts))
        computed = len(parts) * ROUNDS * LOCAL * STEPS / _best(lambda: _polynomials(parts, ROUNDS))
    return Machine(cpu_name(), streamed, computed)


def _best(run: Callable[[], None]) -> float:
    """Seconds; the first run compiles."""
    times = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])
