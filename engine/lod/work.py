"""The folder beside a large file while it is built: what is done stays there for the next try, until all is done."""

import json
import mmap
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..errors import InputError
from ..files import cause, replacing
from ..formats.format import Progress
from ..scene.gaussians import Gaussians, empty_scene
from .chunks import Division, divide, divided

KEY, COLUMN = "work.json", "scene-"


class Work:
    """Work on a file, in the folder NAME.part beside it, which is made when it is needed.

    Attributes:
        folder: where.
        found: what an earlier try left: nothing, something to go on with, or work with another key, which `begin`
            takes away.
    """

    def __init__(self, target: Path, key: dict[str, Any]) -> None:
        """Look for work on a file.

        Args:
            key: JSON values that tell the same work from other work: source, options, version.

        Raises:
            InputError: there is something else under the folder's name.
        """
        self.folder = target.with_name(f"{target.name}.part")
        self._key = json.loads(json.dumps(key))
        self._maps: list[mmap.mmap] = []
        self.found: Literal["nothing", "same", "other"] = "nothing"
        try:
            if self.folder.exists() and any(self.folder.iterdir()):
                self.found = "same" if json.loads((self.folder / KEY).read_bytes()) == self._key else "other"
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder}: is in the way and no unfinished build: move it away") from error

    def division(self) -> Division | None:
        """The chunks, if the scene was divided in an earlier try."""
        return divided(self.folder) if self.found == "same" else None

    def begin(self) -> None:
        """Make the folder, an empty one.

        Raises:
            InputError: not possible.
        """
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir()
        except OSError as error:
            raise InputError(f"{self.folder}: {cause(error)}, give a place that can be written") from error
        with replacing(self.folder / KEY) as stream:
            stream.write(json.dumps(self._key).encode())

    def allocate(self, count: int, sh_count: int) -> Gaussians:
        """As `empty_scene`, in files of the folder that are mapped to memory.

        Raises:
            InputError: the disk has no room for it.
        """
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in empty_scene(0, sh_count).tensors().items()}
        return Gaussians(**{name: self._column(name, (count, *shape)) for name, shape in shapes.items()})

    def release(self) -> None:
        """Let go of the memory that pages of mapped files are in; what was written stays, and comes back when read."""
        for mapped in self._maps:
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)

    def divide(self, scene: Gaussians, chunk: int, progress: Progress) -> Division:
        """As `chunks.divide`, of a scene that was allocated here; its files are gone when it is done."""
        division = divide(scene, self.folder, chunk, progress)
        for path in self.folder.glob(f"{COLUMN}*"):
            path.unlink()
        return division

    @property
    def parts(self) -> int:
        """Chunks that are done."""
        return len(list(self.folder.glob("part-*.npz")))

    def finish(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _column(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        path, size = self.folder / f"{COLUMN}{name}", 4 * int(np.prod(shape))
        try:
            with path.open("w+b") as stream:
                if hasattr(os, "posix_fallocate"):  # a disk that fills up later would end the process
                    os.posix_fallocate(stream.fileno(), 0, size)
                else:
                    stream.truncate(size)
                self._maps.append(mmap.mmap(stream.fileno(), size))
        except OSError as error:
            raise InputError(f"{path}: {cause(error)}, {size} bytes are needed: make room on the disk") from error
        return torch.from_numpy(np.frombuffer(self._maps[-1], np.float32).reshape(shape))
