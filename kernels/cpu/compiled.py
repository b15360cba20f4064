"""How every CPU kernel is compiled, and where its machine code is kept."""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import config, njit

from ..cache_folder import cache_folder


def compiled(*, parallel: bool = False, inline: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """A decorator: Numba's `njit` without the interpreter lock, division by zero as in C, the result kept on disk.

    Numba's own cache looks at one file only and would go on using code that has inlined a constant since changed in
    another. Here the folder is named after all sources that CPU kernels take from; it lies in the user's cache folder,
    or in the one that the environment variable LYRA_CACHE names. Where neither can be written, each process compiles
    for itself.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        options = {
            "nogil": True,
            "error_model": "numpy",
            "parallel": parallel,
            "inline": "always" if inline else "never",
            "_nrt": parallel,  # the loops allocate, the functions that they call do not: no reference counting there
        }
        before, config.CACHE_DIR = config.CACHE_DIR, str(_folder())  # read by njit, here and now
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder can be written
            return njit(**options)(function)
        finally:
            config.CACHE_DIR = before

    return decorate


@cache
def _folder() -> Path:
    digest = hashlib.sha256()
    kernels = Path(__file__).parents[1]
    shared = ("adjoint", "constants", "gaze", "profile", "views")
    for source in sorted([*(kernels / f"{name}.py" for name in shared), *kernels.glob("cpu/*.py")]):
        digest.update(source.read_bytes())
    return cache_folder() / f"numba-{digest.hexdigest()[:16]}"
