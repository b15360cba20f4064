"""`pytest bench/micro` as a user types it, in a small size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lyra.kernels.frames import GRADIENT_STAGES, STAGES

pytest.importorskip("pytest_benchmark")

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300)


def test_a_stage_is_measured_and_held_against_its_bound(tmp_path: Path) -> None:
    data = tmp_path / "m.json"
    done = run(
        "bench/micro", "--splats", "1k", "--res", "64x48", "-k", "cpu", f"--benchmark-json={data}",
        f"--benchmark-storage={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = {result["name"]: result for result in json.loads(data.read_text())["benchmarks"]}
    assert set(results) == {
        f"test_stage[cpu-{stage}-1k-64x48]" for stage in (*STAGES, "frame", *GRADIENT_STAGES, "step")
    }
    medians = {result["params"]["stage"]: result["stats"]["median"] for result in results.values()}
    assert all(median > 0 for median in medians.values())
    assert medians["sort"] < medians["frame"] and medians["blend backward"] < medians["step"]
    blend = results["test_stage[cpu-blend-1k-64x48]"]
    assert blend["group"] == "blend, cpu"
    extra = blend["extra_info"]
    assert extra["splats"] == 1000 and extra["pixels"] == 64 * 48
    assert extra["instructions"] == pytest.approx(12.5 * extra["splat_pixels"]) and extra["splat_pixels"] > 64 * 48
    assert extra["share_of_bound"] == pytest.approx(extra["bound_seconds"] / medians["blend"])
    assert results["test_stage[cpu-project-1k-64x48]"]["extra_info"]["bytes"] > 1000 * 12
    back = results["test_stage[cpu-blend backward-1k-64x48]"]["extra_info"]
    assert back["instructions"] == pytest.approx(30.5 * extra["splat_pixels"])  # the forward's splat-pixels again
    assert back["bytes"] == 64 * 48 * 28 + 1000 * 48 and 0 < back["reached"] <= extra["visible"]
    parts = [results[f"test_stage[cpu-{stage}-1k-64x48]"]["extra_info"] for stage in (*STAGES, *GRADIENT_STAGES)]
    step = results["test_stage[cpu-step-1k-64x48]"]["extra_info"]
    assert step["bound_seconds"] == pytest.approx(sum(part["bound_seconds"] for part in parts))


def test_the_plain_run_leaves_it_alone() -> None:
    done = run("--collect-only", "tests/bench/test_micro.py")
    assert "test_stage" not in done.stdout and done.returncode == 0
    assert 'testpaths = ["tests"]' in (ROOT / "pyproject.toml").read_text()
