"""JPEG, PNG and WebP files without what they tell beside the picture: place, time, camera, people, thumbnails.

The coded picture is copied byte for byte, so what it decodes to does not change. All else goes unless it is listed here
as needed to decode, so that what nobody has thought of goes too. An orientation that is not upright comes back in an
EXIF block of its own. ICC profiles go, since they name devices and carry serial numbers: colours then read as sRGB.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from ..errors import InputError

LONGEST = 1 << 29  # bytes of a file
ORIENTATION, UPRIGHT = 0x0112, 1
CUT_SHORT = "ends too early: give the whole file"

PNG_SIGN = b"\x89PNG\r\n\x1a\n"
PNG_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
PNG_KEPT = PNG_CRITICAL | {b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"bKGD", b"cICP", b"mDCV", b"cLLI"}

WEBP_KEPT = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH"}
WEBP_ALPHA, WEBP_EXIF, WEBP_ANIMATED = 0x10, 0x08, 0x02  # flags of VP8X

SOI, EOI, SOS, JFIF, EXIF, ADOBE = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE
JPEG_KEPT = {*range(0xC0, 0xD0), SOS, 0xDB, 0xDD} - {0xC8}  # frames, Huffman tables, scans, quantisation, restarts
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # that ends a scan


def strip(data: bytes) -> tuple[bytes, str]:
    """The same picture and nothing else, and the ending that suits its format: .jpg, .png or .webp.

    Raises:
        InputError: not a JPEG, PNG or WebP, an animation, damaged, or longer than 512 MiB.
    """
    if len(data) > LONGEST:
        raise InputError(f"has {len(data)} bytes: give at most {LONGEST}")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return _strip_jpeg(data), ".jpg"
        if data.startswith(PNG_SIGN):
            return _strip_png(data), ".png"
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _strip_webp(data), ".webp"
    except (struct.error, IndexError):
        raise InputError(CUT_SHORT) from None
    raise InputError(f"is no JPEG, PNG or WebP, its first bytes are {data[:8].hex(' ')}: convert it to one of them")


def _strip_jpeg(data: bytes) -> bytes:
    """ITU T.81, annex B. What follows the end of the picture (previews, gain maps, films) goes too."""
    kept, orientation, scanned = [], None, False
    for marker, segment, scan in _segments(data):
        if marker in JPEG_KEPT:
            kept.append(_segment(marker, segment) + scan)
            scanned |= marker == SOS
        elif marker == JFIF and segment.startswith(b"JFIF\0") and len(segment) >= 14:
            kept.append(_segment(JFIF, segment[:12] + b"\0\0"))  # without its thumbnail
        elif marker == ADOBE and segment.startswith(b"Adobe") and len(segment) >= 12:
            kept.append(_segment(ADOBE, segment[:12]))  # says how colours are coded
        elif marker == EXIF and segment.startswith(b"Exif\0\0") and orientation is None:
            orientation = _orientation(segment[6:])
    if not scanned:
        raise InputError("holds no picture: give a whole JPEG")
    if orientation is not None:
        place = 1 if kept[0][1] == JFIF else 0
        kept.insert(place, _segment(EXIF, b"Exif\0\0" + _exif(orientation)))
    return b"\xff\xd8" + b"".join(kept) + b"\xff\xd9"


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Markers up to the end of the picture, each with its content and, of a scan, the coded data behind it."""
    place = 2
    while True:
        if data[place] != 0xFF:
            raise InputError(f"is damaged: byte {place} is no JPEG marker")
        while data[place] == 0xFF:  # as many as there are
            place += 1
        marker = data[place]
        if marker == EOI:
            return
        (length,) = struct.unpack_from(">H", data, place + 1)
        start, end = place + 3, place + 1 + length
        if length < 2 or end > len(data) or marker in (0x00, SOI):
            raise InputError(CUT_SHORT if end > len(data) else f"is damaged: marker {marker:02x} at byte {place}")
        place = end
        if marker == SOS:
            found = MARKER.search(data, end)
            if found is None:
                raise InputError(CUT_SHORT)
            place = found.start()
        yield marker, data[start:end], data[end:place]


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _strip_png(data: bytes) -> bytes:
    """Portable Network Graphics, third edition; of an animation the still picture stays."""
    kept, orientation, place, kind = [PNG_SIGN], None, len(PNG_SIGN), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, place)
        chunk = data[place : place + 12 + length]
        if len(chunk) < 12 + length:
            raise InputError(CUT_SHORT)
        if zlib.crc32(chunk[4:-4]) != struct.unpack(">I", chunk[-4:])[0]:
            raise InputError(f"is damaged: chunk {kind!r} at byte {place} fails its checksum")
        if kind not in PNG_KEPT and not kind[0] & 0x20:  # a capital letter: needed to decode
            raise InputError(f"has chunk {kind!r}, which is no standard PNG: convert it to one")
        if kind == b"IDAT" and orientation is not None:
            kept.append(_chunk(b"eXIf", _exif(orientation)))
            orientation = None
        if kind in PNG_KEPT:
            kept.append(chunk)
        elif kind == b"eXIf":
            orientation = _orientation(chunk[8:-4])
        place += 12 + length
    if not any(chunk[4:8] == b"IDAT" for chunk in kept[1:]):
        raise InputError("holds no picture: give a whole PNG")
    return b"".join(kept)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _strip_webp(data: bytes) -> bytes:
    """RFC 9649."""
    (size,) = struct.unpack_from("<I", data, 4)
    if len(data) < 8 + size:
        raise InputError(CUT_SHORT)
    kept: list[tuple[bytes, bytes]] = []
    orientation, place = None, 12
    while place < 8 + size:
        kind, length = struct.unpack_from("<4sI", data, place)
        content = data[place + 8 : place + 8 + length]
        if len(content) < length:
            raise InputError(CUT_SHORT)
        if kind == b"VP8X" and content[0] & WEBP_ANIMATED:
            raise InputError("is an animation: give single pictures")
        if kind in WEBP_KEPT:
            kept.append((kind, content))
        elif kind == b"EXIF":
            orientation = _orientation(content.removeprefix(b"Exif\0\0"))
        place += 8 + length + length % 2
    if not any(kind in (b"VP8 ", b"VP8L") for kind, _ in kept):
        raise InputError("holds no picture: give a whole WebP")
    if kept[0][0] == b"VP8X":  # without it there is no EXIF either
        flags = kept[0][1][0] & WEBP_ALPHA | (0 if orientation is None else WEBP_EXIF)
        kept[0] = (b"VP8X", bytes([flags, 0, 0, 0]) + kept[0][1][4:10])
        if orientation is not None:
            kept.append((b"EXIF", _exif(orientation)))
    chunks = (struct.pack("<4sI", kind, len(content)) + content + b"\0" * (len(content) % 2) for kind, content in kept)
    body = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _orientation(tiff: bytes) -> int | None:
    """The orientation, 2 to 8, in the first directory of a TIFF; None where it is upright, absent or damaged."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    try:
        (place,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, place)
        for i in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, place + 2 + 12 * i)
            if tag == ORIENTATION and kind == 3:  # a short
                return value if UPRIGHT < value <= 8 else None
    except struct.error:
        pass
    return None


def _exif(orientation: int) -> bytes:
    """A TIFF of one directory with one tag."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, ORIENTATION, 3, 1, orientation, 0, 0)
