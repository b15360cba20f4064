"""Scene and camera in, frame out."""

import torch
from torch import Tensor

from ..kernels.rasterize import BACKENDS, Rendering, Span, best_backend, no_span, rasterize, why_unavailable
from .errors import InputError
from .scene.camera import Camera
from .scene.gaussians import Gaussians


def resolve_backend(name: str) -> str:
    """The backend that `name` (auto, triton, cpu, reference) stands for on this machine.

    Raises:
        InputError: no such backend, or it cannot run here.
    """
    if name == "auto":
        return best_backend()
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is unknown: give auto, {', '.join(BACKENDS)}")
    reason = why_unavailable(name)
    if reason:
        raise InputError(f"backend {name!r} cannot run here: {reason}")
    return name


def backend_device(backend: str) -> torch.device:
    """Where a scene has to live for a backend."""
    return torch.device("cuda" if backend == "triton" and torch.cuda.is_available() else "cpu")


def render(
    gaussians: Gaussians,
    camera: Camera,
    *,
    backend: str = "auto",
    background: Tensor | None = None,
    span: Span = no_span,
) -> Rendering:
    """Render one frame; see `lyra.kernels.rasterize.rasterize` for what comes back.

    The scene should already live on the backend's device (`gaussians.to(backend_device(...))`).
    """
    return rasterize(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.sh,
        camera.world_to_camera,
        camera.K,
        camera.width,
        camera.height,
        backend=backend,
        background=background,
        span=span,
    )
