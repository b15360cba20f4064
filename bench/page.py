"""A page that people read, made of the file that `lyra-bench --evidence` writes."""

import math
from pathlib import Path
from typing import Any

from ..engine.files import replacing
from ..engine.machine import line
from ..kernels.frames import GRADIENT_STAGES, STAGES
from .clock import FRAME, STEP


def write_page(path: Path, results: dict[str, Any]) -> None:
    """Markdown, of the parts that there are so far."""
    with replacing(path) as stream:
        stream.write(page(results).encode())


def page(results: dict[str, Any]) -> str:
    """See `write_page`."""
    parts = {
        "tests": ("Tests", _tests),
        "budgets": ("Budgets of the kernels", _budgets),
        "waits": ("Waits of the host for the GPU", _waits),
        "stereo": ("Stereo", _stereo),
        "frames": ("Frames", _frames),
        "training": ("Training steps", _training),
        "peers": ("Other renderers", _peers),
    }
    lines = [f"# What was measured on {results['machine']['gpu'] or results['machine']['cpu']}", ""]
    lines += [line(results["machine"]), f"Backend {results['backend']}, started {results['started']} UTC."]
    for name, (title, told) in parts.items():
        if name not in results:
            continue
        value = results[name]
        lines += ["", f"## {title}", ""]
        if isinstance(value, dict) and "error" in value:
            lines += [f"Failed: {value['error']}"]
            value = value["so_far"]
        lines += told(value) if value is not None else ["Nothing measured."]
    return "\n".join(lines) + "\n"


def _tests(tests: dict[str, Any]) -> list[str]:
    return [f"Exit code {tests['exit_code']}: {tests['summary']}", *(f"- {failed}" for failed in tests["failed"])]


def _budgets(rows: list[dict[str, Any]]) -> list[str]:
    over = [f"- sm_{row['sm']} {told}" for row in rows for told in row["over_budget"]]
    return [f"{len(rows)} rows, {len(over)} breaches.", *over]


def _waits(waits: dict[str, int]) -> list[str]:
    return [f"{waits['frame']} in one frame."]


def _stereo(stereo: dict[str, float]) -> list[str]:
    mono, both = stereo["mono_milliseconds"], stereo["stereo_milliseconds"]
    return [f"Two eyes {both:.2f} ms, one eye {mono:.2f} ms: {stereo['ratio']:.2f} times."]


def _frames(frames: list[dict[str, Any]]) -> list[str]:
    """Medians in milliseconds; in brackets the physical bound's share of them."""
    rows = []
    for frame in frames:
        medians = {stage: frame["milliseconds"][stage]["p50"] for stage in STAGES}
        cells = [_held(stage, medians, frame["bounds"]) for stage in STAGES]
        whole = frame["milliseconds"][FRAME]
        cells += [f"{whole['p50']:.3f}", f"{whole['p99']:.3f}", f"{frame['peak_memory_bytes'] / 2**20:,.0f}"]
        rows.append([frame["scene"], f"{frame['splats']:,}", *cells])
    titles = ["case", "splats", *STAGES, "frame", "frame p99", "MiB"]
    note = "Milliseconds at the median. In brackets: what the bound of the stage is of that (bench/roofline.py)."
    return [note, "", *_table(titles, rows)]


def _training(steps: list[dict[str, Any]]) -> list[str]:
    """As `_frames`; of the forward stages there is the frame, drawn without gradients."""
    rows = []
    for told in steps:
        times = told["milliseconds"]
        cells = [_held(stage, times, told["bounds"]) for stage in GRADIENT_STAGES]
        cells += [f"{times[STEP]:.3f}", f"{told['frame_milliseconds']:.3f}", f"{told['ratio']:.2f}"]
        rows.append([told["scene"], f"{told['splats']:,}", *cells, f"{told['peak_memory_bytes'] / 2**20:,.0f}"])
    titles = ["case", "splats", *GRADIENT_STAGES, "step", "frame", "step / frame", "MiB"]
    note = "Frame and backward pass for a loss of RGB, without loss and optimiser; the frame alone has no gradients."
    return [note, "", *_table(titles, rows)]


def _held(stage: str, medians: dict[str, float], bounds: dict[str, Any] | None) -> str:
    """Milliseconds, and where the bound is known its share of them; nothing where the backend has no such stage."""
    if stage not in medians:
        return ""
    share = f" ({bounds[stage]['share']:.0%})" if bounds else ""
    return f"{medians[stage]:.3f}{share}"


def _peers(peers: dict[str, Any]) -> list[str]:
    rows, speedups = [], {}
    for c in peers["comparisons"]:
        if "error" in c:
            rows.append([c["case"], c["peer"], c["error"], "", "", ""])
            continue
        speedups.setdefault(c["peer"], []).append(c["speedup"])
        likeness = "equal" if c["psnr_least"] is None else f"{c['psnr_least']:.1f} dB"
        times = [f"{c[name]:.3f}" for name in ("milliseconds", "peer_milliseconds")]
        rows.append([c["case"], c["peer"], *times, f"{c['speedup']:.2f}", likeness])
    lines = [f"- {name} was not compared: {reason}" for name, reason in peers["absent"].items()]
    for name, values in speedups.items():
        mean = math.exp(sum(map(math.log, values)) / len(values))
        worst = f"from {min(values):.2f} to {max(values):.2f}"
        lines.append(
            f"- {name}: Lyra is {mean:.2f} times as fast in the geometric mean of {len(values)} cases, {worst}"
        )
    return [*lines, "", *_table(["case", "peer", "Lyra ms", "peer ms", "speed", "least PSNR"], rows)]


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]
