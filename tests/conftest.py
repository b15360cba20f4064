"""For all tests: what the machine has, where real scenes are, and Triton's interpreter where there is no GPU."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

# Threads of OpenMP that wait for each other sleep: on a busy machine they would keep the cores from those that work.
# It is read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

ROOT = Path(__file__).resolve().parents[1]
HAS_GPU = torch.cuda.is_available()

# Triton reads this when a kernel is defined, so it is set before any module of lyra.kernels is imported. With a GPU
# the same tests run on the device.
if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none; foreign tools, and what takes minutes, unless they are asked for."""
    asked = str(config.getoption("markexpr"))
    reasons = {"oracle": "runs foreign tools", "slow": "takes minutes"}
    for item in items:
        if item.get_closest_marker("gpu") and not HAS_GPU:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU is visible to torch"))
        for name, reason in reasons.items():
            if item.get_closest_marker(name) and name not in asked:
                item.add_marker(pytest.mark.skip(reason=f"{reason}: ask with -m {name}"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real scenes and golden frames, which the repository does not ship."""
    folder = Path(os.environ.get("LYRA_SHARED") or ROOT.parent / "shared")
    if not (folder / "scenes").is_dir():
        pytest.skip(f"no real scenes: {folder}/scenes is absent, set LYRA_SHARED")
    return folder


@pytest.fixture(scope="session")
def lod_trees() -> ModuleType:
    """The module of that name: random hierarchies and cameras, and the best-first heap."""
    spec = importlib.util.spec_from_file_location("lod_trees", Path(__file__).with_name("lod_trees.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
