"""Tables of what was measured: Markdown for people, JSON for programs."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from .bars import Bar
from .metrics import Figure, Scores, mean_of, ratio_of

Cell = str | int | float | Figure | None

ENERGY_TOLD = "Energy is the mean square of the Laplacian, result / truth: 1 is as sharp as the truth, less is blurred."
COUNTED = ("seconds", "splats", "bytes")  # what has no interval over scenes
PSNR_TOLD = "PSNR alone rewards blur: the mean of all that may be there beats any one sample. Read it beside energy."


@dataclass(frozen=True)
class Table:
    """Rows of cells under names of columns."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that one run found."""

    title: str
    facts: dict[str, str]
    """What it was measured on, with and of."""
    bars: dict[str, list[Bar]]
    """By the scenes that they were measured on."""
    tables: list[Table]
    seconds: dict[str, float]
    """By stage."""
    peak: dict[str, int]
    """Bytes that the process had held at most by the end of each stage."""


def cell(scores: Scores, name: str) -> Cell:
    """The mean of a score, the ratio of means for an energy, None where there is none."""
    if name not in scores:
        return None
    if name in COUNTED:
        return float(scores[name].double().nanmean())
    return ratio_of(scores[name], scores[f"true {name}"]) if name.endswith("energy") else mean_of(scores[name])


def bar_table(bars: dict[str, list[Bar]]) -> Table:
    """All bars, by the scenes that they were measured on."""
    rows: list[tuple[Cell, ...]] = [
        (scenes, bar.name, bar.wanted, bar.found, verdict(bar)) for scenes, listed in bars.items() for bar in listed
    ]
    return Table("Bars", ("scenes", "bar", "wanted", "found", ""), rows, (PSNR_TOLD,))


def verdict(bar: Bar) -> str:
    """In a word."""
    return "met" if bar.met else "MISSED"


def markdown(report: Report) -> str:
    """The report as a page."""
    lines = [f"# {report.title}", ""]
    lines += [f"- {name}: {value}" for name, value in report.facts.items()]
    lines += ["", "Figures are means over scenes with their 95 % intervals (1.96 s / sqrt(n))."]
    stages = Table(
        "Time and memory",
        ("stage", "s", "peak so far, MiB"),
        [(name, round(value, 1), round(report.peak[name] / 2**20)) for name, value in report.seconds.items()],
    )
    for table in (bar_table(report.bars), *report.tables, stages):
        lines += ["", f"## {table.title}", ""]
        lines += [line for note in table.notes for line in (note, "")]
        lines += [_row(table.columns), _row(["---"] * len(table.columns))]
        lines += [_row([shown(value) for value in row]) for row in table.rows]
    return "\n".join(lines) + "\n"


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON holds it: figures are objects, numbers that are none are null."""
    return _plain(asdict(report))


def shown(value: Cell) -> str:
    """A cell as text, to four digits."""
    if isinstance(value, Figure):
        if value.count == 0 or math.isnan(value.mean):
            return "-"
        return _digits(value.mean) if math.isnan(value.half) else f"{_digits(value.mean)} ± {_digits(value.half)}"
    if isinstance(value, float):
        return "-" if math.isnan(value) else _digits(value)
    return "-" if value is None else str(value)


def _digits(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3f}"


def _row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
