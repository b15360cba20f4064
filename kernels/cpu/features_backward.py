"""Gradients of blended features, on the CPU, four channels a pass.

A pass is the backward of the blend itself: the features take the places of colour and depth in a copy of the records.
All gradients are linear in what the channels bring, so the passes add up.
"""

import numpy as np

from .. import constants as c
from .blend_backward import blend_backward

f32 = np.float32
_CHANNELS = 4  # a pass: red, green, blue, depth


def features_backward(
    # scene:
    records: np.ndarray,  # [n, 12] float32
    features: np.ndarray,  # [n, N] float32, any N
    ids: np.ndarray,  # [p] uint32, tile by tile, nearest first
    starts: np.ndarray,  # [tiles + 1] int64
    # camera:
    width: int,
    height: int,
    # gradients:
    rendered: np.ndarray,  # [h, w, N] float32, the forward's result: sums of weight times feature
    grad_features: np.ndarray,  # [h, w, N] float32, of `rendered`
    # out:
    grad_records: np.ndarray,  # [n, 12] float32, added to
    *,
    mask: np.ndarray | None = None,  # [h, w] bool, the forward's
    absgrad: bool = False,
) -> np.ndarray:
    """Gradients of the features [n, N] float32; those of the splats' places, shapes and opacities are added.

    With `absgrad`, slots 10 and 11 of `grad_records` gain the absolute sums of each pass of four channels, which is
    the sum of all channels' magnitudes from above.
    """
    grad = np.empty(features.shape, dtype=f32)
    no_grad_a = np.zeros((height, width), dtype=f32)
    stand_in = records.copy()
    for first in range(0, features.shape[1], _CHANNELS):
        part = slice(first, first + _CHANNELS)
        count = features[:, part].shape[1]
        stand_in[:, c.RED : c.RED + count] = features[:, part]
        stand_in[:, c.RED + count : c.RED + _CHANNELS] = 0
        pixels = np.zeros((height, width, _CHANNELS), dtype=f32)
        pixels[..., :count] = grad_features[..., part]
        total = (rendered[..., part] * pixels[..., :count]).sum(axis=-1)
        planes = pixels[..., :3], no_grad_a, pixels[..., 3] if count > 3 else None, total
        result = blend_backward(stand_in, ids, starts, width, height, *planes, mask=mask, absgrad=absgrad)
        grad[:, part] = result[:, c.RED : c.RED + count]
        grad_records[:, : c.RED] += result[:, : c.RED]
        if absgrad:
            grad_records[:, c.EXTENT_X :] += result[:, c.EXTENT_X :]
    return grad
