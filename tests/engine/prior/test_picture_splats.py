"""Splats of a picture: as crisp as it, on the surface that its depth tells, within their number."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lyra.engine.likeness import psnr
from lyra.engine.prior.generation.inputs import View
from lyra.engine.prior.generation.picture_splats import LEAST_ALPHA, _quats, picture_splats
from lyra.engine.renderer import render
from lyra.engine.scene.camera import Camera, look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.transform import rotation_quat
from lyra.kernels.reference import quats_to_rotations

HERE = Camera(torch.eye(4, dtype=torch.float64), 200.0, 200.0, 96.0, 64.0, 192, 128)


@pytest.fixture(scope="module")
def painted(stage) -> tuple[View, Tensor]:
    rgb, z = stage(HERE)
    return View(rgb, torch.ones_like(z), HERE), z


@pytest.fixture(scope="module")
def made(painted: tuple[View, Tensor]) -> Gaussians:
    return picture_splats(*painted, 10**6)


def test_source_view_is_crisp(painted: tuple[View, Tensor], made: Gaussians) -> None:
    assert len(made) == HERE.width * HERE.height
    assert psnr(render(made, HERE).rgb, painted[0].rgb) > 33


def test_twice_as_near_leaves_no_gaps(made: Gaussians) -> None:
    near = replace(HERE, fx=400.0, fy=400.0)
    assert float(render(made, near).alpha.min()) > 0.9


@pytest.mark.parametrize("eye", [(0.05, 0.0, 0.0), (-0.05, 0.04, -0.1), (0.0, -0.05, 0.1)])
def test_moved_camera_sees_the_true_parallax(stage, painted: tuple[View, Tensor], made: Gaussians, eye) -> None:
    pose = look_at(eye, (0.0, 0.0, 1.1), width=1, height=1).world_to_camera
    moved = replace(HERE, world_to_camera=pose)
    truth, _ = stage(moved)
    frame = render(made, moved)
    seen = frame.alpha > 0.95
    assert float(seen.float().mean()) > 0.75
    flat = torch.full_like(painted[1], 1.1)
    board = render(picture_splats(painted[0], flat, 10**6), moved)
    both = seen & (board.alpha > 0.95)
    right, wrong = (psnr(rgb[both][None], truth[both][None]) for rgb in (frame.rgb, board.rgb))
    assert right > 30 and right > wrong + 4


@pytest.mark.parametrize("limit, least", [(12_000, 31.0), (6_000, 25.0), (1_500, 18.0)])
def test_fewer_splats_lose_detail_last(painted: tuple[View, Tensor], limit: int, least: float) -> None:
    splats = picture_splats(*painted, limit)
    assert limit - 2 <= len(splats) <= limit
    assert psnr(render(splats, HERE).rgb, painted[0].rgb) > least


def test_flat_parts_share_splats_first() -> None:
    """One half is noise, the other even: all of the noise keeps its pixels."""
    rgb = torch.full((64, 64, 3), 0.5)
    rgb[:, :32] = torch.rand(64, 32, 3, generator=torch.Generator().manual_seed(0))
    camera = Camera(torch.eye(4, dtype=torch.float64), 64.0, 64.0, 32.0, 32.0, 64, 64)
    splats = picture_splats(View(rgb, torch.ones(64, 64), camera), torch.ones(64, 64), 64 * 32 + 32)
    left = splats.means[:, 0] < 0
    assert int(left.sum()) == 64 * 32 and int((~left).sum()) == 32  # blocks of 8 x 8


def test_discs_lie_in_the_surface_and_none_between_two(painted: tuple[View, Tensor], made: Gaussians) -> None:
    x, y, z = made.means.T
    wall, board = (z - 1.2 - 0.2 * x).abs(), (z - 0.8).abs()
    assert float(torch.minimum(wall, board).max()) < 1e-5
    inner = (wall < 1e-5) & ((x.abs() > 0.3) | (y.abs() > 0.2))
    short = quats_to_rotations(made.quats)[..., 2]
    normal = torch.tensor([-0.2, 0.0, 1.0]) / 1.04**0.5
    assert int(inner.sum()) > 5000 and float((short[inner] @ normal).abs().min()) > 0.9999
    reach = made.scales.amax(dim=1) * HERE.fx / z
    assert float(reach.max()) < 0.6  # pixels: nothing is stretched over a jump


def test_nothing_is_made_where_the_picture_is_clear(painted: tuple[View, Tensor]) -> None:
    view, z = painted
    across = torch.linspace(-0.5, 1.5, HERE.width).clamp(0, 1).expand(HERE.height, -1)
    splats = picture_splats(View(view.rgb * across[..., None], across, HERE), z, 10**6)
    assert len(splats) == int((across >= LEAST_ALPHA).sum())
    frame = render(splats, HERE)
    assert psnr(frame.rgb, view.rgb * across[..., None]) > 30
    assert float((frame.alpha - across).abs().mean()) < 0.03


def test_quaternions_are_those_of_the_slow_way() -> None:
    random = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turns = quats_to_rotations(random)
    half_turns = torch.diag_embed(torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])).double()
    turns = torch.cat((turns, half_turns))
    found, wanted = _quats(turns), rotation_quat(turns)
    torch.testing.assert_close((found * wanted).sum(dim=1).abs(), torch.ones(len(turns), dtype=torch.float64))
