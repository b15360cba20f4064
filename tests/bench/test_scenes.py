"""gsplat's garden, and copies side by side."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lyra.bench.scenes import GARDEN_SCALES, garden, open_bench_scene, own_cameras, side_by_side
from lyra.engine.errors import InputError
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.paths import Framing
from lyra.kernels.constants import SH_C0


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """Points in and out of the cube that is kept, and two cameras, in the layout of gsplat's file."""
    random = np.random.default_rng(0)
    means = random.uniform(-3.0, 3.0, (500, 3)).astype(np.float32)
    poses = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    poses[:, 2, 3] = 6.0, 7.0
    lens = np.tile(np.array([[50, 0, 31], [0, 51, 23], [0, 0, 1]], dtype=np.float32), (2, 1, 1))
    colors = random.integers(0, 256, (500, 3), dtype=np.uint8)
    path = tmp_path / "points.npz"
    np.savez(path, means3d=means, colors=colors, viewmats=poses, Ks=lens, width=64, height=48)
    return path


def test_a_garden_is_the_points_within_the_cube_made_splats(points: Path) -> None:
    file = np.load(points)
    inside = (np.abs(file["means3d"]) <= 2).all(axis=1)
    scene = garden(points)
    assert 0 < len(scene) == inside.sum() < 500
    np.testing.assert_array_equal(scene.means.numpy(), file["means3d"][inside])
    colors = scene.sh[:, 0].numpy() * SH_C0 + 0.5
    np.testing.assert_allclose(colors, file["colors"][inside] / 255, atol=1e-6)
    assert GARDEN_SCALES[0] <= float(scene.scales.min()) and float(scene.scales.max()) <= GARDEN_SCALES[1]
    assert float(scene.scales.mean()) == pytest.approx(0.01, rel=0.1)
    assert torch.allclose(scene.quats.norm(dim=1), torch.ones(len(scene)))
    assert torch.equal(garden(points).quats, scene.quats)  # seeded


def test_a_garden_has_its_own_cameras(points: Path) -> None:
    for source in (f"garden:{points}", f"garden:{points}@9"):
        first, second = own_cameras(source)
        assert (first.width, first.height, first.fx, first.fy, first.cx, first.cy) == (64, 48, 50, 51, 31, 23)
        assert float(second.world_to_camera[2, 3]) == 7.0
    assert own_cameras("procedural:1k") == []
    _, framing = open_bench_scene(f"garden:{points}")
    assert framing.up == (0.0, 0.0, 1.0)


def test_the_real_garden_is_gsplats(shared: Path) -> None:
    scene = garden(shared / "scenes" / "test_garden.npz")
    assert len(scene) == 111_785
    assert len(own_cameras(f"garden:{shared}/scenes/test_garden.npz")) == 3


def test_copies_lie_side_by_side_on_the_ground() -> None:
    random = torch.Generator().manual_seed(0)
    means = torch.rand(200, 3, generator=random) * torch.tensor([4.0, 2.0, 8.0])
    scene = Gaussians(means, torch.ones(200, 4), means, means[:, 0] / 4, means[:, None])
    copies = side_by_side(scene, Framing((0.0, 0.0, 0.0), 1.0), 5)  # y is up
    assert len(copies) == 1000
    shifts = (copies.means.unflatten(0, (5, 200)) - means).mean(dim=1)
    assert torch.equal(shifts[0], torch.zeros(3))
    assert torch.allclose(shifts[:, 1], torch.zeros(5))
    assert len({tuple(shift) for shift in shifts.round(decimals=3).tolist()}) == 5
    assert float(shifts[:, 0].abs().max()) == pytest.approx(4.0, rel=0.1)
    assert float(shifts[:, 2].abs().max()) == pytest.approx(8.0, rel=0.1)
    for name, tensor in scene.tensors().items():
        if name != "means":
            assert torch.equal(copies.tensors()[name].unflatten(0, (5, 200))[3], tensor)


def test_any_source_can_be_copied(points: Path) -> None:
    one, framing = open_bench_scene(f"garden:{points}")
    four, same = open_bench_scene(f"garden:{points}@4")
    assert len(four) == 4 * len(one) and same == framing


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("garden:nowhere.npz", "check the path"),
        ("procedural:1k@0", "give 1 to"),
        ("procedural:1k@99999", "give 1 to"),
        ("nowhere.ply@2", "check the path"),
    ],
)
def test_what_is_no_scene_is_refused(source: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        open_bench_scene(source)


@pytest.mark.parametrize("damage", ["noise", "no colours", "one number", "far away", "strings"])
def test_a_file_that_is_no_garden_is_refused(damage: str, points: Path) -> None:
    file = dict(np.load(points))
    if damage == "noise":
        points.write_bytes(b"PK\x03\x04" + bytes(50))
    elif damage == "no colours":
        del file["colors"]
    elif damage == "one number":
        file["means3d"] = np.float32(1.0)
    elif damage == "far away":
        file["means3d"] = file["means3d"] + 100
    else:
        file["means3d"] = np.array(["a", "b"])
    if damage != "noise":
        np.savez(points, **file)
    with pytest.raises(InputError, match="garden") as refused:
        garden(points)
    assert "\n" not in str(refused.value)
