"""The stages of the Triton backend, as autograd.py calls them: all views of a scene in one launch each."""

import torch
from torch import Tensor

from .. import constants as c
from ..autograd import Blended, PixelGradients, Request, Scene
from . import bin as binning
from . import blend as blending
from . import project as projection
from .blend_backward import blend_backward as records_backward
from .features import features as blend_features
from .features_backward import features_backward
from .project_backward import project_backward as scene_backward
from .sort import depth_order


def project(scene: Scene, rows: Tensor, request: Request) -> tuple[Tensor, Tensor]:
    """Records [v, n, 12] and depth keys [groups, n]."""
    return projection.project(*scene, rows, options=request.options, eyes=request.eyes)


def project_backward(
    scene: Scene, rows: Tensor, records: Tensor, keys: Tensor, grad_records: Tensor, request: Request
) -> tuple[Tensor, ...]:
    """Gradients of the rows, then of the scene's tensors."""
    *grads, grad_rows = scene_backward(*scene, rows, records, grad_records.contiguous(), options=request.options)
    return grad_rows, *grads


def visible(records: Tensor, keys: Tensor) -> Tensor:
    """Which splats each view sees, [v, n]."""
    eyes = len(records) // len(keys)
    return (keys != projection.CULLED).repeat_interleave(eyes, dim=0) & (records[..., c.EXTENT_X] >= 0)


def make_lists(records: Tensor, keys: Tensor, request: Request) -> binning.Lists:
    """Tile lists of all views."""
    with request.span("sort"):
        order, count = depth_order(keys, bits=16 if request.options.precision == "half" else 32)
    with request.span("bin"):
        return binning.bin_splats(
            records, order, count, request.width, request.height, eyes=request.eyes, capacity=request.capacity
        )


def blend(
    records: Tensor, lists: binning.Lists, features: Tensor | None, background: Tensor, request: Request
) -> Blended:
    """Pictures of all views."""
    size = request.width, request.height
    modes = {"options": request.options, "profiles": request.profiles, "mask": request.mask, "eyes": request.eyes}
    found = blending.blend(records, lists, *size, background=background, **modes)
    sums = None if features is None else blend_features(records, features, lists, *size, **modes)
    splat_pixels = found.taken.sum(dtype=torch.int64) * (binning.TILE[0] * binning.TILE[1])
    return Blended(found.rgb, found.alpha, found.depth, found.median, sums, found.contribution, splat_pixels)


def blend_backward(
    records: Tensor,
    lists: binning.Lists,
    features: Tensor | None,
    sums: Tensor | None,
    pixels: PixelGradients,
    grad_sums: Tensor | None,
    request: Request,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the records and of the features."""
    options, size = request.options, (request.width, request.height)
    modes = {
        "mask": request.mask, "precision": options.precision, "deterministic": options.deterministic,
        "eyes": request.eyes,
    }  # fmt: skip
    grad_records = records_backward(
        records, lists, *size, pixels.rgb, pixels.alpha, pixels.depth, pixels.total, absgrad=options.absgrad, **modes
    )
    if features is None or sums is None or grad_sums is None:
        return grad_records, None
    return grad_records, features_backward(records, features, lists, *size, grad_sums, sums, grad_records, **modes)
