"""What kernels cost: every kernel of the package is measured as it is launched, has a budget, and keeps it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lyra.bench import budgets, launches, machine_code
from lyra.bench.machine_code import Cost
from lyra.bench.roofline import LYRA
from lyra.kernels import reference

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

TIMEOUT = 600.0  # seconds to compile everything, when nothing is in Triton's cache
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are loaded for the GPU, not interpreted")


def triton_kernels() -> set[str]:
    """Names of every `@triton.jit` function of kernels/ whose name ends in `_kernel`."""
    found = set()
    for path in Path(reference.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                if any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list):
                    found.add(node.name)
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What the command prints as JSON."""
    command = [sys.executable, "-m", "lyra.bench.budgets", "--json"]
    folder = tmp_path_factory.mktemp("away")  # from the repository root, `bench` and `kernels` would be modules too
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode in (0, 1), done.stderr
    rows = json.loads(done.stdout)
    assert done.returncode == any(row["over_budget"] for row in rows), "the exit code does not say what the table says"
    return rows


@pytest.mark.parametrize("capability", budgets.CAPABILITIES)
def test_every_launch_is_within_its_budget(measured: list[dict], capability: int) -> None:
    rows = [row for row in measured if row["sm"] == capability]
    assert [told for row in rows for told in row["over_budget"]] == []
    assert rows and all(row["measured"]["registers"] > 4 for row in rows)  # that something was measured
    assert all(row["measured"]["stack"] == 0 for row in rows)


def test_every_budget_has_a_launch(measured: list[dict]) -> None:
    assert [row for row in measured if row["sm"] is None] == []


def test_every_kernel_is_measured(measured: list[dict]) -> None:
    found = triton_kernels()
    assert len(found) >= 5
    assert {row["kernel"].partition("[")[0] for row in measured} == found


def test_blending_is_found_in_the_machine_code(measured: list[dict]) -> None:
    blends = [row["measured"] for row in measured if row["kernel"].startswith("blend_kernel")]
    assert blends
    for cost in blends:
        assert cost["exp2"] >= 4 and cost["exp2"] % 4 == 0  # one a lane and row of at least 4 rows
        assert 8.0 < cost["per_pixel"] <= budgets.PARITY + budgets.DEPTH


def test_a_profile_costs_less_than_two_fifths_more(measured: list[dict]) -> None:
    """It has two exponentials a pixel, so that what is counted for each is half of it."""
    blends = {name: [] for name in ("PROFILED True", "PROFILED False")}
    for row in measured:
        for name, found in blends.items():
            if row["kernel"].startswith("blend_kernel[PARITY True, HALF False, DEPTH True") and name in row["kernel"]:
                found.append(row["measured"]["per_pixel"])
    profiled, plain = (blends[f"PROFILED {value}"] for value in (True, False))
    assert len(profiled) == len(budgets.CAPABILITIES)
    assert max(plain) < 2 * min(profiled) and 2 * max(profiled) < 1.4 * min(plain)


def test_the_bound_of_the_way_back_counts_what_its_loop_takes(measured: list[dict]) -> None:
    loops = [
        row["measured"]["per_pixel"]
        for row in measured
        if row["kernel"].startswith("blend_backward_kernel") and "DEPTH False, ABSGRAD False" in row["kernel"]
    ]
    assert len(loops) == len(budgets.CAPABILITIES)
    assert loops == pytest.approx([LYRA.gradient_instructions] * len(loops), abs=1.0)


@interpreted
def test_a_launch_is_written_down_as_it_was() -> None:
    numbers, shorts = torch.zeros(12), torch.zeros(8, dtype=torch.int16)
    with launches.recording() as found:
        for step in (3, 2**40):
            _scale_kernel[(1,)](numbers[1:], shorts, None, step, 0.5, SIZE=4, num_warps=2, enable_fp_fusion=True)
        _scale_kernel[(1,)](numbers[1:], shorts, None, 7, 2.0, SIZE=4, num_warps=2, enable_fp_fusion=True)
    first, second = found
    assert first.name == "_scale_kernel" and first.num_warps == 2 and first.fused
    assert dict(first.signature) == {
        **{"out": "*fp32", "shorts": "*i16", "absent": "constexpr", "step": "i32", "factor": "fp32"},
        **{"SIZE": "constexpr", "PLUS": "constexpr"},
    }
    assert first.constexprs == (("absent", None), ("SIZE", 4), ("PLUS", 1))
    assert first.aligned == ("shorts",)
    assert dict(second.signature)["step"] == "i64"
    assert numbers[1:5].tolist() == [3.0, 3.0, 3.0, 3.0]  # and it ran
    assert budgets.labels([first, second]) == {first: "_scale_kernel[step i32]", second: "_scale_kernel[step i64]"}


@triton.jit
def _scale_kernel(out, shorts, absent, step, factor, SIZE: tl.constexpr, PLUS: tl.constexpr = 1):
    lane = tl.arange(0, SIZE)
    tl.store(out + lane, tl.load(shorts + lane).to(tl.float32) + factor + PLUS)


def launch(name: str = "blend_kernel", **constexprs: int) -> launches.Launch:
    signature = (("ids", "*i32"), *((key, "constexpr") for key in constexprs))
    return launches.Launch("lyra.kernels.gpu.blend", name, signature, tuple(constexprs.items()), (), 1, True)


def test_a_row_covers_what_it_names() -> None:
    row = budgets.Row("blend_kernel", Cost(9), {"DEPTH": 1, "ids": "*i32"})
    assert row.covers(launch(DEPTH=1, SIDE=8))
    assert not row.covers(launch(DEPTH=0, SIDE=8))
    assert not row.covers(launch("other_kernel", DEPTH=1))
    assert not budgets.Row("blend_kernel", Cost(9), {"ids": "*i64"}).covers(launch(DEPTH=1))
    assert budgets.Row("blend_kernel", Cost(9)).covers(launch(DEPTH=0))


def test_a_cost_over_budget_is_told_by_name() -> None:
    budget = Cost(104, vector_loads=8, per_pixel=22.5)
    assert budgets.over_budget("k", Cost(90, vector_loads=8, exp2=32, per_pixel=21.0), budget) == []
    told = budgets.over_budget("k", Cost(200, 8, 64, 1, vector_loads=0, exp2=32, per_pixel=86.0), budget)
    assert told[0] == "k: registers 200, budget 104"
    assert [line.split()[1] for line in told] == list(budgets.BUDGETED)
    assert budgets.over_budget("k", Cost(90, vector_loads=8), budget) == ["k: no loop with an exponential was found"]
    assert budgets.over_budget("k", Cost(90, exp2=4, per_pixel=50.0), Cost(104)) == []  # nobody asked


class Pool:
    """In place of processes: `record` gives what it is told, `measure` the same cost for all."""

    given: tuple[launches.Launch, ...] = ()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function, *arguments):
        value = Cost(90, vector_loads=8, exp2=4, per_pixel=20.0) if arguments else list(self.given)
        return type("Job", (), {"result": lambda self: value})()


def test_kernels_without_budgets_and_budgets_without_kernels_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(budgets, "_workers", lambda *_, **__: Pool())
    monkeypatch.setattr(budgets, "TABLE", (budgets.Row("blend_kernel", Cost(104), {"SIDE": 8}),))
    monkeypatch.setattr(Pool, "given", (launch(SIDE=8),))
    assert budgets.main([]) == 0
    assert "90/104" in capsys.readouterr().out
    monkeypatch.setattr(Pool, "given", (launch(SIDE=16), launch(SIDE=4)))
    assert budgets.main(["--json"]) == 1
    said = capsys.readouterr()
    assert "sm_80 blend_kernel[SIDE 16]: has no budget" in said.err
    assert "sm_any blend_kernel: nothing launches it so" in said.err
    assert len(json.loads(said.out)) == 2 * len(budgets.CAPABILITIES) + 1


LOOPS = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_1:
        /*0010*/                   IADD3 R4, R4, 0x1, RZ ;
.L_x_2:
        /*0020*/                   FFMA R5, R5, R5, R6 ;
        /*0030*/                   MUFU.EX2 R7, R5 ;
        /*0040*/                   MUFU.EX2 R8, R5 ;
        /*0050*/              @!P0 BRA `(.L_x_2) ;
.L_x_3:
        /*0060*/                   MUFU.EX2 R8, R5 ;
        /*0070*/              @!P0 BRA `(.L_x_3) ;
        /*0080*/               @P1 BRA `(.L_x_1) ;
        /*0090*/                   BRA `(.L_x_4) ;
.L_x_4:
        /*00a0*/                   EXIT ;
"""


def test_the_loop_that_blends_is_the_innermost_with_most_exponentials() -> None:
    assert machine_code.exp2_loop(LOOPS) == (2, 2.0)
    assert machine_code.exp2_loop(LOOPS.replace("MUFU.EX2", "MUFU.RCP")) == (0, 0.0)


def test_what_cannot_be_measured_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(machine_code.CompileError, match="unset it"):
        machine_code.measure(launch(), 90)
    monkeypatch.delenv("TRITON_INTERPRET")

    def fail() -> list:
        raise machine_code.CompileError("nvdisasm does not run: reinstall triton")

    monkeypatch.setattr(budgets, "report", fail)
    assert budgets.main([]) == 2
    assert capsys.readouterr().err == "kernels cannot be measured: nvdisasm does not run: reinstall triton\n"
    assert budgets.main(["--yaml"]) == 2
    assert "give none, or --json" in capsys.readouterr().err


def test_a_kernel_that_does_not_compile_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")

    def fail(*arguments: object, **options: object) -> None:
        raise TypeError("no such\ntype")

    monkeypatch.setattr(triton, "compile", fail)
    monkeypatch.setattr("triton.compiler.ASTSource", lambda **options: None)
    with pytest.raises(machine_code.CompileError, match=r"blend_kernel does not compile for sm_90 .*no such type"):
        machine_code.measure(launch(), 90)


def test_workers_set_the_interpreter_whatever_this_process_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for here in ("0", "1"):
        monkeypatch.setenv("TRITON_INTERPRET", here)
        for wanted in (True, False):
            with budgets._workers(1, interpreted=wanted) as pool:
                assert pool.submit(os.getenv, "TRITON_INTERPRET").result() == str(int(wanted))
