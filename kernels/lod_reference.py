"""The cut, by sorting, and what it shows, in plain torch, any float type: the truth that others are tested by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import gaze as g
from .constants import FADING, FAINTEST

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
    """Ids, exponents, errors and threshold, as `lod.cut`."""
    errors = view_errors(nodes.means, nodes.radii, nodes.errors, row, gazed)
    able = (nodes.children >= 0) & (errors > row[g.FLOOR])
    ids = able.nonzero()[:, 0]
    order = ids[errors[ids].argsort(descending=True, stable=True)]
    totals = (nodes.counts[order] - 1).cumsum(0)

    def first_above(room: int) -> tuple[int, Tensor]:
        """How many of the order fit, and the view error of the first that does not."""
        fitting = int((totals <= room).sum())
        return fitting, errors[order[fitting]] if fitting < len(order) else row[g.FLOOR]

    reserve = budget // FADING
    room = max(budget - reserve - len(roots), 0)
    enough = max(-(-99 * (budget - reserve) // 100) - len(roots), 0)
    fitting, threshold = first_above(room)
    last = row[g.FLOOR] if previous is None else torch.maximum(previous.to(row), row[g.FLOOR])
    if last <= row[g.FLOOR] and len(order) == first_above(max(budget - len(roots), 0))[0]:
        fitting, threshold = len(order), last
    elif previous is not None:
        above = int((errors[order] > last).sum())
        added = int(totals[above - 1]) if above else 0
        if enough <= added <= room:
            fitting, threshold = above, last
        elif added < enough:
            fitting, threshold = first_above(enough)
    expanded = torch.zeros_like(able)
    expanded[order[:fitting]] = True
    fading = first_above(max(room - reserve, 0))[1]

    parents = expanded.nonzero()[:, 0]
    counts = nodes.counts[parents].long()
    group = torch.arange(len(parents), device=parents.device).repeat_interleave(counts)
    children = nodes.children[parents][group] + torch.arange(len(group), device=group.device)
    children -= (counts.cumsum(0) - counts)[group]
    above, drawn = errors[parents], ~expanded[children]
    largest = torch.zeros_like(above).scatter_reduce_(0, group, errors[children], "amax")
    whole = torch.ones_like(parents).scatter_reduce_(0, group, drawn.long(), "amin") > 0
    start = torch.maximum(above * (threshold / fading), largest)
    t = ((above - threshold) / (above - start)).clamp(FAINTEST, 1)
    t = torch.where((above < fading) & (above > start) & whole & (counts > 1), t, 1)

    own = roots.long()[~expanded[roots.long()]]
    fades = t < 1
    places = torch.cat((group[drawn], torch.arange(len(parents), device=group.device)[fades]))
    order = places.argsort(stable=True)  # a parent after its children
    ids = torch.cat((own, torch.cat((children[drawn], parents[fades]))[order]))
    exponents = torch.cat((torch.ones_like(own).to(errors), torch.cat((t[group][drawn], 1 - t[fades]))[order]))
    return ids.int(), exponents, errors[ids], threshold


def gather(nodes: Nodes, ids: Tensor, exponents: Tensor) -> tuple[Tensor, ...]:
    """Means, quats, scales, opacities, sh and exponents, as `lod.gather`."""
    return *(values[ids.long()] for values in nodes[:5]), exponents
