"""What ships is what is here, every module loads, and loading little costs little."""

import importlib
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

from lyra.engine.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PARTS = tuple(part for part in ("kernels", "engine", "export", "bench") if any((ROOT / part).rglob("*.py")))
NOT_PARTS = {"tests", "docs", "notebooks", "build", "dist"}
MODULES = sorted(
    ".".join(("lyra", *path.relative_to(ROOT).with_suffix("").parts))
    for part in PARTS
    for path in (ROOT / part).rglob("*.py")
    if path.stem not in ("__init__", "__main__")
)


def test_every_package_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for part in PARTS for path in (ROOT / part).rglob("*.py")}
    assert listed == {"lyra"} | {"lyra." + ".".join(folder.parts) for folder in folders}


def test_every_folder_with_code_is_a_part() -> None:
    tops = {path.relative_to(ROOT).parts[0] for path in ROOT.glob("*/**/*.py")}
    assert {top for top in tops if not top.startswith(".")} - NOT_PARTS == set(PARTS)


@pytest.mark.parametrize("name", MODULES)
def test_module_loads(name: str) -> None:
    assert importlib.import_module(name).__doc__


def test_no_module_is_loaded_twice() -> None:
    for name in MODULES:
        importlib.import_module(name)
    names = defaultdict(set)
    ours = {path.resolve() for part in PARTS for path in (ROOT / part).rglob("*.py")}  # pytest itself loads the root
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).resolve() in ours:
            names[Path(file).resolve()].add(name)
    assert len(names) >= len(MODULES)
    assert {file: loaded for file, loaded in names.items() if len(loaded) > 1} == {}


def test_the_repository_holds_one_loose_module() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]


@pytest.mark.parametrize(
    "module, absent",
    [
        ("lyra", "torch numpy numba triton"),
        ("lyra.kernels.rasterize", "triton numba"),
        ("lyra.engine.renderer", "triton"),
        ("lyra.engine.cli", "torch numba"),
        ("lyra.engine.commands.generate", "diffusers accelerate transformers av onnxruntime"),
        *((f"lyra.engine.commands.{name}", "triton matplotlib scipy sympy torch._dynamo") for name in COMMANDS),
    ],
)
def test_import_does_not_load(module: str, absent: str) -> None:
    program = f"import sys, {module}; print(*[name for name in {absent.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.split() == []
