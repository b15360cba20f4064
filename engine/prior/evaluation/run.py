"""The whole evaluation of a prior: held-out scenes, real ones, ablations, and the tables of all of it."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from ...command_line import progress_bar
from ...errors import InputError
from ...files import cause, replacing
from ...machine import describe, line, peak_memory
from ..data.mixture import Source
from ..training.options import PriorOptions
from ..weights import Prior, open_prior
from ..worlds.scenes import WorldOptions
from ..worlds.source import WorldSource
from .bars import Bar, control_bar, splat_bar, view_bars
from .gaussians import gaussian_scores, short_scores
from .metrics import Scores
from .novel_views import COPY, PERTURBATIONS, Plan, Rows, camera_control, novel_views
from .outside import CLIPS, outside_scores, real_scenes
from .rivals import Rivals, open_ablations, open_rivals
from .scenes import Trial, trials
from .summary import ablation_table, control_table, outside_table, splat_table, view_table
from .table import Report, Table, as_json, markdown

SPLITS = ("validation", "generators")  # other seeds; and shapes, textures and paths that training never showed
KNOWN = (1, 2)


@dataclass(frozen=True)
class EvaluateOptions:
    """What is measured, and how much of it."""

    prior: str
    out: Path
    scenes: int = 200
    """Of each split."""
    samples: int = 16
    """Of each scene, for the mean of samples."""
    shared: Path | None = None
    """A folder with real scenes."""
    ablations: Path | None = None
    """A folder with the priors of ablations, in folders by their names."""

    def __post_init__(self) -> None:
        if self.scenes < 2:
            raise InputError(f"--scenes {self.scenes} is too few for an interval: give 2 or more, 200 for a report")


@dataclass(eq=False)
class Stages:
    """Time and memory of each stage, as they end."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures its block; the same name again adds to its time."""
        begun = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
        self.peak[name] = peak_memory(self.device)


@dataclass(frozen=True, eq=False)
class Bench:
    """What every stage needs."""

    options: PriorOptions
    asked: EvaluateOptions
    nets: Prior
    rivals: Rivals
    device: torch.device
    stages: Stages

    @property
    def known(self) -> tuple[int, ...]:
        """How many views are given: those of KNOWN that the prior was trained for."""
        low, high = self.options.clean
        return tuple(k for k in KNOWN if low <= k <= min(high, self.views - 1)) or (low,)

    @property
    def views(self) -> int:
        """Of a group, as the decoder sees them."""
        return self.options.decoder.views

    @property
    def all_views(self) -> int:
        """Of a scene: a group, and poses that nothing but the truth sees."""
        return self.views + self.options.decoder.held_out


def evaluate(options: PriorOptions, asked: EvaluateOptions, notes: Console) -> Report:
    """Measure a prior, and write tables.md, tables.json and an example of each kind of Gaussians into the folder `out`.

    Raises:
        InputError: a folder cannot be read or written.
    """
    begun = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    bench = _opened(options, asked)
    others = {} if asked.ablations is None else open_ablations(asked.ablations, bench.device)
    real = {} if asked.shared is None else real_scenes(asked.shared, bench.device)
    tables: list[Table] = []
    bars: dict[str, list[Bar]] = {}
    hashes: dict[str, str] = {}
    control: dict[str, tuple[Rows, Scores]] = {}
    with torch.no_grad():
        for split in SPLITS:
            for known in bench.known:
                name = f"{split}, {known} of {bench.views} known"
                rows, told, hashes[name] = _views(bench, split, known, notes)
                tables.append(view_table(name, rows, options.size))
                bars[name] = view_bars(rows)
                if told:
                    bars[name].append(control_bar(rows[COPY], told))
                    control[name] = rows, told
        tables.append(control_table(control))
        for split in SPLITS:
            rows = _splats(bench, split, notes)
            tables.append(splat_table(split, rows))
            bars[split] = [splat_bar(next(scores for name, scores in rows.items() if name.endswith("compact")))]
        if others:
            rows = _ablations(bench, {options.name: bench.nets, **others}, notes)
            tables.append(ablation_table(SPLITS[0], bench.known[0], rows))
        if real:
            tables.append(outside_table(*_outside(bench, real, notes)))
    facts = {
        "prior": f"{options.name}, {options.size[0]}x{options.size[1]}",
        "machine": line(describe()),
        "started": f"{begun} UTC",
        "seed": str(options.seed),
        "scenes": f"{asked.scenes} of each split, in which nothing moves; {asked.samples} samples for the mean",
        **{f"sha256 of the student's frames ({name})": value for name, value in hashes.items()},
    }
    stages = bench.stages
    report = Report(f"Evaluation of {options.name}", facts, bars, tables, stages.seconds, stages.peak)
    with replacing(asked.out / "tables.md") as stream:
        stream.write(markdown(report).encode())
    with replacing(asked.out / "tables.json") as stream:
        stream.write(json.dumps(as_json(report), indent=1, allow_nan=False).encode())
    return report


def _opened(options: PriorOptions, asked: EvaluateOptions) -> Bench:
    """All that is given, found to be there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nets, rivals = open_prior(asked.prior, device), open_rivals(asked.prior, device)
    try:
        asked.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{asked.out}: {cause(error)}, give a folder that can be written") from error
    return Bench(options, asked, nets, rivals, device, Stages(device))


def _worlds(bench: Bench, split: str, views: int, stage: str, notes: Console) -> Iterator[Trial]:
    """Batches of held-out worlds, the same ones at every call but for their views; their making is a stage too."""
    source = WorldSource(WorldOptions(split=split, moving=0.0), bench.device)
    yield from _counted(bench, source, split, bench.asked.scenes, views, stage, notes)


def _counted(
    bench: Bench, source: Source, name: str, count: int, views: int, stage: str, notes: Console
) -> Iterator[Trial]:
    options, done = bench.options, 0
    with progress_bar(notes, stage, "scenes") as tell:
        waiting = trials(source, name, count, views, options.size, options.seed, bench.device)
        while True:
            with bench.stages.stage("making of scenes"):
                trial = next(waiting, None)
            if trial is None:
                return
            with bench.stages.stage(stage):
                yield trial
            done += len(trial.clips)
            tell(done, count)


def _views(bench: Bench, split: str, known: int, notes: Console) -> tuple[Rows, Scores, str]:
    """Scores of new views and of wrong poses, and the hash of the student's frames.

    What costs the most is measured with the fewest views: the mean of samples and the permuted poses, and wrong poses
    on the first split alone.
    """
    hardest = known == bench.known[0]
    plan, digest = Plan(known, bench.asked.samples if hardest else 1), hashlib.sha256()
    amounts = PERTURBATIONS if split == SPLITS[0] else ()
    rows: list[Rows] = []
    control: list[Scores] = []
    for trial in _worlds(bench, split, bench.views, f"new views, {known} known", notes):
        rows.append(novel_views(bench.nets, bench.rivals, trial, plan, digest))
        control.append(camera_control(bench.nets, trial, known, amounts) if hardest else {})
    return _joined(rows), _joined_scores(control), digest.hexdigest()


def _splats(bench: Bench, split: str, notes: Console) -> Rows:
    rows: list[Rows] = []
    for trial in _worlds(bench, split, bench.all_views, "Gaussians", notes):
        folder = bench.asked.out if split == SPLITS[0] and not rows else None
        found: Rows = {}
        for known in (*bench.known, None):
            found |= gaussian_scores(bench.nets, trial, known, bench.views, folder)
        rows.append(found)
    return _joined(rows)


def _ablations(bench: Bench, priors: dict[str, Prior], notes: Console) -> Rows:
    """A few scores of each prior on the same scenes."""
    rows: list[Rows] = []
    known = bench.known[0]
    for trial in _worlds(bench, SPLITS[0], bench.all_views, "ablations", notes):
        rows.append({name: short_scores(nets, trial, known, bench.views) for name, nets in priors.items()})
    return _joined(rows)


def _outside(bench: Bench, real: dict[str, Callable[[], Source]], notes: Console) -> tuple[Rows, list[str]]:
    """Scores of each real scene, and why some have none: hours of measuring do not end with one bad file."""
    rows: Rows = {}
    left_out: list[str] = []
    count = min(CLIPS, bench.asked.scenes)
    for name, opened in real.items():
        try:
            source = opened()
            for known in bench.known:
                found = [
                    outside_scores(bench.nets, bench.rivals, trial, known, bench.views)
                    for trial in _counted(bench, source, name, count, bench.all_views, "real scenes", notes)
                ]
                rows |= {f"{name}, {known} known: {way}": scores for way, scores in _joined(found).items()}
        except InputError as error:
            left_out.append(f"Left out, {name}: {error}.")
    return rows, left_out


def _joined(rows: list[Rows]) -> Rows:
    return {name: _joined_scores([row[name] for row in rows]) for name in rows[0]}


def _joined_scores(scores: list[Scores]) -> Scores:
    return {name: torch.cat([part[name].cpu() for part in scores]) for name in scores[0]}
