"""Streamed SOG: a scene at several levels of detail, a tree of boxes in lod-meta.json over SOGs in folders beside it.

lod-meta.json: {"version": 1 or absent, "lodLevels": of which 0 is the finest, "counts": [splats per level] or absent,
"filenames": [relative paths of SOGs], "environment": such a path or null or absent, "tree": node}. A node is {"bound",
"children": [nodes]} or {"bound", "lods": {"level": {"file": index into filenames, "offset", "count"}}}. A level is the
ranges of its leaves, here in tree order, and after them the environment: splats far away that belong to every level.
Source: developer.playcanvas.com, user manual, "The Streamed SOG Format".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import cause, file_size, read_bytes
from ..scene.gaussians import Gaussians
from . import sog
from .format import About, Format, Reading, blocks
from .sog_meta import Meta, folder_parts, open_source, parse_json, plain_name, read_meta, whole

NAME = "lod-meta.json"
INDEX_LIMIT = 64 << 20  # bytes of lod-meta.json; those of large cities have some 20 MB
LEVEL_LIMIT = 64
FILE_LIMIT = 4096  # of 2^19 splats each, as they are usually cut: two thousand million splats
SPLATS_PER_BYTE = 64  # of all the images of positions together; real ones stay below 2


@dataclass(frozen=True)
class Range:
    """Splats that follow one another in a file."""

    file: str  # path from the folder of the index
    offset: int
    count: int | None  # None for all of them


@dataclass(frozen=True)
class Index:
    """A checked lod-meta.json."""

    path: Path
    levels: list[list[Range]]  # of each level in tree order, disjoint
    environment: Range | None


def matches(path: Path, head: bytes) -> bool:
    """Whether a path is a folder with a lod-meta.json and no meta.json, or that file."""
    if path.is_dir():
        return (path / NAME).is_file() and not (path / "meta.json").exists()
    return path.name == NAME and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def load(path: Path, reading: Reading) -> Gaussians:
    """Reads one level, and the environment where there is one.

    Returns:
        As `sog.load`. Where files differ in their SH, those with fewer get zeros.

    Raises:
        InputError: the index or a file that the level needs is missing, damaged or does not fit.
    """
    index = _index(path)
    if not 0 <= reading.level < len(index.levels):
        told = f"level {reading.level} is out of range, it has {len(index.levels)}"
        raise InputError(f"{path}: {told}: give 0 to {len(index.levels) - 1}")
    ranges = index.levels[reading.level] + ([index.environment] if index.environment else [])
    metas = _metas(index, ranges)
    spans = [_span(index, part, metas[part.file]) for part in ranges]
    starts = [0]
    for span in spans:
        starts.append(starts[-1] + span.stop - span.start)
    total, done = starts[-1], 0
    scene = reading.allocate(total, max(meta.sh_count for meta in metas.values()))
    for file, meta in metas.items():
        with open_source(index.path.parent / file) as source:
            texels = sog.read_texels(source, meta)
        for part, span, start in zip(ranges, spans, starts, strict=False):
            for piece in blocks(span.stop - span.start) if part.file == file else ():
                place = slice(start + piece.start, start + piece.stop)
                sog.decode(texels, slice(span.start + piece.start, span.start + piece.stop), scene, place)
                done += piece.stop - piece.start
                reading.progress(done, total)
    return scene


def about(path: Path) -> About:
    """What lod-meta.json says, and meta.json of the environment."""
    index = _index(path)
    splats = sum(part.count or 0 for part in index.levels[0])
    if index.environment:
        splats += _meta(index, index.environment.file).count
    return About("streamed SOG", splats, levels=len(index.levels))


def _metas(index: Index, ranges: list[Range]) -> dict[str, Meta]:
    """meta.json of each file that is needed, in order of first use; their splats are within reason for their bytes."""
    metas: dict[str, Meta] = {}
    proven = sog.SMALL
    for part in ranges:
        if part.file not in metas:
            with open_source(index.path.parent / part.file) as source:
                metas[part.file] = meta = read_meta(source)
                proven += SPLATS_PER_BYTE * len(source.read(meta.files["means"][0]))
    if (total := sum(meta.count for meta in metas.values())) > proven:
        raise InputError(f"{index.path}: {total} splats are far too many for the size of its images, export it again")
    return metas


def _meta(index: Index, file: str) -> Meta:
    with open_source(index.path.parent / file) as source:
        return read_meta(source)


def _span(index: Index, part: Range, meta: Meta) -> slice:
    """The splats of a range, which must lie in its file."""
    count = meta.count - part.offset if part.count is None else part.count
    if part.offset + count > meta.count:
        told = f"splats {part.offset} to {part.offset + count} of {part.file}, which has {meta.count}"
        raise InputError(f"{index.path}: names {told}: export it again")
    return slice(part.offset, part.offset + count)


def _index(path: Path) -> Index:
    path = path / NAME if path.is_dir() else path
    if (size := file_size(path)) > INDEX_LIMIT:
        raise InputError(f"{path}: has {size} bytes, more than {INDEX_LIMIT} are not read: cut the scene into fewer")
    raw = parse_json(path, NAME, read_bytes(path))
    if raw.get("version", 1) != 1:
        raise InputError(f"{path}: streamed SOG version {str(raw['version'])[:40]}, only 1 is read: export it again")
    try:
        return _checked(path, raw)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: does not fit streamed SOG ({cause(error)}), export it again") from error


def _checked(path: Path, raw: dict[str, Any]) -> Index:
    files = [_file(name) for name in raw["filenames"]]
    if len(files) > FILE_LIMIT:
        raise ValueError(f"{len(files)} files, more than {FILE_LIMIT}")
    if len(set(files)) < len(files):
        raise ValueError("a file is named twice")
    count = whole(raw["lodLevels"], "lodLevels")
    if count > LEVEL_LIMIT:
        raise ValueError(f"lodLevels {count} is above {LEVEL_LIMIT}")
    levels: list[list[Range]] = [[] for _ in range(count)]
    for level, value in _leaves(raw["tree"]):
        if level not in map(str, range(count)):
            raise ValueError(f"level {str(level)[:40]!r} of {count}")
        file = files[_below(value["file"], "file", len(files))]
        part = Range(file, whole(value["offset"], "offset", 0), whole(value["count"], "count", 0))
        levels[int(level)] += [part] if part.count else []
    counts = raw.get("counts") or [None] * count
    if not isinstance(counts, list) or len(counts) != count:
        raise ValueError(f"counts {str(counts)[:40]} for {count} levels")
    for level, (ranges, told) in enumerate(zip(levels, counts, strict=True)):
        _check_level(level, ranges, told)
    environment = raw.get("environment")
    return Index(path, levels, Range(_file(environment), 0, None) if environment is not None else None)


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    """Levels and their ranges, depth first; a stack, as trees are deeper than calls may be."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield from (node.get("lods") or {}).items()
        stack += reversed(node.get("children") or [])


def _check_level(level: int, ranges: list[Range], declared: Any) -> None:
    """A level holds splats, each once, as many as were declared if they were."""
    total, end = 0, ("", 0)
    for part in sorted(ranges, key=lambda part: (part.file, part.offset)):
        if part.file == end[0] and part.offset < end[1]:
            raise ValueError(f"level {level} names splat {part.offset} of {part.file} twice")
        end = part.file, part.offset + (part.count or 0)
        total += part.count or 0
    if not total:
        raise ValueError(f"level {level} is empty")
    if declared not in (None, total):
        raise ValueError(f"level {level} has {total} splats where counts says {str(declared)[:40]}")


def _below(value: Any, name: str, limit: int) -> int:
    if whole(value, name, 0) >= limit:
        raise ValueError(f"{name} {str(value)[:40]} of {limit}")
    return value


def _file(name: Any) -> str:
    """A path that stays in the folder of the index."""
    if not isinstance(name, str) or not all(plain_name(part) for part in name.split("/")):
        raise ValueError(f"{str(name)[:40]!r} leads out of the folder or is no file name")
    return name


FORMAT = Format("streamed SOG", (NAME,), "rdf", matches, load, about, parts=folder_parts)
