"""What every Triton kernel costs, found without a GPU: cross-compile, read the machine code, hold it to a table.

`python -m lyra.bench.budget` prints the table for sm_80, 89, 90 and 120 and exits with 1 when a kernel is over budget.
Triton compiles for architectures that the machine does not have, and its wheel ships `cuobjdump` and `nvdisasm`.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAPABILITIES = (80, 89, 90, 120)  # compute capability, major and minor digits: A100, RTX 40, H100, RTX 50
ALIGNED = [["tt.divisibility", 16]]  # what a launch finds out about torch's pointers
TOOL_TIMEOUT = 60.0  # seconds

_LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?);")
_LABEL = re.compile(r"(\.L_x_\d+):")
_BRANCH = re.compile(r"BRA[^`]*`\((\.L_x_\d+)\)")


class BudgetError(Exception):
    """A kernel can not be measured here; one line says why and what to do."""


@dataclass(frozen=True)
class Cost:
    """One kernel on one architecture, as compiled; as a budget, the most (of vector loads: the fewest) allowed."""

    registers: int  # a thread
    stack: int = 0  # bytes a thread: arrays and spilled registers
    shared: int = 0  # bytes a program
    barriers: int = 0  # instructions that wait for other warps of the program
    vector_loads: int = 0  # 16-byte loads from global memory
    exp2: int = 0  # hardware exponentials in the innermost loop that has them; not a budget
    per_pixel: float = 0.0  # instructions of that loop for each exponential, one a splat and pixel; 0: there is no loop


LEAST = ("vector_loads",)  # fields whose budget is a lower bound
BUDGETED = ("registers", "stack", "shared", "barriers", "vector_loads", "per_pixel")


@dataclass(frozen=True)
class Kernel:
    """A kernel as its launcher calls it, and what it may cost on every architecture."""

    name: str  # of the function
    module: str  # of lyra.kernels
    variant: str  # tells rows of one function apart
    signature: dict[str, str]  # types of the arguments that are not constexpr, in order
    constexprs: dict[str, int]
    num_warps: int
    budget: Cost

    @property
    def row(self) -> str:
        """Name and variant."""
        return f"{self.name}[{self.variant}]" if self.variant else self.name


def kernels() -> list[Kernel]:
    """The table. Sizes of blocks and tiles are those of the launchers; tests compare the rest with real launches."""
    from ..kernels import bin as binning
    from ..kernels import blend, project

    scene = dict.fromkeys(("means", "quats", "scales", "opacities", "sh", "camera", "records_out"), "*fp32")
    grid = {"n": "i32", "columns": "i32", "rows": "i32"}
    tile = {"SIDE": binning.TILE, "UNROLL": blend.UNROLL}
    blended = {
        **{"records": "*fp32", "ids": "*i32", "starts": "*i64", "background": "*fp32", "rgb_out": "*fp32"},
        **{"alpha_out": "*fp32", "depth_out": "*fp32", "listed_out": "*i32"},
        **{"width": "i32", "height": "i32", "columns": "i32"},
    }
    two_loads = 2 * blend.UNROLL  # of the three that a record takes; the last needs only half of its 16 bytes
    rows = [
        Kernel("blend_kernel", "blend", "", blended, tile, 1, Cost(104, vector_loads=two_loads, per_pixel=22.5)),
        *(
            Kernel(
                "project_kernel", "project", f"sh {count}", {**scene, "keys_out": "*i32", "n": "i32"},
                {"COUNT": count, "BLOCK": project.BLOCK}, 4, Cost(48),
            )
            for count in (1, 16)
        ),
        Kernel(
            "count_kernel", "bin", "", {"records": "*fp32", "order": "*i32", "counts_out": "*i32", **grid},
            {"BLOCK": binning.BLOCK}, 1, Cost(32),
        ),
    ]  # fmt: skip
    for key in ("i16", "i32"):
        outputs = {"tile_ids_out": f"*{key}", "ids_out": "*i32"}
        emitted = {"records": "*fp32", "order": "*i32", "ends": "*i64", **outputs, **grid}
        rows.append(Kernel("emit_kernel", "bin", key, emitted, {"BLOCK": binning.BLOCK}, 1, Cost(40)))
        listed = {"tile_ids": f"*{key}", "starts_out": "*i64", "pairs": "i32", "tiles": "i32"}
        rows.append(Kernel("starts_kernel", "bin", key, listed, {"BLOCK": binning.BLOCK}, 1, Cost(24)))
    return rows


def over_budget(kernel: Kernel, cost: Cost) -> list[str]:
    """One line for each quantity of a measured cost that breaks the kernel's budget."""
    told = []
    for name in BUDGETED:
        value, limit = getattr(cost, name), getattr(kernel.budget, name)
        if value < limit if name in LEAST else value > limit:
            told.append(f"{kernel.row}: {name} {value:g}, budget {limit:g}")
        if name == "per_pixel" and limit and not value:
            told.append(f"{kernel.row}: no loop with an exponential was found")
    return told


def measure(kernel: Kernel, capability: int) -> Cost:
    """Compile a kernel for an architecture, which need not be here, and count.

    Raises:
        BudgetError: TRITON_INTERPRET is set, or a tool of Triton's wheel is missing or fails.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise BudgetError("TRITON_INTERPRET is set, so nothing can be compiled: unset it")
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(importlib.import_module(f"..kernels.{kernel.module}", __package__), kernel.name)
    signature = {**kernel.signature, **dict.fromkeys(kernel.constexprs, "constexpr")}
    attrs = {(i,): ALIGNED for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(fn=function, signature=signature, constexprs=kernel.constexprs, attrs=attrs)
    options = {"num_warps": kernel.num_warps, "enable_fp_fusion": True}
    compiled: Any = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage, machine_code = _tool("cuobjdump", cubin, "-res-usage"), _tool("nvdisasm", cubin, "-c", "-ndf")
    registers, stack = re.search(r"REG:(\d+)", usage), re.search(r"STACK:(\d+)", usage)
    if registers is None or stack is None:
        raise BudgetError(f"cuobjdump told no register count for {kernel.row}: {usage.strip()[:200]!r}")
    exp2, per_pixel = _exp2_loop(machine_code)
    return Cost(
        registers=int(registers[1]),
        stack=int(stack[1]),
        shared=compiled.metadata.shared,
        barriers=len(re.findall(r"\bBAR\.", machine_code)),
        vector_loads=len(re.findall(r"\bLDG\.E(?:\.\w+)*\.128\b", machine_code)),
        exp2=exp2,
        per_pixel=per_pixel,
    )


def _tool(name: str, cubin: Path, *options: str) -> str:
    """What a program of Triton's wheel prints about a compiled kernel."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    try:
        command = [path, *options, cubin]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TOOL_TIMEOUT)
    except (OSError, subprocess.SubprocessError) as error:
        raise BudgetError(f"{path} does not run ({error}): reinstall triton") from error
    return done.stdout


def _exp2_loop(machine_code: str) -> tuple[int, float]:
    """Exponentials in the smallest loop that holds any, and its instructions for each; (0, 0) when there is none.

    A loop is what a branch backwards spans. Every instruction counts, also those under a predicate.
    """
    code: list[tuple[int, str]] = []  # address, instruction
    places: dict[str, int] = {}  # address of each label
    waiting: list[str] = []
    for line in machine_code.splitlines():
        if label := _LABEL.match(line.strip()):
            waiting.append(label[1])
        elif instruction := _LINE.match(line):
            places.update(dict.fromkeys(waiting, int(instruction[1], 16)))
            waiting.clear()
            code.append((int(instruction[1], 16), instruction[2].strip()))
    bodies = []
    for end, text in code:
        branch = _BRANCH.search(text)
        if branch and places.get(branch[1], end + 1) < end:
            body = [text for address, text in code if places[branch[1]] <= address <= end]
            exp2 = sum("MUFU.EX2" in text for text in body)
            if exp2:
                bodies.append((len(body), exp2))
    if not bodies:
        return 0, 0.0
    length, exp2 = min(bodies)
    return exp2, length / exp2


def report() -> list[dict[str, Any]]:
    """One entry a kernel and architecture: what was measured, its budget, and what is over."""
    rows = []
    for kernel in kernels():
        for capability in CAPABILITIES:
            cost = measure(kernel, capability)
            measured, budget = dataclasses.asdict(cost), dataclasses.asdict(kernel.budget)
            told = over_budget(kernel, cost)
            rows.append(
                {"kernel": kernel.row, "sm": capability, "measured": measured, "budget": budget, "over_budget": told}
            )
    return rows


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Triton kernels: measured / budget")
    table.add_column("kernel", no_wrap=True)
    for title in ("sm", "regs", "stack", "shared", "bars", "16 B loads", "instr/splat-pixel"):
        table.add_column(title, justify="right")
    for row in rows:
        cells = []
        for name in BUDGETED:
            value, limit = row["measured"][name], row["budget"][name]
            bad = any(f": {name} " in told for told in row["over_budget"])
            text = f"{round(value, 1):g}/{limit:g}" if value or limit else "0"
            cells.append(f"[red]{text}[/red]" if bad else text)
        table.add_row(row["kernel"].replace("[", r"\["), str(row["sm"]), *cells)
    Console(width=None if sys.stdout.isatty() else 100).print(table)


def main(arguments: list[str] | None = None) -> int:
    """Print the table, or JSON with `--json`; 0 within budget, 1 over it, 2 when nothing can be measured."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if set(arguments) - {"--json"}:
        print(f"unknown arguments {arguments}: give none, or --json", file=sys.stderr)
        return 2
    try:
        rows = report()
    except (BudgetError, ImportError) as error:
        print(f"kernels cannot be measured: {error}", file=sys.stderr)
        return 2
    if "--json" in arguments:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    over = [f"sm_{row['sm']} {told}" for row in rows for told in row["over_budget"]]
    print("\n".join(over) or "every kernel is within its budget", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
