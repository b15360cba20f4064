"""Boxes of pictures in other sizes: area averages for what is blended, the middle pixel for depth."""

import torch
from torch import Tensor

Box = tuple[float, float, float, float]  # left, top, right, bottom, pixels; edges of the first pixel at 0 and 1


def area(images: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """Each new pixel is the mean over the area that it covers: images [..., H, W] to [..., h, w], size = (w, h)."""
    left, top, right, bottom = box
    across = _coverage(left, right, size[0], images.shape[-1]).to(images)
    down = _coverage(top, bottom, size[1], images.shape[-2]).to(images)
    return down @ images @ across.T


def nearest(images: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """Each new pixel is the one at its middle: images [..., H, W] to [..., h, w], size = (w, h)."""
    left, top, right, bottom = box
    columns = left + (torch.arange(size[0]) + 0.5) * (right - left) / size[0]
    lines = top + (torch.arange(size[1]) + 0.5) * (bottom - top) / size[1]
    columns = columns.long().clamp(0, images.shape[-1] - 1).to(images.device)
    lines = lines.long().clamp(0, images.shape[-2] - 1).to(images.device)
    return images.index_select(-2, lines).index_select(-1, columns)


def lens_of(K: Tensor, box: Box, size: tuple[int, int]) -> Tensor:
    """Intrinsics [..., 3, 3] of what a box of a picture shows when it has become `size`."""
    left, top, right, bottom = box
    x, y = size[0] / (right - left), size[1] / (bottom - top)
    return torch.tensor([[x, 0, -left * x], [0, y, -top * y], [0, 0, 1]], dtype=K.dtype, device=K.device) @ K


def _coverage(start: float, end: float, count: int, pixels: int) -> Tensor:
    """[count, pixels] float64: how much of each of `count` equal parts of start..end lies in each pixel."""
    edges = torch.linspace(start, end, count + 1, dtype=torch.float64)
    pixel = torch.arange(pixels, dtype=torch.float64)
    inside = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return inside.clamp(min=0) * count / (end - start)
