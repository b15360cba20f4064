"""For the tests of lyra-bench."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def json_keys() -> ModuleType:
    """The module of that name: keys of a run, and those that docs/bench.md has."""
    spec = importlib.util.spec_from_file_location("json_keys", Path(__file__).with_name("json_keys.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
