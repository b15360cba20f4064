"""What a person sees of `lyra-bench --lod`: tables, and a picture of curves."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..engine.files import replacing

SIZE = (13.0, 8.0)  # inches


def print_lod(console: Console, found: dict[str, Any]) -> None:
    """The tables of one scene."""
    build, full = found["build"], found["full"]["milliseconds"]
    about = f"{found['splats']:,} splats, {found['width']}x{found['height']}, {found['backend']}"
    told = f"tree of {build['nodes']:,} nodes in {build['seconds']:.1f} s; full detail {full['frame']:.1f} ms a frame"
    console.print(f"[bold]{found['scene']}[/bold]  {about}\n{told}", highlight=False)
    _print_budgets(console, found)
    _print_popping(console, found)
    _print_store(console, found["store"])


def why_no_plot() -> str | None:
    """Why curves cannot be drawn here, and the cure; None where they can."""
    try:
        import matplotlib  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return "no curves without matplotlib: pip install 'lyra-gs[plot]'"
    return None


def write_plot(path: Path, found: dict[str, Any]) -> None:
    """Curves of one scene as a PNG: frame time and likeness by budget, popping, and frames through small caches."""
    # Not pyplot: no window, no state.
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    figure = Figure(SIZE, layout="constrained")
    (times, likeness), (popping, caches) = figure.subplots(2, 2)
    rows = found["budgets"]
    budgets = [row["budget"] for row in rows]
    below = [0.0] * len(rows)
    for stage in [name for name in rows[0]["milliseconds"] if name != "frame"]:
        values = [row["milliseconds"][stage] for row in rows]
        times.bar(range(len(rows)), values, bottom=below, label=stage)
        below = [a + b for a, b in zip(below, values, strict=True)]
    times.axhline(found["full"]["milliseconds"]["frame"], color="black", linestyle=":", label="full detail, frame")
    times.set_xticks(range(len(rows)), [f"{budget:,}" for budget in budgets])
    _label(times, "Median frame by stage", "budget, splats", "ms")

    known = [row for row in rows if row["quality"]["psnr"] is not None]
    likeness.plot([row["budget"] for row in known], [row["quality"]["psnr"] for row in known], "o-", label="PSNR, dB")
    likeness.set_xscale("log")
    right = likeness.twinx()
    for name, title in (("ms_ssim", "MS-SSIM"), ("flip", "FLIP")):
        known = [row for row in rows if row["quality"][name] is not None]
        right.plot([row["budget"] for row in known], [row["quality"][name] for row in known], "s--", label=title)
    right.set_ylim(0, 1)
    right.legend(loc="center right")
    _label(likeness, "Likeness to full detail", "budget, splats", "dB")

    for kind in ("transitions", "switch"):
        for name, style in (("moving_rms", "o-"), ("cut_rms", "s--")):
            values = [row[kind][name] for row in found["popping"]["budgets"]]
            popping.plot(budgets, values, style, label=f"{name}, {kind}")
    popping.set_xscale("log")
    _label(popping, "Change from frame to frame on a slow dolly", "budget, splats", "of display range")

    for row in found["store"]["caches"]:
        label = f"{row['device_bytes'] / 2**20:,.0f} MiB, {row['stalls']} stalls, {row['evictions']} evictions"
        caches.plot(row["each_frame"]["misses"], label=label)
    _label(caches, "Pages that are missing on a dolly", "frame", "pages")
    figure.suptitle(f"{found['scene']}, {found['width']}x{found['height']}, {found['backend']}")
    with replacing(path) as stream:
        figure.savefig(stream, format="png")


def _label(axes: Any, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.legend()


def _print_budgets(console: Console, found: dict[str, Any]) -> None:
    stages = list(found["budgets"][0]["milliseconds"])
    table = Table(title="Medians in ms, and likeness to full detail", title_justify="left")
    for title in ("budget", "drawn", *stages, "PSNR", "least", "MS-SSIM", "FLIP"):
        table.add_column(title, justify="right")
    for row in found["budgets"]:
        quality = row["quality"]
        decibels = (_told(quality[name], 1, "equal") for name in ("psnr", "psnr_least"))
        times = (f"{row['milliseconds'][stage]:.2f}" for stage in stages)
        alike = _told(quality["ms_ssim"], 4), _told(quality["flip"], 4)
        table.add_row(f"{row['budget']:,}", f"{row['drawn']:,}", *times, *decibels, *alike)
    console.print(table)


def _print_popping(console: Console, found: dict[str, Any]) -> None:
    popping = found["popping"]
    names = list(popping["budgets"][0]["ratio"])
    title = f"Popping over {popping['frames']} frames of {popping['step']:.3g}: transitions, switch, ratio; in 1/1000"
    table = Table(title=title, title_justify="left")
    for title in ("budget", *names):
        table.add_column(title.replace("_", " "), justify="right")
    for row in popping["budgets"]:
        cells = (
            f"{row['transitions'][name] * 1e3:.2f}, {row['switch'][name] * 1e3:.2f}, {_told(row['ratio'][name], 2)}"
            for name in names
        )
        table.add_row(f"{row['budget']:,}", *cells)
    console.print(table)


def _print_store(console: Console, store: dict[str, Any]) -> None:
    size = f"{store['bytes'] / 2**20:,.1f} MiB, {store['pages']} pages, {store['decoded_bytes'] / 2**20:,.1f} decoded"
    console.print(f"store: {size}; drawn with {store['budget']:,} splats", highlight=False)
    for kind in ("cold", "warm"):
        if times := store[kind]:
            first, settled = (times[name] * 1e3 for name in ("first_seconds", "settled_seconds"))
            console.print(f"{kind} start: first frame {first:.0f} ms, settled {settled:.0f} ms", highlight=False)
    table = Table(title="Caches on a dolly", title_justify="left")
    for title in ("MiB", "p50 ms", "p99 ms", "stalls", "hits", "misses", "evictions", "MiB read"):
        table.add_column(title, justify="right")
    for row in store["caches"]:
        times = (f"{row['milliseconds'][name]:.1f}" for name in ("p50", "p99"))
        counts = (f"{row[name]:,}" for name in ("stalls", "hits", "misses", "evictions"))
        read = f"{row['bytes_read'] / 2**20:,.1f}"
        table.add_row(f"{row['device_bytes'] / 2**20:,.1f}", *times, *counts, read)
    console.print(table)
    console.print()


def _told(value: float | None, digits: int, missing: str = "") -> str:
    return missing if value is None else f"{value:.{digits}f}"
