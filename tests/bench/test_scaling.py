"""`lyra-bench --lod --scaling` at a small size: what it writes, that docs/bench.md says so, and what the copies are."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lyra.bench import scaling
from lyra.bench.cli import main
from lyra.bench.scaling import SPANS, write_copies
from lyra.bench.scaling_report import write_scaling_plot
from lyra.bench.scenes import lattice
from lyra.engine.lod import pages
from lyra.engine.lod.build import DEFAULTS, build_tree
from lyra.engine.lod.store import leaves, open_store
from lyra.engine.scene.gaussians import Gaussians, merge
from lyra.engine.scene.procedural import generate

ARGUMENTS = ["--lod", "--scaling", "--scene", "procedural:1000", "--res", "75x49", "--frames", "3", "--warmup", "0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("scaling") / "a.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scaling, "COPIES", (1, 4))
        assert main([*ARGUMENTS, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_every_key_is_documented(run: dict[str, Any], json_keys: ModuleType) -> None:
    assert set(json_keys.keys(run, SPANS)) == json_keys.documented("machine", "scaling")
    for name in SPANS:
        assert f"`{name}`" in json_keys.PAGE


def test_figures_hang_together(run: dict[str, Any]) -> None:
    (found,) = run["scaling"]
    assert found["splats"] == 1000 and found["budget"] == 500 and found["frames"] == 3
    one, four = found["copies"]
    assert [one["copies"], one["splats"], four["copies"], four["splats"]] == [1, 1000, 4, 4000]
    assert one["nodes"] == found["build"]["nodes"] and 4 * one["nodes"] < four["nodes"] <= 4 * one["nodes"] + 3
    for row in (one, four):
        assert 450 < row["drawn"] <= 500 and 500 < row["resident_nodes"] <= row["nodes"]
        assert set(row["milliseconds"]) == set(SPANS) and all(value > 0 for value in row["milliseconds"].values())
        assert row["growth"] == pytest.approx(row["milliseconds"]["frame"] / one["milliseconds"]["frame"])
        assert row["hits"] > 0 and row["misses"] == row["evictions"] == row["bytes_read"] == 0


@pytest.mark.parametrize("count", [1, 4])
def test_copies_are_those_of_brute_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Their splats, each as often and where it belongs, from pages that the file holds once."""
    monkeypatch.setattr(pages, "CAPACITY", 256)
    monkeypatch.setattr(scaling, "CAPACITY", 256)
    scene = generate(2000, seed=3, sh_degree=1).gaussians
    shifts = lattice((0.0, -1.0, 0.0), count) * 20
    path = tmp_path / "a.lyra"
    write_copies(path, build_tree(scene), shifts, DEFAULTS)
    with open_store(path) as store:
        found = leaves(store)
        assert store.metadata.splats == len(found) == count * len(scene)
        assert len(np.unique(store.directory["offset"])) <= 1 + (len(store) - 1) / count
        assert store.metadata.nodes == int(store.directory["nodes"].sum())
    expected = merge([Gaussians(**scene.tensors() | {"means": scene.means + shift}) for shift in shifts])
    away, twin = torch.cdist(expected.means.double(), found.means.double()).min(dim=1)
    assert len(twin.unique()) == len(twin) and float(away.max()) < 1e-4
    torch.testing.assert_close(found.opacities[twin], expected.opacities, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.sh[twin, 0], expected.sh[:, 0], atol=1e-4, rtol=1e-3)


def test_curves_are_a_picture(run: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the curves take the extra `plot`")
    write_scaling_plot(tmp_path / "a.png", run["scaling"][0])
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 400 and len(picture.convert("RGB").getcolors(1 << 20) or []) > 50
