"""Hierarchies of scenes: the rules of a tree, moments, leaves, the same every time, degenerate scenes."""

from pathlib import Path
from types import ModuleType

import numba
import numpy as np
import pytest
import torch

from lyra.engine.formats.registry import load
from lyra.engine.lod.build import BuildOptions, build_tree
from lyra.engine.lod.layout import Labels
from lyra.engine.lod.parts import write_scene
from lyra.engine.lod.store import open_store
from lyra.engine.lod.tree import Tree, check
from lyra.engine.lod.visibility import FLOOR, visibility
from lyra.engine.scene.gaussians import Gaussians

OPTIONS = {"voxels": BuildOptions(), "pairs": BuildOptions(quality=True, views=0)}
THOMSEN = 1.6075


@pytest.fixture(params=OPTIONS)
def options(request: pytest.FixtureRequest) -> BuildOptions:
    return OPTIONS[request.param]


def covariances(tree: Tree) -> np.ndarray:
    w, x, y, z = torch.nn.functional.normalize(tree.gaussians.quats.double()).numpy().T
    turns = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    axes = turns * tree.gaussians.scales.double().numpy()[:, None, :]
    return axes @ axes.transpose(0, 2, 1)


def inks(tree: Tree) -> np.ndarray:
    a, b, c = tree.gaussians.scales.double().numpy().T ** THOMSEN
    return 4 * np.pi * ((a * b + a * c + b * c) / 3) ** (1 / THOMSEN) * tree.gaussians.opacities.double().numpy()


def assert_moments(tree: Tree) -> None:
    """Ink, mean, covariance and harmonics of each node are those of its children, by their ink."""
    means, spreads, ink = tree.gaussians.means.double().numpy(), covariances(tree), inks(tree)
    sh = tree.gaussians.sh.double().numpy()
    children, counts = tree.children.numpy(), tree.counts.numpy()
    for node in np.flatnonzero(counts):
        own = slice(children[node], children[node] + counts[node])
        weights = ink[own] / ink[own].sum()
        mean = weights @ means[own]
        away = means[own] - mean
        spread = np.einsum("i,ijk->jk", weights, spreads[own] + away[:, :, None] * away[:, None, :])
        size = np.sqrt(np.trace(spread))
        assert ink[node] == pytest.approx(ink[own].sum(), rel=1e-5)
        assert np.abs(means[node] - mean).max() <= 1e-5 * size + 1e-6 * np.abs(mean).max()
        assert np.abs(spreads[node] - spread).max() <= 1e-5 * size**2
        assert np.abs(sh[node] - np.einsum("i,ikc->kc", weights, sh[own])).max() <= 1e-5


def assert_leaves(tree: Tree, scene: Gaussians) -> None:
    """Each splat of the scene is one leaf, unchanged."""
    leaves = tree.gaussians.select(tree.counts == 0)
    assert len(leaves) == len(scene)
    rows = [torch.cat([t.flatten(1) if t.dim() > 1 else t[:, None] for t in s.tensors().values()], dim=1).numpy()
            for s in (leaves, scene)]  # fmt: skip
    assert np.array_equal(*(row[np.lexsort(row.T)] for row in rows))


def test_a_tree_keeps_rules_moments_and_leaves(stored_trees: ModuleType, options: BuildOptions) -> None:
    scene = stored_trees.scene_of(1500, degree=2)
    told: list[tuple[int, int]] = []
    tree = build_tree(scene, options, progress=lambda *done: told.append(done))
    check(tree)
    stored_trees.assert_rules(tree)
    assert_moments(tree)
    assert_leaves(tree, scene)
    assert len(tree) < 2 * len(scene) and tree.gaussians.opacities.max() > 1
    assert told == sorted(told) and told[-1][1] == 1500


def test_the_same_scene_gives_the_same_tree_on_any_number_of_cores(
    stored_trees: ModuleType, options: BuildOptions
) -> None:
    scene = stored_trees.scene_of(3000)
    one = build_tree(scene, options)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        two = build_tree(scene, options)
    finally:
        numba.set_num_threads(before)
    for name, tensor in one.gaussians.tensors().items():
        assert torch.equal(tensor, getattr(two.gaussians, name))
    for name in ("children", "counts", "errors", "radii"):
        assert torch.equal(getattr(one, name), getattr(two, name))


def few(means: torch.Tensor, scale: float = 0.1, opacity: float = 0.5) -> Gaussians:
    n = len(means)
    quats = torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1)
    sh = torch.linspace(-1, 1, 3 * n).view(n, 1, 3)
    return Gaussians(means.float(), quats, torch.full((n, 3), scale), torch.full((n,), opacity), sh)


def giant() -> Gaussians:
    scene = few(torch.rand(40, 3, generator=torch.Generator().manual_seed(1)))
    scene.scales[7] = 1e6
    return scene


LINE = torch.linspace(-1, 1, 50)[:, None] * torch.tensor([1.0, 2, -3])
DEGENERATE = {
    "one": few(torch.zeros(1, 3)),
    "two": few(torch.tensor([[0.0, 0, 0], [1, 2, 3]])),
    "coincident": few(torch.ones(300, 3)),
    "collinear": few(LINE),
    "transparent": few(LINE, opacity=0.0),
    "flat to a point": few(LINE, scale=0.0),
    "giant": giant(),
    "far away": few(LINE + 1e6),
    "far apart": few(LINE * 1e6),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_scenes(name: str, options: BuildOptions, tmp_path: Path, stored_trees: ModuleType) -> None:
    """Whole, and in chunks of at most seven."""
    scene = DEGENERATE[name]
    tree = build_tree(scene, options)
    check(tree)
    assert_leaves(tree, scene)
    path = tmp_path / "a.lyra"
    for chunk in (1000, 7):
        write_scene(scene, path, BuildOptions(options.quality, 0, chunk), Labels())
        with open_store(path) as store:
            stored_trees.assert_rules(stored_trees.whole(store))
        back = load(path)
        assert len(back) == len(scene)
        order = [part.means.double().numpy() @ (1, 1e-3, 1e-6) for part in (scene, back)]
        one, two = (part.select(torch.from_numpy(o.argsort())) for part, o in zip((scene, back), order, strict=True))
        torch.testing.assert_close(two.means, one.means, rtol=1e-6, atol=1e-7 * float(scene.means.abs().max()))
        torch.testing.assert_close(two.scales.sort(dim=0).values, one.scales.sort(dim=0).values, rtol=1e-3, atol=0)


def test_what_lies_inside_is_seen_less() -> None:
    """A closed ball of opaque splats around others."""
    n = 2000
    turn = torch.arange(n) * np.pi * (1 + 5**0.5)
    y = 1 - (2 * torch.arange(n) + 1) / n
    ball = torch.stack((y, *((1 - y * y).sqrt() * way for way in (turn.cos(), turn.sin()))), dim=1)
    inner = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    scene = few(torch.cat((ball, inner)), scale=0.05, opacity=0.99)
    outside = visibility(scene, 1)
    assert (outside[n:] == np.float32(FLOOR)).all() and 0.05 < (outside[:n] > 2 * FLOOR).mean() < 0.6
    assert (visibility(scene, 12)[:n] > 2 * FLOOR).all()
