"""Small hierarchies to store: runs of Morton neighbours merged again and again, and the rules that they keep."""

import numpy as np
import torch

from lyra.engine.lod.store import Store
from lyra.engine.lod.tree import Tree
from lyra.engine.scene.gaussians import Gaussians, merge
from lyra.engine.scene.morton import morton_order

MOST = 7  # children of a node


def scene_of(n: int, degree: int = 1, seed: int = 0) -> Gaussians:
    """n splats in a cube of ten units, dense towards a corner."""
    rng = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.rand(n, 3, generator=rng) ** 2 * 10 - 3,
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=rng)),
        scales=(torch.randn(n, 3, generator=rng) - 4).exp(),
        opacities=torch.rand(n, generator=rng),
        sh=torch.randn(n, (degree + 1) ** 2, 3, generator=rng) * 0.3,
    )


def merged_tree(scene: Gaussians, seed: int = 0) -> Tree:
    """A node is the plain mean of 2 to MOST neighbours, of leaves and nodes; opacities of inner nodes may exceed 1."""
    rng = np.random.default_rng(seed)
    columns = [{name: tensor.double().numpy() for name, tensor in scene.tensors().items()}]
    columns[0] |= {"errors": np.zeros(len(scene)), "radii": np.zeros(len(scene))}
    firsts, counts = [np.full(len(scene), -1)], [np.zeros(len(scene), np.int64)]
    listed: list[np.ndarray] = []  # children, of all nodes in turn
    active, made, used = morton_order(scene.means).numpy(), len(scene), 0
    reach = 4 * float((scene.means.amax(dim=0) - scene.means.amin(dim=0)).norm())
    while len(active) > 1:
        lengths = rng.integers(1, MOST + 1, len(active)) if len(active) > MOST else np.array([len(active)])
        lengths = lengths[: np.searchsorted(np.cumsum(lengths), len(active)) + 1]
        lengths[-1] -= lengths.sum() - len(active)
        starts = np.cumsum(lengths) - lengths
        alone = lengths == 1
        group = np.repeat(np.arange(len(lengths)), lengths)
        everything = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
        members = {name: values[active] for name, values in everything.items()}
        means = {
            name: np.add.reduceat(values, starts) / lengths.reshape(-1, *[1] * (values.ndim - 1))
            for name, values in members.items()
        }
        away = np.linalg.norm(members["means"] - means["means"][group], axis=1)
        means["opacities"] = np.minimum(1000, means["opacities"] * rng.choice([1, 1, 30], len(lengths)))
        means["errors"] = 1.001 * np.maximum.reduceat(members["errors"], starts) + np.maximum.reduceat(away, starts)
        means["radii"] = np.maximum.reduceat(away + members["radii"], starts) * (1 + 1e-5) + 4e-6 * reach
        columns.append({name: values[~alone] for name, values in means.items()})
        firsts.append(used + np.cumsum(lengths[~alone]) - lengths[~alone])
        counts.append(lengths[~alone])
        listed.append(active[~alone[group]])
        used += len(listed[-1])
        following = np.where(alone, active[starts], 0)
        following[~alone] = made + np.arange((~alone).sum())
        active, made = following, made + int((~alone).sum())
    first, count = np.concatenate(firsts), np.concatenate(counts)
    lists = np.concatenate(listed) if listed else np.empty(0, np.int64)

    level, order = np.array([made - 1]), []
    while len(level):
        order.append(level)
        inner = level[count[level] > 0]
        within = np.arange(count[inner].sum()) - np.repeat(np.cumsum(count[inner]) - count[inner], count[inner])
        level = lists[np.repeat(first[inner], count[inner]) + within]
    order = np.concatenate(order)
    sorted_counts = count[order]
    children = np.where(sorted_counts > 0, 1 + np.cumsum(sorted_counts) - sorted_counts, -1)
    everything = {
        name: torch.from_numpy(np.concatenate([part[name] for part in columns])[order]).float() for name in columns[0]
    }
    errors, radii = everything.pop("errors"), everything.pop("radii")
    everything["quats"] = torch.nn.functional.normalize(everything["quats"])
    return Tree(
        Gaussians(**everything), torch.from_numpy(children).int(), torch.from_numpy(sorted_counts).int(), errors, radii
    )


def assert_rules(tree: Tree) -> None:
    """Every rule of a tree, by brute force."""
    children, counts = tree.children.numpy(), tree.counts.numpy()
    n = len(children)
    parents = np.full(n, -1)
    for node in np.flatnonzero(counts):
        own = slice(children[node], children[node] + counts[node])
        assert children[node] > node and own.stop <= n and (parents[own] == -1).all()
        parents[own] = node
    assert (parents[1:] >= 0).all() and parents[0] == -1 and (children[counts == 0] == -1).all()
    assert (tree.errors[tree.counts == 0] == 0).all() and (tree.radii[tree.counts == 0] == 0).all()
    child, parent = np.arange(1, n), parents[1:]
    errors, radii, means = (part.double().numpy() for part in (tree.errors, tree.radii, tree.gaussians.means))
    assert (errors[parent] >= 1.0005 * errors[child]).all()
    away = np.linalg.norm(means[parent] - means[child], axis=1)
    assert (radii[parent] >= away + radii[child] + 2e-6 * radii[0]).all()


def whole(store: Store) -> Tree:
    """All pages as one tree, nodes in the order of their ids."""
    pages = [store.decode(page, store.read(page)) for page in range(len(store))]
    starts = np.cumsum([0, *(len(page.counts) for page in pages)])
    children = []
    for number, page in enumerate(pages):
        links = page.children.numpy()
        at = starts[number + np.maximum(links >> 16, 0)] + (links & 0xFFFF)
        children.append(torch.from_numpy(np.where(links < 0, -1, at)).int())
    rest = [torch.cat([getattr(page, name) for page in pages]) for name in ("counts", "errors", "radii")]
    return Tree(merge([page.gaussians for page in pages]), torch.cat(children), *rest)


def subtree(tree: Tree, root: int) -> tuple[Tree, np.ndarray]:
    """What hangs from a node, as a tree of its own, and its nodes."""
    children, counts = tree.children.numpy(), tree.counts.numpy()
    nodes = [np.array([root])]
    while len(nodes[-1]):
        inner = nodes[-1][counts[nodes[-1]] > 0]
        nodes.append(np.concatenate([np.arange(children[i], children[i] + counts[i]) for i in inner] or [inner]))
    return part(tree, np.concatenate(nodes)), np.concatenate(nodes)


def part(tree: Tree, nodes: np.ndarray) -> Tree:
    """Some nodes, parents first and siblings together; those whose children are not among them become leaves."""
    place = np.full(len(tree.counts) + 1, -1)
    place[nodes] = np.arange(len(nodes))
    children = place[tree.children.numpy()[nodes]]  # of a leaf, the last place, which is -1
    inner = torch.from_numpy(children >= 0)
    index = torch.from_numpy(nodes).long()
    kept = [torch.where(inner, values[index], 0) for values in (tree.counts, tree.errors, tree.radii)]
    return Tree(tree.gaussians.select(index), torch.from_numpy(children).int(), *kept)
