"""`lyra prior train | distill | evaluate`: the prior is made and measured."""

import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from ..command_line import parse
from ..errors import InputError

HELP = """usage: lyra prior train|distill|evaluate --config FILE.yaml ...

  train     The teacher, the regression net or the Gaussian decoder.
  distill   The student of few steps, from the teacher.
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
    ablation: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=FOLDER of a prior trained another way; repeatable."""
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

    ablations = []
    for text in given.ablation:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--ablation {text!r} names no prior: give NAME=FOLDER")
        ablations.append((name, Path(folder)))
    asked = EvaluateOptions(
        given.prior,
        given.out,
        min(given.scenes, QUICK_SCENES) if given.quick else given.scenes,
        QUICK_SAMPLES if given.quick else SAMPLES,
        given.shared,
        tuple(ablations),
    )
    report = evaluate(read_options(given.config), asked, Console(stderr=True))
    for scenes, bars in report.bars.items():
        for bar in bars:
            print(f"{scenes}: {bar.name}: {shown(bar.found)}, wanted {bar.wanted}: {verdict(bar)}")
    for name, value in report.facts.items():
        print(f"{name}: {value}")
    print(f"wrote {given.out / 'tables.md'} and tables.json")


def _run(stages: list[str], given: StageOptions) -> None:
    from ..prior.training.loop import RunOptions
    from ..prior.training.options import read_options
    from ..prior.training.stages import run_stage

    options, notes = read_options(given.config), Console(stderr=True)
    begun = time.monotonic()
    for stage in stages:
        left = None if given.minutes is None else given.minutes - (time.monotonic() - begun) / 60
        run = RunOptions(given.out, left, given.report_every, given.save_every)
        done = run_stage(stage, options, run, notes)
        print(f"{stage}: {'done' if done else 'stopped, run the same command to go on'}")
        if not done:
            return


VERBS = {"train": _train, "distill": _distill, "evaluate": _evaluate}
