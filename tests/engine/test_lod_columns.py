"""A page as bytes and back: no value is off by more than half a step."""

import dataclasses
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats.loss import errors
from lyra.engine.formats.registry import load
from lyra.engine.lod.columns import (
    CODE_VALUES,
    NO_LINK,
    decode,
    encode,
    layout,
    pack,
    page_bytes,
    ranges_of,
    unpack,
)
from lyra.engine.renderer import render
from lyra.engine.scene.camera import load_cameras
from lyra.engine.scene.gaussians import Gaussians, merge
from lyra.engine.scene.morton import morton_order


def through(scene: Gaussians) -> Gaussians:
    """The scene as a page gives it back."""
    n, degree = len(scene), scene.sh_degree
    rng = np.random.default_rng(0)
    links, counts = rng.integers(0, NO_LINK + 1, n), rng.integers(0, 256, n)
    codes = rng.integers(0, 1 << 16, (2, n))
    ranges = ranges_of(scene)
    data = pack(encode(scene, ranges, links, counts, *codes), degree)
    assert len(data) == page_bytes(n, degree)
    columns = unpack(data, n, degree)
    assert (columns.links == links).all() and (columns.counts == counts).all()
    assert (columns.radii == codes[0]).all() and (columns.errors == codes[1]).all()
    return decode(columns, ranges)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_half_a_step(stored_trees: ModuleType, degree: int) -> None:
    scene = stored_trees.scene_of(3000, degree)
    back = through(scene)
    found = errors(scene, back)
    span = float((scene.means.amax(dim=0) - scene.means.amin(dim=0)).max())
    assert found["position"]["max"] <= 3**0.5 * (span / (2**24 - 1) / 2 + span * 2**-24)
    logs = scene.scales.log()
    assert found["scale"]["max"] <= 1.01 * float(logs.max() - logs.min()) / 65534 / 2 + 1e-6
    assert found["rotation"]["max"] <= 0.25 and found["opacity"]["max"] <= 1.6e-5
    assert torch.allclose(scene.sh[:, 0], back.sh[:, 0], rtol=2**-11, atol=2**-25)
    for low, high in ((1, 4), (4, 9), (9, 16)):
        if high <= back.sh.shape[1]:
            away = scene.sh[:, low:high] - back.sh[:, low:high]
            step = float(scene.sh[:, low:high].abs().max()) / 127
            assert float(away.abs().max()) <= step * 0.5001
            assert abs(float(away.mean())) <= 0.02 * step  # rounded without a bias


def test_ends_of_every_range(stored_trees: ModuleType) -> None:
    scene = stored_trees.scene_of(6, 1)
    scene.scales[0], scene.scales[1], scene.scales[2] = 0, 1e-20, 1e20
    scene.opacities[:] = torch.tensor([0, 1, 1.5, 999, 1024, 0.5])
    scene.quats[:5] = torch.tensor(
        [[1, 0, 0, 0], [0, -1e-12, 0, 0], [1e12, -1e12, 1e12, -1e12], [0, 1, 1, 0], [0, 0, 3, 4.0]]
    )
    scene.sh[0, 0] = 1e6
    scene.sh[:, 1:] = 0
    back = through(scene)
    assert (back.scales[0] == 0).all() and (back.scales[1:3] > 0).all()
    assert torch.allclose(back.scales[1:].log(), scene.scales[1:].log(), atol=2e-3)
    assert torch.allclose(back.opacities, scene.opacities, rtol=1.1e-4, atol=1.6e-5)
    assert back.opacities[0] == 0 and back.opacities[1] == 1 and back.opacities[4] == 1024
    assert back.quats[0].tolist() == [1, 0, 0, 0] and back.quats[1].tolist() == [0, 1, 0, 0]
    assert (back.sh[0, 0] == 65504).all() and not back.sh[:, 1:].any()
    assert errors(scene, back)["rotation"]["max"] <= 0.25


def test_one_node_and_nodes_in_one_place(stored_trees: ModuleType) -> None:
    for scene in (stored_trees.scene_of(1, 2), stored_trees.scene_of(5, 0)):
        scene.means[:] = scene.means[0].clone()
        scene.scales[:] = 0.25
        back = through(scene)
        assert torch.equal(back.means, scene.means) and torch.allclose(back.scales, scene.scales)


@pytest.mark.parametrize("field, value", [("means", 1e38), ("means", -1e38), ("scales", 1e38)])
def test_beyond_every_range(stored_trees: ModuleType, field: str, value: float) -> None:
    scene = stored_trees.scene_of(4, 0)
    far = dataclasses.replace(scene, **{field: torch.full((4, 3), value)})
    with pytest.raises(InputError, match="1e.38 is beyond the 1e.37 of .lyra: scale or crop"):
        ranges_of(far)


@pytest.mark.parametrize("nodes, degree", [(1, 0), (7, 3), (65536, 2)])
def test_columns_are_aligned_and_tight(nodes: int, degree: int) -> None:
    columns = layout(nodes, degree)
    end = 0
    for place, dtype, shape in columns.values():
        assert place % 8 == 0 and end <= place < end + 8
        end = place + dtype.itemsize * int(np.prod(shape))
    assert end <= page_bytes(nodes, degree) < end + 8
    width = 36 + 3 * ((degree + 1) ** 2 - 1)
    assert nodes * width <= page_bytes(nodes, degree) <= nodes * width + 8 * len(columns)


def test_codes_grow_by_a_thousandth() -> None:
    values = CODE_VALUES.astype(np.float64)
    assert values[0] == 0 and values[1] == 2.0**-32 and len(values) == 65536
    assert (values[2:] / values[1:-1] > 1.0001).all() and (values[2:] / values[1:-1] < 1.001).all()


def test_pictures_of_a_real_scene(shared: Path) -> None:
    """Harmonics of degree 2 in 8 bits; 57 dB measured."""
    scene = load(shared / "scenes" / "playbot")
    scene = scene.select(morton_order(scene.means))
    back = merge([through(scene.select(slice(at, at + 65536))) for at in range(0, len(scene), 65536)])
    for camera in load_cameras(shared / "golden" / "playbot.json"):
        first, second = (render(one, camera, backend="cpu").rgb for one in (scene, back))
        assert float(-10 * (first - second).square().mean().log10()) > 54
