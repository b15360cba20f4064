"""What commands share that make scene files of scene files: reading, checks before any work, writing, provenance."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..command_line import progress_bar
from ..errors import InputError
from ..files import cause, check_writable
from ..formats.format import Format, Reading, Writing
from ..formats.registry import about, files_of, format_of_name, load, outputs, recognise, save
from ..scene.gaussians import Gaussians
from ..scene.provenance import Provenance, Source, source_of, write_note

FOLDER_META = "meta.json"  # names a SOG that is a folder, which writing makes


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What is asked of every file with a scene."""

    licence: str | None = None
    """Kept with the scene. Default: that of the inputs where they agree."""
    consent: str | None = None
    """What the people shown have agreed to, kept with the scene. Default: as licence."""
    overwrite: bool = False
    """Replace the output if it is there."""


@dataclass(frozen=True, kw_only=True)
class OutputOptions(FileOptions):
    """What is asked of an output of any format."""

    spz_version: int = 3
    """Version of .spz to write: 2, 3 or 4."""


class Inputs:
    """Scene files that go into one output, and what they say of themselves."""

    def __init__(self, notes: Console, level: int = 0) -> None:
        """Begin with none.

        Args:
            notes: where progress is shown.
            level: of detail, of a streamed SOG.
        """
        self.sources: list[Source] = []
        self._notes, self._level = notes, level
        self._marks: dict[bool, Path] = {}  # whether trained antialiased, and the first file that says so

    def read(self, path: Path) -> Gaussians:
        """The splats of one more file.

        Raises:
            InputError: as `registry.load`, or of two files one is marked as antialiased and one is not.
        """
        with progress_bar(self._notes, f"reading {path.name}", "splats") as progress:
            scene = load(path, Reading(level=self._level, progress=progress))
        said = about(path)
        self._marks.setdefault(said.antialiased, path)
        if len(self._marks) > 1:
            told = f"{self._marks[True]} is marked as antialiased and {self._marks[False]} is not"
            raise InputError(f"{told}: they cannot become one scene, write them apart")
        self.sources.append(source_of(path, said.note, files_of(path)))
        return scene

    @property
    def antialiased(self) -> bool:
        """Whether the files are marked as trained for it."""
        return True in self._marks


def check_output(path: Path, options: OutputOptions) -> Format:
    """The format of an output, as far as all can be checked before any work.

    Raises:
        InputError: the name ends in no format, the file is there already or cannot be written, or no such version.
    """
    if options.spz_version not in (2, 3, 4):
        raise InputError(f"--spz-version {options.spz_version} is not written: give 2, 3 or 4")
    format = format_of_name(path)
    if format.save is not None:
        check_free(path, options, outputs(path))
    return format


def check_free(path: Path, options: FileOptions, files: Sequence[Path] = ()) -> None:
    """Whether a file may be written at a path, and can be.

    Args:
        files: all that would be replaced, where that is more than the one.

    Raises:
        InputError: not so.
    """
    if not options.overwrite:
        for file in files or [path]:
            if file.exists():
                raise InputError(f"{file}: is there already: give another name or --overwrite")
    makes_folder = path.name == FOLDER_META and not path.parent.exists()
    check_writable(path.parent if makes_folder else path)


def note_axes(notes: Console, prog: str, sources: list[Path], writer: Format) -> None:
    """Tells where numbers stay as they are, but readers may expect others."""
    for reader in {recognise(source).name: recognise(source) for source in sources}.values():
        if reader.axes != writer.axes:
            notes.print(
                f"{prog}: note: {reader.name} is mostly {reader.axes} and {writer.name} {writer.axes}; axes are kept "
                "as they are, lyra convert --axes nominal changes them",
                highlight=False,
                soft_wrap=True,
            )


def write_scenes(
    scenes: dict[Path, tuple[Gaussians, Provenance]], antialiased: bool, options: OutputOptions, notes: Console
) -> None:
    """Writes files of one folder, all or none: several take their places when the last is whole.

    Raises:
        InputError: as `registry.save`.
    """
    if len(scenes) == 1:
        _write(scenes, {path: path for path in scenes}, antialiased, options, notes)
        return
    with staging(next(iter(scenes)).parent) as scratch:
        _write(scenes, {path: scratch / path.name for path in scenes}, antialiased, options, notes)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files move to `folder` when the block ends well, and are gone when it does not.

    Raises:
        InputError: `folder` is missing or cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder) as scratch:
            yield Path(scratch)
            for file in sorted(Path(scratch).iterdir()):
                os.replace(file, os.path.realpath(folder / file.name))
    except OSError as error:
        raise InputError(f"{folder}: {cause(error)}, give a folder that can be written") from error


def _write(
    scenes: dict[Path, tuple[Gaussians, Provenance]],
    places: dict[Path, Path],
    antialiased: bool,
    options: OutputOptions,
    notes: Console,
) -> None:
    """Saves each scene at its place, and speaks of the path that is meant."""
    counts: dict[Path, int] = {}
    for path, (scene, provenance) in scenes.items():
        try:
            with progress_bar(notes, f"writing {path.name}", "splats") as progress:
                writing = Writing(antialiased, write_note(provenance), options.spz_version, progress)
                counts[path] = save(scene, places[path], writing)
        except InputError as error:
            raise InputError(str(error).replace(str(places[path]), str(path))) from None
    for path, (scene, _) in scenes.items():
        degree = min(scene.sh_degree, format_of_name(path).sh_degree)
        lost = "" if degree == scene.sh_degree else f", all that {path.suffix} holds of SH {scene.sh_degree}"
        told = f"wrote {path}: {counts[path]:,} splats, SH {degree}{lost}"
        notes.print(told, highlight=False, markup=False, soft_wrap=True)
