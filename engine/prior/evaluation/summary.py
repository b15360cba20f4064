"""From scores to tables: which columns, in which order, and what has to be said beside them."""

from collections.abc import Sequence

from ...likeness import LEAST_SIDE
from ..training.ablations import REFERENCE
from . import geometry, metrics
from .gaussians import COMPACT
from .metrics import Scores, mean_of
from .novel_views import COPY, FEW, PERTURBATIONS, WARP, Rows
from .table import ENERGY_TOLD, PSNR_TOLD, Table, cell

VIEW_COLUMNS = {
    "PSNR, dB": "psnr",
    "SSIM": "ssim",
    "MS-SSIM": "ms-ssim",
    "energy": "energy",
    "PSNR seen": "seen psnr",
    "PSNR hidden": "hidden psnr",
    "energy seen": "seen energy",
    "energy hidden": "hidden energy",
    "s a scene": "seconds",
}
SPLAT_COLUMNS = {
    "PSNR unseen": "psnr",
    "energy": "energy",
    "AbsRel": "absrel",
    "delta < 1.25": "delta",
    "covered": "covered",
    "Chamfer": "chamfer",
    "F-score": "fscore",
    "splats": "splats",
    "opaque": "solid",
    "bytes of .ply": "bytes",
    "s a scene": "seconds",
}
OUTSIDE_COLUMNS = {"PSNR, dB": "psnr", "energy": "energy", "AbsRel": "absrel", "shows something": "solid"}
SHORT_COLUMNS = {
    "PSNR of new views": "views psnr",
    "energy of new views": "views energy",
    "PSNR unseen": "psnr",
    "over reference": "gain",
    "PSNR unseen, compact": "compact psnr",
    "over reference, compact": "compact gain",
    "AbsRel": "absrel",
    "delta < 1.25": "delta",
}


def view_table(scenes: str, rows: Rows, size: tuple[int, int]) -> Table:
    """New views."""
    share = mean_of(rows[WARP]["seen share"]).mean
    return _table(
        f"New views, {scenes}",
        VIEW_COLUMNS,
        rows,
        PSNR_TOLD,
        ENERGY_TOLD,
        "Seen: the pixel's true point lies in a known view, at the depth there within "
        f"{metrics.TOLERANCE:.0%}; hidden: all others. {share:.0%} of the pixels are seen. The warp knows true depths "
        "of the known views and fills the rest smoothly. The teacher is integrated by Euler's method, the student "
        "sampled as a consistency model.",
        *([] if min(size) >= LEAST_SIDE else [f"MS-SSIM needs {LEAST_SIDE} pixels a side; here are {min(size)}."]),
    )


def control_table(rows: dict[str, tuple[Rows, Scores]]) -> Table:
    """Told other poses than those of the truth: by scenes, the scores of new views and of the student led astray."""
    names = (*(f"{amount:g}" for amount in PERTURBATIONS), "permuted")
    columns = ("scenes", COPY, "true poses", *(f"off by {amount:g}" for amount in PERTURBATIONS), "permuted")
    return Table(
        "Cameras: PSNR (dB) of the student's 4 steps when it is told wrong poses",
        columns,
        [
            (scenes, cell(views[COPY], "psnr"), cell(views[FEW], "psnr"), *(cell(control, name) for name in names))
            for scenes, (views, control) in rows.items()
        ],
        (
            "Off by a: every target's camera is turned by a radians about a random axis and moved by a median depths. "
            "Permuted: every target gets the pose of the next one.",
        ),
    )


def splat_table(split: str, rows: Rows) -> Table:
    """Gaussians."""
    return _table(
        f"Gaussians, {split}",
        SPLAT_COLUMNS,
        rows,
        "PSNR and depth are those of renderings at poses that the decoder never saw. Depth counts where the truth is "
        f"nearer than {geometry.REACH:g} median depths and more than half of the pixel is covered; `covered` "
        "is the share of those.",
        "Chamfer: mean distance to the nearest point, the mean of both directions, not squared, in units of the median "
        f"depth of the first view; F-score: tau = {geometry.TAU:g} of these units. Between centres of splats of an "
        f"opacity above {geometry.SOLID:g} and the surfaces that all views of the scene see, at most {geometry.POINTS} "
        f"random points of each, nearer than {geometry.REACH:g} units to the first camera: sky and horizon stay out.",
        f"Compact: the {COMPACT} splats with the largest opacity times contribution to renderings of the decoder's "
        "views.",
        ENERGY_TOLD,
    )


def ablation_table(split: str, known: int, rows: Rows) -> Table:
    """Priors trained in another way beside a reference, trained as short."""
    if REFERENCE in rows:
        short = rows[REFERENCE]
        gains = {"gain": "psnr", "compact gain": "compact psnr"}
        rows = {
            row: scores | {told: scores[name] - short[name] for told, name in gains.items()}
            for row, scores in rows.items()
        }
    return _table(
        f"Ablations, {split}",
        SHORT_COLUMNS,
        rows,
        f"From {known} known view{'s' * (known > 1)}; new views in 4 steps, and Gaussians of the student's views at "
        "poses that nobody saw. All but the first row were trained shorter, all as long as the reference; differences "
        "to it are taken scene by scene. Where views are those of the reference, the decoder alone was trained anew.",
        PSNR_TOLD,
    )


def outside_table(rows: Rows, left_out: Sequence[str]) -> Table:
    """Real scenes."""
    return _table(
        "Out of domain: real scenes",
        OUTSIDE_COLUMNS,
        rows,
        "Intervals are over random clips of one scene each, which are not independent scenes. Pictures are cropped and "
        "scaled down to the size of training. Where things stand on black nothing, `shows something` tells how much of "
        "a picture counts.",
        *left_out,
        PSNR_TOLD,
        ENERGY_TOLD,
    )


def _table(title: str, columns: dict[str, str], rows: Rows, *notes: str) -> Table:
    """Without columns that no row fills."""
    kept = {told: name for told, name in columns.items() if any(name in scores for scores in rows.values())}
    listed = [(row, *(cell(scores, name) for name in kept.values())) for row, scores in rows.items()]
    return Table(title, ("", *kept), listed, notes)
