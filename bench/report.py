"""What a person reads and what a program reads: tables, JSON, PNG and NPZ."""

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ..engine.files import replacing
from ..kernels.frames import STAGES, Rendering
from .clock import FRAME
from .measure import PERCENTILES, Measurement
from .peers import Comparison


def print_measurement(console: Console, m: Measurement, calibration: float | None) -> None:
    """One table of times, then the counts, each on a line of its own."""
    title = f"{m.scene}  {m.splats:,} splats, SH {m.sh_degree}, {m.width}x{m.height}, {m.backend}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("stage")
    for p in PERCENTILES:
        table.add_column(f"p{p} ms", justify="right")
    table.add_column("share", justify="right")
    whole = float(np.median(m.milliseconds[FRAME]))
    for span in (*STAGES, FRAME):
        values = m.percentiles(span)
        if span == FRAME:
            table.add_section()
        table.add_row(span, *(f"{value:.2f}" for value in values.values()), f"{values['p50'] / whole:.0%}")
    console.print(table)
    frames = len(m.milliseconds[FRAME])
    console.print(f"{m.fps:.1f} FPS over {frames} frames, peak memory {m.peak_memory / 2**20:,.0f} MiB")
    console.print(f"{m.visible:,} splats visible, {m.pairs:,} tile pairs, {m.splat_pixels / 1e6:,.1f} M splat-pixels")
    rate = f"{m.splat_pixels_per_second / 1e9:.2f} G splat-pixels/s"
    if calibration:
        share = m.splat_pixels_per_second / calibration
        rate += f", calibration loop {calibration / 1e9:.2f} G/s on all cores, ratio {share:.2f}"
    console.print(rate + "\n")


def print_comparisons(console: Console, comparisons: list[Comparison]) -> None:
    """One table, a line for each case and peer."""
    table = Table(title="Medians; above 1 Lyra is faster", title_justify="left", title_style="bold")
    table.add_column("case")
    table.add_column("peer")
    for title in ("splats", "size", "Lyra ms", "peer ms", "speed", "least PSNR"):
        table.add_column(title, justify="right")
    for c in comparisons:
        least = float(c.psnr.min())
        likeness = f"{least:.1f} dB" if np.isfinite(least) else "equal"
        times = (f"{float(np.median(values)):.2f}" for values in (c.milliseconds, c.peer_milliseconds))
        table.add_row(c.case, c.peer, f"{c.splats:,}", f"{c.width}x{c.height}", *times, f"{c.speedup:.2f}x", likeness)
    console.print(table)


def write_json(path: Path, results: dict[str, object]) -> None:
    """The results as an indented JSON file."""
    with replacing(path) as stream:
        stream.write((json.dumps(results, indent=1) + "\n").encode())


def write_image(path: Path, frame: Rendering) -> None:
    """RGB as an 8-bit PNG; the colours are display-referred, so that nothing is converted."""
    pixels = (frame.rgb.clamp(0, 1) * 255).round().byte().numpy()
    with replacing(path) as stream:
        Image.fromarray(pixels).save(stream, format="PNG")


def write_dump(path: Path, frames: Iterable[Rendering]) -> None:
    """Float32 arrays rgb_i, alpha_i, depth_i as an NPZ file; one frame at a time is in memory."""
    with replacing(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for i, frame in enumerate(frames):
            for name in ("rgb", "alpha", "depth"):
                with archive.open(f"{name}_{i}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, getattr(frame, name).float().numpy())


def numbered(path: Path, index: int, count: int) -> Path:
    """`path` itself for a single scene, else with the scene's number before the ending."""
    return path if count == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")
