"""Damage to scene files, at every depth: to the bytes, and to what they hold once unpacked.

What was unpacked (gzip, zip, JSON, glTF chunks) is packed again, so that checksums and lengths do not give it away.
"""

import gzip
import io
import json
import random
import struct
import zipfile
import zlib
from typing import Any

NUMBERS = (0, 1, 2, 3, 4, 127, 128, 255, 256, 257, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
Files = dict[str, bytes]  # by name; the first is what is opened


def damaged(files: Files, rng: random.Random) -> Files:
    """One to four wounds in one of the files."""
    name = rng.choice(list(files))
    data = files[name]
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = _wound(data, rng)
    return {**files, name: data}


def _wound(data: bytes, rng: random.Random) -> bytes:
    """Damage to the bytes, or to what they hold."""
    if rng.random() < 0.6:
        try:
            if data[:2] == b"\x1f\x8b":
                return gzip.compress(_wound(gzip.decompress(data), rng), 1)
            if data[:2] == b"PK":
                return _in_zip(data, rng)
            if data[:4] == b"glTF":
                return _in_glb(data, rng)
            if data.lstrip()[:1] in (b"{", b"["):
                return _in_json(data, rng)
        except (ValueError, EOFError, OSError, RuntimeError, zlib.error, zipfile.BadZipFile, struct.error):
            pass  # an earlier wound has closed this door
    return _in_bytes(data, rng)


def _in_bytes(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(min(len(data), 400) if rng.random() < 0.5 else len(data)) if data else 0
    kind = rng.randrange(9)
    if kind == 0:
        return data[:place]
    if kind == 1 and data:
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if kind == 2:
        return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place:]
    if kind == 3:
        return data[:place] + data[place + rng.randrange(1, 9) :]
    if kind == 4:
        run = bytes(rng.choice((4, 16, 64)))
        return data[:place] + run + data[place + len(run) :]
    if kind == 5:
        return data[:place] + data[max(0, place - 40) : place + 40] + data[place:]
    if kind == 6:
        return data + data[place : place + rng.choice((1, 100, 10_000))] * rng.choice((1, 50))
    width, letter = rng.choice(((1, "B"), (2, "<H"), (4, "<I"), (4, ">I"), (8, "<Q"), (4, "<f")))
    if letter == "<f":
        number: Any = rng.choice((float("nan"), float("inf"), -float("inf"), 3e38, -1e-42, 0.0))
    else:
        number = rng.choice(NUMBERS) % 2 ** (8 * width)
    place -= place % width if kind == 7 else 0
    return data[:place] + struct.pack(letter, number) + data[place + width :]


def _in_zip(data: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    kind = rng.randrange(8)
    if kind == 0:
        members.pop(name)
    elif kind == 1:
        members[rng.choice(("../x", "/etc/passwd", "a/b", name.upper(), "x" * 300, "meta.json"))] = members.pop(name)
    elif kind == 2:
        members[name] = members[rng.choice(list(members))]
    else:
        members[name] = _wound(members[name], rng)
    stream = io.BytesIO()
    with zipfile.ZipFile(
        stream, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as out:
        for name, member in members.items():
            out.writestr(name, member)
    return stream.getvalue()


def _in_glb(data: bytes, rng: random.Random) -> bytes:
    length = struct.unpack_from("<I", data, 12)[0]
    text, rest = data[20 : 20 + length], data[20 + length :]
    text = _in_json(text, rng)
    text += b" " * (-len(text) % 4)
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest


def _in_json(data: bytes, rng: random.Random) -> bytes:
    """Another value somewhere in the tree."""
    tree = json.loads(data)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(value, dict | list):
                walk(value)

    walk(tree)
    if not places:
        return data
    node, key = rng.choice(places)
    kind = rng.randrange(7)
    if kind == 0:
        del node[key]
    elif kind == 1:
        node[key] = rng.choice((None, True, "", "x", [], {}, -1, 1.5, 1e308, "NaN", [[[]]], {"": {}}))
    elif kind == 2:
        node[key] = rng.choice(NUMBERS) * rng.choice((1, 1, -1))
    elif kind == 3:
        node[key] = rng.choice(places)[0]
        return json.dumps(tree, check_circular=True).encode()  # a circle raises: another wound then
    elif kind == 4 and isinstance(node[key], list):
        node[key] = node[key] * rng.choice((0, 2, 1000))
    elif kind == 5 and isinstance(node[key], str):
        node[key] = rng.choice(
            ("../" + node[key], "/" + node[key], node[key] + "\0", "data:,x", "http://x/y", "a" * 9999)
        )
    else:
        return data.replace(json.dumps(node[key]).encode(), b"[" * 2000 + b"]" * 2000, 1)
    return json.dumps(tree).encode()
