"""A hierarchy of Gaussians in memory: the rules that it keeps, and its form as a pool of resident nodes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.constants import CLUSTER
from ...kernels.lod import Nodes, cluster_spheres
from ..errors import InputError
from ..scene.gaussians import Gaussians

MOST_CHILDREN = 255
GROWTH = 1.0005  # of errors, from child to parent at least
SLACK = 2e-6  # of radii, of the root's


@dataclass(frozen=True, eq=False)
class Tree:
    """n nodes; node 0 is the root, parents come before children, siblings are neighbours.

    Errors and radii grow towards the root with room for rounding (kernels/gaze.py says why), so that a cut never has a
    node in it together with one of its ancestors: for each child c of p, errors[p] >= 1.0005 errors[c], and radii[p] >=
    |means[p] - means[c]| + radii[c] + 2e-6 radii[0].
    """

    gaussians: Gaussians  # [n] opacities of inner nodes may be above 1
    children: Tensor  # [n] int32, the first child, -1 for a leaf
    counts: Tensor  # [n] int32, of children, 1 to 255, 0 for a leaf
    errors: Tensor  # [n] float32, world units: what drawing the node in place of its children costs; 0 for a leaf
    radii: Tensor  # [n] float32, of a sphere about the mean that holds those of all descendants; 0 for a leaf

    def __len__(self) -> int:
        return len(self.gaussians)


def parents_of(tree: Tree) -> Tensor:
    """[n] int32, -1 for the root. Links must be valid."""
    inner = tree.counts.nonzero()[:, 0]
    counts = tree.counts[inner].long()
    parents = torch.full_like(tree.children, -1)
    parents[_children_of(tree, inner, counts)] = inner.int().repeat_interleave(counts)
    return parents


def _children_of(tree: Tree, inner: Tensor, counts: Tensor) -> Tensor:
    """The children of nodes, node by node."""
    first = (tree.children[inner] - (counts.cumsum(0) - counts)).repeat_interleave(counts)
    return first + torch.arange(len(first), device=first.device)


def check(tree: Tree) -> None:
    """Make sure that a tree keeps all the rules of `Tree`.

    Raises:
        InputError: it does not; the message names the first node that breaks a rule, and the rule.
    """
    _check_columns(tree)
    n, inner = len(tree), tree.counts > 0
    first, counts = tree.children.long(), tree.counts.long()
    index = torch.arange(n, device=first.device)
    _demand(tree, (counts >= 0) & (counts <= MOST_CHILDREN), "counts", f"expected 0 to {MOST_CHILDREN}")
    _demand(tree, inner | (first == -1), "children", "expected -1, for it has none")
    fits = (first > index) & (first + counts <= n)
    _demand(tree, ~inner | fits, "children", "expected nodes after it, within the tree")
    children = _children_of(tree, index[inner], counts[inner])
    born = torch.bincount(children, minlength=n)
    born[0] += 1
    if not bool((born == 1).all()):
        node = int((born != 1).nonzero()[0])
        raise InputError(f"node {node} is the child of {int(born[node]) - (node == 0)} nodes, expected {int(node > 0)}")

    for name in ("errors", "radii"):
        values = getattr(tree, name)
        _demand(tree, (values >= 0) & values.isfinite(), name, "expected a finite number, 0 or more")
        _demand(tree, inner | (values == 0), name, "expected 0, for it is a leaf")
    parents = parents_of(tree).long()[1:]
    errors, radii, means = tree.errors.double(), tree.radii.double(), tree.gaussians.means.double()
    # Rounded to float32, what was meant to be just enough may be half a step less.
    least = GROWTH * errors[1:] * (1 - 1e-7)
    _demand_of_parents(tree, parents, errors[parents] >= least, "errors", f"at least {GROWTH} times that of its child")
    reach = (means[parents] - means[1:]).norm(dim=-1) + radii[1:] + SLACK * radii[0]
    said = f"at least its distance to that child, the child's radius and {SLACK} of the root's, together"
    _demand_of_parents(tree, parents, radii[parents] * (1 + 1e-7) >= reach, "radii", said)


def _check_columns(tree: Tree) -> None:
    n = len(tree)
    if not n:
        raise InputError("the tree has no nodes, expected at least a root")
    types = {"children": torch.int32, "counts": torch.int32, "errors": torch.float32, "radii": torch.float32}
    for name, dtype in types.items():
        tensor = getattr(tree, name)
        if list(tensor.shape) != [n] or tensor.dtype != dtype or tensor.device != tree.gaussians.means.device:
            said = f"{list(tensor.shape)} {tensor.dtype} on {tensor.device}"
            raise InputError(f"{name} is {said}, expected [{n}] {dtype} on {tree.gaussians.means.device}")


def _demand(tree: Tree, holds: Tensor, name: str, expected: str) -> None:
    if not bool(holds.all()):
        node = int((~holds).nonzero()[0])
        raise InputError(f"node {node} has {name} {getattr(tree, name)[node].item():.9g}, {expected}")


def _demand_of_parents(tree: Tree, parents: Tensor, holds: Tensor, name: str, expected: str) -> None:
    if not bool(holds.all()):
        child = int((~holds).nonzero()[0]) + 1
        node = int(parents[child - 1])
        own, other = (getattr(tree, name)[i].item() for i in (node, child))
        raise InputError(f"node {node} has {name} {own:.9g}, its child {child} has {other:.9g}: expected {expected}")


def as_nodes(tree: Tree) -> Nodes:
    """The whole tree as a pool: padded to a multiple of 256, with parents and bounds of clusters."""
    gaussians = tree.gaussians.to(dtype=torch.float32)
    more = -len(tree) % CLUSTER
    columns = {name: _pad(tensor, more, 0) for name, tensor in gaussians.tensors().items()}
    radii, errors = _pad(tree.radii, more, 0), _pad(tree.errors, more, 0)
    bounds, largest = cluster_spheres(columns["means"], radii, errors)
    return Nodes(
        **columns,
        radii=radii,
        errors=errors,
        children=_pad(tree.children, more, -1),
        counts=_pad(tree.counts, more, 0),
        parents=_pad(parents_of(tree), more, -1),
        cluster_bounds=bounds,
        cluster_errors=largest,
    )


def _pad(tensor: Tensor, more: int, value: int) -> Tensor:
    return torch.cat((tensor, tensor.new_full((more, *tensor.shape[1:]), value))).contiguous()
