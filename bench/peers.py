"""Lyra against other renderers: the same scene and cameras, frames taken in turn, speed and likeness.

A peer is a row of `PEERS`: whether it can run here, where its scene lives, and how it renders. What it needs of scene
and cameras is prepared before anything is timed, so that a peer is never charged for a conversion.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine import likeness
from ..engine.renderer import backend_device, render
from ..engine.scene.camera import Camera, look_at
from ..engine.scene.gaussians import Gaussians
from ..kernels.backends import BACKENDS, why_unavailable
from .clock import Clock

Draw = Callable[[int], Tensor]  # the picture that camera i sees: RGB [h, w, 3] before a black background


@dataclass(frozen=True)
class Peer:
    """A renderer to compare with."""

    why_unavailable: Callable[[], str | None]  # None when it runs here, else why not and the cure
    device: Callable[[], torch.device]  # of its scene
    prepare: Callable[[Gaussians, list[Camera]], Draw]


@dataclass(frozen=True)
class Comparison:
    """Frames of Lyra and of a peer, in turn."""

    case: str
    backend: str
    peer: str
    splats: int
    width: int
    height: int
    milliseconds: np.ndarray  # of every frame by Lyra
    peer_milliseconds: np.ndarray
    psnr: np.ndarray  # dB between the pictures of each camera; infinite where they are equal

    @property
    def speedup(self) -> float:
        """How many times as fast Lyra is, by the medians; below 1 the peer is faster."""
        return float(np.median(self.peer_milliseconds) / np.median(self.milliseconds))

    def to_json(self) -> dict[str, object]:
        """As plain values, for a file; a PSNR of null is that of equal pictures."""
        return {
            "case": self.case,
            "backend": self.backend,
            "peer": self.peer,
            "splats": self.splats,
            "width": self.width,
            "height": self.height,
            "frames": len(self.milliseconds),
            "milliseconds": float(np.median(self.milliseconds)),
            "peer_milliseconds": float(np.median(self.peer_milliseconds)),
            "speedup": self.speedup,
            "psnr_least": _finite(self.psnr.min()),
            "psnr_median": _finite(np.median(self.psnr)),
        }


def compare(
    case: str,
    gaussians: Gaussians,
    cameras: list[Camera],
    *,
    backend: str,
    peer: str,
    rounds: int,
    warmup: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Render every camera `rounds` times by Lyra and by a peer, the one that goes first changing from frame to frame.

    Args:
        backend: a resolved one, not `auto`.
        peer: a key of `PEERS` that is available.
        warmup: frames of each that do not count, after one of each that compiles.
        progress: told after each pair of frames how many of how many are done, outside of what is timed.
    """
    renderers = {"ours": backend_peer(backend), "peer": PEERS[peer]}
    draws = {who: row.prepare(gaussians.to(row.device()), cameras) for who, row in renderers.items()}
    clocks = {who: Clock(row.device()) for who, row in renderers.items()}
    psnr, total = [], warmup + rounds * len(cameras)
    with torch.no_grad():
        for i in range(len(cameras)):  # compiles as well
            psnr.append(likeness.psnr(draws["ours"](i).cpu(), draws["peer"](i).cpu()))
        for i in range(total):
            for who in ("ours", "peer") if i % 2 else ("peer", "ours"):
                if i < warmup:
                    draws[who](i % len(cameras))
                else:
                    with clocks[who].span(who):
                        draws[who](i % len(cameras))
            progress(i + 1, total)
    times = {who: clock.milliseconds()[who] for who, clock in clocks.items()}
    size = cameras[0].width, cameras[0].height
    return Comparison(case, backend, peer, len(gaussians), *size, times["ours"], times["peer"], np.array(psnr))


def backend_peer(backend: str) -> Peer:
    """One of Lyra's own backends as a peer."""

    def prepare(scene: Gaussians, cameras: list[Camera]) -> Draw:
        return lambda i: render(scene, cameras[i], backend=backend).rgb

    return Peer(lambda: why_unavailable(backend), lambda: backend_device(backend), prepare)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _probe(package: str, prepare: Callable[[Gaussians, list[Camera]], Draw]) -> str | None:
    """One splat in a small picture. A GPU is asked for first: without one, importing gsplat can fail in many ways."""
    if not torch.cuda.is_available():
        return "it needs a CUDA GPU and none is visible to torch, compare with cpu or reference"
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        return f"it is not installed ({error}), pip install gsplat, 1.6 or later for higs"
    except Exception as error:  # whatever building CUDA sources meets
        return f"it cannot be loaded ({_told(error)}), install a wheel with CUDA built in"
    one = torch.ones(1, 3, device="cuda")
    quats, opacities = torch.ones(1, 4, device="cuda"), torch.full((1,), 0.5, device="cuda")
    try:
        with torch.no_grad():
            prepare(
                Gaussians(one, quats, one, opacities, one[:, None]),
                [look_at((0, 0, -3), (1, 1, 1), width=16, height=16)],
            )(0)
    except Exception as error:
        return f"it cannot render here ({_told(error)}), install a wheel with CUDA built in"
    return None


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _camera_tensors(cameras: list[Camera]) -> tuple[list[Tensor], list[Tensor]]:
    """Poses [4, 4] and intrinsics [3, 3] in float32 on the GPU."""
    poses = [camera.world_to_camera.float().contiguous().cuda() for camera in cameras]
    return poses, [camera.K.float().contiguous().cuda() for camera in cameras]


def _prepare_gsplat(packed: bool) -> Callable[[Gaussians, list[Camera]], Draw]:
    def prepare(scene: Gaussians, cameras: list[Camera]) -> Draw:
        from gsplat import rasterization  # pyright: ignore[reportMissingImports]

        poses, lenses = _camera_tensors(cameras)
        splats = scene.means, scene.quats, scene.scales, scene.opacities, scene.sh

        def draw(i: int) -> Tensor:
            size = cameras[i].width, cameras[i].height
            view = poses[i][None], lenses[i][None]
            return rasterization(*splats, *view, *size, sh_degree=scene.sh_degree, packed=packed)[0][0]

        return draw

    return prepare


def _prepare_higs(scene: Gaussians, cameras: list[Camera]) -> Draw:
    from gsplat.experimental.render import GaussianInferenceRenderer  # pyright: ignore[reportMissingImports]
    from gsplat.scene import GaussianInferenceScene  # pyright: ignore[reportMissingImports]

    packed = GaussianInferenceScene.from_gaussian_tensors(
        scene.means,
        torch.nn.functional.normalize(scene.quats, dim=1),
        scene.scales.clamp(min=1e-8),  # it refuses flat splats
        scene.opacities.clamp(0.0, 1.0),
        scene.sh,
        scene.sh_degree,
        "none",
        id="scene",
    )
    renderer = GaussianInferenceRenderer(packed)
    poses, lenses = _camera_tensors(cameras)

    def draw(i: int) -> Tensor:
        size = {"width": cameras[i].width, "height": cameras[i].height}
        return renderer.render(viewmat=poses[i], K=lenses[i], **size).frame[0, :, :, :3]

    return draw


def _cuda_peer(package: str, prepare: Callable[[Gaussians, list[Camera]], Draw]) -> Peer:
    return Peer(cache(lambda: _probe(package, prepare)), lambda: torch.device("cuda"), prepare)


PEERS = {
    "gsplat": _cuda_peer("gsplat", _prepare_gsplat(packed=True)),  # as it comes
    "gsplat-unpacked": _cuda_peer("gsplat", _prepare_gsplat(packed=False)),  # faster where much is visible
    "higs": _cuda_peer("gsplat.experimental.render", _prepare_higs),  # gsplat's inference renderer in half floats
    **{backend: backend_peer(backend) for backend in BACKENDS},
}
