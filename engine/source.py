"""Open a scene by what a person types: a path, `procedural` or `procedural:N`."""

from .errors import InputError
from .formats.registry import load
from .scene.gaussians import Gaussians
from .scene.paths import Framing, frame_scene

DEFAULT_COUNT = 300_000


def open_scene(source: str) -> tuple[Gaussians, Framing]:
    """The splats, on the CPU, and the framing that camera paths should keep to.

    Args:
        source: a scene file or folder that `formats.registry.load` reads, `procedural`, or `procedural:N` with N from
            1000 to 10000000 (also written 300k, 1e6, 3M).

    Raises:
        InputError: no such scene, or N is no such number.
    """
    kind, _, count = source.partition(":")
    if kind == "procedural":
        from .scene.procedural import cached

        return cached(_count(source, count) if count else DEFAULT_COUNT)
    gaussians = load(source)
    return gaussians, frame_scene(gaussians)


def _count(source: str, text: str) -> int:
    factor = {"k": 1e3, "m": 1e6}.get(text[-1].lower(), 1.0)
    try:
        return round(float(text if factor == 1.0 else text[:-1]) * factor)
    except (ValueError, OverflowError):
        raise InputError(
            f"scene {source!r}: {text!r} is no number of splats, give for example procedural:300k"
        ) from None
