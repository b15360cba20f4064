"""A scene that is known everywhere: a unit sphere whose colour tells the place, seen on nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lyra.engine.prior.clips import Clips
from lyra.engine.prior.models import Denoiser, GaussianDecoder
from lyra.engine.prior.training.stages import save_network
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


@pytest.fixture(scope="session")
def stage() -> Callable[[Camera], tuple[Tensor, Tensor]]:
    """Paints a textured slanted wall with a textured board before it: rgb [h, w, 3] and z [h, w] of a camera.

    Each pixel is the mean of 2 x 2 rays, z that of its middle.
    """

    def texture(x: Tensor, y: Tensor, phase: float) -> Tensor:
        waves = [torch.sin(f * x + g * y + phase + i) for i, (f, g) in enumerate(((9, 4), (-6, 11), (15, 7)))]
        return 0.5 + 0.25 * torch.stack(waves, -1) + 0.2 * (torch.sin(23 * x) * torch.sin(21 * y))[..., None]

    def paint(camera: Camera) -> tuple[Tensor, Tensor]:
        def look(dx: float, dy: float) -> tuple[Tensor, Tensor]:
            y, x = torch.meshgrid(torch.arange(camera.height) + dy, torch.arange(camera.width) + dx, indexing="ij")
            ray = torch.stack(((x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, torch.ones_like(x)), -1)
            turn = camera.world_to_camera[:3, :3]
            ray, eye = ray.double() @ turn, camera.position
            wall = (1.2 + 0.2 * eye[0] - eye[2]) / (ray[..., 2] - 0.2 * ray[..., 0])  # z = 1.2 + 0.2 x
            board = (0.8 - eye[2]) / ray[..., 2]
            there = eye + ray * board[..., None]
            within = ((there[..., 0] - 0.05).abs() < 0.15) & (there[..., 1].abs() < 0.12)
            behind = eye + ray * wall[..., None]
            back, front = texture(behind[..., 0], behind[..., 1], 0.0), texture(there[..., 1], there[..., 0], 2.0)
            return torch.where(within[..., None], front, back), torch.where(within, board, wall)

        rays = [look(dx, dy)[0] for dx in (0.25, 0.75) for dy in (0.25, 0.75)]
        return torch.stack(rays).mean(dim=0).clamp(0, 1).float(), look(0.5, 0.5)[1].float()

    return paint


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small prior of random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("untrained")
    sizes = {"width": 64, "depth": 2, "planes": 8}
    for name, model in (("student", Denoiser(**sizes)), ("decoder", GaussianDecoder(**sizes))):
        torch.nn.init.normal_(model.core.head.weight, std=0.1)  # which begin at 0, and depth even
        save_network(model, folder / name)
    (folder / "prior.json").write_text('{"name": "untrained", "size": [16, 16], "rays": true, "fused": true}')
    return folder
