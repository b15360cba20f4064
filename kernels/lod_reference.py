"""The cut, by sorting, and the interpolation in plain torch, any float type: the truth that others are tested by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import gaze as g
from .constants import TRANSITION

if TYPE_CHECKING:
    from .lod import Nodes

TINY = 1e-30


def view_errors(means: Tensor, radii: Tensor, errors: Tensor, row: Tensor, gazed: bool) -> Tensor:
    """[m] of nodes, or of whatever has a sphere and an error; 0 for leaves. Formula and precision: kernels/gaze.py."""
    x, y, z = (means - row[g.EYE : g.EYE + 3]).unbind(dim=-1)
    distance = _root(x * x + y * y + z * z)
    if gazed:
        errors = errors * gaze_weight(x, y, z, distance, radii, row)
    return errors / torch.maximum(distance - radii, row[g.NEAR])


def gaze_weight(x: Tensor, y: Tensor, z: Tensor, distance: Tensor, radius: Tensor, row: Tensor) -> Tensor:
    """Largest weight of the gaze over spheres whose centres lie at x, y, z from the eye."""
    inverse = 1 / distance.clamp(min=TINY)
    half = _root(((distance - radius) * (distance + radius)).clamp(min=0)) * inverse  # cos of the sphere's half angle
    sphere = x, y, z, inverse, half, radius * inverse
    cos, sin, holds = _nearest(sphere, row[g.DIRECTION : g.DIRECTION + 3])
    away = torch.where(cos > 0, sin * sin / (1 + cos.clamp(min=0)), 1 - cos)
    away = torch.where((distance <= radius) | holds, 0, away)
    inside = (1 - row[g.FALL] * (away - row[g.INNER])).clamp(min=row[g.EDGE])
    outside = (row[g.EDGE] - row[g.DROP] * (away - row[g.OUTER])).clamp(min=row[g.BEHIND])
    weight = torch.where(away <= row[g.INNER], 1, torch.where(away <= row[g.OUTER], inside, outside))
    least = torch.zeros_like(cos)
    for side in range(g.SIDES, g.SLOPE, 3):
        above, _, _ = _nearest(sphere, row[side : side + 3])
        least = torch.minimum(least, above)
    least = torch.where(distance <= radius, 0, least)
    return weight * torch.maximum(1 + row[g.SLOPE] * least, row[g.BEYOND])


def _nearest(sphere: tuple[Tensor, ...], direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine and sine of the angle from a direction to the nearest of a sphere; whether the sphere covers it."""
    x, y, z, inverse, half, sine = sphere
    dx, dy, dz = direction
    along = (x * dx + y * dy + z * dz) * inverse
    a, b, c = y * dz - z * dy, z * dx - x * dz, x * dy - y * dx
    across = _root(a * a + b * b + c * c) * inverse
    return along * half + across * sine, across * half - along * sine, along >= half


def _root(values: Tensor) -> Tensor:
    """The square root, correctly rounded, which torch's own of float32 is not: all backends agree to the last bit."""
    return values.double().sqrt().to(values)


def cut(
    nodes: Nodes, roots: Tensor, row: Tensor, gazed: bool, budget: int, previous: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, t, errors and threshold, as `lod.cut`."""
    errors = view_errors(nodes.means, nodes.radii, nodes.errors, row, gazed)
    able = (nodes.children >= 0) & (errors > row[g.FLOOR])
    ids = able.nonzero()[:, 0]
    order = ids[errors[ids].argsort(descending=True, stable=True)]
    totals = (nodes.counts[order] - 1).cumsum(0)
    fitting = int((totals <= max(budget - len(roots), 0)).sum())
    expanded = torch.zeros_like(able)
    expanded[order[:fitting]] = True
    threshold = errors[order[fitting]] if fitting < len(order) else row[g.FLOOR]
    if previous is not None:
        last = torch.maximum(previous.to(row), row[g.FLOOR])
        kept = able & (errors > last)
        total = len(roots) + int((nodes.counts[kept] - 1).sum())
        if 99 * budget <= 100 * total <= 100 * budget:
            expanded, threshold = kept, last

    parents = expanded.nonzero()[:, 0]
    counts = nodes.counts[parents].long()
    first = (nodes.children[parents] - (counts.cumsum(0) - counts)).repeat_interleave(counts)
    ids = torch.cat((roots.long(), first + torch.arange(len(first), device=first.device)))
    above = torch.cat((errors.new_full((len(roots),), torch.inf), errors[parents].repeat_interleave(counts)))
    drawn = ~expanded[ids]
    ids, above = ids[drawn], above[drawn]
    own = errors[ids]
    start = torch.maximum(above / TRANSITION, own)
    t = ((above - threshold) / (above - start)).clamp(0, 1)
    t = torch.where((above >= TRANSITION * threshold) | (above <= start), 1, t)
    return ids.int(), t, own, threshold


def interpolate(nodes: Nodes, ids: Tensor, t: Tensor) -> tuple[Tensor, ...]:
    """Means, quats, scales, opacities, sh and exponents, as `lod.interpolate`."""
    index = ids.long()
    parents = nodes.parents[index].long()
    whole = (parents < 0) | (t >= 1)
    parents = torch.where(whole, index, parents)
    fields = []
    for name in ("means", "quats", "scales", "opacities", "sh"):
        child, parent = getattr(nodes, name)[index], getattr(nodes, name)[parents]
        share, alone = (values.view(-1, *[1] * (child.dim() - 1)) for values in (t, whole))
        ends = child, parent
        if name == "quats":
            ends = tuple(values / values.norm(dim=-1, keepdim=True).clamp(min=TINY) for values in ends)
            ends = ends[0], torch.where((ends[0] * ends[1]).sum(dim=-1, keepdim=True) < 0, -ends[1], ends[1])
        fields.append(torch.where(alone, child, share * ends[0] + (1 - share) * ends[1]))
    siblings = nodes.counts[parents].clamp(min=1)
    return *fields, torch.where(whole, 1, t + (1 - t) / siblings)
