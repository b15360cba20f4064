"""The stages in order, for each backend, behind one function.

Naming in all kernels: n splats of the scene, v visible, p pairs of splat and tile, t tiles; `*_out` is written, all
else is read; UPPER is a constexpr. Conventions (axes, quaternions, colour, cut-offs): docs/conventions.md.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .arguments import check_scene, check_view

BACKENDS = ("triton", "cpu", "reference")
STAGES = ("project", "sort", "bin", "blend")  # the spans of every backend, in order

Span = Callable[[str], AbstractContextManager[object]]
Scene = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # means, quats, scales, opacities, sh


def no_span(name: str) -> AbstractContextManager[None]:
    """The span that measures nothing."""
    return nullcontext()


class Counts(NamedTuple):
    """How much work a frame was, in the backend's own tiles: 16x16 (triton), 64x16 (cpu), all of it (reference)."""

    visible: int  # splats that reach the picture
    pairs: int  # entries in all tile lists
    splat_pixels: int | Tensor  # times a splat was evaluated at a pixel; on a GPU a scalar there, so that nobody waits


class Rendering(NamedTuple):
    """One frame, in the float type of the scene (float32 unless the backend is `reference`), on its device."""

    rgb: Tensor  # [h, w, 3] display-referred, background included
    alpha: Tensor  # [h, w]
    depth: Tensor  # [h, w] expected z in camera space, world units; 0 where alpha is 0
    counts: Counts


def why_unavailable(backend: str) -> str | None:
    """None when `backend` (of `BACKENDS`) works on this machine, else one line that says why not and the cure."""
    if backend != "triton":
        return None
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed: pip install triton (Linux), or use the backend cpu"
    if _interpreted():
        return None
    if not torch.cuda.is_available():
        return "no CUDA GPU is visible to torch: use the backend cpu"
    return _why_no_driver()


def _interpreted() -> bool:
    """Whether Triton runs its kernels in Python, on any tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _why_no_driver() -> str | None:
    """Triton compiles a small C helper at its first use on a machine; None when that has worked."""
    from triton.runtime import driver

    try:
        driver.active.get_current_target()
    except Exception as error:  # whatever the missing compiler or header makes Triton raise
        said = " ".join(str(error).split())[:120]
        return f"Triton cannot build its C helper ({said}): apt-get install gcc python3-dev, or set CC"
    return None


def best_backend() -> str:
    """`triton` where it works, else `cpu`."""
    return "triton" if torch.cuda.is_available() and why_unavailable("triton") is None else "cpu"


def rasterize(
    # scene:
    means: Tensor,  # [n, 3]
    quats: Tensor,  # [n, 4] wxyz
    scales: Tensor,  # [n, 3] linear
    opacities: Tensor,  # [n]
    sh: Tensor,  # [n, k, 3]
    # camera:
    world_to_camera: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3] pixels
    width: int,
    height: int,
    *,
    background: Tensor | None = None,
    backend: str = "auto",
    span: Span = no_span,
) -> Rendering:
    """Render a scene of Gaussians: RGB, alpha and expected depth.

    Args:
        background: RGB [3] behind the scene; black when None.
        backend: `triton` (tensors on a CUDA device, float32), `cpu` (Numba, float32), `reference` (plain torch, any
            float type, differentiable), or `auto`: triton for CUDA tensors, cpu otherwise.
        span: opened as a context manager round each stage of `STAGES`, for timing.

    Raises:
        ValueError: a shape, a type or a value does not fit, there is no such backend, it cannot run here, or it has
            no gradients and is asked for them, or the scene lies on the wrong device for it.
        RuntimeError: `cpu` in a process forked after its parent had rendered there.
    """
    check_scene(means, quats, scales, opacities, sh)
    check_view(world_to_camera, K, width, height, background)
    if backend == "auto":
        backend = "triton" if means.is_cuda else "cpu"
    if backend not in BACKENDS:
        raise ValueError(f"backend {backend!r} is unknown: give auto, {', '.join(BACKENDS)}")
    if not means.is_cuda:  # tensors on a GPU have proved that there is one
        reason = why_unavailable(backend)
        if reason:
            raise ValueError(f"backend {backend!r} cannot run here: {reason}")
    fits = {"triton": means.is_cuda or _interpreted(), "cpu": means.device.type == "cpu", "reference": True}
    if not fits[backend]:
        raise ValueError(f"backend {backend!r} cannot read a scene on {means.device}: move it with .to()")
    inputs = (means, quats, scales, opacities, sh, world_to_camera, K)
    if backend != "reference" and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        raise ValueError(f"backend {backend!r} has no gradients: give reference, or render under torch.no_grad()")
    if background is None:
        background = means.new_zeros(3)
    stages = {"triton": _rasterize_triton, "cpu": _rasterize_cpu, "reference": _rasterize_reference}[backend]
    scene = means.contiguous(), quats.contiguous(), scales.contiguous(), opacities.contiguous(), sh.contiguous()
    return stages(scene, world_to_camera, K, width, height, background.to(means), span)


def _rasterize_triton(
    scene: Scene, world_to_camera: Tensor, K: Tensor, width: int, height: int, background: Tensor, span: Span
) -> Rendering:
    from .bin import TILE, bin_splats
    from .blend import blend
    from .project import project
    from .sort import depth_order

    with span("project"):
        records, keys = project(*(tensor.float() for tensor in scene), world_to_camera, K, width, height)
    with span("sort"):
        order = depth_order(keys)
    with span("bin"):
        ids, starts = bin_splats(records, order, width, height)
    with span("blend"):
        rgb, alpha, depth, listed = blend(records, ids, starts, width, height, background.float())
    splat_pixels = listed.sum(dtype=torch.int64) * (TILE * TILE)
    return Rendering(rgb, alpha, depth, Counts(len(order), len(ids), splat_pixels))


def _rasterize_cpu(
    scene: Scene, world_to_camera: Tensor, K: Tensor, width: int, height: int, background: Tensor, span: Span
) -> Rendering:
    from .cpu.bin import bin_splats
    from .cpu.blend import blend
    from .cpu.project import project
    from .cpu.threads import all_cores

    means, quats, scales, opacities, sh = (tensor.detach().float().numpy() for tensor in scene)
    pose, lens = (tensor.detach().double().cpu().numpy() for tensor in (world_to_camera, K))
    with all_cores():
        with span("project"):
            records, keys = project(means, quats, scales, opacities, sh, pose, lens, width, height)
        with span("sort"):
            order = np.sort(keys).astype(np.uint32)
        with span("bin"):
            ids, starts = bin_splats(records, order, width, height)
        with span("blend"):
            rgb, alpha, depth, seen = blend(records, ids, starts, width, height, background.detach().float().numpy())
    counts = Counts(len(order), len(ids), seen)
    return Rendering(torch.from_numpy(rgb), torch.from_numpy(alpha), torch.from_numpy(depth), counts)


def _rasterize_reference(
    scene: Scene, world_to_camera: Tensor, K: Tensor, width: int, height: int, background: Tensor, span: Span
) -> Rendering:
    from .reference import blend, depth_order, project

    world_to_camera, K = world_to_camera.to(scene[0]), K.to(scene[0])
    with span("project"):
        projected = project(*scene, world_to_camera, K, width, height)
    with span("sort"):
        order = depth_order(projected)
    with span("bin"):
        pass  # the reference has no lists
    with span("blend"):
        rgb, alpha, depth = blend(projected, order, width, height)
        rgb = rgb + (1 - alpha[..., None]) * background
    return Rendering(rgb, alpha, depth, Counts(len(order), len(order), len(order) * width * height))
