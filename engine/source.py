"""Open a scene by what a person types: a path, `procedural` or `procedural:N`."""

import os
from dataclasses import replace

from .errors import InputError
from .formats.registry import load
from .scene.gaussians import Gaussians
from .scene.paths import UPS, Framing, frame_scene

DEFAULT_COUNT = 300_000


def open_scene(source: str | os.PathLike[str], *, up: str = "y-") -> tuple[Gaussians, Framing]:
    """The splats, on the CPU, and the framing that camera paths should keep to.

    Args:
        source: a scene file or folder that `formats.registry.load` reads, `procedural`, or `procedural:N` with N from
            1000 to 10000000 (also written 300k, 1e6, 3M).
        up: which way is up in a file, a key of `paths.UPS`; the procedural scene knows its own.

    Raises:
        InputError: no such scene, N is no such number, or `up` no such direction.
    """
    if up not in UPS:
        raise InputError(f"up {up!r} is unknown: give {', '.join(UPS)}")
    source = os.fspath(source)
    kind, colon, count = source.partition(":")
    if kind == "procedural":
        from .scene.procedural import cached

        return cached(_count(source, count) if colon else DEFAULT_COUNT)
    gaussians = load(source)
    return gaussians, replace(frame_scene(gaussians), up=UPS[up])


def _count(source: str, text: str) -> int:
    factor = {"k": 1e3, "m": 1e6}.get(text[-1:].lower(), 1.0)
    try:
        return round(float(text if factor == 1.0 else text[:-1]) * factor)
    except (ValueError, OverflowError):
        raise InputError(
            f"scene {source!r}: {text!r} is no number of splats, give for example procedural:300k"
        ) from None
