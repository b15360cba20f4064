"""The paged cache: what a view wants comes, the rest goes, and nothing that fails stops the frames."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from lyra.engine.cache import PageCache
from lyra.engine.cache_options import CacheOptions
from lyra.engine.errors import InputError
from lyra.engine.lod import failures
from lyra.engine.lod import pages as pages_module
from lyra.engine.lod.directories import Directories, View
from lyra.engine.lod.failures import Failures
from lyra.engine.lod.pool import slot_bytes
from lyra.engine.lod.store import DamagedPage, Store, UnreachablePage, open_store
from lyra.engine.lod.writer import StoreWriter, write_store
from lyra.kernels.gaze import Gaze, pack_eye
from lyra.kernels.lod import cut
from lyra.kernels.lod_reference import view_errors

NEAR = 0.01
EYE = torch.tensor([1.0, 1.0, -6.0])
PLENTY = CacheOptions(retry=0.01, longest_retry=0.02)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "CAPACITY", 256)


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lyra-cache")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, stored_trees: ModuleType) -> bytes:
    """A file of 30 pages or so, three deep."""
    path = tmp_path_factory.mktemp("cache") / "a.lyra"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages_module, "CAPACITY", 256)
        write_store(path, stored_trees.merged_tree(stored_trees.scene_of(5000, 1)))
    return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path, data: bytes) -> Path:
    (tmp_path / "a.lyra").write_bytes(data)
    return tmp_path / "a.lyra"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    with open_store(file) as store:
        yield store


@pytest.fixture
def other(tmp_path: Path, stored_trees: ModuleType) -> Iterator[Store]:
    """A second scene, without view-dependent colours."""
    write_store(tmp_path / "b.lyra", stored_trees.merged_tree(stored_trees.scene_of(1500, 0, seed=5), seed=5))
    with open_store(tmp_path / "b.lyra") as store:
        yield store


def slots(count: int, **more: Any) -> CacheOptions:
    """A budget of so many slots of a file here."""
    return dataclasses.replace(PLENTY, device_bytes=count * slot_bytes(256, 4), **more)


def below(store: Store, page: int) -> set[int]:
    """A page and all that hang from it."""
    found = {page}
    for number, parent in enumerate(store.directory["parent"].tolist()):
        if parent in found:
            found.add(number)
    return found


def numbers(pages: dict[tuple[int, int], int]) -> set[int]:
    return {page for _, page in pages}


def until(holds: Callable[[], object]) -> None:
    """Wait for something that other threads do."""
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_the_first_frame_is_there_at_once(store: Store, other: Store, lod_pools: ModuleType) -> None:
    before = threading.active_count()
    with PageCache([store, other], options=PLENTY) as cache:
        assert set(lod_pools.linked(cache)) == {(0, 0), (1, 0)} and cache.roots.tolist() == [0, 256]
        lod_pools.assert_cuts(cache, [store, other], EYE, 100)
        assert cache.counters().frames == 0 and threading.active_count() == before


def test_all_of_two_scenes(store: Store, other: Store, lod_pools: ModuleType, stored_trees: ModuleType) -> None:
    with PageCache([store, other], options=PLENTY) as cache:
        with pytest.raises(ValueError, match="update has not been called"):
            cache.settle(1)
        cache.update(EYE, None, 0.0, NEAR)
        assert cache.settle(60)
        pages = {(0, page) for page in range(len(store))} | {(1, page) for page in range(len(other))}
        assert set(lod_pools.linked(cache)) == pages
        lod_pools.assert_cuts(cache, [store, other], EYE, 700)
        cache.update(EYE, None, 0.0, NEAR)
        counters = cache.counters()
        assert counters.bytes_read == sum(int(one.directory["bytes"].sum()) for one in (store, other))
        assert counters.host_bytes == counters.bytes_read
        assert counters.device_bytes == sum(tensor.nbytes for tensor in cache.nodes)
        nodes = sum(int(one.directory["nodes"].sum()) for one in (store, other))
        assert abs(counters.bytes_uploaded - nodes * slot_bytes(256, 4) / 256) < len(pages)
        assert counters.hits > 0 and counters.misses > 0 and 0 < counters.stalls < counters.frames
        assert counters.evictions == counters.failures == counters.prefetches == 0


def test_the_rows_of_a_plan(store: Store, other: Store) -> None:
    """Priorities hold those of all nodes from which a page hangs, and are monotone; wanted and due as documented."""
    stores = [store, other]
    directories = Directories(stores)
    lost = np.zeros(len(directories), bool)
    for seed in range(12):
        dice = torch.Generator().manual_seed(seed)
        eye, soon = (torch.rand(3, generator=dice) * 12 - 4 for _ in range(2))
        gaze = Gaze(tuple(torch.randn(3, generator=dice).tolist())) if seed % 2 else None
        view = View(eye, gaze, 0.05, NEAR, None)
        plan = directories.plan(view, lost)
        row = pack_eye(eye, gaze, NEAR, 0.0)
        parents = directories.parents
        assert (plan.ranks[parents[parents >= 0]] >= plan.ranks[parents >= 0]).all()
        assert ((plan.ranks > 0.05) == plan.wanted).all() and (plan.due == plan.wanted).all()
        loose = 0
        for number, place in enumerate(zip(directories.stores, directories.pages, strict=True)):
            one, page = stores[place[0]], int(place[1])
            parent = int(one.directory["parent"][page])
            above = one.decode(max(parent, 0), one.read(max(parent, 0)))
            hung = above.children >> 16 == page - parent if page else torch.arange(len(above.counts)) == 0
            spheres = above.gaussians.means, above.radii, above.errors
            exact = view_errors(*spheres, row, gaze is not None)[hung]
            assert float(exact.max()) <= plan.ranks[number] * (1 + 1e-5)
            loose += plan.ranks[number] > 30 * float(exact.max())
        assert loose < len(parents) / 2  # not just large

        ahead = directories.plan(view._replace(eye=soon), lost)
        both = directories.plan(view._replace(predicted_eye=soon), lost)
        assert (both.wanted == plan.wanted).all() and (both.due == (plan.wanted | ahead.wanted)).all()
        assert (both.ranks[plan.wanted] == plan.ranks[plan.wanted]).all()
        early = both.due & ~both.wanted
        assert (both.ranks[early] < 0.05).all()
        rest = ~both.due
        assert not early.any() or not rest.any() or both.ranks[early].max() >= 0.025
        gone = lost.copy()
        gone[3] = True
        assert set(np.flatnonzero(directories.plan(view, gone).ranks == 0)) == below(store, 3)


@pytest.mark.parametrize("seed", range(4))
def test_any_walk_with_any_budget(store: Store, other: Store, lod_pools: ModuleType, seed: int) -> None:
    """The pool is whole after every update, whatever came and went; cuts draw every resident leaf once."""
    stores, count = [store, other], (4, 5, 7, 12)[seed]
    options = slots(count, workers=1 + seed % 3, links=1 + seed % 2, host_bytes=(0, 20_000, 1 << 28)[seed % 3])
    page = int(store.directory["bytes"].max())
    with PageCache(stores, options=options) as cache:
        assert sum(tensor.nbytes for tensor in cache.nodes) == options.device_bytes
        threshold = 0.0
        for frame, eye in enumerate(lod_pools.random_walk(seed, 60)):
            gaze = Gaze((0.0, 0.0, 1.0)) if frame % 3 else None
            cache.update(eye, gaze, threshold, NEAR, eye + 0.3 if seed % 2 else None)
            lod_pools.assert_cache(cache, stores)
            if frame % 10 == 0:
                threshold = 0.2 * lod_pools.assert_cuts(cache, stores, eye, 150)
            counters = cache.counters()
            assert counters.host_bytes <= options.host_bytes + options.workers * page
            assert counters.device_bytes <= options.device_bytes
            time.sleep(0.002)
        assert cache.settle(60)
        assert len(lod_pools.linked(cache)) == count and counters.evictions > 0
        lod_pools.assert_cuts(cache, stores, eye, 150)


@pytest.mark.parametrize("count", [2, 6])
def test_an_eviction_storm_calms_down(store: Store, lod_pools: ModuleType, count: int) -> None:
    """The eye jumps from corner to corner; where it rests, nothing trades places, and what ranks highest is there."""
    corners = [torch.tensor([x, y, z]) for x in (-9.0, 13.0) for y in (-9.0, 13.0) for z in (-9.0, 13.0)]
    with PageCache([store], options=slots(count)) as cache:
        for turn in range(40):
            cache.update(corners[turn * 3 % 8], None, 0.01, NEAR)
            cache.settle(60) if turn % 2 == 0 else time.sleep(0.003)
            lod_pools.assert_cache(cache, [store])
        assert cache.settle(60)
        evictions, pages = cache.counters().evictions, lod_pools.linked(cache)
        assert evictions >= 5 and len(pages) == count
        for _ in range(30):
            cache.update(corners[turn * 3 % 8], None, 0.01, NEAR)
            time.sleep(0.002)
        assert cache.counters().evictions == evictions and lod_pools.linked(cache) == pages
        ranks = Directories([store]).plan(
            View(corners[turn * 3 % 8], None, 0.01, NEAR, None), np.zeros(len(store), bool)
        )
        out = [
            p for p in set(range(len(store))) - numbers(pages) if int(store.directory["parent"][p]) in numbers(pages)
        ]
        free_to_go = [p for p in numbers(pages) if p and not below(store, p) & numbers(pages) - {p}]
        assert ranks.ranks[out].max() <= 1.1 * ranks.ranks[free_to_go].min()


def test_a_budget_below_the_first_pages(store: Store, other: Store, lod_pools: ModuleType) -> None:
    with pytest.warns(UserWarning, match="a budget of 0 bytes has no room for the first pages") as told:
        cache = PageCache([store, other], options=dataclasses.replace(PLENTY, device_bytes=0))
    assert len(told) == 1
    with cache:
        for _ in range(5):
            cache.update(EYE, None, 0.0, NEAR)
        assert not cache._jobs and len(lod_pools.linked(cache)) == 2
        assert cache.counters().stalls == 5
        lod_pools.assert_cuts(cache, [store, other], EYE, 5000)


def test_wanted_pages_come_first_then_prefetched_ones(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, page, *rest: (asked.append(page), read(self, page, *rest))[1])
    far, near, threshold = torch.tensor([60.0, 60.0, 60.0]), torch.tensor([30.0, -3.0, -3.0]), 0.06
    with open_store(file) as store, PageCache([store], options=dataclasses.replace(PLENTY, workers=1)) as cache:
        here, there = (
            cache._directories.plan(View(eye, None, threshold, NEAR, None), np.zeros(len(store), bool)).wanted
            for eye in (far, near)
        )
        assert 1 < here.sum() < there.sum() < len(store)
        cache.update(far, None, threshold, NEAR)
        assert cache.settle(60) and set(asked) == {0, *np.flatnonzero(here)} and cache.counters().prefetches == 0
        cache.update(far, None, threshold, NEAR, near)
        assert cache.settle(60) and set(asked) == set(np.flatnonzero(here | there))
        assert cache.counters().prefetches == (there & ~here).sum() and len(asked) == len(set(asked))
        before = cache.counters()
        cache.update(near, None, threshold, NEAR)
        after = cache.counters()
        assert (after.stalls, after.misses, after.hits - before.hits) == (before.stalls, before.misses, there.sum())


def test_requests_that_are_no_longer_wanted_are_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is being read, and is kept; those that wait behind it are dropped."""
    asked, go = [], threading.Event()
    read = Store.read

    def slow(self: Store, page: int, *rest: Any) -> bytes:
        asked.append(page)
        assert not page or go.wait(20)
        return read(self, page, *rest)

    monkeypatch.setattr(Store, "read", slow)
    with PageCache([store], options=dataclasses.replace(PLENTY, workers=1, requests=5)) as cache:
        cache.update(EYE, None, 0.0, NEAR)
        assert len(cache._jobs) == 5
        until(lambda: len(asked) == 2)
        cache.update(EYE, None, 1e6, NEAR)
        assert len(cache._jobs) == 1
        go.set()
        assert cache.settle(20) and len(asked) == 2
        cache.update(EYE, None, 0.0, NEAR)
        assert cache.settle(60) and sorted(asked) == list(range(len(store)))


def test_the_host_keeps_what_was_read(store: Store, lod_pools: ModuleType) -> None:
    """Pages that leave the pool are not read again while the host has room; without room they are."""
    corners = [torch.full((3,), -9.0), torch.full((3,), 13.0)]
    for host, again in ((1 << 28, False), (0, True)):
        with PageCache([store], options=slots(4, host_bytes=host)) as cache:
            read = []
            for turn in range(6):
                cache.update(corners[turn % 2], None, 0.01, NEAR)
                assert cache.settle(60)
                read.append(cache.counters().bytes_read)
            assert cache.counters().evictions >= 4
            assert (read[-1] > read[1]) == again and cache.counters().host_bytes == (0 if again else read[1])


def test_a_damaged_page(file: Path, data: bytes, lod_pools: ModuleType) -> None:
    """One warning that names it; it is not asked for again, nor what hangs from it; all else comes."""
    with open_store(file) as store:
        page = next(p for p in range(1, len(store)) if len(below(store, p)) > 2)
        place = int(store.directory["offset"][page]) + 100
        file.write_bytes(data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :])
    with open_store(file) as store, PageCache([store], options=PLENTY) as cache:
        cache.update(EYE, None, 0.0, NEAR)
        with pytest.warns(UserWarning, match=f"a.lyra: page {page}: its checksum is wrong; coarser nodes") as told:
            assert cache.settle(60)
        assert len(told) == 1 and str(file) in str(told[0].message)
        assert numbers(lod_pools.linked(cache)) == set(range(len(store))) - below(store, page)
        stalls = cache.counters().stalls
        for _ in range(5):
            cache.update(EYE, None, 0.0, NEAR)
        assert cache.counters().failures == 1 and cache.counters().stalls == stalls
        lod_pools.assert_cuts(cache, [store], EYE, 3000)


def test_pages_that_cannot_be_decoded(store: Store, lod_pools: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their slots are free again; an error of another kind is not kept silent."""
    decode = Store.decode

    def damaged(self: Store, page: int, data: bytes) -> Any:
        if page == 2:
            raise DamagedPage(self.name, page, "a node has two parents")
        if page == 3:
            raise MemoryError("no room")
        return decode(self, page, data)

    monkeypatch.setattr(Store, "decode", damaged)
    with PageCache([store], options=PLENTY) as cache:
        told = []

        def frame() -> None:
            try:
                cache.update(EYE, None, 0.0, NEAR)
            except MemoryError as error:
                told.append(error)
                monkeypatch.setattr(Store, "decode", decode)

        with pytest.warns(UserWarning, match="page 2: a node has two parents; coarser nodes stand in"):
            assert cache.settle(60, frame)
        assert len(told) == 1
        assert numbers(lod_pools.linked(cache)) == set(range(len(store))) - below(store, 2)
        assert len(cache._table._free) == len(below(store, 2))
    with (
        pytest.raises(InputError, match="page 0: gone: nothing can stand in for the first page"),
        monkeypatch.context() as m,
    ):
        m.setattr(
            Store, "read", lambda self, page, stop: (_ for _ in ()).throw(UnreachablePage(self.name, page, "gone"))
        )
        PageCache([store])


def test_instances_share_bytes_and_their_damage(
    tmp_path: Path, stored_trees: ModuleType, lod_pools: ModuleType
) -> None:
    """Bytes that stand at several places are read once, and told of once where they are damaged."""
    top, path = stored_trees.merged_tree(stored_trees.scene_of(30, 1)), tmp_path / "c.lyra"
    with StoreWriter(path, radius=200.0) as writer:
        part = writer.add(stored_trees.merged_tree(stored_trees.scene_of(1500, 1, seed=2), seed=2))
        writer.finish(top, dict.fromkeys(np.flatnonzero(top.counts.numpy() == 0)[:4].tolist(), part))
    with open_store(path) as store:
        kept = len(np.unique(store.directory["offset"]))
        assert kept < len(store)
        with PageCache([store], options=dataclasses.replace(PLENTY, workers=1)) as cache:
            cache.update(EYE, None, 0.0, NEAR)
            assert cache.settle(60) and len(lod_pools.linked(cache)) == len(store)
            lod_pools.assert_cuts(cache, [store], EYE, 1000)
            once = np.unique(store.directory["offset"], return_index=True)[1]
            assert cache.counters().bytes_read == store.directory["bytes"][once].sum()
        place = int(store.directory["offset"][-1])
    data = path.read_bytes()
    path.write_bytes(data[:place] + bytes([data[place] ^ 8]) + data[place + 1 :])
    with open_store(path) as store, PageCache([store], options=PLENTY) as cache:
        with pytest.warns(UserWarning, match="its checksum is wrong") as told:
            assert cache.settle(60, lambda: cache.update(EYE, None, 0.0, NEAR))
        assert len(told) == 1
        gone = set(np.flatnonzero(store.directory["offset"] == place).tolist())
        assert len(gone) == 4 and not gone & numbers(lod_pools.linked(cache))


def test_a_file_cut_short(file: Path, data: bytes, lod_pools: ModuleType) -> None:
    """When it is opened, and while it is open; what is there is drawn, and nothing is asked for twice."""
    with open_store(file) as whole:
        end = int(whole.directory["offset"][len(whole) // 2])
        there = set(np.flatnonzero(whole.directory["offset"] < end).tolist())
    with open_store(file) as store, PageCache([store], options=PLENTY) as cache:
        file.write_bytes(data[:end])
        with pytest.warns(UserWarning, match=r"page \d+: truncated, 0 of \d+ bytes are there; coarser") as told:
            assert cache.settle(60, lambda: cache.update(EYE, None, 0.0, NEAR))
        assert numbers(lod_pools.linked(cache)) == there
        assert len(told) == cache.counters().failures == len(store) - len(there)
    with pytest.warns(UserWarning, match="pages lost, fetch it again"):
        store = open_store(file)
    with store, PageCache([store], options=PLENTY) as cache:
        with pytest.warns(UserWarning, match=r"page \d+: truncated"):
            assert cache.settle(60, lambda: cache.update(EYE, None, 0.0, NEAR))
        assert numbers(lod_pools.linked(cache)) == there


def test_a_file_that_is_deleted_while_it_is_open(file: Path, lod_pools: ModuleType) -> None:
    """It stays readable."""
    with open_store(file) as store, PageCache([store], options=PLENTY) as cache:
        file.unlink()
        cache.update(EYE, None, 0.0, NEAR)
        assert cache.settle(60) and len(lod_pools.linked(cache)) == len(store)


def test_a_store_closed_under_the_cache(store: Store, lod_pools: ModuleType) -> None:
    with PageCache([store], options=PLENTY) as cache:
        store.close()
        with pytest.warns(UserWarning, match="page [0-9]+: .*; coarser nodes stand in until it can be read") as told:
            for _ in range(30):
                cache.update(EYE, None, 0.0, NEAR)
                time.sleep(0.005)
        assert len(told) == 1 and cache.counters().failures > 3 and len(lod_pools.linked(cache)) == 1
        assert cache.counters().stalls == 30


def test_pauses_double(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(failures.time, "monotonic", lambda: now)
    notes = Failures(Directories([store]), 1.0, 10.0)
    for pause in (1, 2, 4, 8, 10, 10):
        notes.add(4, UnreachablePage("a", 4, "no answer"))
        now += pause - 0.01
        assert notes.barred().nonzero()[0].tolist() == [4]
        now += 0.02
        assert not notes.barred().any()
    notes.came(4)
    notes.add(4, UnreachablePage("a", 4, "no answer"))
    now += 1.01
    assert not notes.barred().any() and len(notes.told) == 1 and notes.count == 7 and not notes.lost.any()


def test_two_caches_of_one_store(store: Store, lod_pools: ModuleType) -> None:
    with PageCache([store], options=PLENTY) as first, PageCache([store], options=slots(5)) as second:
        for _ in range(20):
            first.update(EYE, None, 0.0, NEAR)
            second.update(-EYE, None, 0.0, NEAR)
            time.sleep(0.002)
        assert first.settle(60) and second.settle(60)
        first.close()
        lod_pools.assert_cache(first, [store])
        second.update(EYE, None, 0.0, NEAR)
        assert second.settle(60) and len(lod_pools.linked(second)) == 5
        lod_pools.assert_cache(second, [store])


def test_closing_while_pages_load(file: Path, lod_pools: ModuleType) -> None:
    with open_store(file) as store:
        for turn in range(8):
            cache = PageCache([store], options=dataclasses.replace(PLENTY, workers=4))
            for _ in range(turn):
                cache.update(EYE, None, 0.0, NEAR)
            cache.close()
            cache.close()
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("lyra-cache")]
            lod_pools.assert_cuts(cache, [store], EYE, 500)
            with pytest.raises(ValueError, match="the cache is closed, open another"):
                cache.update(EYE, None, 0.0, NEAR)
        assert len(store.read(1))


def test_a_slow_dolly_never_stalls(store: Store) -> None:
    """With a prefetch of 40 frames of 4 ms, once what is wanted at the beginning is there; without one it does."""
    eyes = [torch.tensor([2.0, 2.0, -40.0 + 0.11 * frame]) for frame in range(330)]
    for prefetch in (True, False):
        with PageCache([store], options=PLENTY) as cache:
            cache.update(eyes[0], None, 0.05, NEAR, eyes[40] if prefetch else None)
            assert cache.settle(60)
            before = cache.counters()
            for now, soon in zip(eyes[:-40], eyes[40:], strict=True):
                cache.update(now, None, 0.05, NEAR, soon if prefetch else None)
                time.sleep(0.004)
            after = cache.counters()
        assert after.bytes_read > before.bytes_read
        assert (after.stalls == before.stalls) == prefetch
        assert after.frames - before.frames == 290


def test_what_a_frame_may_be_given(store: Store) -> None:
    with pytest.raises(InputError, match="no stores, give at least one"):
        PageCache([])
    for changes, told in (
        ({"workers": 0}, "workers is 0, expected a whole number, 1 or more"),
        ({"device_bytes": -1}, "device_bytes is -1"),
        ({"host_bytes": 1.5}, "host_bytes is 1.5"),
        ({"margin": -0.1}, "margin is -0.1, expected a share"),
        ({"retry": 5.0, "longest_retry": 1.0}, "retry, longest_retry are 5.0, 1.0: give seconds"),
    ):
        with pytest.raises(ValueError, match=told):
            CacheOptions(**changes)
    with PageCache([store], options=PLENTY) as cache:
        for arguments, told in (
            ((EYE, None, -1.0, NEAR), "threshold is -1.0, expected a view error"),
            ((EYE, None, 0.0, 0.0), "near is 0.0"),
            ((torch.zeros(2), None, 0.0, NEAR), r"eye has shape \[2\]"),
            ((torch.zeros(3, device="meta"), None, 0.0, NEAR), "eye is on meta, expected it on the CPU"),
        ):
            with pytest.raises(ValueError, match=told):
                cache.update(*arguments)
        cache.update(EYE, None, 0.0, NEAR)
        assert cache.settle(60)


@pytest.mark.gpu
def test_a_gpu_sees_the_same(store: Store, other: Store, lod_pools: ModuleType) -> None:
    """Slots are overwritten while the stream draws from them; in the end every column is right, and so are cuts."""
    stores = [store, other]
    with PageCache(stores, options=slots(5), device="cuda") as cache:
        for eye in lod_pools.random_walk(1, 200):
            cache.update(eye, None, 0.02, NEAR)
            first = cut(cache.nodes, cache.roots, eye.cuda(), budget=300, near=NEAR)
            second = cut(cache.nodes, cache.roots, eye.cuda(), budget=300, near=NEAR)
            assert torch.equal(first.ids, second.ids)
        assert cache.settle(60)
        torch.cuda.synchronize()
        lod_pools.assert_cache(cache, stores)
        assert cache.counters().evictions > 0
