"""What every format loses, one after another: the table of docs/formats.md, made here."""

import dataclasses
import math
from itertools import product
from pathlib import Path

import pytest
import torch

from lyra.engine.formats.loss import conversion_loss, errors
from lyra.engine.formats.registry import FORMATS, format_of_name, load, save
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.transform import transform
from lyra.kernels.constants import SH_C0

DOCS = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
WRITTEN = [format.endings[0] for format in FORMATS if format.save is not None]
PARTS = ("position", "scale", "rotation", "opacity", "color", "sh")
Losses = dict[str, dict[str, dict[str, float]]]


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    """Splats in ten units, with colours and harmonics that every format can hold."""
    rng = torch.Generator().manual_seed(4)
    n = 4000
    return Gaussians(
        means=torch.rand(n, 3, generator=rng) * 10 - 5,
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=rng)),
        scales=(torch.randn(n, 3, generator=rng) - 4).exp(),
        opacities=torch.rand(n, generator=rng),
        sh=torch.cat(
            (
                (torch.rand(n, 1, 3, generator=rng) - 0.5) / SH_C0,
                (torch.randn(n, 15, 3, generator=rng) * 0.2).clamp(-0.9, 0.9),
            ),
            dim=1,
        ),
    )


@pytest.fixture(scope="module")
def losses(scene: Gaussians) -> Losses:
    return {ending: conversion_loss(scene, format_of_name(Path(f"a{ending}"))) for ending in WRITTEN}


def through(scene: Gaussians, ending: str, folder: Path) -> tuple[Gaussians, torch.Tensor]:
    """The scene as a format gives it back, and the order of its splats there."""
    format, path = format_of_name(Path(f"a{ending}")), folder / f"scene{ending}"
    save(scene, path)
    order = torch.arange(len(scene)) if format.order is None else format.order(scene)
    return load(path), order


def told(value: float | None) -> str:
    """One figure, rounded up; - for what is lost altogether, 0 for what float32 loses."""
    if value is None:
        return "-"
    if value < 1e-5:
        return "0"
    digits = -math.floor(math.log10(value))
    return f"{math.ceil(value * 10**digits) / 10**digits:g}"


def table(losses: Losses) -> str:
    rows = ["| format | position | scale, % | rotation, ° | opacity | colour | SH |", "|---|---|---|---|---|---|---|"]
    for ending, loss in losses.items():
        values = {name: loss[name]["max"] * (100 if name == "scale" else 1) for name in PARTS}
        cells = [told(None if name == "sh" and ending == ".splat" else values[name]) for name in PARTS]
        rows.append(f"| `{ending}` | {' | '.join(cells)} |")
    return "\n".join(rows)


def test_the_documentation_has_this_table(losses: Losses) -> None:
    made = table(losses)
    assert made in DOCS.read_text(), f"put this into docs/formats.md:\n{made}"


@pytest.mark.parametrize(("first", "second"), list(product(WRITTEN, WRITTEN)))
def test_two_formats_lose_no_more_than_the_coarser_ones_step(
    scene: Gaussians, losses: Losses, tmp_path: Path, first: str, second: str
) -> None:
    """The largest loss in one format is half its step, so a step of the coarser is twice the larger loss."""
    one, order = through(scene, first, tmp_path)
    two, again = through(one, second, tmp_path)
    found = errors(scene.select(order).select(again), two)
    for name in PARTS:
        if name == "sh" and ".splat" in (first, second):
            assert two.sh_degree == 0
            continue
        step = 2 * max(losses[first][name]["max"], losses[second][name]["max"])
        assert found[name]["max"] <= 1.02 * step + 1e-5, name


@pytest.mark.parametrize("ending", WRITTEN)
def test_writing_what_was_read_loses_hardly_more(scene: Gaussians, losses: Losses, tmp_path: Path, ending: str) -> None:
    one, order = through(scene, ending, tmp_path)
    two, again = through(one, ending, tmp_path)
    found = errors(scene.select(order).select(again), two)
    for name in PARTS:
        assert found[name]["max"] <= 1.25 * losses[ending][name]["max"] + 1e-5, name


@pytest.mark.parametrize("ending", WRITTEN)
def test_turning_before_or_after_is_the_same(scene: Gaussians, tmp_path: Path, ending: str) -> None:
    """A mirror of an axis moves no splat from one step to another, so formats keep up with it."""
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    one, order = through(transform(scene, flip), ending, tmp_path)
    two, other = through(scene, ending, tmp_path)
    back = transform(two, flip)
    index = torch.empty_like(order)
    index[other] = torch.arange(len(scene))
    found = errors(one, back.select(index[order]))
    limits = {"position": 0.02, "scale": 0.1, "rotation": 3.0, "opacity": 1e-5, "color": 0.02, "sh": 0.3}
    for name, limit in limits.items():
        if name in found:
            assert found[name]["rms"] <= limit, name


def half_turn(scene: Gaussians) -> Gaussians:
    """About x, with quaternions as those have them who flip signs: the same ellipsoids."""
    turned = transform(scene, torch.diag(torch.tensor([1.0, -1.0, -1.0])))
    return dataclasses.replace(turned, quats=scene.quats * torch.tensor([1.0, 1.0, -1.0, -1.0]))


def test_small_files_of_every_format_hold_the_same_splats(shared: Path) -> None:
    """Of two foreign sets: each splat of the coarser files lies within their steps; some have their axes turned."""
    folder = shared / "scenes" / "format-fixtures"
    point = load(folder / "test-splat.3-points-from-train.ply")
    splat = errors(point, load(folder / "test-splat.3-points-from-train.splat"))
    spz = errors(point, half_turn(load(folder / "test-splat.3-points-from-train.spz")))
    for found, limits in (
        (splat, {"position": 1e-6, "scale": 1e-5, "rotation": 1.2, "opacity": 0.004, "color": 0.004}),
        (spz, {"position": 3e-4, "scale": 0.032, "rotation": 2.0, "opacity": 0.004, "color": 0.006, "sh": 0.07}),
    ):
        for name, limit in limits.items():
            assert found[name]["max"] <= limit, name
    exact = load(folder / "minimal.ksplat")
    for name in (".splat", "-v2.spz", "-raw.spz", "-v3.spz", "-v4.spz"):
        other = load(folder / f"minimal{name}")
        found = errors(exact, half_turn(other) if name in ("-v3.spz", "-v4.spz") else other)
        assert len(other) == len(exact) == 4 and other.sh_degree == 0
        for part, limit in {"position": 1e-3, "scale": 0.032, "opacity": 0.004}.items():
            assert found[part]["max"] < limit, (name, part)
