"""Real scenes at a quarter and less of their splats, against the whole, at the cameras of the golden pictures."""

import json
import math
from pathlib import Path

import pytest
import torch

from lyra.engine.formats.registry import load
from lyra.engine.lod.build import BuildOptions, build_tree
from lyra.engine.renderer import Renderer, render
from lyra.engine.scene.camera import Camera
from lyra.engine.scene.gaussians import Gaussians

pytestmark = pytest.mark.slow

# Of playbot, by budget: dB at the three cameras of the levels that its author's tool has made, from the same 500,000
# splats (measured by this renderer), and how much better a cut has to be.
LEVELS = {250_000: (34.50, 31.49, 38.53), 125_000: (32.63, 30.24, 36.06), 31_000: (29.45, 27.89, 32.34)}
BETTER = 1.0


def cameras_of(shared: Path, name: str) -> list[Camera]:
    said = json.loads((shared / "golden" / f"{name}.json").read_text())["cameras"]
    fields = ("fx", "fy", "cx", "cy", "width", "height")
    return [Camera(torch.tensor(c["world_to_camera"]).double(), *(c[field] for field in fields)) for c in said]


def decibels(scene: Gaussians, renderer: Renderer, cameras: list[Camera]) -> list[float]:
    found = []
    for camera in cameras:
        difference = renderer.render(camera).rgb.clamp(0, 1) - render(scene, camera, backend="cpu").rgb.clamp(0, 1)
        found.append(-10 * math.log10(float(difference.double().square().mean())))
    return found


def test_playbot_beats_its_own_levels(shared: Path) -> None:
    scene, cameras = load(shared / "scenes" / "playbot" / "0_0"), cameras_of(shared, "playbot")
    tree = build_tree(scene, BuildOptions(quality=True))
    for budget, levels in LEVELS.items():
        found = decibels(scene, Renderer(tree, budget=budget, backend="cpu"), cameras)
        print(budget, [round(value, 2) for value in found])
        assert all(value >= level + BETTER for value, level in zip(found, levels, strict=True)), (budget, found)


@pytest.mark.parametrize("name, file", [("guitar", "guitar.compressed.ply"), ("st-peter", "st-peter.sog")])
def test_a_quarter_is_32_db(shared: Path, name: str, file: str) -> None:
    scene = load(shared / "scenes" / file)
    renderer = Renderer(build_tree(scene, BuildOptions(quality=True)), budget=len(scene) // 4, backend="cpu")
    found = decibels(scene, renderer, cameras_of(shared, name))
    print(name, [round(value, 2) for value in found])
    assert min(found) >= 32
