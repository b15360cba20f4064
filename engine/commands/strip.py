"""`lyra strip`: input images without place, time and camera."""

from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from ..command_line import parse, progress_bar
from ..errors import InputError
from ..files import cause, read_bytes, replacing
from ..privacy.images import LONGEST, strip


@dataclass(frozen=True)
class StripOptions:
    """Copy JPEG, PNG and WebP images without their metadata; pixels do not change. GPS, camera, serial numbers, times,
    names, comments, thumbnails, colour profiles and hidden second pictures go, the orientation stays. Sensor noise
    stays too, and what the picture shows: read docs/privacy.md."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """IN [IN ...] OUT: images or folders of them, and the folder to write to."""
    rename: bool = False
    """Number the copies, in the order of the names: names often hold dates. Cameras files that go by name will not find
    them."""
    overwrite: bool = False
    """Replace files that are there."""


def command(arguments: list[str]) -> None:
    """Run with arguments of a command line."""
    options = parse(StripOptions, arguments, "lyra strip")
    if len(options.paths) < 2:
        raise InputError(f"{len(options.paths)} path given: give images or folders, and then the folder to write to")
    *sources, target = options.paths
    notes = Console(stderr=True, highlight=False, soft_wrap=True)
    images = [found for source in sources for found in _images(source)]
    if not images:
        raise InputError(f"{sources[0]}: holds no files, give images or a folder of them")
    names: dict[Path, Path] = {}
    refused = []
    with progress_bar(notes, "stripping", "images") as progress:
        for done, (path, name) in enumerate(images):
            try:
                data, ending = strip(read_bytes(path, LONGEST + 1))
            except InputError as error:
                refused.append(f"{path}: {str(error).removeprefix(f'{path}: ')}")
                continue
            out = target / (f"{len(names) + 1:06d}{ending}" if options.rename else name)
            if out in names:
                raise InputError(f"{path}: has the name of {names[out]}: give --rename, or strip them apart")
            _write(out, data, options.overwrite, path)
            names[out] = path
            progress(done + 1, len(images))
    notes.print(f"wrote {len(names)} images to {target}", markup=False)
    if refused:
        more = f" ({len(refused)} of {len(images)} were left out)" if len(refused) > 1 else ""
        raise InputError(f"{refused[0]}{more}")


def _images(source: Path) -> list[tuple[Path, Path]]:
    """Files, and the names that their copies get; hidden files of a folder are left out."""
    if not source.is_dir():
        return [(source, Path(source.name))]
    try:
        names = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    except OSError as error:
        raise InputError(f"{source}: {cause(error)}, give a folder that can be read") from error
    return [(source / name, name) for name in names if not any(part.startswith(".") for part in name.parts)]


def _write(out: Path, data: bytes, overwrite: bool, source: Path) -> None:
    if out.exists() and out.samefile(source):
        raise InputError(f"{out}: is the input itself: give another folder")
    if out.exists() and not overwrite:
        raise InputError(f"{out}: is there already: give another folder or --overwrite")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out.parent}: {cause(error)}, give a folder that can be written") from error
    with replacing(out) as stream:
        stream.write(data)
