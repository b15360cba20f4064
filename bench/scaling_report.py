"""What a person sees of `lyra-bench --lod --scaling`: a table, and a picture of its curves."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..engine.files import replacing
from .clock import FRAME

SIZE = (8.0, 5.0)  # inches


def print_scaling(console: Console, found: dict[str, Any]) -> None:
    """The table of one scene."""
    about = f"{found['splats']:,} splats, {found['width']}x{found['height']}, {found['backend']}"
    budgets = f"{found['device_bytes'] / 2**20:,.0f} MiB of nodes and {found['host_bytes'] / 2**20:,.0f} MiB of pages"
    console.print(f"[bold]{found['scene']}[/bold]  {about}", highlight=False)
    console.print(f"copies {found['spacing']:.3g} apart; caches may hold {budgets}", highlight=False)
    stages = list(found["copies"][0]["milliseconds"])
    table = Table(title=f"Medians in ms with {found['budget']:,} splats", title_justify="left")
    for title in ("copies", "splats", "drawn", "resident nodes", "MiB", *stages, "growth", "misses", "MiB read"):
        table.add_column(title, justify="right")
    for row in found["copies"]:
        counts = (f"{row[name]:,}" for name in ("copies", "splats", "drawn", "resident_nodes"))
        times = (f"{row['milliseconds'][stage]:.2f}" for stage in stages)
        held, read = (f"{row[name] / 2**20:,.1f}" for name in ("resident_bytes", "bytes_read"))
        table.add_row(*counts, held, *times, f"{row['growth']:.2f}x", f"{row['misses']:,}", read)
    console.print(table)
    console.print()


def write_scaling_plot(path: Path, found: dict[str, Any]) -> None:
    """Frame time and that of its stages by splats of the scene, as a PNG."""
    # Not pyplot: no window, no state.
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    figure = Figure(SIZE, layout="constrained")
    axes = figure.subplots()
    rows = found["copies"]
    for stage in rows[0]["milliseconds"]:
        values = [row["milliseconds"][stage] for row in rows]
        axes.plot([row["splats"] for row in rows], values, "ko-" if stage == FRAME else "o--", label=stage)
    axes.set(title=f"Median frame with {found['budget']:,} splats", xlabel="splats of the scene", ylabel="ms")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.suptitle(f"{found['scene']}, {found['width']}x{found['height']}, {found['backend']}")
    with replacing(path) as stream:
        figure.savefig(stream, format="png")
