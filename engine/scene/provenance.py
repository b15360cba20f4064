"""Where a scene came from: what made it, from which files, by which operations, under which licence and consent.

One line of JSON, kept in the file where the format has a place for it and beside it in NAME.provenance.json where it
has none. It holds no times, no names of people or machines and no folders, so that the same work gives the same bytes:

    {"made_by": "lyra 0.1.0", "licence": "CC-BY-4.0", "consent": "...", "operations": [{"convert": {"sh": 1}}],
     "sources": [{"name": "in.ply", "bytes": 123, "sha256": "...", "history": {...}}]}

`history` is the provenance that a source carried itself. All of it is claimed, nothing is signed.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ..errors import InputError
from ..files import cause, file_size, files_under, read_bytes, replacing

MADE_BY = f"lyra {__version__}"
SIDECAR = ".provenance.json"
DEPTH = 32  # of history that is kept
MANY = 100  # sources that are kept one by one
LIMIT = 1 << 16  # bytes of a note; older history is dropped to keep below it
PIECE = 1 << 20  # bytes that are hashed at a time


@dataclass(frozen=True)
class Source:
    """One file that went into a scene."""

    name: str  # without its folders
    bytes: int
    sha256: str
    history: "Provenance | None" = None


@dataclass(frozen=True)
class Provenance:
    """What is known of how a scene was made."""

    made_by: str = MADE_BY
    licence: str | None = None  # an SPDX expression or a sentence
    consent: str | None = None  # what the people shown agreed to
    operations: tuple[dict[str, Any], ...] = ()  # in order, each {name: options}
    sources: tuple[Source, ...] = ()


def provenance_of(
    sources: Sequence[Source],
    operations: Sequence[dict[str, Any]],
    *,
    licence: str | None = None,
    consent: str | None = None,
) -> Provenance:
    """The provenance of a scene made here; licence and consent are the sources' own where all of them agree."""
    return Provenance(
        licence=licence or _shared(sources, "licence"),
        consent=consent or _shared(sources, "consent"),
        operations=tuple(operations),
        sources=tuple(sources),
    )


def source_of(path: Path, note: str | None, files: Sequence[Path] = ()) -> Source:
    """What a scene was read from, with the provenance that it carries.

    Args:
        files: all that belong to it, hashed by name and content; by default the one at `path`, or all in that folder.

    Raises:
        InputError: one cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    folder = path if path.is_dir() else path.parent
    files = files or (files_under(path) if path.is_dir() else [path])
    for file in files:
        if len(files) > 1 or path.is_dir():
            digest.update(os.fsencode(os.path.relpath(file, folder)) + b"\0")
        size += file_size(file)
        try:
            with file.open("rb") as stream:
                while piece := stream.read(PIECE):
                    digest.update(piece)
        except OSError as error:
            raise InputError(f"{file}: {cause(error)}, give a file that can be read") from error
    return Source(path.resolve().name, size, digest.hexdigest(), read_note(note))


def write_note(provenance: Provenance) -> str:
    """One line of ASCII JSON of at most LIMIT bytes; of too long a history the oldest part is left out."""
    depth = DEPTH
    if len(provenance.sources) > MANY:
        provenance = dataclasses.replace(provenance, sources=_folded(provenance.sources))
    while len(text := json.dumps(_plain(provenance, depth))) > LIMIT and depth:
        depth -= 1
    if len(text) > LIMIT:
        raise InputError(f"provenance of {len(text)} bytes is too long, at most {LIMIT}: shorten licence and consent")
    return text


def read_note(text: str | None) -> Provenance | None:
    """The provenance that a file carries; None where it carries none, or something else."""
    if text is None or len(text) > LIMIT:
        return None
    try:
        return _provenance(_shallow(json.loads(text, parse_constant=_refuse, parse_float=_finite)))
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None


def read_sidecar(path: Path) -> str | None:
    """The note beside a file, if it was written for this very file."""
    sidecar = sidecar_of(path)
    if not sidecar.is_file() or sidecar.stat().st_size > 2 * LIMIT:
        return None
    try:
        beside = json.loads(read_bytes(sidecar))
        fits = beside["sha256"] == source_of(path, None).sha256
        return json.dumps(beside["provenance"]) if fits else None
    except (InputError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_sidecar(path: Path, note: str | None) -> None:
    """Puts a note beside a file that was just written; None takes an older one away."""
    sidecar = sidecar_of(path)
    if note is None:
        sidecar.unlink(missing_ok=True)
        return
    beside = {"sha256": source_of(path, None).sha256, "provenance": json.loads(note)}
    with replacing(sidecar) as stream:
        stream.write(json.dumps(beside, indent=1).encode() + b"\n")


def sidecar_of(path: Path) -> Path:
    """Where the provenance of a file lies that cannot carry it."""
    return path.with_name(path.name + SIDECAR)


def _folded(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """The first sources, and the rest as one with the hash of their hashes."""
    rest = sources[MANY:]
    digest = hashlib.sha256("".join(source.sha256 for source in rest).encode()).hexdigest()
    return (*sources[:MANY], Source(f"{len(rest)} more", sum(source.bytes for source in rest), digest))


def _shallow(value: Any) -> Any:
    """JSON values, unless they are nested deeper than a note of ours."""
    level = [value]
    for _ in range(8 * DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise ValueError("nested too deep")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _finite(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is beyond float64")
    return float(text)


def _shared(sources: Sequence[Source], field: str) -> str | None:
    """What all sources say, else None."""
    said = {getattr(source.history, field, None) for source in sources}
    return said.pop() if len(said) == 1 else None


def _plain(provenance: Provenance, depth: int) -> dict[str, Any]:
    """As JSON values without what is None, history down to a depth."""
    plain = {field.name: getattr(provenance, field.name) for field in dataclasses.fields(provenance)}
    plain["operations"] = list(provenance.operations)
    plain["sources"] = [
        {"name": source.name, "bytes": source.bytes, "sha256": source.sha256}
        | ({"history": _plain(source.history, depth - 1)} if source.history and depth else {})
        for source in provenance.sources
    ]
    return {name: value for name, value in plain.items() if value not in (None, [])}


def _provenance(raw: Any) -> Provenance:
    return Provenance(
        made_by=_text(raw["made_by"]),
        licence=_text(raw["licence"]) if "licence" in raw else None,
        consent=_text(raw["consent"]) if "consent" in raw else None,
        operations=tuple(dict(operation) for operation in raw.get("operations", ())),
        sources=tuple(_source(source) for source in raw.get("sources", ())),
    )


def _source(raw: Any) -> Source:
    history = _provenance(raw["history"]) if "history" in raw else None
    return Source(_text(raw["name"]), int(raw["bytes"]), _text(raw["sha256"]), history)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} where text belongs")
    return value
