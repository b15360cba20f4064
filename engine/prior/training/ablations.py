"""Lyra's ablations, repeated: short trainings that differ from a reference in one thing each."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ...errors import InputError
from .loop import RunOptions
from .options import PriorOptions, Schedule
from .stages import ALL, PRIOR, run_stage

REFERENCE = "reference"
STAGES = tuple(stage for stage in ALL if stage != "regression")


@dataclass(frozen=True)
class Ablation:
    """One thing left out."""

    change: Callable[[PriorOptions], PriorOptions]
    whole: bool = False
    """Whether all stages are trained anew; else the decoder alone, on the reference's student."""


def _decoder(**changes: object) -> Callable[[PriorOptions], PriorOptions]:
    return lambda options: replace(options, decoder=replace(options.decoder, **changes))  # type: ignore[arg-type]


ABLATIONS = {
    REFERENCE: Ablation(lambda options: options, whole=True),
    "no-fusion": Ablation(_decoder(fused=False)),
    "no-depth-loss": Ablation(_decoder(depth=0.0)),
    "no-opacity-loss": Ablation(_decoder(opacity=0.0)),
    "true-frames-only": Ablation(_decoder(truth=1.0)),
    "no-rays": Ablation(lambda options: replace(options, rays=False), whole=True),
}


def shortened(options: PriorOptions, share: float) -> PriorOptions:
    """The same training in a share of the steps, its warm-ups too.

    Raises:
        InputError: the share is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise InputError(f"--share {share:g} of the steps: give more than 0 and at most 1")

    def cut(schedule: Schedule) -> Schedule:
        return replace(schedule, steps=max(1, round(share * schedule.steps)), warmup=round(share * schedule.warmup))

    distill = replace(options.distill, ode=cut(options.distill.ode), consistency=cut(options.distill.consistency))
    decoder = replace(options.decoder, schedule=cut(options.decoder.schedule))
    return replace(options, teacher=cut(options.teacher), distill=distill, decoder=decoder)


def train_ablation(
    name: str, options: PriorOptions, run: RunOptions, left: Callable[[], float | None], notes: Console
) -> bool:
    """Train the prior of an ablation into the folder `run.out / name`, or go on with it; whether it is done.

    Args:
        name: of ABLATIONS.
        options: of the reference.
        run: of all of them.
        left: minutes that remain, asked before each stage; None for no limit.
        notes: for progress.

    Raises:
        InputError: the name is unknown, or the reference that it needs is not there.
    """
    if name not in ABLATIONS:
        raise InputError(f"ablation {name!r} is unknown: give {', '.join(ABLATIONS)}")
    ablation, folder = ABLATIONS[name], run.out / name
    if not ablation.whole:
        _share_student(run.out / REFERENCE / PRIOR / "student", folder / PRIOR / "student")
    changed = replace(ablation.change(options), name=name)
    for stage in STAGES if ablation.whole else ("decoder",):
        if not run_stage(stage, changed, replace(run, out=folder, minutes=left()), notes):
            return False
    return True


def _share_student(source: Path, target: Path) -> None:
    """Copy the reference's student, whole or not at all."""
    if target.exists():
        return
    if not source.exists():
        raise InputError(f"{source} is not there yet: train the ablation {REFERENCE} first")
    temporary = target.with_name(".student")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    temporary.rename(target)
