"""The paged cache over HTTP: the frames go on, whatever the server does."""

import dataclasses
import random
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from lyra.engine.cache import PageCache
from lyra.engine.cache_options import CacheOptions
from lyra.engine.lod import pages as pages_module
from lyra.engine.lod import ranges
from lyra.engine.lod.ranges import Patience
from lyra.engine.lod.store import Store, open_store
from lyra.engine.lod.writer import write_store

NEAR, EYE = 0.01, torch.tensor([1.0, 1.0, -6.0])
HASTY = Patience(timeout=0.5, answer=1.0, tries=2, pause=0.01)
OPTIONS = CacheOptions(workers=3, retry=0.02, longest_retry=0.1)


@pytest.fixture
def near(tmp_path: Path, stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """What is served, from disk, to compare with."""
    monkeypatch.setattr(pages_module, "CAPACITY", 256)
    monkeypatch.setattr(ranges, "HEAD", 4096)
    write_store(tmp_path / "a.lyra", stored_trees.merged_tree(stored_trees.scene_of(3000, 1)))
    with open_store(tmp_path / "a.lyra") as store:
        yield store


@pytest.fixture
def server(near: Store, page_server: ModuleType) -> Iterator[Any]:
    with page_server.serving(Path(near.name).read_bytes()) as server:
        yield server


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("lyra-cache")]


def test_a_good_server(server: Any, near: Store, lod_pools: ModuleType) -> None:
    with open_store(server.url, HASTY) as store, PageCache([store], options=OPTIONS) as cache:
        cache.update(EYE, None, 0.0, NEAR)
        assert cache.settle(60) and len(lod_pools.linked(cache)) == len(store)
        lod_pools.assert_cuts(cache, [near], EYE, 500)
        assert cache.counters().bytes_read == store.directory["bytes"].sum() and cache.counters().failures == 0


def test_a_slow_and_failing_server(server: Any, near: Store, lod_pools: ModuleType) -> None:
    """No frame waits for it, no page is lost by it, and one warning tells of it."""
    dice = random.Random(0)
    with open_store(server.url, HASTY) as store, PageCache([store], options=OPTIONS) as cache:
        server.spoilt += dice.choices(["500", "503", "drop", "silence", "half", "drip", "404", ""], k=80)
        longest = 0.0
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            end = time.monotonic() + 60
            while len(lod_pools.linked(cache)) < len(store):
                assert time.monotonic() < end
                start = time.monotonic()
                cache.update(EYE, None, 0.0, NEAR)
                longest = max(longest, time.monotonic() - start)
                lod_pools.assert_cache(cache, [near])
                time.sleep(0.01)
        assert [str(warning.message).split("; ")[1] for warning in told] == [
            "coarser nodes stand in until it can be read, as for others that may follow"
        ]
        assert longest < 0.4 and cache.counters().failures > 3 and not server.spoilt
        lod_pools.assert_cuts(cache, [near], EYE, 500)


def test_closing_while_the_server_is_silent(server: Any) -> None:
    """Reads that would take a minute are cut short."""
    patience = Patience(timeout=60, answer=60, tries=9, pause=60)
    with open_store(server.url, patience) as store:
        cache, asked = PageCache([store], options=OPTIONS), len(server.asked)
        server.spoilt += ["hang", "503", "hang"]
        cache.update(EYE, None, 0.0, NEAR)
        while len(server.asked) < asked + 3:
            time.sleep(0.001)
        assert len(threads()) == 3 and not cache.settle(0.05)
        start = time.monotonic()
        cache.close()
        assert time.monotonic() - start < 2 and not threads()
        assert len(store.read(2)) == store.directory["bytes"][2]


def test_a_server_that_goes_away_and_comes_back(server: Any, near: Store, lod_pools: ModuleType) -> None:
    with open_store(server.url, HASTY) as store, PageCache([store], options=OPTIONS) as cache:
        level = float(np.sort(cache._directories._errors)[len(store) // 2]) / 200
        far = torch.tensor([0.0, 0.0, -200.0])
        cache.update(far, None, level, NEAR)
        assert cache.settle(60)
        there = set(lod_pools.linked(cache))
        assert 1 < len(there) < len(store)
        server.spoilt += ["503"] * 10_000
        with pytest.warns(UserWarning, match="the server answers 503 .2 tries.; coarser nodes stand in until") as told:
            for _ in range(60):
                cache.update(EYE, None, 0.0, NEAR)
                time.sleep(0.005)
        lod_pools.assert_cuts(cache, [near], EYE, 500)
        assert len(told) == 1 and set(lod_pools.linked(cache)) == there and cache.counters().stalls >= 60
        server.spoilt.clear()
        end = time.monotonic() + 60
        while len(lod_pools.linked(cache)) < len(store):
            assert time.monotonic() < end
            cache.update(EYE, None, 0.0, NEAR)
            time.sleep(0.005)


def test_two_workers_read_at_a_time(server: Any) -> None:
    """One page that hangs does not hold up the rest."""
    options = dataclasses.replace(OPTIONS, workers=2)
    with open_store(server.url, Patience(timeout=60)) as store, PageCache([store], options=options) as cache:
        server.spoilt += ["hang"]
        end = time.monotonic() + 60
        while int((cache._table.slots < 0).sum()) > len(store) // 2:
            assert time.monotonic() < end
            cache.update(EYE, None, 0.0, NEAR)
            time.sleep(0.005)
        server.released.set()
        assert cache.settle(60) and (cache._table.slots >= 0).all()
