"""The stages of the CPU backend, as autograd.py calls them: views one after the other, each on all cores."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import constants as c
from ..autograd import Blended, PixelGradients, Request, Scene
from . import bin as binning
from . import blend as blending
from . import blend_backward as gradients
from . import features as channels
from . import features_backward as channel_gradients
from . import project as projection
from . import project_backward as projection_gradients
from . import sort
from .threads import all_cores


class Lists(NamedTuple):
    """Tile lists, view by view."""

    ids: list[np.ndarray]  # of each view [p] uint32, tile by tile, nearest first
    starts: list[np.ndarray]  # of each view [tiles + 1] int64
    visible: int
    pairs: int


def project(scene: Scene, rows: Tensor, request: Request) -> tuple[Tensor, list[np.ndarray]]:
    """Records [v, n, 12], and of each group the keys of what its eyes see."""
    with all_cores():
        records, keys = projection.project(
            *(_array(tensor) for tensor in scene), _array(rows), options=request.options, eyes=request.eyes
        )
    return torch.from_numpy(records), keys


def project_backward(
    scene: Scene, rows: Tensor, records: Tensor, keys: list[np.ndarray], grad_records: Tensor, request: Request
) -> tuple[Tensor, ...]:
    """Gradients of the rows, then of the scene's tensors."""
    arrays = [_array(tensor) for tensor in (*scene, rows, records, grad_records)]
    with all_cores():
        *grads, grad_rows = projection_gradients.project_backward(*arrays, options=request.options)
    return torch.from_numpy(grad_rows), *map(torch.from_numpy, grads)


def visible(records: Tensor, keys: list[np.ndarray]) -> Tensor:
    """Which splats each view sees, [v, n]."""
    views, n, _ = records.shape
    eyes = views // len(keys)
    shown = torch.zeros(views, n, dtype=torch.bool)
    for view in range(views):
        ids = torch.from_numpy((keys[view // eyes] & 0xFFFFFFFF).astype(np.int64))
        shown[view, ids] = records[view, ids, c.EXTENT_X] >= 0
    return shown


def make_lists(records: Tensor, keys: list[np.ndarray], request: Request) -> Lists:
    """Tile lists of all views."""
    with all_cores():
        with request.span("sort"):
            orders = [sort.depth_order(own) for own in keys]
        with request.span("bin"):
            lists = [
                binning.bin_splats(own, orders[view // request.eyes], request.width, request.height)
                for view, own in enumerate(records.numpy())
            ]
    ids, starts = zip(*lists, strict=True)
    return Lists(list(ids), list(starts), sum(map(len, orders)), sum(map(len, ids)))


def blend(records: Tensor, lists: Lists, features: Tensor | None, background: Tensor, request: Request) -> Blended:
    """Pictures of all views."""
    options, size = request.options, (request.width, request.height)
    profiles = None if request.profiles is None else _array(request.profiles)
    frames, sums = [], []
    with all_cores():
        for view, own in enumerate(records.numpy()):
            mask = None if request.mask is None else request.mask[view].numpy()
            of_view = own, lists.ids[view], lists.starts[view]
            frames.append(
                blending.blend(
                    *of_view, *size, background[view].detach().numpy(), mask=mask, profiles=profiles,
                    depth=options.depth, median=options.median, contribution=options.contribution,
                )
            )  # fmt: skip
            if features is not None:
                values = _array(features if features.dim() == 2 else features[view])
                sums.append(channels.features(own, values, *of_view[1:], *size, mask=mask, profiles=profiles))
    rgb, alpha, depth, median, contribution = (_stack([frame[i] for frame in frames]) for i in range(5))
    return Blended(rgb, alpha, depth, median, _stack(sums), contribution, sum(frame[5] for frame in frames))


def blend_backward(
    records: Tensor,
    lists: Lists,
    features: Tensor | None,
    sums: Tensor | None,
    pixels: PixelGradients,
    grad_sums: Tensor | None,
    request: Request,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the records and of the features."""
    size, absgrad = (request.width, request.height), request.options.absgrad
    grad_records, grad_features = [], []
    with all_cores():
        for view, own in enumerate(records.numpy()):
            mask = None if request.mask is None else request.mask[view].numpy()
            of_view = lists.ids[view], lists.starts[view]
            by_depth = None if pixels.depth is None else _array(pixels.depth[view])
            by_pixel = _array(pixels.rgb[view]), _array(pixels.alpha[view]), by_depth, _array(pixels.total[view])
            grads = gradients.blend_backward(own, *of_view, *size, *by_pixel, mask=mask, absgrad=absgrad)
            if features is not None and sums is not None and grad_sums is not None:
                values = _array(features if features.dim() == 2 else features[view])
                found = channel_gradients.features_backward(
                    own, values, *of_view, *size, _array(sums[view]), _array(grad_sums[view]), grads, mask=mask
                )
                grad_features.append(torch.from_numpy(found))
            grad_records.append(torch.from_numpy(grads))
    by_feature = None
    if grad_features:
        by_feature = torch.stack(grad_features)
        by_feature = by_feature if features is not None and features.dim() == 3 else by_feature.sum(dim=0)
    return torch.stack(grad_records), by_feature


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _stack(arrays: list) -> Tensor | None:
    """[v, ...]; without a copy for one view."""
    if not arrays or arrays[0] is None:
        return None
    return torch.from_numpy(arrays[0][None] if len(arrays) == 1 else np.stack(arrays))
