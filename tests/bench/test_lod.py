"""`lyra-bench --lod` at a small size: what it writes, that docs/bench.md says so, that its scores mean something."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from lyra.bench import popping
from lyra.bench.cases import cases
from lyra.bench.cli import main
from lyra.bench.lod import SHARES, SLOW, SPANS
from lyra.bench.lod_report import write_plot
from lyra.bench.lod_store import along
from lyra.bench.options import BenchOptions
from lyra.engine.lod import pages
from lyra.engine.lod.build import build_tree
from lyra.engine.lod.tree import Tree, as_nodes
from lyra.engine.lod.writer import write_store
from lyra.engine.renderer import Renderer
from lyra.engine.scene.camera import look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.paths import frame_scene
from lyra.engine.scene.procedural import generate

SMALL = ["--scene", "procedural:1000", "--res", "75x49", "--frames", "3", "--warmup", "0"]
POPS_MOST = 0.6  # of a hard switch (0.5 is seen, and less with more splats and pixels)
CAMERA = look_at((0.3, -1.2, -6.0), (0.0, -0.5, 0.0), width=75, height=49)


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    return generate(2000, seed=3, sh_degree=1).gaussians


@pytest.fixture(scope="module")
def tree(scene: Gaussians) -> Tree:
    return build_tree(scene)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("lod") / "a.json"
    assert main([*SMALL, "--lod", "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_every_key_of_lod_is_documented(run: dict[str, Any], json_keys: ModuleType) -> None:
    assert set(json_keys.keys(run, SPANS, popping.SCORES)) == json_keys.documented("machine", "lod")
    for name in (*SPANS, *popping.SCORES):
        assert f"`{name}`" in json_keys.PAGE


def test_every_key_of_the_plain_run_is_documented(capsys: pytest.CaptureFixture[str], json_keys: ModuleType) -> None:
    assert main([*SMALL, "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(json_keys.keys(found, SPANS)) == json_keys.documented("machine", "scenes")


def test_figures_hang_together(run: dict[str, Any]) -> None:
    (found,) = run["lod"]
    assert [row["budget"] for row in found["budgets"]] == [500, 250, 125, 62]
    assert all(0.9 * row["budget"] < row["drawn"] <= row["budget"] for row in found["budgets"])
    decibels = [row["quality"]["psnr"] for row in found["budgets"]]
    flips = [row["quality"]["flip"] for row in found["budgets"]]
    assert decibels == sorted(decibels, reverse=True) and flips == sorted(flips) and 0 < flips[0] < flips[-1] < 1
    for row in found["budgets"]:
        times = row["milliseconds"]
        assert set(times) == set(SPANS) and all(value > 0 for value in times.values())
    for row in found["popping"]["budgets"]:
        for name in popping.SCORES:
            soft, hard = row["transitions"][name], row["switch"][name]
            assert row["ratio"][name] == (pytest.approx(soft / hard) if hard else None)
    store = found["store"]
    assert store["pages"] >= 1 and store["bytes"] < store["decoded_bytes"]
    assert 0 < store["warm"]["first_seconds"] <= store["warm"]["settled_seconds"]
    assert [len(row["each_frame"]["hits"]) for row in store["caches"]] == [3] * 4


def test_curves_are_a_picture(run: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the curves take the extra `plot`")
    write_plot(tmp_path / "a.png", run["lod"][0])
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 500 and len(picture.convert("RGB").getcolors(1 << 20) or []) > 50
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_without_matplotlib_the_figures_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([*SMALL, "--lod", "--json", str(tmp_path / "a.json")]) == 0
    printed = capsys.readouterr()
    assert "pip install 'lyra-gs[plot]'" in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    for word in ("FLIP", "gather", "cut rms", "cold start", "evictions"):
        assert word in printed.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lod", "--vs", "cpu"], "--vs does not go with --lod"),
        (["--lod", "--grid"], "--grid does not go with --lod"),
        (["--quality"], "--quality builds the tree of --lod: give both"),
        (["--scaling"], "--scaling is a part of --lod: give both"),
        (["--lod", "--json", "a.png"], "--json a.png is the name of the curves"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_a_dolly_goes_straight_ahead() -> None:
    first, _, third = popping.forward(CAMERA, 0.25, 3)
    ahead = CAMERA.world_to_camera[2, :3]
    torch.testing.assert_close(first.position, CAMERA.position)
    torch.testing.assert_close(third.position, CAMERA.position + 0.5 * ahead)


def test_a_cut_is_drawn_as_by_a_renderer(tree: Tree) -> None:
    nodes = as_nodes(tree)
    found = popping._chooser(nodes, 300, "cpu")(CAMERA, None)
    frame = Renderer(tree, budget=300, backend="cpu").render(CAMERA).rgb
    torch.testing.assert_close(popping.draw(nodes, found, CAMERA, "cpu"), frame, atol=2e-6, rtol=0)
    assert bool((found.exponents < 1).any())


def test_nothing_pops_where_nothing_moves_or_all_is_drawn(scene: Gaussians, tree: Tree) -> None:
    (still,) = popping.popping(scene, tree, [300], [CAMERA] * 3, backend="cpu")
    assert set(still["switch"].values()) == {0.0} and set(still["ratio"].values()) == {None}
    path = popping.forward(CAMERA, 0.05, 3)
    some, whole = popping.popping(scene, tree, [300, len(scene)], path, backend="cpu")
    assert some["switch"]["cut_rms"] > some["switch"]["cut_mean"] > 0
    assert whole["switch"]["moving_rms"] < 1e-3 * some["switch"]["moving_rms"]


def test_transitions_pop_much_less_than_a_switch() -> None:
    (case,) = cases(BenchOptions(scene=("procedural:50k",), res="160x90", frames=1))
    gaussians = case.gaussians
    budgets = [len(gaussians) // share for share in SHARES]
    path = popping.forward(case.cameras[0], SLOW * frame_scene(gaussians).radius, 16)
    for row in popping.popping(gaussians, build_tree(gaussians), budgets, path, backend="cpu"):
        assert row["switch"]["cut_rms"] > 1e-4 and row["ratio"]["cut_rms"] < POPS_MOST, row


def test_a_small_cache_reads_more(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "CAPACITY", 256)
    path = tmp_path / "a.lyra"
    write_store(path, tree)
    cameras = popping.forward(CAMERA, 0.3, 12)
    small, large = (along(path, cameras, 1500, size, backend="cpu") for size in (3 << 15, 1 << 30))
    assert small["held_device_bytes"] <= 3 << 15 < large["held_device_bytes"]
    assert small["misses"] > large["misses"] and small["stalls"] >= large["stalls"] and large["evictions"] == 0
    for found in (small, large):
        for name, values in found["each_frame"].items():
            assert len(values) == 12 and (name == "milliseconds" or sum(values) == found[name])
