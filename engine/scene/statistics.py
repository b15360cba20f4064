"""What a scene holds, in numbers: extent, opacities, sizes."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .gaussians import Gaussians

BINS = 20
QUANTILES = (0.0, 0.01, 0.5, 0.99, 1.0)
NAMES = ("min", "p1", "median", "p99", "max")


def statistics(scene: Gaussians) -> dict[str, Any]:
    """Plain values for JSON: world units, opacities 0 to 1, scales as the longest of each splat."""
    longest = scene.scales.amax(dim=1)
    logs = longest.clamp(min=torch.finfo(longest.dtype).tiny).log10()
    return {
        "bounds": dict(zip(NAMES, _quantiles(scene.means).tolist(), strict=True)),
        "opacity": _named(scene.opacities) | {"histogram": _histogram(scene.opacities, 0.0, 1.0)},
        "scale": _named(longest) | {"log10_histogram": _histogram(logs, float(logs.min()), float(logs.max()))},
    }


def _named(values: Tensor) -> dict[str, float]:
    return dict(zip(NAMES, _quantiles(values[:, None])[:, 0].tolist(), strict=True))


def _quantiles(values: Tensor) -> Tensor:
    """[5, k] of the columns of [n, k], each a value that is there."""
    ordered = values.sort(dim=0).values
    places = torch.tensor([round(q * (len(values) - 1)) for q in QUANTILES])
    return ordered[places.to(values.device)]


def _histogram(values: Tensor, low: float, high: float) -> dict[str, list[float]]:
    """BINS equal bins from `low` to `high`, counts and edges."""
    counts, edges = np.histogram(values.double().cpu().numpy(), BINS, (low, high))
    return {"edges": edges.tolist(), "counts": counts.tolist()}
