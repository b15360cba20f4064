"""What glTF 2.0 files are made of: a .gltf or .glb container, its JSON, and buffers within and beside it.

.glb: u32 magic `glTF`, u32 version 2, u32 length, then chunks of u32 length, u32 kind and bytes: JSON first, then BIN,
which is buffer 0 where that has no uri. .gltf: the JSON alone, its buffers in `data:` URIs or in files beside it.
Nothing is opened outside of the folder of the scene.
Source: Khronos, "glTF 2.0 Specification", sections 3.6.1 and 4.
"""

import base64
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from ..errors import InputError
from ..files import cause, file_size, read_bytes

MAGIC = b"glTF"
JSON_LIMIT = 1 << 28  # bytes; more of a scene belongs into a .bin beside it
VALUES_LIMIT = 1 << 20  # values in the JSON, each of which costs far more memory than its text
JSON_CHUNK, BIN_CHUNK = b"JSON", b"BIN\0"
INTEGER_LIMIT = 1 << 53


@dataclass(frozen=True)
class Buffer:
    """Bytes that accessors point into."""

    length: int
    read: Callable[[int, int], bytes | bytearray]  # start and count, within the length
    outside: bool = False  # in a file beside the scene


@dataclass(frozen=True)
class Document:
    """An opened file: checked JSON, and buffers that are found when they are asked for."""

    path: Path
    size: int  # bytes of the file itself
    json: dict[str, Any]
    binary: Buffer | None  # the BIN chunk
    buffers: dict[int, Buffer] = field(default_factory=dict)  # those found so far

    def buffer(self, index: int) -> Buffer:
        """A buffer by its number."""
        if index not in self.buffers:
            self.buffers[index] = _buffer(self, index)
        return self.buffers[index]

    def bytes(self) -> int:
        """Bytes of the file and of the buffers beside it that were found so far."""
        return self.size + sum(buffer.length for buffer in self.buffers.values() if buffer.outside)


def open_document(path: Path) -> Document:
    """The JSON of a .gltf or .glb, told apart by content.

    Raises:
        InputError: not such a file, another version, damaged, or JSON that is ambiguous or beyond all measure.
    """
    size, head = file_size(path), read_bytes(path, 12)
    if not head.startswith(MAGIC):
        if size > JSON_LIMIT:
            raise InputError(f"{path}: {size} bytes of JSON: export it as .glb or with a .bin beside it")
        return Document(path, size, _parsed(path, read_bytes(path)), None)
    if len(head) < 12:
        raise InputError(f"{path}: truncated, a .glb of {size} bytes: fetch or export it again")
    version, length = struct.unpack("<2I", head[4:])
    if version != 2:
        raise InputError(f"{path}: glTF version {version}, only 2 is read: export it again")
    if length != size:
        told = "truncated" if length > size else "more than it should be"
        raise InputError(f"{path}: {told}, it says {length} bytes and has {size}: fetch or export it again")
    chunks = _chunks(path, size)
    if not chunks or chunks[0][0] != JSON_CHUNK or chunks[0][2] > JSON_LIMIT:
        raise InputError(f"{path}: does not begin with JSON, export it again")
    text = _read_at(path, chunks[0][1], chunks[0][2])
    binary = None
    if len(chunks) > 1 and chunks[1][0] == BIN_CHUNK:
        start = chunks[1][1]
        binary = Buffer(chunks[1][2], lambda at, count: _read_at(path, start + at, count))
    return Document(path, size, _parsed(path, text), binary)


def element(document: Document, name: str, index: Any) -> dict[str, Any]:
    """An object of one of the top-level lists, by its number.

    Raises:
        ValueError: no such list or object.
    """
    values = document.json.get(name, [])
    if not isinstance(values, list) or not isinstance(index, int) or isinstance(index, bool):
        refuse(f"{name} are named by {str(index)[:40]!r}")
    if not 0 <= index < len(values):
        refuse(f"{name} {str(index)[:40]} is named, there are {len(values)}")
    if not isinstance(values[index], dict):
        refuse(f"{name} {index} is not an object")
    return values[index]


def integer(raw: dict[str, Any], key: str, default: int | None = None) -> int:
    """A whole number of 0 or more.

    Raises:
        ValueError: it is missing without a default, or something else.
    """
    value = raw[key] if default is None else raw.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < INTEGER_LIMIT:
        refuse(f"{key} {str(value)[:40]!r} is not a whole number of 0 or more")
    return value


def refuse(told: str) -> NoReturn:
    """Says what does not fit.

    Raises:
        ValueError: always.
    """
    raise ValueError(told)


def _buffer(document: Document, index: int) -> Buffer:
    raw = element(document, "buffers", index)
    length, uri = integer(raw, "byteLength"), raw.get("uri")
    if uri is None:
        if index or document.binary is None:
            refuse(f"buffer {index} has neither a uri nor the binary chunk")
        found = document.binary
    elif not isinstance(uri, str):
        refuse(f"the uri of buffer {index} is not text")
    elif uri.startswith("data:"):
        found = _embedded(uri, index)
    else:
        found = _beside(document.path, uri)
    if found.length < length:
        refuse(f"buffer {index} promises {length} bytes and has {found.length}")
    return Buffer(length, found.read, found.outside)


def _embedded(uri: str, index: int) -> Buffer:
    kind, comma, text = uri.partition(",")
    if not comma or not kind.endswith(";base64"):
        refuse(f"the data of buffer {index} are not in base64")
    data = base64.b64decode(text, validate=True)
    return Buffer(len(data), lambda at, count: data[at : at + count])


def _beside(path: Path, uri: str) -> Buffer:
    """A file in the folder of the scene or below it; nothing else is ever opened."""
    name = unquote(uri)
    plain = name.isprintable() and not any(c in name for c in "\\:") and not name.startswith("/")
    folder = path.parent.resolve()
    if not name or not plain or ".." in name.split("/") or not (folder / name).resolve().is_relative_to(folder):
        refuse(f"{uri[:60]!r} is not the name of a file beside it")
    try:
        size = file_size(folder / name)
    except InputError as error:
        told = str(error).removeprefix(f"{folder / name}: ").partition(",")[0]
        refuse(f"{name[:60]!r} beside it: {told}")
    return Buffer(size, lambda at, count: _read_at(folder / name, at, count), outside=True)


def _chunks(path: Path, size: int) -> list[tuple[bytes, int, int]]:
    """Kind, start and length of the first two chunks of a .glb; all must fit."""
    chunks, start = [], 12
    with path.open("rb") as stream:
        while start < size and len(chunks) < 2:
            stream.seek(start)
            head = stream.read(8)
            length = struct.unpack("<I", head[:4])[0] if len(head) == 8 else size
            if start + 8 + length > size:
                raise InputError(f"{path}: truncated within a chunk: fetch or export it again")
            chunks.append((head[4:], start + 8, length))
            start += 8 + length
    return chunks


def _read_at(path: Path, start: int, count: int) -> bytes | bytearray:
    try:
        with path.open("rb", buffering=0) as stream:
            stream.seek(start)
            data = bytearray(count)
            left = memoryview(data)
            while left and (got := stream.readinto(left)):
                left = left[got:]
    except OSError as error:
        raise InputError(f"{path}: {cause(error)}, give a file that can be read") from error
    if left:
        raise InputError(f"{path}: truncated while it was read, fetch or export it again")
    return data


def _parsed(path: Path, text: bytes | bytearray) -> dict[str, Any]:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(found)
        if len(values) < len(found):
            refuse("it gives a key twice")
        return values

    def constant(name: str) -> NoReturn:
        refuse(f"it holds {name}")

    try:
        if sum(text.count(mark) for mark in (b"[", b"{", b",")) > VALUES_LIMIT:
            refuse(f"it holds more than {VALUES_LIMIT} values")
        raw = json.loads(text.decode("utf-8-sig"), object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({cause(error)}), export it again") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: its JSON is not an object, export it again")
    return raw
