"""One scene from all its views, through the stages of a backend, with gradients.

Two nodes in torch's graph: projection and blending. Between them lie the records of the splats, where trainers look at
gradients in the picture plane. What a backend does is in its `stages` module (kernels/gpu, kernels/cpu: the same
functions); what surrounds that, background and normalisation, is here.
"""

import importlib
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import constants as c
from . import reference
from .frames import Counts, Projected, Rendering, Span
from .normals import splat_normals
from .options import Options
from .views import EYE

MODULES = {"triton": ".gpu.stages", "cpu": ".cpu.stages"}


class Scene(NamedTuple):
    """One scene, contiguous, of one float type on one device."""

    means: Tensor  # [n, 3]
    quats: Tensor  # [n, 4]
    scales: Tensor  # [n, 3]
    opacities: Tensor  # [n]
    colors: Tensor  # [n, k, 3] or [n, 3]


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of a frame beside scene and cameras."""

    width: int
    height: int
    options: Options
    eyes: int  # views that share a sort
    capacity: int | None
    mask: Tensor | None  # [v, h, w] bool
    span: Span
    profiles: Tensor | None = None  # [n, 4] of profile.py, the scene's opacities then being its own


class Blended(NamedTuple):
    """What a backend's blend stage returns: the views of one scene."""

    rgb: Tensor  # [v, h, w, 3] background included
    alpha: Tensor  # [v, h, w]
    depth: Tensor | None  # [v, h, w] expected
    median: Tensor | None  # [v, h, w]
    features: Tensor | None  # [v, h, w, N]
    contribution: Tensor | None  # [v, n]
    splat_pixels: int | Tensor


class PixelGradients(NamedTuple):
    """Gradients of the loss by the raw sums over a pixel's splats, and what they come to in all.

    `total` is the sum over the splats of w (c . rgb + alpha + z depth), with which a walk from the front knows what is
    still behind.
    """

    rgb: Tensor  # [v, h, w, 3] by sum of w c
    alpha: Tensor  # [v, h, w] by sum of w
    depth: Tensor | None  # [v, h, w] by sum of w z
    total: Tensor  # [v, h, w]


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stages: Any, request: Request, rows: Tensor, *scene: Tensor) -> tuple[Tensor, Any]:
        with request.span("project"):
            records, keys = stages.project(Scene(*scene), rows, request)
        ctx.stages, ctx.request, ctx.keys = stages, request, keys
        ctx.save_for_backward(rows, records, *scene)
        return records, keys

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_records, _ = grads
        rows, records, *scene = ctx.saved_tensors
        with ctx.request.span("project backward"):
            found = ctx.stages.project_backward(Scene(*scene), rows, records, ctx.keys, grad_records, ctx.request)
        return None, None, *found


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, stages: Any, request: Request, lists: Any,
        records: Tensor, picture: Tensor | None, watch: "Watch | None",
        features: Tensor | None, background: Tensor,
    ) -> Blended:  # fmt: skip
        with request.span("blend"):
            out = stages.blend(records, lists, features, background, request)
        ctx.stages, ctx.request, ctx.lists, ctx.watch = stages, request, lists, watch
        ctx.save_for_backward(records, features, background, out.rgb, out.alpha, out.depth, out.features)
        ctx.mark_non_differentiable(*(tensor for tensor in (out.median, out.contribution) if tensor is not None))
        ctx.set_materialize_grads(False)
        return tuple(out)  # type: ignore[return-value]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        records, features, background, rgb, alpha, depth, sums = ctx.saved_tensors
        grad_rgb, grad_alpha, grad_depth, _, grad_features, _, _ = grads
        with ctx.request.span("blend backward"):
            pixels = _undo_output(rgb, alpha, depth, background, grad_rgb, grad_alpha, grad_depth)
            grad_records, grad_inputs = ctx.stages.blend_backward(
                records, ctx.lists, features, sums, pixels, grad_features, ctx.request
            )
            grad_background = None
            if ctx.needs_input_grad[-1]:
                grad_background = (pixels.rgb * (1 - alpha[..., None])).sum(dim=(1, 2))
        grad_picture = None
        if ctx.watch is not None:
            if ctx.request.options.absgrad:
                ctx.watch.note(grad_records[..., c.EXTENT_X :])
            grad_picture = grad_records[..., : c.L0].clone()
            grad_records[..., : c.L0] = 0
        return None, None, None, grad_records, grad_picture, None, grad_inputs, grad_background


def _undo_output(
    rgb: Tensor,
    alpha: Tensor,
    depth: Tensor | None,
    background: Tensor,
    grad_rgb: Tensor | None,
    grad_alpha: Tensor | None,
    grad_depth: Tensor | None,
) -> PixelGradients:
    """Gradients by a pixel's raw sums from those by its outputs.

    What background and normalisation take from a pixel's sums they take from its total too: of that remain the colours
    before the background, and alpha by its own gradient.
    """
    grad_rgb = torch.zeros_like(rgb) if grad_rgb is None else grad_rgb.contiguous()
    by_background = _dot(grad_rgb, background[:, None, None])
    by_alpha, total = -by_background, _dot(grad_rgb, rgb) - by_background
    if grad_alpha is not None:
        by_alpha, total = by_alpha + grad_alpha, torch.addcmul(total, alpha, grad_alpha)
    by_depth = None
    if grad_depth is not None and depth is not None:
        by_depth = torch.where(alpha > 0, grad_depth / torch.where(alpha > 0, alpha, 1.0), 0.0)
        by_alpha = torch.addcmul(by_alpha, by_depth, depth, value=-1)
    return PixelGradients(grad_rgb, by_alpha, by_depth, total)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Over the three channels [..., 3]; three times as fast as a product and its sum."""
    (red, green, blue), (by_red, by_green, by_blue) = a.unbind(dim=-1), b.unbind(dim=-1)
    return torch.addcmul(torch.addcmul(red * by_red, green, by_green), blue, by_blue)


class Stage(NamedTuple):
    """One scene, projected, on its way to `blend_scene`."""

    projected: Projected | None  # [v, ...] where it was asked for
    records: Any = None  # [v, n, 12]
    keys: Any = None  # of the splats, by depth, in the backend's own form
    views: tuple[reference.Projected, ...] = ()  # of the reference, instead
    normals: Tensor | None = None  # [v, n, 3] where asked for


class Watch(NamedTuple):
    """A trainer's eye on the gradients in the picture plane of one scene of several."""

    means2d: Tensor  # [..., n, 2] of all scenes, where `absgrad` is left
    scene: int
    scenes: int

    @property
    def own(self) -> Tensor:
        """[v, n, 2] of this scene, between `means2d` and the blending in the graph."""
        return self.means2d.reshape(self._shape)[self.scene]

    def note(self, absgrad: Tensor) -> None:
        """Leave [v, n, 2] for this scene."""
        if getattr(self.means2d, "absgrad", None) is None:
            self.means2d.absgrad = torch.zeros_like(self.means2d)  # type: ignore[attr-defined]
        self.means2d.absgrad.view(self._shape)[self.scene] = absgrad  # type: ignore[attr-defined]

    @property
    def _shape(self) -> tuple[int, ...]:
        *lead, n, two = self.means2d.shape
        return self.scenes, math.prod(lead) // self.scenes, n, two


def project_scene(backend: str, scene: Scene, rows: Tensor, keep_projected: bool, request: Request) -> Stage:
    """All views of one scene, rows [v, 40] of views.py, through the first stage."""
    normals = None
    if request.options.normals:
        normals = splat_normals(scene.means, scene.quats, scene.scales, rows[:, EYE : EYE + 3])
    if backend == "reference":
        with request.span("project"):
            views = tuple(reference.project(*scene, row, request.options) for row in rows)
        return Stage(_stack(views) if keep_projected else None, views=views, normals=normals)
    stages = importlib.import_module(MODULES[backend], __package__)
    records, keys = _Project.apply(stages, request, rows, *scene)  # type: ignore[misc]
    projected = _in_the_picture(records, stages.visible(records, keys)) if keep_projected else None
    return Stage(projected, records, keys, normals=normals)


def blend_scene(
    backend: str, stage: Stage, watch: Watch | None, background: Tensor, features: Tensor | None, request: Request
) -> Rendering:
    """The other stages; background [v, 3], features [n, N] or [v, n, N]. Normals travel as three more features."""
    if stage.normals is not None:
        own = () if features is None else (features.expand(len(background), *features.shape[-2:]),)
        frame = blend_scene(
            backend, stage._replace(normals=None), watch, background, torch.cat((*own, stage.normals), -1), request
        )
        sums: Any = frame.features
        return frame._replace(normals=sums[..., -3:], features=None if features is None else sums[..., :-3])
    if backend == "reference":
        return _blend_reference(stage.views, watch, background, features, request)
    stages = importlib.import_module(MODULES[backend], __package__)
    given = (stage.records, request.profiles, features, background)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        if request.capacity is not None:
            raise ValueError(f"capacity is {request.capacity}, expected None where gradients are wanted")
        if request.profiles is not None:
            raise ValueError(f"{backend} has no gradients with exponents: take reference, or torch.no_grad()")
    lists = stages.make_lists(stage.records.detach(), stage.keys, request)
    picture = None if watch is None else watch.own
    found = _Blend.apply(  # type: ignore[misc]
        stages, request, lists, stage.records, picture, watch, features, background
    )
    out = Blended(*found)
    return Rendering(
        rgb=out.rgb,
        alpha=out.alpha,
        depth=out.depth,
        counts=Counts(lists.visible, lists.pairs, out.splat_pixels),
        median=out.median,
        features=out.features,
        contribution=out.contribution,
    )


def _in_the_picture(records: Tensor, visible: Tensor) -> Projected:
    """The records [v, n, 12] in the terms of trainers."""
    seen = torch.where(visible[..., None], records, 0.0)
    l0, l1, l2 = seen[..., c.L0 : c.L2 + 1].unbind(dim=-1)
    conics = torch.stack((l0 * l0, l0 * l1, l1 * l1 + l2 * l2), dim=-1) / c.SQRT_HALF_LOG2E**2
    opacities = torch.where(visible, torch.exp2(seen[..., c.LOG2_OPACITY]), 0.0)
    return Projected(seen[..., : c.L0].clone(), conics, seen[..., c.DEPTH], opacities, _radii(seen[..., c.EXTENT_X :]))


def _blend_reference(
    views: tuple[reference.Projected, ...],
    watch: Watch | None,
    background: Tensor,
    features: Tensor | None,
    request: Request,
) -> Rendering:
    options, eyes = request.options, request.eyes
    if options.absgrad:
        raise ValueError("absgrad is for the backends triton and cpu: torch sums gradients before anyone sees them")
    if watch is not None:
        views = tuple(view._replace(means2d=own) for view, own in zip(views, watch.own, strict=True))
    with request.span("sort"):
        orders = [reference.depth_order(views[i : i + eyes]) for i in range(0, len(views), eyes)]
    with request.span("bin"):
        pass  # the reference has no lists
    with request.span("blend"):
        if features is not None:
            features = features.expand(len(views), *features.shape[-2:])
        frames = [
            reference.blend(
                view, orders[i // eyes], request.width, request.height,
                features=None if features is None else features[i],
                mask=None if request.mask is None else request.mask[i],
                profiles=request.profiles,
            )
            for i, view in enumerate(views)
        ]  # fmt: skip
        rgb, alpha, depth, median, sums, contribution = (torch.stack(parts) for parts in zip(*frames, strict=True))
        rgb = rgb + (1 - alpha[..., None]) * background[:, None, None]
    visible = sum(map(len, orders))
    return Rendering(
        rgb=rgb,
        alpha=alpha,
        depth=depth if options.depth else None,
        counts=Counts(visible, visible, visible * eyes * request.width * request.height),
        median=median if options.median else None,
        features=None if features is None else sums,
        contribution=contribution if options.contribution else None,
    )


def _stack(views: tuple[reference.Projected, ...]) -> Projected:
    """What the reference has projected, as every backend tells it."""
    seen = torch.stack([view.visible for view in views])
    names = ("means2d", "conics", "depths", "opacities", "extents")
    tensors = [torch.stack([getattr(view, name) for view in views]) for name in names]
    tensors = [torch.where(seen[..., None] if tensor.dim() > 2 else seen, tensor, 0.0) for tensor in tensors]
    return Projected(*tensors[:4], radii=_radii(tensors[4]))


def _radii(extents: Tensor) -> Tensor:
    return extents.detach().ceil().clamp(max=2**31 - 128).to(torch.int32)
