"""Gaussians of a scene beside the truth: at poses that the decoder never saw, and where its surfaces lie."""

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ....kernels.constants import SH_C0
from ...formats.registry import save
from ...scene.gaussians import Gaussians
from ..clips import Clips
from ..inference import decode
from ..pruning import prune
from ..training.splatting import draw_gaussians
from ..weights import Prior
from .geometry import depth_scores, point_scores, splat_points, surface_points
from .metrics import Scores, laplacian_energy, psnr
from .novel_views import Rows, condition_of, student_views
from .scenes import Trial

COMPACT = 2500  # splats
TRUE = "true views"


def gaussian_scores(nets: Prior, trial: Trial, known: int | None, views: int, folder: Path | None = None) -> Rows:
    """Scores of dense and compact Gaussians of the first `views` views, at the other views of the clips.

    Args:
        nets: student and decoder.
        trial: the scenes; their views beyond the first `views` are those that the decoder never saw.
        known: how many views are given, the student making the others; None gives the decoder all true views.
        views: that the decoder sees.
        folder: where the first scene's .ply files go; nowhere when None, and then `bytes` are nan.
    """
    clips = trial.clips
    begun = time.perf_counter()
    inputs = decoder_inputs(nets, trial, known, views)
    planes = nets.decoder.planes
    dense = decode(nets.decoder, inputs, inputs.times[:, 0], planes, fused=nets.fused, use_rays=nets.rays)
    seconds = (time.perf_counter() - begun) / len(clips)
    compact = prune(dense, inputs.world_to_camera, inputs.K, inputs.size, COMPACT)
    source = TRUE if known is None else f"student, {known} known"
    rows: Rows = {}
    for kind, found in (("dense", dense), ("compact", compact)):
        scores = held_out_scores(found, clips.views(slice(views, None)))
        truth = surface_points(clips, trial.dice.of("surface"))
        scores |= point_scores(splat_points(found, trial.dice.of("splats")), truth)
        splats = scores["psnr"].new_full((len(clips),), float(found["means"].shape[1]))
        scores |= {"splats": splats, "solid": (found["opacities"] > 0.5).float().sum(dim=1)}
        scores["seconds"] = torch.full_like(splats, seconds)
        scores["bytes"] = torch.full_like(splats, torch.nan)
        if folder is not None:
            path = folder / f"{source.replace(', ', '-').replace(' ', '-')}-{kind}.ply"
            save(as_scene(found, 0), path)
            scores["bytes"][0] = path.stat().st_size
        rows[f"{source}, {kind}"] = scores
    return rows


def short_scores(nets: Prior, trial: Trial, known: int, views: int) -> Scores:
    """What ablations are compared by: new views in 4 steps, and Gaussians of them at poses that nobody saw."""
    inputs, planes = decoder_inputs(nets, trial, known, views), nets.decoder.planes
    dense = decode(nets.decoder, inputs, inputs.times[:, 0], planes, fused=nets.fused, use_rays=nets.rays)
    compact = prune(dense, inputs.world_to_camera, inputs.K, inputs.size, COMPACT)
    unseen = trial.clips.views(slice(views, None))
    made, truth = inputs.rgb[:, known:], trial.clips.rgb[:, known:views]
    return held_out_scores(dense, unseen) | {
        "compact psnr": held_out_scores(compact, unseen)["psnr"],
        "views psnr": psnr(made, truth),
        "views energy": laplacian_energy(made),
        "true views energy": laplacian_energy(truth),
    }


def decoder_inputs(nets: Prior, trial: Trial, known: int | None, views: int) -> Clips:
    """The views that the decoder sees: true ones, or true ones and what the student makes of them in 4 steps."""
    seen = trial.clips.views(slice(views))
    if known is None:
        return seen
    made = student_views(nets, condition_of(nets, seen, known), known, 4, trial.dice.of(f"student {known} 4 0"))
    return replace(seen, rgb=torch.cat((seen.rgb[:, :known], made), 1))


def held_out_scores(found: dict[str, Tensor], clips: Clips) -> Scores:
    """Of renderings of Gaussians beside the truth."""
    drawn = draw_gaussians(found, clips)
    assert drawn.depth is not None
    rgb = drawn.rgb.permute(0, 1, 4, 2, 3).clamp(0, 1)
    scores = {
        "psnr": psnr(rgb, clips.rgb),
        "energy": laplacian_energy(rgb),
        "true energy": laplacian_energy(clips.rgb),
    }
    return scores | depth_scores(drawn.depth, drawn.alpha, clips)


def as_scene(found: dict[str, Tensor], index: int) -> Gaussians:
    """One scene of a batch as it is written to files."""
    sh = (found["colors"][index] - 0.5)[:, None] / SH_C0
    columns = (found[name][index].float().cpu() for name in ("means", "quats", "scales", "opacities"))
    return Gaussians(*columns, sh=sh.float().cpu())
