"""The cut and what it shows in Triton against plain torch.

In Triton's interpreter where there is no GPU, on the device where there is one: see tests/conftest.py. The interpreter
rounds as torch does, so that both agree to the last bit. A GPU fuses multiply-adds: there nodes next to the threshold
may be on the other side.
"""

from types import ModuleType

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from lyra.kernels.lod import Cut, Drawn, Nodes, cut, gather

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGETS = (1, 60, 2000)


def moved(nodes: Nodes) -> Nodes:
    return Nodes(*(tensor.to(DEVICE) for tensor in nodes))


def make_pool(trees: ModuleType, seed: int) -> tuple[Nodes, Tensor, Tensor, float]:
    """Pool, roots, an eye and a near distance."""
    size = (1, 12, 300, 500)[seed % 4]
    scenes = [trees.random_tree(size, 10 * seed + k, ties=seed % 3 == 0, sh=4) for k in range(1 + seed % 3)]
    nodes, roots = trees.forest(scenes)
    if seed % 2:
        nodes, roots = trees.shuffle_groups(nodes, roots, seed)
    if seed % 4 == 3:
        nodes = trees.drop_children(nodes, roots, 0.1, seed)
    near = 1e-3 * max(float(scene.radii[0]) for scene in scenes) + 1e-6
    return nodes, roots, trees.random_eye(scenes[0], seed), near


def check_alike(found: Cut, expected: Cut, room: int) -> None:
    """The same nodes, to the last bit in the interpreter; what is unused is marked."""
    count = int(found.number)
    assert len(found.ids) == len(found.exponents) == len(found.errors) == room
    assert (found.ids[count:] == -1).all()
    if DEVICE == "cpu":
        assert count == len(expected.ids) and torch.equal(found.threshold, expected.threshold)
        for name in ("ids", "exponents", "errors"):
            assert torch.equal(getattr(found, name)[:count], getattr(expected, name))
    else:
        assert abs(count - len(expected.ids)) <= 9
        torch.testing.assert_close(found.threshold.cpu(), expected.threshold, rtol=1e-4, atol=0)


@pytest.mark.parametrize("seed", range(8))
def test_a_cut_is_that_of_the_reference(lod_trees: ModuleType, seed: int) -> None:
    nodes, roots, eye, near = make_pool(lod_trees, seed)
    for budget in BUDGETS:
        options = {"budget": budget, "near": near, "gaze": lod_trees.random_gaze(seed)}
        plain = cut(nodes, roots, eye, **options, backend="reference")
        for factor in (None, 1.0, 1.02, 4.0):
            previous = None if factor is None else plain.threshold * factor
            expected = cut(nodes, roots, eye, previous=previous, **options, backend="reference")
            found = cut(moved(nodes), roots.to(DEVICE), eye, previous=previous, **options, backend="triton")
            check_alike(found, expected, max(budget, len(roots)))
            lod_trees.covered(nodes, roots, found)


def test_more_roots_than_a_program_has_lanes(lod_trees: ModuleType) -> None:
    nodes, _ = lod_trees.forest([lod_trees.random_tree(500, 0)])
    leaves = (nodes.parents >= 0).nonzero()[:300, 0].int()  # as if each were a scene
    nodes = nodes._replace(parents=torch.full_like(nodes.parents, -1), children=torch.full_like(nodes.children, -1))
    found = cut(moved(nodes), leaves.to(DEVICE), torch.zeros(3), budget=7, near=0.1, backend="triton")
    assert len(leaves) > 256 and torch.equal(found.ids.cpu(), leaves) and int(found.number) == len(leaves)


def test_a_pool_that_breaks_the_rules_stays_within_its_buffers(lod_trees: ModuleType) -> None:
    nodes, roots = lod_trees.forest([lod_trees.random_tree(700, 1)])
    generator = torch.Generator().manual_seed(0)
    torn = nodes._replace(errors=torch.rand(len(nodes.errors), generator=generator) * (nodes.errors > 0))
    torn = torn._replace(cluster_errors=torn.errors.view(-1, 256).amax(dim=1))
    for backend in ("triton", "cpu"):
        pool, tops = (moved(torn), roots.to(DEVICE)) if backend == "triton" else (torn, roots)
        for budget in (5, 100, 400):
            found = cut(pool, tops, nodes.means[0] + 3, budget=budget, near=0.01, backend=backend)
            ids = found.ids[: int(found.number)]
            assert 0 < len(ids) and bool(((ids >= 0) & (ids < len(nodes.means))).all())


@pytest.mark.parametrize("sh", [1, 9])
def test_what_is_gathered_is_that_of_the_reference(lod_trees: ModuleType, sh: int) -> None:
    nodes, roots = lod_trees.forest([lod_trees.random_tree(300, 2, sh=sh)])
    found = cut(nodes, roots, nodes.means[3], budget=150, near=0.1, backend="reference")
    expected, count = gather(nodes, found.ids, found.exponents, backend="reference"), len(found.ids)
    ids = torch.cat((found.ids, torch.full((10,), -1, dtype=torch.int32))).to(DEVICE)
    exponents = torch.cat((found.exponents, torch.ones(10))).to(DEVICE)
    out = Drawn(*(torch.full((count + 15, *tensor.shape[1:]), torch.nan, device=DEVICE) for tensor in expected))
    drawn = gather(moved(nodes), ids, exponents, out=out, backend="triton")
    for name, given, rows, values in zip(Drawn._fields, out, drawn, expected, strict=True):
        assert torch.equal(rows[:count].cpu(), values)
        assert given[count + 10 :].isnan().all()
        assert (rows[count:] == (1 if name == "exponents" else 0)).all()
