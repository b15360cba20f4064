"""Scenes and cameras in, frames out, by any backend, with gradients: `rasterize`, and gsplat's `rasterization` over it.

Naming in all kernels: n splats of a scene, v views of it (groups times eyes), p entries of lists, t tiles; `*_out` is
written, all else is read; UPPER is a constexpr. Conventions (axes, quaternions, colour, cut-offs): docs/conventions.md.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from . import autograd
from .arguments import check_exponents, check_finite, check_scene, check_view, expand
from .backends import choose_backend
from .constants import BLUR, NEAR
from .frames import Counts, Projected, Rendering, Span, no_span
from .gsplat.channels import extra_of, paint_of, picture_of, side_by_side
from .gsplat.meta import make_meta
from .gsplat.sparse_rows import SparseRows
from .gsplat.translate import (
    LENSES,
    TILE_SIZE,
    RenderMode,
    check_modes,
    check_shapes,
    check_tensors,
    distortion,
    mask_pixels,
    quats_and_scales,
    refuse,
)
from .options import Options, Precision
from .profile import make_profiles
from .views import pack_views

PLAIN = Options()


def rasterize(
    # scene:
    means: Tensor,  # [..., n, 3]
    quats: Tensor,  # [..., n, 4] wxyz
    scales: Tensor,  # [..., n, 3] linear
    opacities: Tensor,  # [..., n]
    colors: Tensor,  # [..., n, k, 3] spherical harmonics, or [..., n, 3] RGB
    # camera:
    world_to_camera: Tensor,  # [..., 4, 4] or [..., v, 4, 4]
    K: Tensor,  # [3, 3] pixels, or one a view
    width: int,
    height: int,
    *,
    exponents: Tensor | None = None,  # [..., n] in (0, 1]
    features: Tensor | None = None,  # [..., n, N], or [..., v, n, N] one a view
    background: Tensor | None = None,  # [3], or one a view
    mask: Tensor | None = None,  # [h, w] bool, or one a view
    stereo: bool = False,
    options: Options = PLAIN,
    backend: str = "auto",
    capacity: int | None = None,
    keep_projected: bool = False,
    span: Span = no_span,
) -> Rendering:
    """Render scenes of Gaussians, each from its own cameras.

    Args:
        exponents: those of the profiles of a level of detail (docs/conventions.md): 1 draws a splat whole, 1/K as one
            of K coincident siblings. With them opacities may exceed 1. Only `reference` has gradients with them.
        features: channels of any number that are blended like colour.
        background: RGB behind the scene; black when None.
        mask: only pixels where it is True are drawn; tiles without any cost nothing. The others are background.
        stereo: the cameras of a scene are pairs of eyes; a pair shares one sort, and colours seen from its middle.
        options: which outputs, and by which rules.
        backend: `triton` (tensors on a CUDA device, float32), `cpu` (Numba, float32), `reference` (plain torch, any
            float type), or `auto`: triton for CUDA tensors, cpu otherwise. All are differentiable.
        capacity: entries for which `triton` holds room in its tile lists. Then it never waits for the GPU; a frame that
            needs more is right but slow, and `counts.pairs` says how many it wanted. None: it waits once and takes
            what it needs. Not for gradients.
        keep_projected: whether `Rendering.projected` is wanted.
        span: opened as a context manager round each stage of `STAGES`, for timing; in a backward pass, in whatever
            thread autograd runs that, round those of `GRADIENT_STAGES`. `reference` has none of the latter.

    Raises:
        ValueError: a shape, a type or a value does not fit, there is no such backend, it cannot run here, the scene
            lies on the wrong device for it, or it has no gradients for what is asked.
        RuntimeError: `cpu` in a process forked after its parent had rendered there.
    """
    given = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    given |= {name: tensor for name, tensor in (("exponents", exponents), ("features", features)) if tensor is not None}
    if not isinstance(options, Options):
        raise ValueError(f"options is {options!r}, expected lyra.kernels.options.Options")
    check_scene(given)
    if exponents is not None:
        check_exponents(exponents)
    width, height = check_view(world_to_camera, K, width, height)
    backend = choose_backend(backend, means.device)
    eyes = 2 if stereo else 1
    lead, shape = means.shape[:-2], world_to_camera.shape[:-2]
    scenes, views = math.prod(lead), math.prod(shape[len(lead) :])
    if shape[: len(lead)] != lead or len(shape) > len(lead) + 1:
        said = f"{[*lead, 4, 4]}, or {[*lead]} and a number of views before 4, 4"
        raise ValueError(f"world_to_camera has shape {list(world_to_camera.shape)}, expected {said}")
    if views % eyes:
        raise ValueError(f"world_to_camera has {views} views, expected pairs of eyes for stereo")
    if features is not None and features.dim() > means.dim() and features.shape[-3] != views:
        raise ValueError(f"features has shape {list(features.shape)}, expected [{views}, n, N] at its end, a view each")

    dtype = means.dtype if backend == "reference" else torch.float32
    poses = world_to_camera.double().reshape(-1, 4, 4)
    lenses = expand("K", K, (*shape, 3, 3)).to(poses).reshape(-1, 3, 3)
    rows = pack_views(poses, lenses, width, height, options, eyes).to(dtype)
    back = means.new_zeros(3) if background is None else background
    back = expand("background", back, (*shape, 3)).to(dtype)
    check_finite("background", back)
    if mask is not None:
        mask = expand("mask", mask, (*shape, height, width)).reshape(scenes, views, height, width)
        if mask.dtype != torch.bool or mask.device != means.device:
            raise ValueError(f"mask is {mask.dtype} on {mask.device}, expected torch.bool on {means.device}")
    # Without waiting: the copies are small, and what reads them is queued behind them.
    rows = rows.to(means.device, non_blocking=True).reshape(scenes, views, -1)
    back = back.to(means.device, non_blocking=True).reshape(scenes, views, 3)
    given = {name: tensor.to(dtype) for name, tensor in given.items()}
    if exponents is not None:
        profiled = make_profiles(given["opacities"], given.pop("exponents"), backend=backend)
        given["opacities"], given["profiles"] = profiled
    tensors = {
        name: _apart(tensor.reshape(scenes, *tensor.shape[len(lead) :]).contiguous()) for name, tensor in given.items()
    }
    requests = [
        autograd.Request(
            width, height, options, eyes, capacity, None if mask is None else mask[i].contiguous(), span,
            profiles=tensors["profiles"][i] if exponents is not None else None,
        )
        for i in range(scenes)
    ]  # fmt: skip
    extras = [tensors["features"][i] if features is not None else None for i in range(scenes)]
    each = [autograd.Scene(*(tensors[name][i] for name in autograd.Scene._fields)) for i in range(scenes)]
    stages = [
        autograd.project_scene(backend, scene, row, keep_projected, request)
        for scene, row, request in zip(each, rows, requests, strict=True)
    ]
    projected = None
    if keep_projected:
        fields = zip(*(stage.projected for stage in stages), strict=True)
        projected = Projected(*(_join(list(field), shape) for field in fields))
    frames = []
    for i in range(scenes):
        watch = None if projected is None else autograd.Watch(projected.means2d, i, scenes)
        frames.append(autograd.blend_scene(backend, stages[i], watch, back[i], extras[i], requests[i]))
    counts = Counts(*(sum(numbers) for numbers in zip(*(frame.counts for frame in frames), strict=True)))
    names = [name for name in Rendering._fields if isinstance(getattr(frames[0], name), Tensor)]
    found = {name: _join([getattr(frame, name) for frame in frames], shape) for name in names}
    return frames[0]._replace(**found, counts=counts, projected=projected)


def _apart(tensor: Tensor) -> tuple[Tensor, ...]:
    """The scenes of a tensor [scenes, ...]; indexing would fill and copy gradients."""
    return (tensor.squeeze(0),) if len(tensor) == 1 else tensor.unbind()


def _join(tensors: list[Tensor], shape: torch.Size) -> Tensor:
    """Tensors of scenes [v, ...] as one with the leading axes `shape`."""
    tensor = tensors[0] if len(tensors) == 1 else torch.stack(tensors)
    return tensor.reshape(*shape, *tensors[0].shape[1:])


def rasterization(
    means: Tensor,  # [*B, N, 3]
    quats: Tensor | None,  # [*B, N, 4] wxyz
    scales: Tensor | None,  # [*B, N, 3]
    opacities: Tensor,  # [*B, N]
    colors: Tensor | None,  # [*B, (C,) N, D] or [*B, (C,) N, K, D]
    viewmats: Tensor,  # [*B, C, 4, 4]
    Ks: Tensor,  # [*B, C, 3, 3]
    width: int,
    height: int,
    near_plane: float = NEAR,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = BLUR,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int | None = TILE_SIZE,
    backgrounds: Tensor | None = None,  # [*B, C, D]
    render_mode: RenderMode = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: Literal["pinhole", "ortho", "fisheye"] = "pinhole",
    segmented: bool = False,
    covars: Tensor | None = None,  # [*B, N, 3, 3]
    with_ut: bool = False,
    with_eval3d: bool = False,
    radial_coeffs: Tensor | None = None,  # [*B, C, 4]
    tangential_coeffs: None = None,
    thin_prism_coeffs: None = None,
    ftheta_coeffs: None = None,
    rolling_shutter: Any = None,
    viewmats_rs: None = None,
    *,
    # of gsplat 1.6:
    return_normals: bool = False,
    global_z_order: bool = True,
    rays: None = None,
    lidar_coeffs: None = None,
    external_distortion_coeffs: None = None,
    ut_params: None = None,
    extra_signals: Tensor | None = None,  # [*B, (C,) N, E] or [N, K, E]
    extra_signals_sh_degree: int | None = None,
    renderer_config: None = None,
    # of Lyra:
    masks: Tensor | None = None,  # [*B, C, tile_height, tile_width] bool
    backend: str = "auto",
    precision: Precision = "parity",
    deterministic: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render splats as gsplat does, from any number of cameras, differentiable in all tensors (poses and `Ks` too).

    Args:
        colors: spherical harmonics if `sh_degree` is given, else channels as they are; may be None for D and ED.
        sh_degree: bands to use, 0 to 4; `colors` may have more.
        packed: whether what `meta` holds of each splat is [nnz, ...], only what is visible (this waits for a GPU),
            or [*B, C, N, ...].
        tile_size: of the grid of `meta` and `masks`, pixels; the picture does not depend on it.
        render_mode: RGB; D, the sum of weighted depths; ED, their mean; RGB+D, RGB+ED, with the depth as last channel.
        sparse_grad: gradients of means, quats and scales are COO tensors; needs `packed` and no batches.
        absgrad: `meta["means2d"].absgrad` is set in the backward pass.
        radial_coeffs: of a fisheye, one set for all cameras, without gradient.
        channel_chunk, segmented: accepted, change nothing.
        extra_signals: further channels, without background: `meta["render_extra_signals"]` [*B, C, height, width, E].
        return_normals: `meta["normals"]` [*B, C, height, width, 3], of the splats' shortest axes.
        masks: tiles that are False show the background and cost nothing.
        backend, precision, deterministic: as of `rasterize` and its `Options`.

    Returns:
        Colours [*B, C, height, width, X], alphas [*B, C, height, width, 1] and `meta`, whose keys are gsplat's; the
        lists of tiles in it are made when they are first asked for.

    Raises:
        ValueError: a shape or a value does not fit, or something is asked for that Lyra does not do; the message says
            what to do instead.
    """
    asked = {
        "distributed": distributed,
        "with_ut": with_ut,
        "with_eval3d": with_eval3d,
        "ut_params": ut_params,
        "renderer_config": renderer_config,
        "tangential_coeffs": tangential_coeffs,
        "thin_prism_coeffs": thin_prism_coeffs,
        "ftheta_coeffs": ftheta_coeffs,
        "external_distortion_coeffs": external_distortion_coeffs,
        "rolling_shutter": None if getattr(rolling_shutter, "name", None) == "GLOBAL" else rolling_shutter,
        "viewmats_rs": viewmats_rs,
        "rays": rays,
        "lidar_coeffs": lidar_coeffs,
    }
    refuse(asked)
    check_modes(render_mode, rasterize_mode, camera_model, global_z_order)
    check_tensors(
        {
            "means": means,
            "quats": quats,
            "scales": scales,
            "opacities": opacities,
            "colors": colors,
            "viewmats": viewmats,
            "Ks": Ks,
            "backgrounds": backgrounds,
            "covars": covars,
            "radial_coeffs": radial_coeffs,
            "extra_signals": extra_signals,
            "masks": masks,
        }
    )
    tile_size = TILE_SIZE if tile_size is None else tile_size
    if tile_size < 1:
        raise ValueError(f"tile_size is {tile_size}, expected 1 or more pixels")
    check_shapes(means, viewmats, masks, (-(-width // tile_size), -(-height // tile_size)))
    if covars is not None:
        quats, scales = quats_and_scales(covars)
    if quats is None or scales is None:
        raise ValueError("quats or scales is None: give both, or covars")
    if sparse_grad and (not packed or means.dim() > 2):
        raise ValueError(f"sparse_grad needs packed=True and means [N, 3], got packed={packed}, {list(means.shape)}")
    rows = SparseRows() if sparse_grad else None
    if rows is not None:
        means, quats, scales = rows(means), rows(quats), rows(scales)

    if "RGB" in render_mode and colors is None:
        raise ValueError(f"colors is None with render_mode={render_mode!r}: give colors, or D or ED")
    paint = paint_of(means, viewmats, colors if "RGB" in render_mode else None, sh_degree, backgrounds)
    extra = None if extra_signals is None else extra_of(means, viewmats, extra_signals, extra_signals_sh_degree)
    options = Options(
        lens=LENSES[camera_model],
        distortion=distortion(radial_coeffs, camera_model),
        antialiased=rasterize_mode == "antialiased",
        near=near_plane,
        far=far_plane,
        blur=eps2d,
        radius_clip=float(math.floor(radius_clip)),  # gsplat compares it with radii rounded up
        precision=precision,
        depth="D" in render_mode,
        normals=return_normals,
        absgrad=absgrad,
        deterministic=deterministic,
    )
    frame = rasterize(
        means,
        quats,
        scales,
        opacities,
        paint.colors,
        viewmats,
        Ks,
        width,
        height,
        features=side_by_side(paint.features, extra, viewmats.shape[-3]),
        background=paint.background,
        mask=None if masks is None else mask_pixels(masks, tile_size, width, height),
        options=options,
        backend=backend,
        keep_projected=True,
    )
    meta = make_meta(frame.projected, packed, tile_size, width, height)
    if rows is not None:
        rows.ids = meta["gaussian_ids"]
    if frame.features is not None and extra is not None:
        meta["render_extra_signals"] = frame.features[..., paint.others :]
    if return_normals:
        meta["normals"] = frame.normals
    return picture_of(frame, paint, render_mode), frame.alpha[..., None], meta
