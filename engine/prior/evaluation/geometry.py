"""How well splats lie where surfaces are: depth as it is rendered, and distances between sets of points."""

import torch
from torch import Tensor

from ..clips import LEAST_ALPHA, Clips
from .metrics import Scores, unprojected

POINTS = 2048  # of each set, drawn at random
TAU = 0.05  # of the F-score, in median depths
REACH = 10.0  # median depths from the first camera; beyond lie sky and horizon, which count nowhere
SOLID = 0.5  # opacity of splats that count as surface
WITHIN = 1.25  # ratio of depths, either way


def depth_scores(drawn: Tensor, alpha: Tensor, clips: Clips) -> Scores:
    """AbsRel = |z - z*| / z* and the share with max(z / z*, z* / z) < 1.25, where the truth is nearer than REACH.

    Both are over pixels that rendering covers by more than a half; `covered` is the share of those.

    Args:
        drawn, alpha: [b, v, h, w] z and alpha of a rendering.
        clips: the truth from the same cameras, in normalised units.
    """
    wanted = (clips.depth > 0) & (clips.depth < REACH) & (clips.alpha >= LEAST_ALPHA)
    counted = wanted & (alpha > 0.5)
    share = counted.float().flatten(1)
    total = share.sum(dim=1)
    none = torch.where(total > 0, 1.0, torch.nan)
    truth = torch.where(counted, clips.depth, 1.0)
    found = torch.where(counted, drawn, 1.0)
    error = ((found - truth).abs() / truth).flatten(1)
    ratio = torch.maximum(found / truth, truth / found.clamp(min=1e-6)).flatten(1)
    return {
        "absrel": (error * share).sum(dim=1) / total * none,
        "delta": ((ratio < WITHIN) * share).sum(dim=1) / total * none,
        "covered": total / wanted.flatten(1).sum(dim=1),
    }


def surface_points(clips: Clips, generator: torch.Generator) -> list[Tensor]:
    """Points of surfaces that the clips' views see, [at most POINTS, 3] of each scene."""
    points, solid = unprojected(clips)
    places = points.movedim(2, -1).flatten(1, 3)
    return [_drawn(scene[mask.flatten()], generator) for scene, mask in zip(places, solid, strict=True)]


def splat_points(found: dict[str, Tensor], generator: torch.Generator) -> list[Tensor]:
    """Centres of splats that are more than half opaque, [at most POINTS, 3] of each scene."""
    pairs = zip(found["means"], found["opacities"], strict=True)
    return [_drawn(means[opacities > SOLID], generator) for means, opacities in pairs]


def point_scores(splats: list[Tensor], truth: list[Tensor]) -> Scores:
    """Chamfer distance and F-score of sets of points, scene by scene.

    Chamfer is the mean of both directions' mean distance to the nearest point, not squared; the F-score is the harmonic
    mean of the shares that have one within TAU. Without any splat the F-score is 0 and Chamfer nan.
    """
    rows = [_points_apart(*pair) for pair in zip(splats, truth, strict=True)]
    both = torch.tensor(rows, dtype=torch.float32).view(-1, 2)
    return {"chamfer": both[:, 0], "fscore": both[:, 1]}


def _points_apart(a: Tensor, b: Tensor) -> tuple[float, float]:
    if len(b) == 0:
        return torch.nan, torch.nan
    if len(a) == 0:
        return torch.nan, 0.0
    distances = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    to_b, to_a = distances.amin(dim=1), distances.amin(dim=0)
    chamfer = 0.5 * float(to_b.mean() + to_a.mean())
    precision, recall = float((to_b < TAU).float().mean()), float((to_a < TAU).float().mean())
    return chamfer, 2 * precision * recall / max(precision + recall, 1e-9)


def _drawn(points: Tensor, generator: torch.Generator) -> Tensor:
    near = points[points.norm(dim=-1) < REACH]
    return near[torch.randperm(len(near), generator=generator)[:POINTS].to(near.device)]
