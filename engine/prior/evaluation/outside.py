"""Real scenes, which the prior was never trained on: photographed, and reconstructed as Gaussians."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from ...errors import InputError
from ..clips import LEAST_ALPHA
from ..data.captures import Captures
from ..data.folders import LISTS, read_capture
from ..data.gaussian_scenes import is_scene, open_scenes
from ..data.mixture import Source
from ..weights import Prior
from .baselines import copied, regressed
from .gaussians import gaussian_scores
from .metrics import laplacian_energy, psnr
from .novel_views import COPY, FEW, REGRESSION, Rows, condition_of, student_views
from .rivals import Rivals
from .scenes import Trial

CLIPS = 32  # of each source, at most
COARSE = 4  # level of detail of scenes that have several: a picture is small
SPLATS = "Gaussians of student, unseen poses"


def real_scenes(folder: Path, device: torch.device) -> dict[str, Callable[[], Source]]:
    """What opens posed pictures anywhere under `data` and scenes of Gaussians in `scenes`, by their names.

    Other files are passed over; nothing but headers is read before a source is opened.

    Raises:
        InputError: there is none.
    """
    found: dict[str, Callable[[], Source]] = {}
    for place, inner, files in os.walk(folder / "data"):
        inner.sort()
        if any(name in files for name in LISTS):
            inner.clear()
            found[Path(place).name] = lambda path=Path(place): Captures((read_capture(path),))
    for path in sorted((folder / "scenes").iterdir()) if (folder / "scenes").is_dir() else ():
        if is_scene(path):
            found[path.name] = lambda path=path: open_scenes(path, level=COARSE, device=device)
    if not found:
        raise InputError(f"{folder}: holds no posed pictures in `data`, no scene in `scenes`: give a folder that does")
    return found


def outside_scores(nets: Prior, rivals: Rivals, trial: Trial, known: int, views: int) -> Rows:
    """Scores of copies, the regression net and the student at a batch's targets, and of Gaussians at unseen poses.

    `solid` is the share of pixels that show anything, for an object on nothing makes every figure kinder.
    """
    clips = trial.clips.views(slice(views))
    condition, truth = condition_of(nets, clips, known), clips.rgb[:, known:]
    ways = {
        COPY: copied(clips, known),
        REGRESSION: regressed(rivals.regression, condition, known),
        FEW: student_views(nets, condition, known, 4, trial.dice.of(f"student {known} 4 0")),
    }
    solid = (clips.alpha >= LEAST_ALPHA).float().flatten(1).mean(dim=1)
    rows: Rows = {
        name: {
            "psnr": psnr(found, truth),
            "energy": laplacian_energy(found),
            "true energy": laplacian_energy(truth),
            "solid": solid,
        }
        for name, found in ways.items()
    }
    drawn = gaussian_scores(nets, trial, known, views)
    dense = next(scores for name, scores in drawn.items() if name.endswith("dense"))
    rows[SPLATS] = {name: dense[name] for name in ("psnr", "energy", "true energy", "absrel")} | {"solid": solid}
    return rows
