"""Fly through files far larger than a cache's budgets and print, as JSON, what memory the process took at most.

Run by test_cache_memory.py in a process of its own: python fly_through.py FILE DEVICE_BYTES HOST_BYTES
"""

import json
import os
import sys
import time

import torch

from lyra.engine.cache import PageCache
from lyra.engine.cache_options import CacheOptions
from lyra.engine.lod.store import open_store

COPIES, FRAMES, FLIGHTS = 4, 300, 10


def resident() -> int:
    """Bytes of this process that are in memory and its own."""
    with open("/proc/self/statm") as stream:
        _, pages, shared, *_ = map(int, stream.read().split())
    return (pages - shared) * os.sysconf("SC_PAGE_SIZE")


def fly(cache: PageCache, enough: int) -> int:
    """Through all of it, once or until so many bytes are read, for on a busy machine readers fall behind."""
    most = 0
    for _ in range(FLIGHTS):
        for frame in range(FRAMES):
            eye = torch.tensor([frame / FRAMES * 130 - 45, 0.0, 0.0])
            cache.update(eye, None, 1e-4, 0.01, eye + 5)
            most = max(most, resident())
            time.sleep(0.002)
        if cache.counters().bytes_read > enough:
            break
    return most


def main() -> None:
    """Fly once with small budgets, which loads all code, then with those given."""
    path, device, host = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    stores = [open_store(path) for _ in range(COPIES)]
    with PageCache(stores, options=CacheOptions(device_bytes=device // 8, host_bytes=host // 8)) as cache:
        fly(cache, host // 4)
    del cache
    before = resident()
    with PageCache(stores, options=CacheOptions(device_bytes=device, host_bytes=host)) as cache:
        most = fly(cache, 2 * host)
        told = {"before": before, "most": most, **vars(cache.counters())}
    print(json.dumps(told | {"pages": sum(map(len, stores)), "nodes": sum(s.metadata.nodes for s in stores)}))


if __name__ == "__main__":
    main()
