"""What a file format is to the rest of the engine, and the records that readers and writers are called with.

A module of this folder describes one format and ends in `FORMAT`; `registry.py` lists them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..scene.gaussians import Gaussians, empty_scene

BLOCK = 1 << 18  # splats that readers and writers hold in other forms than the scene's own at a time

Progress = Callable[[int, int], None]  # splats done, of how many
Allocate = Callable[[int, int], Gaussians]  # as `empty_scene`


def no_progress(done: int, total: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Reading:
    """How to read a file."""

    level: int = 0  # of detail, 0 the finest, where a file holds several
    progress: Progress = no_progress
    allocate: Allocate = empty_scene  # makes the scene that is read into


@dataclass(frozen=True)
class Writing:
    """How to write a file."""

    antialiased: bool = False  # trained for `Options.antialiased`: a mark that some formats carry
    note: str | None = None  # provenance, one line of JSON, for formats that carry one
    spz_version: int = 3  # 2, 3 or 4
    progress: Progress = no_progress


PLAIN_READING, PLAIN_WRITING = Reading(), Writing()


@dataclass(frozen=True)
class About:
    """What a file says of itself without its splats being read."""

    kind: str  # the format with its version
    splats: int  # at the finest level, as declared
    levels: int = 1  # of detail
    antialiased: bool = False
    note: str | None = None  # provenance as it was written


@dataclass(frozen=True)
class Format:
    """One kind of scene file. Its functions are given paths that the registry has recognised."""

    name: str
    endings: tuple[str, ...]  # of names, lower case; the longest that fits a name counts
    axes: str  # nominal ones, as in `scene.axes`; files are read and written as they are
    matches: Callable[[Path, bytes], bool]  # a path and its first 64 bytes, none of a folder
    load: Callable[[Path, Reading], Gaussians]  # raises InputError; values are not checked
    about: Callable[[Path], About]  # raises InputError
    save: Callable[[Gaussians, Path, Writing], None] | None = None  # valid splats with opacities of at most 1
    carries_note: bool = False  # else provenance lies beside the file
    order: Callable[[Gaussians], Tensor] | None = None  # to the order [n] in which `save` puts splats
    beside: Callable[[Path], list[Path]] = lambda path: []  # further files that `save` writes, or takes away
    parts: Callable[[Path], list[Path]] = lambda path: []  # further files that `load` reads, where they are there
    sh_degree: int = 3  # that it can hold


def blocks(count: int, progress: Progress = no_progress) -> Iterator[slice]:
    """Slices of at most BLOCK splats that cover `count`; progress is told after each is done."""
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        yield slice(start, stop)
        progress(stop, count)
