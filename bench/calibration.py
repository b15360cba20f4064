"""A small fixed loop whose speed says how fast this machine's cores are just now.

It does for one splat what a blend must: an exponential and five multiply-adds a pixel, on 4,096 pixels that stay in the
first-level cache. A renderer's splat-pixels a second divided by this loop's can be compared between machines. The loop
is not part of any renderer: never tune it, or old figures lose their meaning.
"""

import math
import time

import numpy as np
from numba import get_num_threads, prange

from ..kernels.cpu.compiled import compiled
from ..kernels.cpu.threads import all_cores

_PIXELS = 4096
_ROUNDS = 200


@compiled(parallel=True)
def _loop(threads, rounds):
    total = 0.0
    for _ in prange(threads):
        planes = np.zeros((6, _PIXELS), dtype=np.float32)
        planes[0] = 1.0
        for k in range(rounds):
            slope = np.float32(1e-3) * np.float32(k + 1)
            for i in range(_PIXELS):
                u = np.float32(i) * slope * np.float32(1e-3)
                weight = np.float32(0.01) * math.exp(-u * u) * planes[0, i]
                planes[0, i] -= weight
                planes[1, i] += weight * np.float32(0.5)
                planes[2, i] += weight * np.float32(0.4)
                planes[3, i] += weight * np.float32(0.3)
                planes[4, i] += weight * np.float32(2.0)
                planes[5, i] += weight
        total += planes[1, 0] + planes[5, _PIXELS - 1]
    return total


def splat_pixels_per_second(repeats: int = 21) -> float:
    """Of the calibration loop on all cores: the median of some runs of a few milliseconds each."""
    threads, times = get_num_threads(), []
    with all_cores():
        _loop(threads, 1)
        for _ in range(repeats):
            start = time.perf_counter()
            _loop(threads, _ROUNDS)
            times.append(time.perf_counter() - start)
    return threads * _ROUNDS * _PIXELS / float(np.median(times))
