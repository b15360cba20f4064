"""The networks of the prior in plain torch: a transformer over the patches of all views, for colours and for Gaussians.

Nothing here needs diffusers, so that a scene is generated without the seconds that importing it takes; `models` dresses
the same modules as diffusers models, for training and for files.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

HEAD = 64  # channels of an attention head, the size that fused kernels of all makers take
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # of [b, heads, tokens, 64] each


@dataclass(frozen=True)
class NetworkOptions:
    """The size of a network."""

    width: int = 128
    """Channels of a token, a multiple of 64."""
    depth: int = 4
    """Transformer blocks."""
    expansion: float = 2.0
    """Hidden channels of a block's MLP, times the width."""
    patch: int = 4
    """Pixels a side of a token."""
    stem: int = 32
    """Channels a pixel into which its inputs are mixed before patches are cut."""

    def __post_init__(self) -> None:
        if self.width % HEAD or self.width < HEAD:
            raise ValueError(f"width is {self.width}, expected a multiple of {HEAD}")


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention by torch's own fused kernels."""
    return scaled_dot_product_attention(q, k, v)


class Attention(nn.Module):
    """Self-attention with queries and keys normalised to unit mean square (Henry et al. 2020; ViT-22B)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD
        self.to_qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = nn.RMSNorm(HEAD, eps=1e-6), nn.RMSNorm(HEAD, eps=1e-6)
        self.to_out = nn.Linear(width, width)
        self.attend: Attend = attend

    def forward(self, tokens: Tensor) -> Tensor:
        b, n, width = tokens.shape
        q, k, v = self.to_qkv(tokens).view(b, n, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self.attend(self.norm_q(q), self.norm_k(k), v)
        return self.to_out(mixed.transpose(1, 2).reshape(b, n, width))


class Block(nn.Module):
    """Attention and MLP with shifts, scales and gates of one table for all blocks (adaLN-single, PixArt-alpha)."""

    def __init__(self, width: int, expansion: float) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.zeros(6, width))
        self.norm_1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm_2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width)
        hidden = int(width * expansion)
        self.rise, self.fall = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, modulation: Tensor) -> Tensor:
        """tokens [b, v * p, c]; modulation [b, v, 6, c]."""
        b, v = modulation.shape[:2]
        rows = (modulation + self.offsets)[:, :, None].unbind(3)  # 6 of [b, v, 1, c]
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = rows

        def by_view(x: Tensor) -> Tensor:
            return x.view(b, v, -1, x.shape[-1])

        inner = by_view(self.norm_1(tokens)) * (1 + scale_1) + shift_1
        mixed = self.attention(inner.flatten(1, 2))
        tokens = tokens + (by_view(mixed) * (1 + gate_1)).flatten(1, 2)
        inner = by_view(self.norm_2(tokens)) * (1 + scale_2) + shift_2
        return tokens + (self.fall(gelu(self.rise(inner), approximate="tanh")) * (1 + gate_2)).flatten(1, 2)


class MultiViewTransformer(nn.Module):
    """Pixels of all views in, pixels of all views out; every patch attends to every patch of every view.

    There is no position embedding: the rays among the inputs say where each pixel looks, so that any number of views
    of any size in whole patches will do.
    """

    def __init__(self, inputs: int, outputs: int, labels: int, options: NetworkOptions, noisy: int = 0) -> None:
        """Make one with fresh weights.

        Args:
            inputs: channels of a pixel.
            outputs: channels of a pixel.
            labels: numbers that describe a whole view, each embedded by sines (noise level, time).
            options: its size.
            noisy: channels of a pixel beside the inputs that reach the outputs through the blocks alone: only there
                does the noise level say how far they can be trusted.
        """
        super().__init__()
        self.options = options
        width, patch = options.width, options.patch
        self.stem = nn.Conv2d(inputs, options.stem, 1)
        self.cut = nn.Conv2d(options.stem + noisy, width, patch, patch)
        self.labels = nn.ModuleList(nn.Linear(2 * WAVES, width) for _ in range(labels))
        self.table = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(Block(width, options.expansion) for _ in range(options.depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, outputs * patch * patch)
        self.skip = nn.Conv2d(options.stem, outputs, 1)  # of the pixel itself, past the bottleneck of its patch
        self._start()

    def forward(self, pixels: Tensor, labels: Tensor, noisy: Tensor | None = None) -> Tensor:
        """From [b, v, inputs, h, w], [b, v, labels] and [b, v, noisy, h, w] to [b, v, outputs, h, w].

        Height and width are whole patches.
        """
        b, v, _, h, w = pixels.shape
        patch = self.options.patch
        rows, columns = h // patch, w // patch
        mixed = gelu(self.stem(pixels.flatten(0, 1)), approximate="tanh")
        given = mixed if noisy is None else torch.cat((mixed, noisy.flatten(0, 1)), 1)
        tokens = self.cut(given).flatten(2).transpose(1, 2).reshape(b, v * rows * columns, -1)
        said = torch.stack([layer(waves(labels[..., i])) for i, layer in enumerate(self.labels)]).sum(dim=0)
        modulation = self.table(said).view(b, v, 6, -1)
        for block in self.blocks:
            tokens = block(tokens, modulation)
        out = self.head(self.norm(tokens)).view(b * v, rows, columns, -1, patch, patch)
        out = out.permute(0, 3, 1, 4, 2, 5).reshape(b * v, -1, h, w) + self.skip(mixed)
        return out.view(b, v, -1, h, w)

    def _start(self) -> None:
        """Small weights where signals enter sums, none where labels and outputs do."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        last = self.table[-1]
        assert isinstance(last, nn.Linear)
        for layer in (last, self.head, self.skip, *list(self.labels)[1:]):
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


WAVES = 32


def waves(values: Tensor) -> Tensor:
    """Sines and cosines of numbers in 0..1 at frequencies from 1 to 1000, [..., 64]."""
    steps = torch.arange(WAVES, device=values.device, dtype=values.dtype) / (WAVES - 1)
    angles = values[..., None] * torch.exp(steps * math.log(1000.0))
    return torch.cat((angles.sin(), angles.cos()), -1)
