"""Depth of a picture in its own pixels: of the prior's few pixels, of a file, or of any monocular model."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...errors import InputError
from ..data.resampling import nearest

REACH = 1  # low-resolution pixels each way that a pixel looks at
NEAR = 0.8  # standard deviation of the weights by distance, low-resolution pixels
ALIKE = 0.08  # standard deviation of the weights by colour
LEAST = 1e-3  # of an inverse depth in units of 1 / median depth: farther is as far as that
ROUNDS = 20  # of reweighted least squares


def guided(values: Tensor, known: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values of few pixels in many, as the colours there say: joint bilateral upsampling (Kopf et al. 2007).

    Args:
        values: [h, w].
        known: [h, w] weights, 0 where a value is unknown.
        low: [3, h, w] the picture in the pixels of `values`.
        high: [3, H, W] the picture.

    Returns:
        [H, W], never beyond the values around; NaN where none is known there.
    """
    (h, w), (H, W) = values.shape, high.shape[1:]
    rows, columns = (torch.arange(H) + 0.5) * h / H - 0.5, (torch.arange(W) + 0.5) * w / W - 0.5
    total, weights = torch.zeros(H, W), torch.zeros(H, W)
    table = torch.cat((low, values[None], known[None]))
    for dy in range(-REACH, REACH + 1):
        row = rows.round().long() + dy
        for dx in range(-REACH, REACH + 1):
            column = columns.round().long() + dx
            near = torch.exp(-0.5 * ((row - rows) / NEAR) ** 2)[:, None] * torch.exp(
                -0.5 * ((column - columns) / NEAR) ** 2
            )
            there = table[:, row.clamp(0, h - 1)][:, :, column.clamp(0, w - 1)]
            unlike = (there[:3] - high).square().sum(dim=0)
            weight = near * (unlike * (-0.5 / ALIKE**2)).exp_().add_(1e-6) * there[4]
            total.addcmul_(weight, there[3])
            weights.add_(weight)
    return torch.where(weights > 0, total / weights, torch.nan)


def read_depth(path: Path, scale: float) -> Tensor:
    """[h, w] z in the file's units times `scale`; 0 where the file says 0 or less, infinity or NaN.

    Raises:
        InputError: the file is no .npy of two axes of numbers and no 16-bit PNG, or knows no depth.
    """
    import io

    import numpy as np
    from PIL import Image

    from ...files import cause, read_bytes
    from ..data.pictures import MOST_PIXELS

    data = read_bytes(path)
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            image = Image.open(io.BytesIO(data), formats=["PNG"])
            if image.mode not in ("I;16", "I;16B", "I"):
                raise InputError(f"{path}: holds {image.mode}: give depth as a 16-bit grey PNG, or .npy of floats")
            values = np.asarray(image)
    except InputError:
        raise
    except Exception as error:  # of damaged files
        raise InputError(f"{path}: is no depth ({cause(error)}): give a .npy of floats or a 16-bit PNG") from None
    values = np.squeeze(values)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or min(values.shape) < 2 or values.size > MOST_PIXELS:
        told = f"holds {values.dtype} {list(values.shape)}"
        raise InputError(f"{path}: {told}: give [height, width] of numbers, at most {MOST_PIXELS // 1_000_000} Mpx")
    if not (0 < scale < float("inf")):
        raise InputError(f"--depth-scale {scale:g} is out of range: give units of the scene for one of the file")
    z = torch.from_numpy(values.astype(np.float32)) * scale
    z = torch.where(z.isfinite() & (z > 0), z, 0.0)
    if not bool((z > 0).any()):
        raise InputError(f"{path}: knows no depth anywhere: give z above 0 where it is known")
    return z


def fitted(depth: Tensor, picture: Tensor) -> Tensor:
    """Depth [h, w] (0 where unknown) in the pixels of a picture [3, H, W]; no depth lies between two surfaces.

    Less is upsampled along the colours, more is picked pixel by pixel.
    """
    (h, w), (H, W) = depth.shape, picture.shape[1:]
    if h * w >= H * W:
        return nearest(depth, (0.0, 0.0, float(w), float(h)), (W, H))
    low = interpolate(picture[None], (h, w), mode="area")[0]
    known = (depth > 0).float()
    inverse = guided(torch.where(depth > 0, 1 / depth.clamp(min=1e-9), 0.0), known, low, picture)
    return torch.where(inverse > 0, 1 / inverse, 0.0).nan_to_num(0.0)


def completed(depth: Tensor, guess: Tensor) -> Tensor:
    """Depth [h, w] with its unknown places (0) taken from a guess [h, w] of another unit, by the ratio of medians."""
    known = depth > 0
    ratio = (depth[known] / guess[known]).median()
    return torch.where(known, depth, guess * ratio)


def aligned(relative: Tensor, inverse: Tensor, weights: Tensor) -> tuple[float, float]:
    """Slope and offset that take relative inverse depths to inverse depths, by least absolute differences.

    Iteratively reweighted least squares. Where the two contradict each other (a slope of 0 or less), the slope is the
    ratio of their spreads instead, and the medians agree.

    Args:
        relative, inverse: [n].
        weights: [n] 0 or more, not all 0.
    """
    x, y = relative.double(), inverse.double()
    given = weights.double()
    rough = given
    slope = offset = 0.0
    for _ in range(ROUNDS):
        total = rough.sum()
        mx, my = (rough * x).sum() / total, (rough * y).sum() / total
        variance = (rough * (x - mx) ** 2).sum()
        slope = float((rough * (x - mx) * (y - my)).sum() / variance) if float(variance) > 0 else 0.0
        offset = float(my) - slope * float(mx)
        rough = given / (y - slope * x - offset).abs().clamp(min=1e-3)
    if slope > 0:
        return slope, offset
    counted = given > 0
    x, y = x[counted], y[counted]
    middle, level = x.median(), y.median()
    spread = float((x - middle).abs().median())
    slope = float((y - level).abs().median()) / spread if spread > 0 else 0.0
    return slope, float(level - slope * middle)
