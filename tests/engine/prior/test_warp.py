"""Warped views against two textured planes whose picture from any camera is known."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lyra.engine.errors import InputError
from lyra.engine.prior.clips import Clips, joined
from lyra.engine.prior.teachers.warp import Targets, Warped, filled, warp

SIDE = 48
K = torch.tensor([[48.0, 0.0, 24.0], [0.0, 48.0, 24.0], [0.0, 0.0, 1.0]])
PLANES = ((4.0, math.inf, 4.0, 0.0), (2.0, 0.5, 7.0, 1.0))  # depth, half a side, frequency, phase


def camera(x: float = 0.0, z: float = 0.0, yaw: float = 0.0) -> Tensor:
    """[4, 4] of a camera at (x, 0, z) that looks along z, turned about y."""
    c, s = math.cos(yaw), math.sin(yaw)
    pose = torch.eye(4)
    pose[:3, :3] = torch.tensor([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    pose[:3, 3] = -pose[:3, :3] @ torch.tensor([x, 0.0, z])
    return pose


def shot(poses: list[Tensor]) -> Clips:
    """What the cameras see, by rays; a small plane stands before an endless one."""
    pose = torch.stack(poses)
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    rays = torch.stack((x, y, torch.ones_like(x)), -1) @ torch.linalg.inv(K).T
    turn = pose[:, :3, :3].mT
    centre = -(turn @ pose[:, :3, 3:])[..., 0]
    along = torch.einsum("vij,hwj->vhwi", turn, rays)
    rgb, depth = torch.zeros(len(poses), SIDE, SIDE, 3), torch.full((len(poses), SIDE, SIDE), math.inf)
    for far, half, frequency, phase in PLANES:
        reach = (far - centre[:, None, None, 2]) / along[..., 2]
        at = centre[:, None, None] + reach[..., None] * along
        hit = (at[..., :2].abs().amax(-1) < half) & (reach < depth)
        mixes = at[..., :2] @ torch.tensor([[1.0, -0.4, 0.7], [0.3, 1.0, 0.7]])
        rgb[hit] = (0.5 + 0.4 * torch.sin(frequency * mixes + phase))[hit]
        depth = torch.where(hit, reach, depth)
    v = len(poses)
    rgb, depth = rgb.movedim(-1, 1)[None], depth[None]
    return Clips(rgb, depth, torch.ones_like(depth), pose[None], K.expand(1, v, 3, 3), torch.linspace(0, 1, v)[None])


def targets_of(clips: Clips) -> Targets:
    return Targets(clips.world_to_camera, clips.K, clips.times)


def error(warped: Warped, truth: Clips, view: int) -> float:
    """Median over the known pixels, for pixels at the rim of the small plane show a mix."""
    return float((warped.rgb - truth.rgb)[0, view].abs().amax(0)[warped.known[0, view]].median())


@pytest.mark.parametrize(
    ("pose", "known", "limit"),
    [
        (camera(), 1.0, 0.015),
        (camera(x=0.3, yaw=-0.07), 0.9, 0.02),
        (camera(z=0.8), 0.97, 0.03),
        (camera(z=-1.5), 0.4, 0.03),
    ],
)
def test_as_seen_from_there(pose: Tensor, known: float, limit: float) -> None:
    truth = shot([pose])
    warped = warp(shot([camera()]), targets_of(truth), (SIDE, SIDE))
    assert float(warped.known.float().mean()) >= known
    assert error(warped, truth, 0) < limit
    assert (warped.rgb * ~warped.known[:, :, None] == 0).all()


def test_front_hides_back() -> None:
    truth = shot([camera(x=0.5)])
    warped = warp(shot([camera()]), targets_of(truth), (SIDE, SIDE))
    inside = (truth.depth < 3)[:, :, None] & warped.known[:, :, None]
    difference = (warped.rgb - truth.rgb).abs() * inside
    assert float(difference.sum() / inside.sum()) < 0.15  # the far plane is off by 0.5 there
    gap = ~warped.known[0, 0]
    assert gap.any() and (truth.depth[0, 0][gap] > 3).all()  # only what stood behind is not known


def test_views_complete_each_other() -> None:
    truth = shot([camera(z=-1.5)])
    sources = [camera(), camera(x=-1.5, z=-1.0), camera(x=1.5, z=-1.0)]
    one, three = (warp(shot(poses), targets_of(truth), (SIDE, SIDE)) for poses in (sources[:1], sources))
    assert float(three.known.float().mean()) > 1.3 * float(one.known.float().mean())
    assert error(three, truth, 0) < 0.05


def test_scenes_apart() -> None:
    first, second = shot([camera()]), shot([camera(z=0.5)])
    truth = joined([shot([camera(x=0.2), camera(z=0.2)]), shot([camera(x=0.1), camera(z=0.6)])])
    both = warp(joined([first, second]), targets_of(truth), (SIDE, SIDE))
    for i, source in enumerate((first, second)):
        alone = warp(source, targets_of(truth.scenes(slice(i, i + 1))), (SIDE, SIDE))
        assert torch.equal(alone.rgb[0], both.rgb[i]) and torch.equal(alone.known[0], both.known[i])


def test_unknown_pixels_show_nothing() -> None:
    source = shot([camera()])
    half = torch.arange(SIDE) < SIDE // 2
    for name in ("depth", "alpha"):
        cut = replace(source, **{name: getattr(source, name) * half})
        known = warp(cut, targets_of(source), (SIDE, SIDE)).known[0, 0]
        assert known[:, : SIDE // 2].all() and not known[:, SIDE // 2 + 1 :].any()
    with pytest.raises(InputError, match="scene 0 of 1 has no depth.*estimated"):
        warp(replace(source, depth=torch.zeros_like(source.depth)), targets_of(source), (SIDE, SIDE))


def test_filled() -> None:
    known = torch.zeros(1, 2, 13, 9, dtype=torch.bool)
    known[:, 0, 3:7, 2:5] = True
    known[:, 0, 12, 8] = True
    rgb = torch.rand(1, 2, 3, 13, 9, generator=torch.Generator().manual_seed(1)) * known[:, :, None]
    full = filled(Warped(rgb, known))
    assert torch.equal(full[0, 0][:, known[0, 0]], rgb[0, 0][:, known[0, 0]])
    colors = rgb[0, 0][:, known[0, 0]]
    bounds = colors.amin(1)[:, None, None] - 1e-6, colors.amax(1)[:, None, None] + 1e-6
    assert ((full[0, 0] >= bounds[0]) & (full[0, 0] <= bounds[1])).all()
    assert (full[0, 1] == 0).all()  # nothing is known of the second view
    plain = filled(Warped(known[:, :, None] * torch.tensor([0.2, 0.4, 0.6])[:, None, None], known))
    torch.testing.assert_close(plain[0, 0], torch.tensor([0.2, 0.4, 0.6])[:, None, None].expand(3, 13, 9))
