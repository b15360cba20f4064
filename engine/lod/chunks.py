"""A scene that is too large to be built at once, divided into chunks on disk.

Chunks are boxes of the Z-order curve: what holds too many splats is cut in two at the highest bit of their codes, and
neighbours that together are few become one again. Where to cut is told from a sample of the splats. A pass over the
scene then appends every splat to the file of its chunk; files that became too long all the same, because a sample is
not everything or because very many splats lie at one point, are read piece by piece.

Memory: a sample of at most `SAMPLE` codes and a block of splats, whatever the scene. Disk: the splats once more.
"""

import itertools
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..files import cause, replacing
from ..formats.format import Progress, blocks, no_progress
from ..scene.gaussians import Gaussians, empty_scene, valid_splats
from ..scene.morton import morton_codes

SAMPLE = 1 << 22  # splats
FULL = 0.9  # of a chunk, in the plan made from a sample
INDEX = "chunks.json"  # written last
BITS = 63  # of a code
GEOMETRY = 11  # numbers of a splat before its harmonics


@dataclass(frozen=True)
class Division:
    """A scene in files of chunks, in a folder."""

    folder: Path
    harmonics: int  # coefficients of a splat
    diagonal: float  # of the bounds of the centres
    counts: tuple[int, ...]  # splats of each file
    chunk: int  # splats that are read at once

    def pieces(self) -> list[tuple[int, int, int]]:
        """Chunks in order: file, first splat and count."""
        return [
            (file, start, min(self.chunk, count - start))
            for file, count in enumerate(self.counts)
            for start in range(0, count, self.chunk)
        ]

    def read(self, piece: tuple[int, int, int]) -> Gaussians:
        """The splats of a chunk, in the order of the scene.

        Raises:
            InputError: the file cannot be read, or is not what was written.
        """
        file, start, count = piece
        width = GEOMETRY + 3 * self.harmonics
        path = _file(self.folder, file)
        try:
            rows = np.fromfile(path, np.float32, count * width, offset=start * width * 4)
        except OSError as error:
            raise InputError(f"{path}: {cause(error)}, delete {self.folder} and begin anew") from error
        if len(rows) < count * width:
            raise InputError(f"{path}: truncated, delete {self.folder} and begin anew")
        return _splats(rows.reshape(count, width))


def divide(scene: Gaussians, folder: Path, chunk: int, progress: Progress = no_progress) -> Division:
    """Write a scene in chunks; invalid splats are left out with a warning.

    Args:
        scene: float32 on the CPU, in memory or mapped from files.
        folder: is there; files of an earlier try are replaced.
        chunk: splats of a chunk, at most.
        progress: told of splats, also when memory of mapped files may be let go.

    Raises:
        InputError: no valid splat, or the disk is full.
    """
    low, high, dropped = _bounds(scene, progress)
    starts = _plan(scene, low, high, chunk)
    counts = np.zeros(len(starts), np.int64)
    for file in folder.glob("chunk-*"):
        file.unlink()
    try:
        for block in blocks(len(scene), progress):
            part = _valid_part(scene, block) if dropped else scene.select(block)
            number = np.searchsorted(starts, morton_codes(part.means, low, high), side="right") - 1
            order = number.argsort(kind="stable")
            rows, found = _rows(part, order), np.bincount(number, minlength=len(starts))
            ends = np.cumsum(found)
            for file in np.flatnonzero(found):
                with _file(folder, int(file)).open("ab") as stream:
                    stream.write(rows[ends[file] - found[file] : ends[file]].data)
            counts += found
        division = Division(
            folder, scene.sh.shape[1], float(np.linalg.norm(high - low)), tuple(map(int, counts)), chunk
        )
        with replacing(folder / INDEX) as stream:
            stream.write(json.dumps(asdict(division) | {"folder": None}).encode())
    except OSError as error:
        raise InputError(f"{folder}: {cause(error)}, make room on the disk") from error
    if dropped:
        warnings.warn(f"dropped {dropped} of {len(scene)} splats: NaN, Inf or out of range", stacklevel=2)
    return division


def divided(folder: Path) -> Division | None:
    """What `divide` wrote to a folder, if it came to its end."""
    try:
        raw = json.loads((folder / INDEX).read_bytes())
        return Division(**raw | {"folder": folder, "counts": tuple(raw["counts"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _file(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:06d}"


def _valid_part(scene: Gaussians, block: slice) -> Gaussians:
    part = scene.select(block)
    valid = valid_splats(part)
    return part if bool(valid.all()) else part.select(valid)


def _bounds(scene: Gaussians, progress: Progress) -> tuple[np.ndarray, np.ndarray, int]:
    """Least and largest coordinates [3] float64 of the valid splats, and how many are not."""
    low, high, kept = np.full(3, np.inf), np.full(3, -np.inf), 0
    for block in blocks(len(scene), progress):
        means = _valid_part(scene, block).means.numpy()
        kept += len(means)
        if len(means):
            low, high = np.minimum(low, means.min(axis=0)), np.maximum(high, means.max(axis=0))
    if not kept:
        raise InputError(f"no valid splats among {len(scene)}: the scene is empty, give one with finite values")
    return low, high, len(scene) - kept


def _plan(scene: Gaussians, low: np.ndarray, high: np.ndarray, chunk: int) -> np.ndarray:
    """[chunks] int64, the least code of each; the first is 0."""
    step = -(-len(scene) // SAMPLE)
    means = scene.means[::step]
    inside = ((means.double() >= torch.from_numpy(low)) & (means.double() <= torch.from_numpy(high))).all(dim=1)
    codes = np.sort(morton_codes(means[inside], low, high))
    most = max(1, int(chunk * (1 if step == 1 else FULL)) // step)
    starts, held = [0], 0
    for first, count in _boxes(codes, most):
        if held and held + count > most:
            starts.append(first)
            held = 0
        held += count
    return np.array(starts)


def _boxes(codes: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """The least code of each box with at most so many of the sorted codes, and their number."""
    waiting = [(0, 0, len(codes), BITS)]  # its least code, its codes from start to stop, bits that they may differ in
    while waiting:
        first, start, stop, bits = waiting.pop()
        if stop - start <= most or not bits:
            if stop > start:
                yield first, stop - start
            continue
        upper = first + (1 << (bits - 1))
        middle = int(np.searchsorted(codes[start:stop], upper)) + start
        waiting += [(upper, middle, stop, bits - 1), (first, start, middle, bits - 1)]


def _rows(splats: Gaussians, order: np.ndarray) -> np.ndarray:
    columns = [tensor.numpy().reshape(len(splats), -1) for tensor in splats.tensors().values()]
    rows = np.empty((len(splats), sum(column.shape[1] for column in columns)), np.float32)
    for column, place in zip(columns, _places(rows.shape[1]), strict=True):
        rows[:, place] = column.take(order, axis=0)
    return rows


def _splats(rows: np.ndarray) -> Gaussians:
    scene = empty_scene(len(rows), (rows.shape[1] - GEOMETRY) // 3)
    for tensor, place in zip(scene.tensors().values(), _places(rows.shape[1]), strict=True):
        tensor.numpy().reshape(len(rows), -1)[...] = rows[:, place]
    return scene


def _places(width: int) -> list[slice]:
    """Of a scene's tensors in a row."""
    ends = [0, 3, 7, 10, GEOMETRY, width]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]
