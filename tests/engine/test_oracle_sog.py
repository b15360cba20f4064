"""SOG against PlayCanvas' own converter: it reads what we write, we read what it writes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional

from lyra.engine.formats.format import About, Reading, Writing
from lyra.engine.formats.registry import about, load, save
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.morton import morton_order

pytestmark = [pytest.mark.oracle]
Convert = Callable[..., None]


@pytest.fixture
def convert(oracles: ModuleType) -> Convert:
    """Runs splat-transform."""
    return oracles.splat_transform


def train(shared: Path, degree: int = 3) -> Gaussians:
    scene = load(shared / "scenes" / "train-1000.ply")
    return dataclasses.replace(scene, sh=scene.sh[:, : (degree + 1) ** 2].contiguous())


def differences(one: Gaussians, other: Gaussians) -> dict[str, torch.Tensor]:
    """[n, ...] absolute, of positions and scales in the logarithm, of rotations the angle."""
    turns = (functional.normalize(one.quats.double()) * functional.normalize(other.quats.double())).sum(dim=1).abs()
    logs = [scene.means.double().abs().log1p().copysign(scene.means.double()) for scene in (one, other)]
    return {
        "means": (logs[0] - logs[1]).abs(),
        "quats": 2 * turns.clamp(max=1).acos(),
        "scales": (one.scales.log() - other.scales.log()).abs(),
        "opacities": (one.opacities - other.opacities).abs(),
        "sh": (one.sh - other.sh).abs(),
    }


@pytest.mark.parametrize("name", ["scene.sog", "folder/meta.json"])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_it_reads_what_we_write(shared: Path, tmp_path: Path, convert: Convert, name: str, degree: int) -> None:
    scene = train(shared, degree)
    save(scene, tmp_path / name, Writing(note='{"a": 1}', antialiased=True))
    convert(tmp_path / name, tmp_path / "out.ply")
    theirs = load(tmp_path / "out.ply")
    assert (len(theirs), theirs.sh_degree) == (1000, degree)
    assert all(gap.max() < 2e-6 for gap in differences(load(tmp_path / name), theirs).values())  # as we read it
    gaps = differences(scene.select(morton_order(scene.means)), theirs)
    span = (scene.means.abs().log1p().copysign(scene.means)).aminmax(dim=0)
    assert (gaps["means"] <= 0.501 * (span.max - span.min) / 65535 + 1e-6).all()
    assert gaps["quats"].max() < 0.0193 and gaps["opacities"].max() < 0.501 / 255
    assert gaps["scales"].square().mean().sqrt() < 0.006 and gaps["sh"].square().mean().sqrt() < 0.005


@pytest.mark.parametrize("name", ["scene.sog", "folder/meta.json"])
def test_we_read_what_it_writes(shared: Path, tmp_path: Path, convert: Convert, name: str) -> None:
    """As it reads itself, and in its own order near the source; it truncates where we round, so a whole quantum."""
    (tmp_path / "folder").mkdir()
    convert(shared / "scenes" / "train-1000.ply", tmp_path / name)
    ours = load(tmp_path / name)
    convert(tmp_path / name, tmp_path / "out.ply")
    assert all(gap.max() < 2e-6 for gap in differences(ours, load(tmp_path / "out.ply")).values())
    scene = train(shared)
    nearest = torch.cdist(scene.means.double(), ours.means.double()).argmin(dim=1)
    assert len(nearest.unique()) == 1000
    gaps = differences(scene, ours.select(nearest))
    assert gaps["means"].max() < 3e-4 and gaps["quats"].max() < 0.02 and gaps["opacities"].max() < 1.01 / 255


def test_we_read_its_levels(shared: Path, tmp_path: Path, convert: Convert) -> None:
    scene = train(shared, 0)
    parts = {"0": slice(0, 600), "1": slice(600, 900), "-1": slice(900, 1000)}
    for level, part in parts.items():
        save(scene.select(part), tmp_path / f"{level}.ply")
    tagged = [argument for level in parts for argument in (tmp_path / f"{level}.ply", "-l", level)]
    (tmp_path / "lod").mkdir()
    convert(*tagged, "--lod-chunk-count", "1", tmp_path / "lod" / "lod-meta.json")
    assert about(tmp_path / "lod") == About("streamed SOG", 700, levels=2)
    for level, part in {0: parts["0"], 1: parts["1"]}.items():
        expected = torch.cat([scene.means[part], scene.means[parts["-1"]]]).double()
        read = load(tmp_path / "lod", Reading(level=level))
        distance, nearest = torch.cdist(expected, read.means.double()).min(dim=1)
        assert len(read) == len(expected) and len(nearest.unique()) == len(expected)
        assert (distance / (1 + expected.norm(dim=1))).max() < 5e-4
        assert nearest[-100:].min() >= len(expected) - 100  # the environment comes last
