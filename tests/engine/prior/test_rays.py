"""Rays and plane sweeps against what cameras say one pixel at a time."""

import math

import pytest
import torch

from lyra.engine.prior.clips import Clips, common_depth, normalised, unit_of
from lyra.engine.prior.rays import pixel_directions, plane_depths, plucker, sweep
from lyra.engine.scene.camera import look_at


def cameras(count: int, width: int, height: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    eyes = torch.randn(count, 3, generator=generator) * 0.3
    made = [look_at(eye, (0.1, 0.2, 3.0), width=width, height=height) for eye in eyes]
    return torch.stack([c.world_to_camera for c in made])[None].float(), torch.stack([c.K for c in made])[None].float()


def test_rays_pass_through_their_pixels() -> None:
    poses, K = cameras(3, 7, 5)
    rays = plucker(poses, K, (7, 5))
    assert rays.shape == (1, 3, 6, 5, 7)
    direction, moment = rays[:, :, :3], rays[:, :, 3:]
    assert torch.allclose(direction.norm(dim=2), torch.ones(1, 3, 5, 7), atol=1e-6)
    assert (direction * moment).sum(dim=2).abs().max() < 1e-6
    foot = torch.linalg.cross(direction, moment, dim=2)  # the ray's point nearest to the origin
    for view in range(3):
        point = foot[0, view, :, 3, 5] + 2.5 * direction[0, view, :, 3, 5]
        seen = K[0, view] @ (poses[0, view, :3, :3] @ point + poses[0, view, :3, 3])
        assert torch.allclose(seen[:2] / seen[2], torch.tensor([5.5, 3.5]), atol=1e-4)


def test_planes_are_even_in_parallax() -> None:
    found = plane_depths(5, 0.5, 10.0, torch.zeros(1))
    assert found[0] == pytest.approx(0.1) and found[-1] == pytest.approx(2.0)
    assert torch.allclose(found.diff(), found.diff()[0].expand(4))


def picture(poses: torch.Tensor, K: torch.Tensor, depth: float, size: tuple[int, int]) -> torch.Tensor:
    """What cameras show of a smooth pattern on the plane of constant z before the first of them."""
    to_first = poses[0, 0] @ torch.linalg.inv(poses[0])
    shown = []
    for view in range(poses.shape[1]):
        rotation, translation = to_first[view, :3, :3], to_first[view, :3, 3]
        rays = torch.einsum("ij,jhw->ihw", rotation, pixel_directions(K[0, view], size))
        points = translation[:, None, None] + (depth - translation[2]) / rays[2] * rays
        x, y = points[0], points[1]
        shown.append(torch.stack((x.sin(), (1.5 * y).cos(), (x + y).sin())) * 0.5 + 0.5)
    return torch.stack(shown)[None]


def test_a_sweep_finds_the_depth_of_a_plane() -> None:
    size = (24, 20)
    poses, K = cameras(3, *size)
    inverse = plane_depths(9, 1.0, 9.0, poses)
    rgb = picture(poses, K, float(1 / inverse[4]), size)
    sources, target = (poses[:, 1:], K[:, 1:]), (poses[:, :1], K[:, :1])
    colors, evidence = sweep(rgb[:, 1:], sources, target, inverse, size)
    assert colors.shape == (1, 1, 9, 3, 20, 24) and evidence.shape == (1, 1, 9, 2, 20, 24)
    both = evidence[0, 0, 4, 0] == 1
    assert both.float().mean() > 0.4
    error = (colors[0, 0] - rgb[0, 0]).abs().mean(dim=1)[:, both].mean(dim=1)
    spread = evidence[0, 0, :, 1][:, both].mean(dim=1)
    assert error.argmin() == 4 and error[4] < 4e-3
    assert spread.argmin() == 4 and spread[4] < 4e-3
    assert (colors[evidence[:, :, :, :1].expand_as(colors) == 0] == 0).all()


def test_a_view_that_may_not_be_looked_at_says_nothing() -> None:
    size = (6, 5)
    poses, K = cameras(2, *size)
    rgb = torch.rand(1, 2, 3, 5, 6)
    both = (poses, K)
    colors, evidence = sweep(rgb, both, both, plane_depths(3, 1.0, 5.0, poses), size, 1 - torch.eye(2))
    other = rgb.clone()
    other[:, 0] = math.nan
    again, _ = sweep(other.nan_to_num(9.0), both, both, plane_depths(3, 1.0, 5.0, poses), size, 1 - torch.eye(2))
    assert torch.equal(colors[:, 0], again[:, 0]) and not torch.equal(colors[:, 1], again[:, 1])
    assert evidence[:, :, :, 0].max() == 1


def test_clips_are_put_into_the_axes_and_units_of_their_first_view() -> None:
    poses, K = cameras(3, 6, 5, seed=2)
    depth = torch.full((1, 3, 5, 6), 4.0)
    depth[0, 0, :, :3] = 0.0  # unknown
    clips = Clips(torch.rand(1, 3, 3, 5, 6), depth, torch.ones(1, 3, 5, 6), poses, K, torch.zeros(1, 3))
    found = normalised(clips)
    assert unit_of(clips).tolist() == [4.0]
    assert torch.allclose(found.world_to_camera[0, 0], torch.eye(4), atol=1e-6)
    assert found.depth.max() == 1.0
    before, after = (torch.linalg.inv(c.world_to_camera)[0, :, :3, 3] for c in (clips, found))
    assert torch.allclose((before[1] - before[2]).norm() / 4, (after[1] - after[2]).norm(), atol=1e-6)
    with pytest.raises(ValueError, match=r"times has shape \[1, 2\], expected \[1, 3\]"):
        Clips(clips.rgb, depth, clips.alpha, poses, K, torch.zeros(1, 2))


def test_without_depth_the_unit_is_where_views_look_together() -> None:
    poses, K = cameras(4, 6, 5, seed=1)  # all look at (0.1, 0.2, 3)
    nothing = torch.zeros(1, 4, 5, 6)
    clips = Clips(torch.rand(1, 4, 3, 5, 6), nothing, nothing + 1, poses, K, torch.zeros(1, 4))
    point = torch.tensor([0.1, 0.2, 3.0, 1.0], dtype=torch.float64)
    assert unit_of(clips).item() == pytest.approx(float((poses[0, 0].double() @ point)[2]), rel=1e-4)
    beside = torch.eye(4).repeat(1, 3, 1, 1)
    beside[0, :, 0, 3] = torch.tensor([0.0, 0.1, 0.3])  # parallel: no such point
    assert 0.6 <= common_depth(beside).item() <= 3.0
    assert common_depth(beside[:, :1]).item() == 1.0
