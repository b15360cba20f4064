"""Random hierarchies and cameras, and the best-first heap that every cut is compared with."""

import heapq
import math
import random

import pytest
import torch
from torch import Tensor

from lyra.engine.lod.tree import GROWTH, SLACK, Tree, as_nodes
from lyra.engine.scene.gaussians import Gaussians
from lyra.kernels.constants import CLUSTER
from lyra.kernels.gaze import Gaze
from lyra.kernels.lod import Cut, Nodes, cluster_spheres


def random_tree(size: int, seed: int, *, ties: bool = False, sh: int = 1, place: float = 0.0) -> Tree:
    """About `size` nodes with 1 to 9 children each, leaves at any depth, spheres nested as tightly as they may be.

    Args:
        ties: draw errors from few values, so that many nodes at one distance from everything have the same.
        place: distance of the scene from the origin.
    """
    dice = random.Random(seed)
    counts: list[int] = [0]
    children: list[int] = [-1]
    waiting = [0]
    while waiting and len(counts) < size:
        node = waiting.pop(dice.randrange(len(waiting)) if dice.random() < 0.5 else 0)
        if len(counts) > 1 and dice.random() < 0.15:
            continue
        children[node], counts[node] = len(counts), dice.randint(1, 9)
        waiting += range(len(counts), len(counts) + counts[node])
        children += [-1] * counts[node]
        counts += [0] * counts[node]
    n = len(counts)
    return _with_spheres(n, children, counts, torch.Generator().manual_seed(seed), ties, sh, place)


def _with_spheres(n: int, children: list[int], counts: list[int], generator: torch.Generator, ties, sh, place) -> Tree:
    means = torch.zeros(n, 3)
    spread = torch.ones(n)
    shift = torch.randn(n, 3, generator=generator)
    if ties:
        shift = shift.sign()
    for i in range(n):
        for c in range(children[i], children[i] + counts[i]):
            means[c], spread[c] = means[i] + spread[i] * shift[c] * 0.5, spread[i] * 0.6
    means += place * torch.tensor([0.6, -0.8, 0.0])
    means = means.float()
    exact = means.double()
    radii, errors = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    size = float((exact - exact[0]).norm(dim=1).max()) * 4 + 1e-3  # more than the root's radius, for the slack
    draw = torch.rand(n, generator=generator).tolist()
    for i in reversed(range(n)):
        own = range(children[i], children[i] + counts[i])
        if counts[i]:
            away = [float((exact[i] - exact[c]).norm()) + float(radii[c]) for c in own]
            radii[i] = (max(away) + SLACK * size) * (1 + 2e-7)
            least = max(float(errors[c]) for c in own) * (GROWTH + 2e-7)
            errors[i] = max(least, 2.0 ** math.ceil(math.log2(float(spread[i])))) if ties else least + 0.1 * draw[i]
    uniform = torch.rand(n, 8, generator=generator)
    gaussians = Gaussians(
        means,
        torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1),
        0.01 + uniform[:, :3],
        uniform[:, 3] * 2,
        torch.randn(n, sh, 3, generator=generator),
    )
    return Tree(
        gaussians,
        torch.tensor(children, dtype=torch.int32),
        torch.tensor(counts, dtype=torch.int32),
        errors.float(),
        radii.float(),
    )


def forest(trees: list[Tree]) -> tuple[Nodes, Tensor]:
    """One pool with the nodes of several trees, and their roots; later trees come first."""
    parts, roots, start = [], [], 0
    for tree in reversed(trees):
        nodes = as_nodes(tree)
        moved = {name: torch.where(getattr(nodes, name) >= 0, getattr(nodes, name) + start, -1).int()
                 for name in ("children", "parents")}  # fmt: skip
        parts.append(nodes._replace(**moved))
        roots.append(start)
        start += len(nodes.means)
    joined = Nodes(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
    return joined, torch.tensor(roots[::-1], dtype=torch.int32)


def drop_children(nodes: Nodes, roots: Tensor, share: float, seed: int) -> Nodes:
    """As if the pages with the children of some nodes, and all below those, were not resident."""
    dice = random.Random(seed)
    children, counts = nodes.children.tolist(), nodes.counts.tolist()
    gone = [False] * len(children)
    waiting = [(int(root), False) for root in roots]
    while waiting:
        node, absent = waiting.pop()
        gone[node] = absent
        if children[node] >= 0:
            below = absent or dice.random() < share
            waiting += [(child, below) for child in range(children[node], children[node] + counts[node])]
            if below:
                children[node] = -1
    lost = torch.tensor(gone)
    errors = torch.where(lost, 0, nodes.errors)
    means, radii = nodes.means.masked_fill(lost[:, None], 0), nodes.radii.masked_fill(lost, 0)
    bounds, largest = cluster_spheres(means, radii, errors)
    return nodes._replace(
        means=means,
        radii=radii,
        errors=errors,
        children=torch.tensor(children, dtype=torch.int32),
        counts=nodes.counts.masked_fill(lost, 0),
        parents=nodes.parents.masked_fill(lost, -1),
        cluster_bounds=bounds,
        cluster_errors=largest,
    )


def shuffle_groups(nodes: Nodes, roots: Tensor, seed: int) -> tuple[Nodes, Tensor]:
    """The same pool with groups of siblings in another order, children before parents or after, as pages may lie."""
    groups = [[int(root)] for root in roots]
    children, counts = nodes.children.tolist(), nodes.counts.tolist()
    groups += [list(range(first, first + count)) for first, count in zip(children, counts, strict=True) if first >= 0]
    random.Random(seed).shuffle(groups)
    order = [node for group in groups for node in group]
    order += sorted(set(range(len(children))) - set(order))
    old = torch.tensor(order)
    new = torch.empty_like(old)
    new[old] = torch.arange(len(old))
    moved = Nodes(*(tensor[old] for tensor in nodes[:10]), nodes.cluster_bounds, nodes.cluster_errors)
    links = {
        name: torch.where(getattr(moved, name) >= 0, new[getattr(moved, name).long().clamp(min=0)], -1).int()
        for name in ("children", "parents")
    }
    bounds, largest = cluster_spheres(moved.means, moved.radii, moved.errors)
    return moved._replace(**links, cluster_bounds=bounds, cluster_errors=largest), new[roots.long()].int()


def random_eye(tree: Tree, seed: int) -> Tensor:
    """In the middle of things, at a node's very centre, outside, or far away."""
    generator = torch.Generator().manual_seed(seed)
    means, radius = tree.gaussians.means, float(tree.radii[0])
    direction = torch.randn(3, generator=generator)
    reach = (0.0, 0.01, 0.3, 1.0, 3.0, 30.0, 3000.0)[seed % 7] * max(radius, 0.1)
    return means[int(torch.randint(len(means), (1,), generator=generator))] + direction * reach


def random_gaze(seed: int) -> Gaze | None:
    """None, wide, narrow in a narrow picture, or all round with one side."""
    generator = torch.Generator().manual_seed(seed)
    direction, up = torch.randn(2, 3, generator=generator)
    right, up = torch.linalg.cross(direction, up), up - direction * (up @ direction) / (direction @ direction)
    corner = tuple(tuple((way + 2 * direction).tolist()) for way in (right, -right, up, -up))
    kinds = (
        None,
        {},
        {"inner": 0.05, "outer": 0.1, "edge": 0.3, "behind": 0.05, "sides": corner},
        {"inner": 1.0, "outer": math.pi, "sides": corner[:1], "margin": 0.5, "beyond": 0.02},
    )
    kind = kinds[seed % 4]
    x, y, z = direction.tolist()
    return None if kind is None else Gaze((x, y, z), **kind)


def heap_cut(nodes: Nodes, roots: Tensor, errors: Tensor, budget: int, floor: float) -> tuple[set[int], float]:
    """Drawn nodes and threshold: always expand the drawn node with the largest error, until one does not fit.

    Args:
        errors: [m] view errors.
    """
    err, children, counts = errors.tolist(), nodes.children.tolist(), nodes.counts.tolist()
    drawn = set(map(int, roots))
    heap = [(-err[i], i) for i in drawn if children[i] >= 0 and err[i] > floor]
    heapq.heapify(heap)
    room = max(budget, len(drawn))
    while heap:
        best, i = heapq.heappop(heap)
        if len(drawn) - 1 + counts[i] > room:
            return drawn, -best
        drawn.remove(i)
        for child in range(children[i], children[i] + counts[i]):
            drawn.add(child)
            if children[child] >= 0 and err[child] > floor:
                heapq.heappush(heap, (-err[child], child))
    return drawn, floor


def standing(nodes: Nodes, found: Cut) -> Tensor:
    """What a cut draws, without the parents that fade: those whose children it draws."""
    ids = found.ids[: int(found.number)].cpu()
    return ids[~torch.isin(ids, nodes.parents[ids.long()])]


def covered(nodes: Nodes, roots: Tensor, found: Cut) -> None:
    """Assert that every leaf, or what stands for it while it is not resident, has one drawn ancestor-or-self.

    Besides there may be parents that fade, all of whose children are drawn: their exponents make up for each other's.
    """
    children, counts = nodes.children.tolist(), nodes.counts.tolist()
    number = int(found.number)
    exponents = dict(zip(found.ids[:number].tolist(), found.exponents[:number].tolist(), strict=True))
    assert len(exponents) == number
    chosen = set(standing(nodes, found).tolist())
    for i in set(exponents) - chosen:
        arriving = range(children[i], children[i] + counts[i])
        assert all(exponents.pop(child) + exponents[i] == pytest.approx(1, abs=1e-6) for child in arriving)
        assert exponents.pop(i) < 1
    assert set(exponents.values()) <= {1.0}
    waiting = [(int(root), 0) for root in roots]
    while waiting:
        node, above = waiting.pop()
        above += node in chosen
        chosen.discard(node)
        if children[node] >= 0:
            waiting += [(child, above) for child in range(children[node], children[node] + counts[node])]
        else:
            assert above == 1, f"leaf {node} has {above} drawn ancestors"
    assert not chosen


def largest_group(nodes: Nodes) -> int:
    """Most siblings of any node."""
    return int(nodes.counts.max())


assert CLUSTER == 256  # sizes in the tests are chosen by it
