"""The table of what kernels cost: complete, the same as the launches, and kept."""

import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from lyra.bench import budget
from lyra.kernels import bin as binning
from lyra.kernels import blend, project, reference, sort

TIMEOUT = 300.0  # seconds to compile everything, when nothing is in Triton's cache
ROWS = [(kernel, capability) for kernel in budget.kernels() for capability in budget.CAPABILITIES]
TYPES = {torch.float32: "*fp32", torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64", int: "i32"}


def triton_kernels() -> set[tuple[str, str]]:
    """Module and name of every `@triton.jit` function of kernels/ whose name ends in `_kernel`."""
    found = set()
    for path in Path(reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                if any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list):
                    found.add((path.stem, node.name))
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict]:
    """What the command prints, by kernel and architecture, and in it `exit` for its exit code."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "lyra.bench.budget", "--json"]
    folder = tmp_path_factory.mktemp("away")  # from the repository root, `bench` and `kernels` would be modules too
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)
    assert done.returncode == any(row["over_budget"] for row in rows), "the exit code does not say what the table says"
    return {(row["kernel"], row["sm"]): row for row in rows}


@pytest.mark.parametrize("kernel, capability", ROWS, ids=[f"{kernel.row}-sm_{sm}" for kernel, sm in ROWS])
def test_kernel_is_within_its_budget(measured, kernel: budget.Kernel, capability: int) -> None:
    row = measured[kernel.row, capability]
    assert row["over_budget"] == []
    assert row["measured"]["registers"] > 4  # that something was measured
    assert row["measured"]["stack"] == 0


@pytest.mark.parametrize("capability", budget.CAPABILITIES)
def test_blend_has_no_barrier_and_few_instructions(measured, capability: int) -> None:
    cost = measured["blend_kernel", capability]["measured"]
    assert cost["barriers"] == 0 and cost["shared"] == 0
    assert 15.0 < cost["per_pixel"] <= 22.5 and cost["registers"] <= 104
    assert cost["vector_loads"] >= 2 * blend.UNROLL
    assert cost["exp2"] == blend.UNROLL * binning.TILE**2 // 32  # the loop that was found holds all of it


def test_every_kernel_is_in_the_table() -> None:
    found = triton_kernels()
    assert len(found) >= 5
    assert {(kernel.module, kernel.name) for kernel in budget.kernels()} == found


def test_the_table_says_what_the_launchers_do(make_view, make_scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Types, constexprs and warps of the table are those of real launches."""
    launches: dict[str, tuple] = {}

    class Recorder:
        def __init__(self, name: str, kernel) -> None:
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid):
            def launch(*arguments, **options):
                kinds = [TYPES[value.dtype if isinstance(value, torch.Tensor) else type(value)] for value in arguments]
                knobs = {key: options.pop(key) for key in ("num_warps", "enable_fp_fusion") if key in options}
                launches[self.name] = (kinds, options, knobs.get("num_warps", 4))
                return self.kernel[grid](*arguments, **options, **knobs)

            return launch

    modules = {"bin": binning, "blend": blend, "project": project}
    for module, name in triton_kernels():
        monkeypatch.setattr(modules[module], name, Recorder(name, getattr(modules[module], name)))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    view = make_view(37, 29)
    wanted = {kernel.row: kernel for kernel in budget.kernels()}
    checked = set()
    for count, key in ((1, torch.int16), (16, torch.int32)):
        monkeypatch.setattr(binning, "tile_key_type", lambda tiles, key=key: key)
        records, keys = project.project(*make_scene(view, 40, count).to(device), *view)
        ids, starts = binning.bin_splats(records, sort.depth_order(keys), view.width, view.height)
        blend.blend(records, ids, starts, view.width, view.height, torch.zeros(3, device=device))
        for name, (kinds, constexprs, num_warps) in launches.items():
            rows = [row for row in wanted.values() if row.name == name]
            match = [row for row in rows if list(row.signature.values()) == kinds and row.constexprs == constexprs]
            assert len(match) == 1, f"{name} is launched with {kinds} {constexprs}, not as any row of the table says"
            assert match[0].num_warps == num_warps
            checked.add(match[0].row)
    assert checked == set(wanted)


@pytest.mark.parametrize("kernel", budget.kernels(), ids=lambda kernel: kernel.row)
def test_the_table_names_the_arguments_in_order(kernel: budget.Kernel) -> None:
    """The divisibility of a pointer is given by its place."""
    modules = {"bin": binning, "blend": blend, "project": project}
    function = getattr(modules[kernel.module], kernel.name).fn
    assert list(inspect.signature(function).parameters) == [*kernel.signature, *kernel.constexprs]


def test_a_cost_over_budget_is_told_by_name() -> None:
    kernel = next(kernel for kernel in budget.kernels() if kernel.name == "blend_kernel")
    fine = budget.Cost(90, vector_loads=8, exp2=32, per_pixel=21.0)
    assert budget.over_budget(kernel, fine) == []
    bad = budget.Cost(200, stack=8, shared=64, barriers=1, vector_loads=0, exp2=32, per_pixel=86.0)
    told = budget.over_budget(kernel, bad)
    assert told[0] == "blend_kernel: registers 200, budget 104"
    assert [line.split()[1] for line in told] == list(budget.BUDGETED)
    assert budget.over_budget(kernel, budget.Cost(90, vector_loads=8)) == [
        "blend_kernel: no loop with an exponential was found"
    ]


def test_measuring_in_the_interpreter_is_refused_in_one_line(monkeypatch, capsys) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert budget.main([]) == 2
    assert "unset it" in capsys.readouterr().err
    assert budget.main(["--yaml"]) == 2
    assert "give none, or --json" in capsys.readouterr().err
