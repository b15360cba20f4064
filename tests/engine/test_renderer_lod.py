"""A renderer of trees and of paged stores: the same picture, the right one, and within its budget."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lyra.engine.cache import PageCache
from lyra.engine.errors import InputError
from lyra.engine.lod import pages
from lyra.engine.lod.build import BuildOptions, build_tree
from lyra.engine.lod.store import open_store
from lyra.engine.lod.tree import Tree, check
from lyra.engine.lod.view import eye_of, gaze_of
from lyra.engine.lod.writer import write_store
from lyra.engine.renderer import Renderer, render
from lyra.engine.scene.camera import Camera, look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.procedural import generate

SPLATS = 3000
CAMERA = look_at((0.3, -1.2, -6.0), (0.0, -0.5, 0.0), width=75, height=49)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).double().square().mean()) + 1e-12)


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    return generate(SPLATS, seed=3, sh_degree=1).gaussians


@pytest.fixture(scope="module", params=[False, True], ids=["voxels", "pairs"])
def tree(scene: Gaussians, request: pytest.FixtureRequest) -> Tree:
    tree = build_tree(scene, BuildOptions(quality=request.param, views=4))
    check(tree)
    return tree


def test_all_of_it_is_the_scene(scene: Gaussians, tree: Tree) -> None:
    renderer = Renderer(tree, budget=SPLATS, backend="cpu")
    frame = renderer.render(CAMERA)
    assert renderer.detail is not None and int(renderer.detail.number) == SPLATS
    assert psnr(frame.rgb, render(scene, CAMERA, backend="cpu").rgb) > 60


def test_a_smaller_budget_is_kept_and_costs_quality(scene: Gaussians, tree: Tree) -> None:
    whole, found = render(scene, CAMERA, backend="cpu").rgb, []
    for budget in (30, 300, 2000):
        renderer = Renderer(tree, budget=budget, backend="cpu")
        found.append(psnr(renderer.render(CAMERA).rgb, whole))
        assert renderer.detail is not None and budget * 15 / 16 - 8 <= int(renderer.detail.number) <= budget
    assert found == sorted(found) and found[-1] > found[0] + 3


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_backends_agree(tree: Tree, backend: str) -> None:
    frame = Renderer(tree, budget=400, backend=backend).render([CAMERA, CAMERA])
    expected = Renderer(tree, budget=400, backend="cpu").render(CAMERA)
    assert psnr(frame.rgb[0], expected.rgb) > 60 and torch.equal(frame.rgb[0], frame.rgb[1])


def test_a_store_is_its_tree(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CAPACITY", 256)
    write_store(tmp_path / "a.lyra", tree)
    with open_store(tmp_path / "a.lyra") as store, PageCache([store]) as cache:
        renderer = Renderer(cache, budget=1500, backend="cpu")
        first = renderer.render(CAMERA).rgb
        assert cache.settle(20, lambda: renderer.render(CAMERA))
        assert cache.counters().misses > 0 or len(store) == 1
        renderer.render(CAMERA)
        settled = renderer.render(CAMERA).rgb
    whole = Renderer(tree, budget=1500, backend="cpu").render(CAMERA).rgb
    assert psnr(settled, whole) > 45 and psnr(first, whole) <= psnr(settled, whole)


def test_stereo_shares_a_cut(tree: Tree) -> None:
    shift = torch.eye(4, dtype=torch.float64)
    shift[0, 3] = -0.03
    other = Camera(shift @ CAMERA.world_to_camera, CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy, 75, 49)
    frame = Renderer(tree, budget=500, backend="cpu", stereo=True).render([CAMERA, other])
    assert frame.rgb.shape == (2, 49, 75, 3) and frame.alpha.amax() > 0.5
    torch.testing.assert_close(eye_of([CAMERA, other]), (eye_of([CAMERA]) + eye_of([other])) / 2)


def test_a_gaze_is_the_picture_of_the_cameras() -> None:
    gaze = gaze_of([CAMERA])
    assert gaze is not None and len(gaze.sides) == 4
    rotation = CAMERA.world_to_camera[:3, :3]
    places = ((1, 24, True), (74, 24, True), (-2, 24, False), (77, 24, False), (37, 1, True), (37, 51, False))
    for x, y, inside in places:
        ray = rotation.T @ torch.tensor([(x - CAMERA.cx) / CAMERA.fx, (y - CAMERA.cy) / CAMERA.fy, 1.0]).double()
        assert all(ray @ torch.tensor(side).double() >= 0 for side in gaze.sides) == inside
    turned = look_at((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), width=75, height=49)
    assert gaze_of([CAMERA, turned]) is None


@pytest.mark.parametrize("budget", [None, 0, -3, 1.5, True, "many"])
def test_budgets_are_for_trees(scene: Gaussians, tree: Tree, budget: Any) -> None:
    with pytest.raises(InputError, match="budget is .*: give the number of splats to draw"):
        Renderer(tree, budget=budget, backend="cpu")
    with pytest.raises(InputError, match="budget 5 is for a tree"):
        Renderer(scene, budget=5, backend="cpu")
