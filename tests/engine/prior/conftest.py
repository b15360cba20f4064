"""A scene that is known everywhere: a unit sphere whose colour tells the place, seen on nothing."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from lyra.engine.prior.clips import Clips
from lyra.engine.scene.camera import Camera


def place_colour(points: Tensor) -> Tensor:
    """[..., 3] of places [..., 3] on the sphere."""
    return 0.5 + 0.4 * points


@pytest.fixture
def seen_sphere() -> Callable[[Sequence[Sequence[Camera]]], Clips]:
    """Clips of the sphere from cameras [b][v], traced through pixel centres."""

    def trace(cameras: Sequence[Sequence[Camera]]) -> Clips:
        poses = torch.stack([torch.stack([c.world_to_camera for c in views]) for views in cameras])
        K = torch.stack([torch.stack([c.K for c in views]) for views in cameras])
        w, h = cameras[0][0].width, cameras[0][0].height
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        pixels = torch.stack((x, y, torch.ones_like(x)), -1).double()
        rays = torch.einsum("bvij,hwj->bvhwi", torch.linalg.inv(K), pixels)  # z = 1
        rotation, shift = poses[..., :3, :3], poses[..., :3, 3]
        # |z ray - shift|^2 = 1, as the middle of the sphere lies at `shift`.
        a, half = (rays * rays).sum(-1), torch.einsum("bvhwi,bvi->bvhw", rays, shift)
        within = half**2 - a * ((shift * shift).sum(-1)[..., None, None] - 1)
        hit = within > 0
        z = torch.where(hit, (half - within.clamp(min=0).sqrt()) / a, 0.0)
        points = torch.einsum("bvji,bvhwj->bvhwi", rotation, rays * z[..., None] - shift[:, :, None, None])
        rgb = torch.where(hit[..., None], place_colour(points), 0.0).movedim(-1, 2)
        times = torch.linspace(0, 1, len(cameras[0])).expand(len(cameras), -1)
        return Clips(rgb.float(), z.float(), hit.float(), poses.float(), K.float(), times)

    return trace


@pytest.fixture
def shows_sphere() -> Callable[..., None]:
    """Checks that depth, poses and intrinsics of clips put each pixel onto the sphere, where its colour belongs."""

    def check(clips: Clips, *, off: float, colour: float, turned: Tensor | None = None, least: int = 100) -> None:
        """`off` and `colour` are the largest mean errors; `turned` [3, 3] takes places back to the sphere's own."""
        w, h = clips.size
        y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
        rays = torch.einsum("bvij,hwj->bvhwi", torch.linalg.inv(clips.K), torch.stack((x, y, torch.ones_like(x)), -1))
        local = rays * clips.depth[..., None] - clips.world_to_camera[:, :, None, None, :3, 3]
        points = torch.einsum("bvji,bvhwj->bvhwi", clips.world_to_camera[..., :3, :3], local)
        if turned is not None:
            points = points @ turned.T
        for scene in range(len(clips)):
            known = (clips.depth[scene] > 0) & (clips.alpha[scene] > 0.95)
            assert int(known.sum()) >= least
            assert float((points[scene][known].norm(dim=-1) - 1).abs().mean()) <= off
            wanted = place_colour(points[scene][known])
            straight = clips.rgb[scene].movedim(1, -1)[known] / clips.alpha[scene][known][:, None]
            assert float((straight - wanted).abs().mean()) <= colour
            assert bool(((clips.alpha[scene] > 0) | (clips.depth[scene] == 0)).all())

    return check
