"""What every Triton kernel may cost, held against what it costs on four GPU generations, without a GPU.

`python -m lyra.bench.budgets` prints the table for sm_80, 89, 90 and 120, or JSON with `--json`; it exits with 1 when a
kernel is over its budget or has none, and with 2 when nothing can be measured. To budget a new kernel, add a line to
`TABLE`, and where no frame of `launches.RUNS` launches it yet, one there.
"""

import dataclasses
import json
import multiprocessing
import os
import sys
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from .launches import Launch, record
from .machine_code import CompileError, Cost, measure

CAPABILITIES = (80, 89, 90, 120)  # compute capability, major and minor digits: A100, RTX 40, H100, RTX 50
LEAST = ("vector_loads",)  # fields whose budget is a lower bound
BUDGETED = ("registers", "stack", "shared", "barriers", "vector_loads", "per_pixel")

# Instructions a splat and pixel for RGB and alpha on tiles of 8x16 pixels, and what expected depth adds.
PARITY, FAST, HALF, DEPTH = 21.0, 16.5, 14.0, 1.5
PROFILED = {True: 28.0, False: 26.5}  # parity and fast with profiles; two exponentials, each is counted half of it


@dataclass(frozen=True)
class Row:
    """The budget of a kernel, of all its launches or of those with the given constexprs or argument types."""

    kernel: str
    budget: Cost
    where: dict[str, Any] = field(default_factory=dict)

    def covers(self, launch: Launch) -> bool:
        """Whether the budget is that launch's."""
        return self.kernel == launch.name and all(launch.facts.get(key) == value for key, value in self.where.items())


TABLE = (  # a launch has the budget of the first row that covers it; tiles have 8x16 pixels
    *(
        Row(
            kernel,
            Cost(registers, vector_loads=2, per_pixel=(form + DEPTH) / 2),
            {"PROFILED": True, "PARITY": parity, "DEPTH": True},
        )
        for kernel, registers in (("blend_kernel", 88), ("composite_kernel", 120))
        for parity, form in PROFILED.items()
    ),
    Row("features_kernel", Cost(112, vector_loads=1, per_pixel=40.5 / 2), {"PROFILED": True}),
    *(
        Row(kernel, Cost(registers, vector_loads=2, per_pixel=form + deep), {**which, "DEPTH": deep > 0})
        for kernel, registers in (("blend_kernel", 104), ("composite_kernel", 120))
        for form, which in ((HALF, {"HALF": True}), (PARITY, {"PARITY": True}), (FAST, {"PARITY": False}))
        for deep in (0.0, DEPTH)
        if kernel == "blend_kernel" or "HALF" not in which  # float16 is composited by the fast form
    ),
    Row("pack_kernel", Cost(32)),
    Row("features_kernel", Cost(112, vector_loads=1, per_pixel=33.0)),  # 8 channels
    Row("project_kernel", Cost(64, vector_loads=1)),
    Row("count_kernel", Cost(40)),
    Row("emit_kernel", Cost(40)),
    Row("mask_kernel", Cost(40)),
    Row("blend_backward_kernel", Cost(104, vector_loads=2, per_pixel=110.0), {"ATOMIC": False}),
    Row("blend_backward_kernel", Cost(104, vector_loads=2, per_pixel=57.0), {"DEPTH": False, "ABSGRAD": False}),
    Row("blend_backward_kernel", Cost(104, vector_loads=2, per_pixel=65.0)),
    Row("features_backward_kernel", Cost(120, vector_loads=2, per_pixel=78.0)),  # 8 channels
    Row("sum_rows_kernel", Cost(40)),
    Row("project_backward_kernel", Cost(136, vector_loads=1)),
    Row("read_kernel", Cost(40, shared=2048, barriers=9)),
    Row("settle_kernel", Cost(40, shared=32, barriers=1)),
    Row("choose_kernel", Cost(80, shared=1024, barriers=7)),
    Row("split_kernel", Cost(32, shared=2048, barriers=11)),
    Row("count_drawn_kernel", Cost(80, shared=16, barriers=5)),
    Row("write_drawn_kernel", Cost(80, shared=2048, barriers=29)),
    Row("gather_nodes_kernel", Cost(40)),
    Row("gather_colors_kernel", Cost(40)),
)


def over_budget(name: str, cost: Cost, budget: Cost) -> list[str]:
    """One line for each quantity of a measured cost that breaks the budget."""
    told = []
    for quantity in BUDGETED:
        value, limit = getattr(cost, quantity), getattr(budget, quantity)
        if quantity == "per_pixel" and not (value and limit):
            told += [f"{name}: no loop with an exponential was found"] if limit else []
        elif value < limit if quantity in LEAST else value > limit:
            told.append(f"{name}: {quantity} {value:g}, budget {limit:g}")
    return told


def labels(launches: list[Launch]) -> dict[Launch, str]:
    """A name for each launch: the kernel's, with the types and constexprs that tell launches of one kernel apart."""
    told = {}
    for launch in launches:
        others = [other.facts for other in launches if other.name == launch.name]
        unlike = [
            f"{key} {value}" for key, value in launch.facts.items() if any(other.get(key) != value for other in others)
        ]
        told[launch] = f"{launch.name}[{', '.join(unlike)}]" if unlike else launch.name
    return told


def report(capabilities: tuple[int, ...] = CAPABILITIES) -> list[dict[str, Any]]:
    """One entry a launch and architecture: what was measured, its budget, and what is over.

    Raises:
        CompileError: see `machine_code.measure`.
        ImportError: there is no Triton.
    """
    with _workers(1, interpreted=True) as pool:
        launches = pool.submit(record).result()
    names, rows = labels(launches), []
    with _workers(_cores(), interpreted=False) as pool:
        jobs = [(launch, sm, pool.submit(measure, launch, sm)) for launch in launches for sm in capabilities]
        for launch, sm, job in jobs:
            row = _row_of(launch)
            told = over_budget(names[launch], job.result(), row.budget) if row else [f"{names[launch]}: has no budget"]
            rows.append(_entry(names[launch], sm, job.result(), row, told))
    launched = [_row_of(launch) for launch in launches]
    idle = [row for row in TABLE if row not in launched]
    return rows + [_entry(row.kernel, None, None, row, [f"{row.kernel}: nothing launches it so"]) for row in idle]


def _row_of(launch: Launch) -> Row | None:
    return next((row for row in TABLE if row.covers(launch)), None)


def _entry(name: str, sm: int | None, cost: Cost | None, row: Row | None, told: list[str]) -> dict[str, Any]:
    return {
        "kernel": name,
        "sm": sm,
        "measured": dataclasses.asdict(cost) if cost else None,
        "budget": dataclasses.asdict(row.budget) if row else None,
        "over_budget": told,
    }


def _workers(count: int, *, interpreted: bool) -> ProcessPoolExecutor:
    """Processes of their own, since Triton decides when a kernel is loaded whether it interprets or compiles it."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=context, initializer=_set_interpreted, initargs=(interpreted,))


def _set_interpreted(interpreted: bool) -> None:
    os.environ["TRITON_INTERPRET"] = "1" if interpreted else "0"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
            value, limit = ((row[of] or {}).get(name, 0) for of in ("measured", "budget"))
            bad = any(f": {name} " in told for told in row["over_budget"])
            text = f"{round(value, 1):g}/{limit:g}" if value or limit else "0"
            cells.append(f"[red]{text}[/red]" if bad else text)
        table.add_row(row["kernel"].replace("[", r"\["), str(row["sm"] or "any"), *cells)
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def main(arguments: list[str] | None = None) -> int:
    """Print the table, or JSON with `--json`; 0 within budget, 1 over it, 2 when nothing can be measured."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if set(arguments) - {"--json"}:
        print(f"unknown arguments {arguments}: give none, or --json", file=sys.stderr)
        return 2
    try:
        rows = report()
    except (CompileError, ImportError, BrokenExecutor) as error:
        print(f"kernels cannot be measured: {error}", file=sys.stderr)
        return 2
    if "--json" in arguments:
        print(json.dumps(rows, indent=2))
    else:
        _print_table(rows)
    over = [f"sm_{row['sm'] or 'any'} {told}" for row in rows for told in row["over_budget"]]
    print("\n".join(over) or "every kernel is within its budget", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
