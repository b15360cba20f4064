"""Pages in slots: what is filled is linked and unlinked, in any order, while another thread cuts."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lyra.engine.lod import pages as pages_module
from lyra.engine.lod.page_table import PageTable
from lyra.engine.lod.pool import Above, Pool, pool_for, slot_bytes
from lyra.engine.lod.store import Store, open_store
from lyra.engine.lod.tree import as_nodes
from lyra.engine.lod.writer import write_store
from lyra.kernels.lod import Nodes, cut

CPU = torch.device("cpu")


@pytest.fixture
def stores(tmp_path: Path, stored_trees: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Store]]:
    """Two scenes, the second with fewer harmonics."""
    monkeypatch.setattr(pages_module, "CAPACITY", 300)
    for name, n, degree in (("a", 4000, 2), ("b", 1500, 1)):
        tree = stored_trees.merged_tree(stored_trees.scene_of(n, degree, seed=n), seed=n)
        write_store(tmp_path / f"{name}.lyra", tree)
    with open_store(tmp_path / "a.lyra") as first, open_store(tmp_path / "b.lyra") as second:
        yield [first, second]


def put(pool: Pool, stores: list[Store], slots: dict[tuple[int, int], int], key: tuple[int, int], slot: int) -> None:
    store = stores[key[0]]
    filled = pool.fill(slot, store.decode(key[1], store.read(key[1])))
    assert filled.is_there()
    pool.link(slot, filled, above(store, slots, key))
    slots[key] = slot


def above(store: Store, slots: dict[tuple[int, int], int], key: tuple[int, int]) -> Above | None:
    parent = int(store.directory["parent"][key[1]])
    return None if parent < 0 else Above(slots[key[0], parent], key[1] - parent)


def test_a_whole_file_is_the_tree(stores: list[Store], stored_trees: ModuleType) -> None:
    """In slots of any order; a cut draws the same splats as of the tree in memory."""
    store, order = stores[0], list(range(len(stores[0])))
    random.Random(1).shuffle(order)
    pool = pool_for([store], 1 << 30, CPU)
    assert (pool.slots, pool.size) == (len(store), 512) and 256 < store.directory["nodes"].max() <= 300
    slots: dict[tuple[int, int], int] = {}
    for page, slot in enumerate(order):
        put(pool, [store], slots, (0, page), slot)
    whole, eye = as_nodes(stored_trees.whole(store)), torch.tensor([3.0, 1.0, -2.0])
    starts = np.cumsum([0, *store.directory["nodes"]])
    for budget in (1, 60, 900, 10_000):
        mine = cut(pool.nodes, torch.tensor([order[0] * 512]).int(), eye, budget=budget, near=0.01, backend="cpu")
        its = cut(whole, torch.zeros(1, dtype=torch.int32), eye, budget=budget, near=0.01, backend="cpu")
        assert mine.threshold == its.threshold
        page = np.searchsorted(starts, its.ids.numpy(), side="right") - 1
        assert set(mine.ids.tolist()) == set((np.array(order)[page] * 512 + its.ids.numpy() - starts[page]).tolist())


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_links(stores: list[Store], lod_pools: ModuleType, seed: int) -> None:
    """Random pages come and go in few slots; after each step every column is right."""
    dice, pool = random.Random(seed), Pool(9, 512, 9, CPU)
    slots = {}
    for number in (0, 1):
        put(pool, stores, slots, (number, 0), number)
    free = list(range(2, 9))
    for _ in range(60):
        hung = {(number, int(stores[number].directory["parent"][page])) for number, page in slots}
        leaves = [key for key in slots if key not in hung and key[1]]
        children = [
            (number, int(page))
            for number, parent in slots
            for page in np.flatnonzero(stores[number].directory["parent"] == parent)
            if (number, int(page)) not in slots
        ]
        if leaves and (not free or dice.random() < 0.4):
            key = dice.choice(leaves)
            free.append(slot := slots.pop(key))
            gone = above(stores[key[0]], slots, key)
            assert gone is not None
            pool.unlink(slot, gone)
        else:
            put(pool, stores, slots, dice.choice(children), free.pop(dice.randrange(len(free))))
        lod_pools.assert_pool(pool.nodes, 512, stores, slots)


def test_filling_while_another_thread_cuts(stores: list[Store]) -> None:
    """A slot that is filled over and over, but not linked, is not seen by any cut."""
    pool, eye, slots = Pool(6, 512, 9, CPU), torch.tensor([1.0, 1.0, 1.0]), {}
    for page in range(4):
        put(pool, stores, slots, (0, page), page)
    pool.unlink(3, Above(0, 3))
    ended = threading.Event()

    def fill() -> None:
        read = [stores[0].decode(page, stores[0].read(page)) for page in range(3, 9)]
        while not ended.is_set():
            for turn, page in enumerate(read):
                pool.fill(3 + turn % 3, page)

    def found(nodes: Nodes, backend: str) -> list[list[float]]:
        made = cut(nodes, torch.zeros(1, dtype=torch.int32), eye, budget=10_000, near=0.01, backend=backend)
        return [made.ids.tolist(), made.exponents.tolist(), made.errors.tolist(), [float(made.threshold)]]

    expected = found(pool.nodes, "cpu")
    thread = threading.Thread(target=fill)
    thread.start()
    try:
        for turn in range(60):
            assert found(pool.nodes, ("cpu", "reference")[turn % 2]) == expected
    finally:
        ended.set()
        thread.join()


def test_budgets(stores: list[Store]) -> None:
    each = slot_bytes(512, 9)
    for budget, slots in ((2 * each, 2), (3 * each - 1, 2), (3 * each, 3), (1 << 40, len(stores[0]) + len(stores[1]))):
        pool = pool_for(stores, budget, CPU)
        assert pool.slots == slots
        assert sum(tensor.nbytes for tensor in pool.nodes) == slots * each == slots * pool.slot_bytes
    with pytest.warns(UserWarning, match=rf"a budget of 5 bytes has no room for the first pages, {2 * each} are used"):
        assert pool_for(stores, 5, CPU).slots == 2
    with pytest.raises(ValueError, match="32768 slots of 65536 nodes are more than 2147483647: give a smaller budget"):
        Pool(1 << 15, 1 << 16, 1, CPU)


def test_page_table() -> None:
    """A page stays while one below it has a slot; those of first pages never go."""
    table = PageTable(np.array([-1, 0, 0, 1], np.int32), 3)
    ranks = np.array([0, 2, 1, 0.5], np.float32)
    slots = {page: table.take(page) for page in (0, 1)}
    for page, slot in slots.items():
        table.link(page, slot)
    assert table.leaving(ranks).tolist() == [1] and table.is_below_linked(np.arange(4)).tolist() == [
        False,
        True,
        True,
        True,
    ]
    slot = table.take(3)
    assert not table.has_room() and table.leaving(ranks).tolist() == []
    assert table.above(3) == Above(slots[1], 2) and table.above(0) is None
    table.give_back(3, slot)
    assert table.has_room() and table.leaving(ranks).tolist() == [1]
    table.link(2, table.take(2))
    assert table.leaving(ranks).tolist() == [2, 1]
    assert table.unlink(1) == slots[1] and table.slots.tolist() == [0, -1, 2, -1] and table.pages.tolist() == [0, -1, 2]
