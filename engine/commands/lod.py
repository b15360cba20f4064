"""`lyra lod build`: a scene to a level-of-detail tree in a .lyra file."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from ..command_line import parse_with_config, progress_bar
from ..errors import InputError
from ..formats import lyra_store
from ..formats.format import Reading
from ..formats.registry import about, files_of, format_of_name, load, recognise
from ..lod.build import BuildOptions
from ..lod.chunks import Division
from ..lod.layout import Labels
from ..lod.levels import tree_of_levels
from ..lod.parts import write_division, write_scene
from ..lod.work import Work
from ..lod.writer import write_store
from ..scene.gaussians import Gaussians, drop_invalid, empty_scene
from ..scene.provenance import MADE_BY, Source, provenance_of, source_of, write_note
from ..strict_yaml import within
from .scene_files import FileOptions, check_free

PROG = "lyra lod build"
CHUNKS = (1_000, 100_000_000)
VIEWS = (0, 1000)
WORK = 1  # of the form of unfinished work


@dataclass(frozen=True)
class LodBuildOptions(FileOptions, BuildOptions):
    """Build a level-of-detail tree over a scene, a .lyra file that is drawn within any budget of splats. A scene larger
    than --chunk is built in parts; if that is stopped, the same command goes on. docs/lod.md tells more."""

    paths: tyro.conf.Positional[tuple[Path, ...]] = ()
    """SCENE OUT.lyra"""
    rebuild: bool = False
    """Of a streamed SOG take the finest level alone and merge anew; without it, its levels are kept."""
    config: Path | None = None
    """A YAML file with defaults for these options, such as `quality: true`."""


def command(arguments: list[str]) -> None:
    """Run with arguments of a command line."""
    if arguments[:1] in (["-h"], ["--help"]):
        print("usage: lyra lod build SCENE OUT.lyra ...\n\nlyra lod build --help tells more.")
        return
    if arguments[:1] != ["build"]:
        raise InputError(f"{arguments[0]!r} is no command of lyra lod: give build" if arguments else "give build")
    options = parse_with_config(LodBuildOptions, arguments[1:], PROG, ())
    notes = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    source, target = _check(options)
    said = about(source)
    with notes.status(f"looking at {source.name}"):
        origin = source_of(source, said.note, files_of(source))
    build = BuildOptions(options.quality, options.views, options.chunk)
    keeps_levels = said.levels > 1 and not options.rebuild
    told = {"levels": said.levels} if keeps_levels else dataclasses.asdict(build)
    provenance = provenance_of([origin], [{"lod": told}], licence=options.licence, consent=options.consent)
    labels = Labels(told, note=write_note(provenance), antialiased=said.antialiased)
    if keeps_levels:
        _import(source, target, said.levels, build, labels, notes)
    else:
        _build(source, target, origin, build, labels, notes)
    made = about(target)
    notes.print(f"wrote {target}: {made.splats:,} splats, {made.kind.partition(', ')[2]}")


def _check(options: LodBuildOptions) -> tuple[Path, Path]:
    """Input and output, after all that can be checked before any work."""
    if len(options.paths) != 2:
        raise InputError(f"{len(options.paths)} files given: give the scene and then the output")
    for name, value, (least, most) in (("views", options.views, VIEWS), ("chunk", options.chunk, CHUNKS)):
        if not least <= value <= most:
            raise InputError(f"--{name} {value} is out of range: give {least} to {most}")
    source, target = options.paths
    recognise(source)
    if format_of_name(target) is not lyra_store.FORMAT:
        raise InputError(f"{target}: a tree is written as .lyra alone, give a name that ends in .lyra")
    check_free(target, options)
    return source, target


def _import(source: Path, target: Path, count: int, build: BuildOptions, labels: Labels, notes: Console) -> None:
    """A tree of levels that are there."""
    levels = []
    for number in range(count):
        with progress_bar(notes, f"reading level {number}", "splats") as progress:
            levels.append(load(source, Reading(level=number, progress=progress)))
    with progress_bar(notes, f"building {target.name}", "splats") as progress:
        tree = tree_of_levels(levels, build, progress=progress)
    names = tuple(f"{len(level)} splats" for level in levels)
    levels.clear()
    write_store(target, tree, dataclasses.replace(labels, levels=names))


def _build(source: Path, target: Path, origin: Source, build: BuildOptions, labels: Labels, notes: Console) -> None:
    """A tree of splats that are merged; in chunks, where there are many."""
    key = {"work": WORK, "by": MADE_BY, "bytes": origin.bytes, "sha256": origin.sha256, **dataclasses.asdict(build)}
    work = Work(target, key)
    if work.found == "other":
        notes.print(f"{PROG}: {work.folder} is of another scene, other options or another version: starting anew")
    division = work.division()
    if division is None:
        scene = _read(source, work, build.chunk, notes)
        if len(scene) <= build.chunk:
            scene = within(str(source), drop_invalid, scene)
            with progress_bar(notes, f"building {target.name}", "splats") as progress:
                write_scene(scene, target, build, labels, progress=progress)
            work.finish()
            return
        division = _divide(source, scene, work, build.chunk, notes)
        del scene
    else:
        notes.print(f"{PROG}: going on with {work.folder}, {work.parts} of {len(division.pieces())} chunks are done")
    with progress_bar(notes, f"building {target.name}", "splats") as progress:
        write_division(division, target, build, labels, progress=progress)
    work.finish()


def _read(source: Path, work: Work, chunk: int, notes: Console) -> Gaussians:
    """The scene, unchecked; more than a chunk does not stay in memory."""

    def allocate(count: int, sh_count: int) -> Gaussians:
        if count <= chunk:
            return empty_scene(count, sh_count)
        work.begin()
        return work.allocate(count, sh_count)

    with progress_bar(notes, f"reading {source.name}", "splats") as told:

        def progress(done: int, total: int) -> None:
            work.release()
            told(done, total)

        return recognise(source).load(source, Reading(progress=progress, allocate=allocate))


def _divide(source: Path, scene: Gaussians, work: Work, chunk: int, notes: Console) -> Division:
    with progress_bar(notes, f"dividing {source.name}", "splats") as told:

        def progress(done: int, total: int) -> None:
            work.release()
            told(done, total)

        return within(str(source), lambda scene: work.divide(scene, chunk, progress), scene)
