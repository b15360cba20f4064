"""Fixtures for the tests of the engine: what the tests of several file formats do alike."""

import importlib.util
import random
import resource
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lyra.engine.errors import InputError
from lyra.engine.formats.registry import load
from lyra.engine.scene.gaussians import Gaussians

MEMORY_GROWTH = 512 << 10  # KiB that loading damaged files may add to the peak of the process


@pytest.fixture
def refused() -> Callable[[Path, str], None]:
    """Checks that a path is refused in one line that names it and matches a pattern."""

    def check(path: Path, pattern: str) -> None:
        with pytest.raises(InputError, match=pattern) as caught:
            load(path)
        message = str(caught.value)
        assert "\n" not in message and len(message) < 600
        assert message.startswith(str(path))

    return check


@pytest.fixture
def survives() -> Callable[[Path, int], tuple[int, int]]:
    """Loads a file or folder with damaged bytes, over and over; returns how often that loaded and how often not."""

    def check(path: Path, seed: int) -> tuple[int, int]:
        files = [path] if path.is_file() else sorted(path.iterdir())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        loaded = failed = 0
        for file in files:
            whole = file.read_bytes()
            for damaged in _damage(whole, random.Random(seed)):
                file.write_bytes(damaged)
                try:
                    with warnings.catch_warnings():
                        warnings.filterwarnings("ignore", message="dropped")
                        assert isinstance(load(path), Gaussians)
                    loaded += 1
                except InputError as error:
                    assert "\n" not in str(error)
                    failed += 1
            file.write_bytes(whole)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < MEMORY_GROWTH
        return loaded, failed

    return check


@pytest.fixture(scope="session")
def oracles() -> ModuleType:
    """The module beside this file, which tests cannot import by name."""
    return _beside("oracles")


@pytest.fixture(scope="session")
def stored_trees() -> ModuleType:
    """The module beside this file."""
    return _beside("stored_trees")


@pytest.fixture(scope="session")
def page_server() -> ModuleType:
    """The module beside this file."""
    return _beside("page_server")


@pytest.fixture(scope="session")
def lod_pools() -> ModuleType:
    """The module beside this file."""
    return _beside("lod_pools")


def _beside(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _damage(whole: bytes, rng: random.Random) -> Iterator[bytes]:
    """Cut short, one bit or byte changed, a run zeroed, a piece repeated: half of the places lie near the beginning."""
    for case in range(60):
        place = rng.randrange(min(len(whole), 400) if case % 2 else len(whole))
        kind = case % 5
        if kind == 0:
            yield whole[:place]
        elif kind == 1:
            yield whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :]
        elif kind == 2:
            yield whole[:place] + rng.randbytes(1) + whole[place + 1 :]
        elif kind == 3:
            yield whole[:place] + bytes(len(whole[place : place + 8])) + whole[place + 8 :]
        else:
            yield whole[:place] + whole[place - 5 : place + 5] + whole[place:]
