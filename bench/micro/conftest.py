"""Options of `pytest bench/micro`, and its cases: every backend, stage and size."""

import pytest

from lyra.bench.clock import FRAME, STEP
from lyra.kernels.frames import GRADIENT_STAGES, STAGES

BACKENDS = ("cpu", "triton")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Sizes, as lists with commas."""
    parser.addoption("--splats", default="100k,1M", help="numbers of splats, such as 30k,300k (default: 100k,1M)")
    parser.addoption("--res", default="1080p", help="resolutions, such as 720p,64x48 (default: 1080p)")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Names are made of the values alone, so that runs of two commits can be compared."""
    if "stage" not in metafunc.fixturenames:
        return
    lists = {
        "backend": BACKENDS,
        "stage": (*STAGES, FRAME, *GRADIENT_STAGES, STEP),
        "splats": metafunc.config.getoption("--splats").split(","),
        "res": metafunc.config.getoption("--res").split(","),
    }
    for name, values in lists.items():
        metafunc.parametrize(name, values)
