"""The procedural courtyard: counts, determinism, exact geometry, highlights, and the cache."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.scene import procedural
from lyra.engine.scene.camera import Camera, look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.paths import PATHS
from lyra.engine.scene.procedural import ProceduralScene, cached, generate, raycast
from lyra.engine.scene.world.gloss import lobe_sh
from lyra.kernels.reference import quats_to_rotations, sh_basis

COUNT = 12_345


@pytest.fixture(scope="module")
def scene() -> ProceduralScene:
    return generate(COUNT)


def _digest(gaussians: Gaussians) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in gaussians.tensors().values())


def _views(scene: ProceduralScene, width: int, height: int, each: int = 5) -> list[Camera]:
    return [view for path in PATHS.values() for view in path(scene.framing, each, width=width, height=height)]


def test_exact_count_and_valid_values(scene: ProceduralScene) -> None:
    small = generate(1000, sh_degree=1)
    assert len(small.gaussians) == 1000 and small.gaussians.sh.shape == (1000, 4, 3)
    assert len(scene.gaussians) == COUNT and scene.gaussians.sh.shape == (COUNT, 16, 3)
    for splats in (small.gaussians, scene.gaussians):
        assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in splats.tensors().values())
        assert (splats.scales > 0).all()
        assert splats.opacities.min() >= 0.05 and splats.opacities.max() <= 0.99
        torch.testing.assert_close(splats.quats.norm(dim=1), torch.ones(len(splats)))


def test_same_arguments_same_bytes(scene: ProceduralScene) -> None:
    procedural._world.cache_clear()
    again, other = generate(COUNT), generate(COUNT, seed=1)
    assert _digest(again.gaussians) == _digest(scene.gaussians)
    assert torch.equal(again.normals, scene.normals)
    moved = (other.gaussians.means - scene.gaussians.means).norm(dim=1) > 0.05
    assert moved.float().mean() > 0.5


def test_geometry_and_colour_do_not_depend_on_the_degree(scene: ProceduralScene) -> None:
    flat = generate(COUNT, sh_degree=0).gaussians
    assert torch.equal(flat.sh[:, 0], scene.gaussians.sh[:, 0])
    assert torch.equal(flat.means, scene.gaussians.means)
    glossy = (scene.gaussians.sh[:, 1:] != 0).flatten(1).any(dim=1).float().mean()
    assert 0.05 < glossy < 0.9  # some surfaces shine, matt ones hold exact zeros


def test_normals_are_the_thinnest_axes(scene: ProceduralScene) -> None:
    axes = quats_to_rotations(scene.gaussians.quats)  # columns
    thinnest = scene.gaussians.scales.argmin(dim=1)
    axis = axes.gather(2, thinnest[:, None, None].expand(-1, 3, 1)).squeeze(2)
    ones = torch.ones(COUNT)
    torch.testing.assert_close(scene.normals.norm(dim=1), ones)
    torch.testing.assert_close((axis * scene.normals).sum(dim=1).abs(), ones, atol=1e-5, rtol=0)


def test_splats_lie_on_the_surfaces(scene: ProceduralScene) -> None:
    """Seen from 2 cm above a splat, along its normal, a surface lies 2 cm away, or something else stands between."""
    opaque = scene.gaussians.opacities[: COUNT - scene.sky_count] > 0.6
    picked = opaque.nonzero()[:: max(1, int(opaque.sum()) // 50), 0].tolist()
    exact = 0
    for index in picked:
        spot, normal = scene.gaussians.means[index].double(), scene.normals[index].double()
        depth, seen = raycast(scene, look_at(spot + 0.02 * normal, spot, width=1, height=1))
        assert float(depth) < 0.02 + 1e-4
        exact += abs(float(depth) - 0.02) < 1e-4 and float(seen[0, 0] @ normal) > 0.999
    assert exact > 0.8 * len(picked)


def test_raycast_agrees_with_a_finer_picture_and_its_own_normals(scene: ProceduralScene) -> None:
    """Each pixel must not depend on the rectangle it is tested in, and planes through hits must match the normals."""
    camera = PATHS["orbit"](scene.framing, 8, width=96, height=54)[3]
    depth, normals = raycast(scene, camera)
    triple, _ = raycast(scene, camera.resized(288, 162))
    torch.testing.assert_close(triple[1::3, 1::3], depth, atol=1e-9, rtol=1e-9)
    hit = depth.isfinite()
    assert 0.5 < hit.float().mean() < 1 and (normals[~hit] == 0).all()
    torch.testing.assert_close(normals[hit].norm(dim=1), torch.ones(int(hit.sum()), dtype=torch.float64))
    points = _points(camera, depth)
    assert ((points - camera.position) * normals)[hit].sum(dim=-1).max() <= 0
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    plane = torch.linalg.cross(down, across)
    plane = plane / plane.norm(dim=-1, keepdim=True)
    match = (plane * normals[1:-1, 1:-1]).sum(dim=-1).abs()
    assert (match[hit[1:-1, 1:-1]] > 0.98).float().mean() > 0.4  # the rest are edges and leaves


def _points(camera: Camera, depth: torch.Tensor) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    local = torch.stack(((x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, torch.ones_like(x)), dim=-1)
    return (local.double() * depth[..., None]) @ camera.world_to_camera[:3, :3] + camera.position


def test_paths_stay_in_the_open(scene: ProceduralScene) -> None:
    for seed in (0, 1):
        world = scene if seed == 0 else generate(1000, seed=seed)
        for camera in _views(world, 64, 36, each=6):
            assert camera.position[[0, 2]].abs().max() < 4.7 and -3 < camera.position[1] < -0.8
            depth, _ = raycast(world, camera)
            assert (depth < 0.35).float().mean() < 0.02
            assert depth.isfinite().float().mean() > 0.7
            assert 0.5 < float(depth[18, 32]) < 11


@pytest.mark.parametrize("sharpness", [2.0, 7.0, 14.0])
def test_lobe_projection_against_quadrature(sharpness: float) -> None:
    axis = np.array([[0.36, -0.48, 0.8]])
    found = lobe_sh(axis, sharpness, np.array([[1.0, 0.5, 0.25]]), 3)
    z, weights = np.polynomial.legendre.leggauss(64)
    turn = (np.arange(128) + 0.5) * 2 * math.pi / 128
    level = np.sqrt(1 - z**2)[:, None]
    ways = np.stack((level * np.cos(turn), level * np.sin(turn), np.broadcast_to(z[:, None], (64, 128))), -1).reshape(
        -1, 3
    )
    lobe = np.exp(sharpness * (ways @ axis[0] - 1)) * np.repeat(weights, 128) * 2 * math.pi / 128
    wanted = lobe @ sh_basis(torch.from_numpy(ways), 16).numpy()
    np.testing.assert_allclose(found[0], wanted[:, None] * [1.0, 0.5, 0.25], atol=1e-10)


def test_highlights_face_the_mirrored_light(scene: ProceduralScene) -> None:
    """Water lies level: towards the sun, seen at its own angle, it is brighter than from the sun's side."""
    splats = scene.gaussians
    water = (splats.opacities < 0.45) & (scene.normals[:, 1] < -0.999) & (splats.sh[:, 1:] != 0).flatten(1).any(1)
    assert water.sum() > 5
    sun = torch.tensor(np.array(procedural.daylight(0).sun) @ procedural.PLAN_TO_WORLD.T)
    toward = sun * torch.tensor([1.0, -1.0, 1.0])  # sight goes down to the water, its mirror image up to the sun
    away = toward * torch.tensor([-1.0, 1.0, -1.0])
    bright, dim = (sh_basis(way[None], 16).float() @ splats.sh[water] for way in (toward, away))
    assert (bright.mean(dim=(1, 2)) - dim.mean(dim=(1, 2))).max() > 0.15


def test_cache_is_used_and_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYRA_CACHE", str(tmp_path / "deep" / "cache"))
    first, framing = cached(1000, sh_degree=1)
    (file,) = (tmp_path / "deep" / "cache").iterdir()
    monkeypatch.setattr(procedural, "generate", lambda *_, **__: pytest.fail("the cache was not read"))
    second, again = cached(1000, sh_degree=1)
    assert _digest(first) == _digest(second) and framing == again
    monkeypatch.undo()
    monkeypatch.setenv("LYRA_CACHE", str(tmp_path / "deep" / "cache"))
    whole = file.read_bytes()
    middle = len(whole) // 2
    for damaged in (
        b"",
        whole[:middle],
        whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :],
        b"{}" * 99,
    ):
        file.write_bytes(damaged)
        mended, _ = cached(1000, sh_degree=1)
        assert _digest(mended) == _digest(first)
        assert file.read_bytes() == whole
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]  # no half-written rest


def test_cache_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    monkeypatch.setenv("LYRA_CACHE", str(blocker / "cache"))
    gaussians, _ = cached(1000)
    assert len(gaussians) == 1000 and blocker.read_text() == "not a folder"


@pytest.mark.parametrize(
    ("count", "options", "pattern"),
    [
        (999, {}, "999 splats.*give 1000 to 10000000"),
        (10_000_001, {}, "10000001 splats"),
        (1000, {"seed": -1}, "seed -1"),
        (1000, {"sh_degree": 4}, "degree 4.*0, 1, 2 or 3"),
    ],
)
def test_refuses_what_it_cannot_make(count: int, options: dict[str, int], pattern: str) -> None:
    for function in (generate, cached):
        with pytest.raises(InputError, match=pattern):
            function(count, **options)
