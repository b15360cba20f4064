"""How Triton runs a kernel here, decided when it is loaded: compiled for the GPU, or in the interpreter."""

import os
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl

COMPILED = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")  # the interpreter knows no assembly


def leaf(function: Callable[..., Any]) -> Any:
    """Plain arithmetic (kernels/adjoint.py) as a device function; the interpreter runs it as it is."""
    compiled = triton.jit(function)
    return compiled if isinstance(compiled, triton.JITFunction) else function
