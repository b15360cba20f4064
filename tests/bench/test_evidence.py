"""The evidence of a machine: every part, kept as it ends, and the page made of it."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lyra.bench import evidence
from lyra.bench.bounds import shares
from lyra.bench.cli import main
from lyra.bench.measure import Measurement
from lyra.bench.options import BenchOptions
from lyra.bench.page import page
from lyra.bench.roofline import Work
from lyra.kernels.frames import GRADIENT_STAGES, STAGES

GRID = BenchOptions(grid=True, scene=("procedural:1k",), res="32x24", frames=2, warmup=0)
PLAN = evidence.Plan(
    grid=GRID,
    training=GRID,
    single="procedural:1k",
    peers=("gsplat", "cpu"),
    tests=("-k", "nothing_is_called_this", "tests/test_packaging.py"),
)
BUDGET = {"kernel": "k", "sm": 90, "measured": {}, "budget": {}, "over_budget": ["k: registers 200, budget 104"]}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without compiling kernels, and on a machine that is not here."""
    monkeypatch.setattr(evidence.budgets, "report", lambda: [BUDGET])
    monkeypatch.setattr(
        evidence, "run_tests", lambda arguments: {"exit_code": 1, "summary": "1 failed", "failed": ["x"]}
    )
    monkeypatch.setattr(evidence, "render_stereo", lambda scene, camera, backend: None)


@pytest.mark.usefixtures("quick")
@pytest.mark.skipif(torch.cuda.is_available(), reason="gsplat may be here")
def test_every_part_is_in_the_file_and_on_the_page(tmp_path: Path) -> None:
    path, said = tmp_path / "e.json", []
    results = evidence.collect("cpu", PLAN, path, said.append)
    assert json.loads(path.read_text()) == results
    assert said == ["tests", "waits", "stereo", "frames", "training", "peers", "budgets"]
    assert results["waits"] is None and results["tests"]["exit_code"] == 1
    assert results["stereo"]["ratio"] == pytest.approx(
        results["stereo"]["stereo_milliseconds"] / results["stereo"]["mono_milliseconds"]
    )
    assert len(results["frames"]) == len(results["peers"]["comparisons"]) == 3
    assert set(results["frames"][0]["bounds"]) == set(STAGES)
    assert [told["scene"] for told in results["training"]] == [told["scene"] for told in results["frames"]]
    assert set(results["training"][0]["bounds"]) == {*STAGES, *GRADIENT_STAGES}
    assert "needs a CUDA GPU" in results["peers"]["absent"]["gsplat"]
    text = path.with_suffix(".md").read_text()
    for words in (
        "# What was measured on",
        "Exit code 1: 1 failed",
        "sm_90 k: registers 200, budget 104",
        "| procedural:1k 32x24 near | 1,000 |",
        "## Training steps",
        "| case | splats | blend backward | project backward | step | frame | step / frame | MiB |",
        "gsplat was not compared",
        "cpu: Lyra is",
        "| equal |",
    ):
        assert words in text
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.usefixtures("quick")
def test_a_part_that_fails_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of\nmemory")
        return measure(*arguments, **options)

    measure = evidence.measure
    monkeypatch.setattr(evidence, "measure", fail)
    results = evidence.collect("cpu", PLAN, tmp_path / "e.json", lambda said: None)
    assert results["frames"]["error"] == "RuntimeError: out of memory"
    assert len(results["frames"]["so_far"]) == 1
    assert len(results["peers"]["comparisons"]) == 3
    text = (tmp_path / "e.md").read_text()
    assert "Failed: RuntimeError: out of memory" in text and "| procedural:1k 32x24 near | 1,000 |" in text


def test_a_peer_that_fails_in_a_case_is_told_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(evidence, "compare", fail)
    kept: list[Any] = []
    results = evidence.versus("cpu", replace(PLAN, peers=("cpu",)), kept.append)
    assert [c["error"] for c in results["comparisons"]] == ["RuntimeError: CUDA out of memory"] * 3
    assert len(kept) == 3
    assert "CUDA out of memory" in page(
        {"machine": evidence.machine.describe(), "backend": "x", "started": "", "peers": results}
    )


def test_tests_run_in_a_process_and_are_counted() -> None:
    told = evidence.run_tests(("-k", "test_the_repository_holds_one_loose_module", "tests/test_packaging.py"))
    assert told["exit_code"] == 0 and told["counts"]["passed"] == 1 and told["failed"] == []
    assert evidence.run_tests(PLAN.tests)["exit_code"] == 5  # none was found


def test_shares_are_bounds_over_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    result = Measurement("s", "triton", 1000, 1, 10, 10, 1, {}, 100, 200, 5000, 9)
    assert result.work == Work(1000, 100, 200, 5000, 100)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    medians = dict.fromkeys(STAGES, 2.0)
    told = shares("triton", result.work, 1, medians)
    assert told is not None and tuple(told) == STAGES
    size = 1000 * 12 + 100 * (32 + 48 + 48)  # two-digit SH counts would be 12 bytes each
    assert told["project"]["milliseconds"] == pytest.approx(size / 4.8e12 * 1e3)
    assert told["project"]["share"] == pytest.approx(size / 4.8e12 * 1e3 / 2.0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    assert shares("triton", result.work, 1, medians) is None


def test_waits_are_what_torch_warns_of(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def frame(*_: Any, **__: Any) -> None:
        for _ in range(2 if modes else 0):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        if modes:
            warnings.warn("something else", stacklevel=1)

    monkeypatch.setattr(evidence, "render", frame)
    monkeypatch.setattr(evidence, "backend_device", lambda backend: torch.device("cpu"))
    for name, fake in (("synchronize", lambda: None), ("get_sync_debug_mode", lambda: 0)):
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    gaussians, camera = evidence._single_case(PLAN)
    assert evidence.waits(gaussians, camera, "triton") == {"frame": 2}
    assert modes == ["warn", 0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--evidence"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "needs a CUDA GPU" in said.err and said.out == ""


def test_a_target_that_cannot_be_written_is_refused_first(capsys: pytest.CaptureFixture[str]) -> None:
    for target, cure in (("no/such/folder/e.json", "can be written"), ("e.txt", "ends in .json")):
        assert main(["--evidence", "--backend", "cpu", "--json", target]) == 2
        assert cure in capsys.readouterr().err


def test_old_results_stay_until_there_are_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "e.json").write_text("old")
    monkeypatch.setattr(evidence, "collect", lambda *arguments: None)
    assert main(["--evidence", "--backend", "cpu", "--json", str(tmp_path / "e.json")]) == 0
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.usefixtures("quick")
def test_the_command_writes_file_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--evidence", "--backend", "cpu", "--json", str(tmp_path / "e.json")]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.json", "e.md"]
    assert "wrote" in capsys.readouterr().err
