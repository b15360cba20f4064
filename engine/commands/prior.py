"""`lyra prior train | distill | ablate | evaluate`: the prior is made and measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console

from ..command_line import parse
from ..errors import InputError

HELP = """usage: lyra prior train|distill|ablate|evaluate --config FILE.yaml ...

  train     The teacher, the regression net or the Gaussian decoder.
  distill   The student of few steps, from the teacher.
  ablate    Short trainings, each without one part of the method, to see what it is worth.
  evaluate  Tables of a prior on scenes that it never saw.

lyra prior train --help tells more."""
SAMPLES, QUICK_SAMPLES, QUICK_SCENES = 16, 4, 16


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """Distil the student. --minutes and Ctrl-C leave a checkpoint from which the same command goes on."""

    config: Path
    """YAML file, such as those in configs/prior."""
    out: Path
    """Folder of checkpoints, metrics (JSON lines), contact sheets and finished networks."""
    minutes: float | None = None
    """Stop after so many minutes."""
    report_every: int = 250
    """Steps between lines of metrics."""
    save_every: int = 500
    """Steps between checkpoints."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions(StageOptions):
    """Train a network of the prior. --minutes and Ctrl-C leave a checkpoint from which the same command goes on."""

    stage: tyro.conf.Positional[str]
    """teacher, regression or decoder; or all, which distils too: a whole prior from nothing."""


@dataclass(frozen=True, kw_only=True)
class AblateOptions(StageOptions):
    """Train a prior for each ablation and a reference beside them, into folders of `out` by their names."""

    share: float = 0.1
    """Share of the configuration's steps that each takes."""
    only: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Train this ablation alone; repeatable. All but `no-rays` need the reference's student."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Measure a prior on scenes that it never saw, and write tables as Markdown and JSON."""

    config: Path
    """YAML file that the prior was trained by."""
    prior: str
    """The name of one that comes with Lyra, or a folder with teacher, regression, student and decoder."""
    out: Path
    """Folder of tables.md, tables.json and examples of Gaussians."""
    scenes: int = 200
    """Held-out scenes of each split."""
    shared: Path | None = None
    """Folder with real scenes: posed pictures under `data`, Gaussians in `scenes`."""
    ablations: Path | None = None
    """Folder that `lyra prior ablate` wrote."""
    quick: bool = False
    """16 scenes of each split at most and the mean of 4 samples: whether all works, no more."""


def command(arguments: list[str]) -> None:
    """Run `lyra prior` with these arguments."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        raise InputError(f"{verb!r} is no part of lyra prior: give {', '.join(VERBS)}")
    VERBS[verb](rest)


def _train(arguments: list[str]) -> None:
    given = parse(TrainOptions, arguments, "lyra prior train")
    from ..prior.training.stages import ALL, TRAINED

    if given.stage not in (*TRAINED, "all"):
        raise InputError(f"stage {given.stage!r} is unknown: give {', '.join(TRAINED)} or all")
    _run(list(ALL) if given.stage == "all" else [given.stage], given)


def _distill(arguments: list[str]) -> None:
    given = parse(StageOptions, arguments, "lyra prior distill")
    from ..prior.training.stages import DISTILLED

    _run(list(DISTILLED), given)


def _evaluate(arguments: list[str]) -> None:
    given = parse(EvaluationOptions, arguments, "lyra prior evaluate")
    from ..prior.evaluation.run import EvaluateOptions, evaluate
    from ..prior.evaluation.table import shown, verdict
    from ..prior.training.options import read_options

    asked = EvaluateOptions(
        given.prior,
        given.out,
        min(given.scenes, QUICK_SCENES) if given.quick else given.scenes,
        QUICK_SAMPLES if given.quick else SAMPLES,
        given.shared,
        given.ablations,
    )
    report = evaluate(read_options(given.config), asked, Console(stderr=True))
    for scenes, bars in report.bars.items():
        for bar in bars:
            print(f"{scenes}: {bar.name}: {shown(bar.found)}, wanted {bar.wanted}: {verdict(bar)}")
    for name, value in report.facts.items():
        print(f"{name}: {value}")
    print(f"wrote {given.out / 'tables.md'} and tables.json")


def _ablate(arguments: list[str]) -> None:
    given = parse(AblateOptions, arguments, "lyra prior ablate")
    from ..prior.training.ablations import ABLATIONS, shortened, train_ablation
    from ..prior.training.options import read_options

    options, run, left = shortened(read_options(given.config), given.share), _run_options(given), _clock(given)
    for name in given.only or ABLATIONS:
        if not _told(name, train_ablation(name, options, run, left, Console(stderr=True))):
            return


def _run(stages: list[str], given: StageOptions) -> None:
    from ..prior.training.options import read_options
    from ..prior.training.stages import run_stage

    options, run, left = read_options(given.config), _run_options(given), _clock(given)
    for stage in stages:
        if not _told(stage, run_stage(stage, options, replace(run, minutes=left()), Console(stderr=True))):
            return


def _run_options(given: StageOptions):
    from ..prior.training.loop import RunOptions

    return RunOptions(given.out, given.minutes, given.report_every, given.save_every)


def _clock(given: StageOptions) -> Callable[[], float | None]:
    """Tells the minutes that remain of those given."""
    begun = time.monotonic()
    return lambda: None if given.minutes is None else given.minutes - (time.monotonic() - begun) / 60


def _told(what: str, done: bool) -> bool:
    print(f"{what}: {'done' if done else 'stopped, run the same command to go on'}")
    return done


VERBS = {"train": _train, "distill": _distill, "ablate": _ablate, "evaluate": _evaluate}
