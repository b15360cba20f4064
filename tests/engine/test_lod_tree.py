"""The rules of a hierarchy, each broken on purpose, and its form as a pool."""

import dataclasses
from types import ModuleType

import pytest
import torch
from torch import Tensor

from lyra.engine.errors import InputError
from lyra.engine.lod.tree import SLACK, Tree, as_nodes, check, parents_of
from lyra.engine.scene.gaussians import Gaussians
from lyra.kernels.constants import CLUSTER


def small() -> Tree:
    """A root with two children, of which the second has two leaves."""
    means = torch.tensor([[0.0, 0, 0], [-1, 0, 0], [1, 0, 0], [0.5, 0, 0], [1.5, 0, 0]])
    quats, numbers = torch.tensor([[1.0, 0, 0, 0]]).repeat(5, 1), torch.ones(5)
    return Tree(
        Gaussians(means, quats, means.abs() + 0.1, numbers, torch.zeros(5, 1, 3)),
        torch.tensor([1, -1, 3, -1, -1], dtype=torch.int32),
        torch.tensor([2, 0, 2, 0, 0], dtype=torch.int32),
        torch.tensor([2.0, 0, 1, 0, 0]),
        torch.tensor([2.0, 0, 0.6, 0, 0]),
    )


def changed(name: str, node: int, value: float) -> Tree:
    tensor: Tensor = getattr(small(), name).clone()
    tensor[node] = value
    return dataclasses.replace(small(), **{name: tensor})


@pytest.mark.parametrize("seed", range(8))
def test_random_trees_keep_the_rules(lod_trees: ModuleType, seed: int) -> None:
    tree = lod_trees.random_tree((1, 3, 40, 700)[seed % 4], seed, ties=seed % 3 == 0, place=(0.0, 1000.0)[seed % 2])
    check(tree)
    parents, counts = parents_of(tree).tolist(), tree.counts.tolist()
    assert [parents.count(node) for node in range(len(tree))] == counts


@pytest.mark.parametrize(
    "name, node, value, said",
    [
        ("counts", 2, 256, r"node 2 has counts 256, expected 0 to 255"),
        ("counts", 1, -1, r"node 1 has counts -1, expected 0 to 255"),
        ("counts", 2, 0, r"node 2 has children 3, expected -1, for it has none"),
        ("counts", 2, 3, r"node 2 has children 3, expected nodes after it, within the tree"),
        ("counts", 2, 1, r"node 4 is the child of 0 nodes, expected 1"),
        ("children", 2, 2, r"node 2 has children 2, expected nodes after it"),
        ("children", 0, 2, r"node 1 is the child of 0 nodes, expected 1"),
        ("children", 2, -1, r"node 2 has children -1, expected nodes after it"),
        ("errors", 1, 0.5, r"node 1 has errors 0.5, expected 0, for it is a leaf"),
        ("errors", 2, float("nan"), r"node 2 has errors nan, expected a finite number, 0 or more"),
        ("errors", 0, 1.0004, r"node 0 has errors 1.000\d+, its child 2 has 1: expected at least 1.0005 times"),
        ("radii", 3, 0.1, r"node 3 has radii 0.1.*expected 0, for it is a leaf"),
        ("radii", 2, float("inf"), r"node 2 has radii inf, expected a finite number"),
        ("radii", 0, 1.6, r"node 0 has radii 1.6.*, its child 2 has 0.6.*: expected at least its distance"),
        ("radii", 2, 0.5, r"node 2 has radii 0.5, its child 3 has 0: expected at least its distance"),
    ],
)
def test_a_broken_rule_is_told_with_the_first_node(name: str, node: int, value: float, said: str) -> None:
    check(small())
    with pytest.raises(InputError, match=said) as caught:
        check(changed(name, node, value))
    assert "\n" not in str(caught.value)


def test_bounds_are_met_to_the_last_bit() -> None:
    check(changed("errors", 0, 1.0005))
    check(changed("radii", 2, 0.5 + 2 * SLACK))
    with pytest.raises(InputError, match="node 2 has radii"):
        check(changed("radii", 2, 0.5 + 1.5 * SLACK))  # 4e-6 is needed: the root's radius is 2


def test_columns_have_types_and_lengths() -> None:
    tree = small()
    with pytest.raises(InputError, match=r"children is \[5\] torch.int64 on cpu, expected \[5\] torch.int32 on cpu"):
        check(dataclasses.replace(tree, children=tree.children.long()))
    with pytest.raises(InputError, match=r"radii is \[4\] torch.float32"):
        check(dataclasses.replace(tree, radii=tree.radii[:4]))
    nothing = tree.gaussians.select(slice(0, 0))
    with pytest.raises(InputError, match="the tree has no nodes"):
        check(dataclasses.replace(tree, gaussians=nothing))


@pytest.mark.parametrize("size", [1, 255, 700])
def test_a_tree_is_a_pool(lod_trees: ModuleType, size: int) -> None:
    tree = lod_trees.random_tree(size, 3, sh=4, place=100.0)
    nodes, n = as_nodes(tree), len(tree)
    assert len(nodes.means) % CLUSTER == 0 and len(nodes.means) - n < CLUSTER
    for name, tensor in tree.gaussians.tensors().items():
        assert torch.equal(getattr(nodes, name)[:n], tensor)
    assert nodes.children[n:].eq(-1).all() and nodes.parents[n:].eq(-1).all() and not nodes.errors[n:].any()
    assert torch.equal(nodes.parents[:n], parents_of(tree)) and nodes.parents[0] == -1
    for cluster, (bound, largest) in enumerate(zip(nodes.cluster_bounds, nodes.cluster_errors, strict=True)):
        own = slice(cluster * CLUSTER, (cluster + 1) * CLUSTER)
        inner = nodes.errors[own] > 0
        assert largest == nodes.errors[own].max()
        means, radii = nodes.means[own][inner].double(), nodes.radii[own][inner].double()
        reach = (means - bound[:3].double()).norm(dim=1) + radii
        assert not inner.any() or 0 < reach.max() <= bound[3]
        assert not inner.any() or bound[3] <= 2 * reach.max()
