"""The containers of .spz: a header, then for each attribute in turn the bytes of all splats.

Header: "NGSP", uint32 version, uint32 splats, uint8 SH degree, uint8 fraction bits, uint8 flags (1 antialiased,
2 extensions), uint8 streams. Attributes: means, opacities, colors, scales, quats, sh (if the degree is not 0).
    versions 1 to 3  all of it in one gzip; extensions, where there are any, after the attributes
    version 4        the header, uint32 place of the table, 12 bytes of 0, extensions up to the table, the table (uint64
                     compressed, uint64 raw bytes of each stream), then one zstandard stream an attribute
Extensions (a safe orbit, a coordinate system, those of vendors) are stepped over. Versions 1 to 3 are read without
their gzip too.
Source: nianticlabs/spz, src/cc/load-spz.cc.
"""

import gzip
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from ..decompression import check_end, expansion_limit, read_exactly, read_some
from ..errors import InputError
from ..files import cause, map_bytes, read_bytes

MAGIC, GZIP = b"NGSP", b"\x1f\x8b"
VERSIONS, TABLE_VERSION = range(1, 5), 4
FIXED = struct.Struct("<4sIIBBBB")  # of the header
TABLE_PLACE = struct.Struct("<I12x")  # goes on from FIXED in version 4
HEADER_SIZE = FIXED.size + TABLE_PLACE.size
ENTRY = struct.Struct("<QQ")
ANTIALIASED, EXTENSIONS = 1, 2
DEGREE_LIMIT = 4
FRACTION_LIMIT = 30
WINDOW = 1 << 27  # bytes that zstandard may look back
GZIP_LEVEL, GZIP_STRATEGY = 6, zlib.Z_RLE  # three times as fast as the default, for files of -5 to +5 % the size
ZSTD_LEVEL = 3

ReadAttribute = Callable[[str, int], bytearray]  # exactly so many next bytes of an attribute


@dataclass(frozen=True)
class Header:
    """What an .spz says of itself."""

    version: int
    splats: int
    degree: int  # of SH, 0 to 4
    fraction_bits: int  # of positions
    antialiased: bool
    extended: bool = False  # holds extensions

    @property
    def widths(self) -> dict[str, int]:
        """Bytes that a splat takes in each attribute, in file order."""
        widths = {
            "means": 6 if self.version == 1 else 9,
            "opacities": 1,
            "colors": 3,
            "scales": 3,
            "quats": 3 if self.version < 3 else 4,
            "sh": 3 * ((self.degree + 1) ** 2 - 1),
        }
        return {name: width for name, width in widths.items() if width}


def read_header(path: Path) -> Header:
    """The header of an .spz.

    Raises:
        InputError: the file cannot be read, is no .spz, of another version, or out of range.
    """
    with _plain(path) as stream:
        return _header(path, stream)


@contextmanager
def open_streams(path: Path) -> Iterator[tuple[Header, ReadAttribute]]:
    """The header, and a function that gives the bytes of the attributes.

    Attributes are read in their order and to their ends; when the block ends well, it is checked that nothing follows.

    Raises:
        InputError: as `read_header`; a size that the file cannot hold, truncated, damaged, or more than promised.
    """
    with _plain(path) as stream:
        header = _header(path, stream)
        promised, limit = header.splats * sum(header.widths.values()), expansion_limit(path)
        if promised > limit:
            told = f"{header.splats} splats of SH degree {header.degree} expand to {promised} bytes"
            raise InputError(f"{path}: {told}, its size allows {limit}: fetch or export it again")
        if header.version < TABLE_VERSION:
            yield header, lambda name, size: read_exactly(path, stream.read, size)
            check_end(path, stream.read, limit - promised if header.extended else 0)
        else:
            readers = _readers(path, header)
            yield header, lambda name, size: read_exactly(path, readers[name].read, size)
            for reader in readers.values():
                check_end(path, reader.read)


def write_streams(stream: BinaryIO, header: Header, attributes: Iterable[Iterable[bytes]]) -> None:
    """Writes an .spz whose attributes come in pieces."""
    flags = ANTIALIASED * header.antialiased
    numbers = (MAGIC, header.version, header.splats, header.degree, header.fraction_bits, flags)
    if header.version < TABLE_VERSION:
        packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS, strategy=GZIP_STRATEGY)
        stream.write(packer.compress(FIXED.pack(*numbers, 0)))
        for pieces in attributes:
            for piece in pieces:
                stream.write(packer.compress(piece))
        stream.write(packer.flush())
        return
    widths = header.widths.values()
    stream.write(FIXED.pack(*numbers, len(widths)) + TABLE_PLACE.pack(HEADER_SIZE))
    stream.write(bytes(ENTRY.size * len(widths)))
    for index, (width, pieces) in enumerate(zip(widths, attributes, strict=True)):
        start, size = stream.tell(), width * header.splats
        packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compressobj(size=size)
        for piece in pieces:
            stream.write(packer.compress(piece))
        stream.write(packer.flush())
        end = stream.tell()
        stream.seek(HEADER_SIZE + index * ENTRY.size)
        stream.write(ENTRY.pack(end - start, size))
        stream.seek(end)


@contextmanager
def _plain(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """The file from its header on, its gzip undone where it has one."""
    packed = read_bytes(path, len(GZIP)) == GZIP
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            raise InputError(f"{path}: {cause(error)}, give a file that can be read") from error
        yield stack.enter_context(gzip.GzipFile(fileobj=file)) if packed else file


def _header(path: Path, stream: BinaryIO | gzip.GzipFile) -> Header:
    head = read_some(path, stream.read, FIXED.size)
    if not head.startswith(MAGIC):
        told = f"its content begins with {head[:4].hex(' ')} instead of NGSP"
        raise InputError(f"{path}: a gzip file that is no .spz, {told}: unpack it if it holds a scene")
    if len(head) < FIXED.size:
        raise InputError(f"{path}: truncated within its header, fetch or export it again")
    _, version, splats, degree, fraction_bits, flags, _ = FIXED.unpack(head)
    if version not in VERSIONS:
        raise InputError(f"{path}: SPZ version {version}, only 1 to 4 are read: export it as one of them")
    if splats == 0:
        raise InputError(f"{path}: holds 0 splats, the scene is empty: export it again")
    if degree > DEGREE_LIMIT or fraction_bits > FRACTION_LIMIT:
        told = f"SH degree {degree}, {fraction_bits} fraction bits, the limits are {DEGREE_LIMIT} and {FRACTION_LIMIT}"
        raise InputError(f"{path}: {told}: export it again")
    return Header(version, splats, degree, fraction_bits, bool(flags & ANTIALIASED), bool(flags & EXTENSIONS))


def _readers(path: Path, header: Header) -> dict[str, zstandard.ZstdDecompressionReader]:
    """The streams of version 4, which the table proves to lie in the file and to expand to what the header promises."""
    data = map_bytes(path).data
    size = len(data)
    if size < HEADER_SIZE or data[: len(MAGIC)] != MAGIC:
        raise InputError(f"{path}: the header of version 4 is truncated or inside a gzip, fetch or export it again")
    count, (place,) = data[FIXED.size - 1], TABLE_PLACE.unpack_from(data, FIXED.size)
    end = place + count * ENTRY.size
    if count != len(header.widths) or place < HEADER_SIZE or end > size:
        told = f"{count} streams with their table at byte {place} of {size}, expected {len(header.widths)}"
        raise InputError(f"{path}: {told}: fetch or export it again")
    readers = {}
    for index, (name, width) in enumerate(header.widths.items()):
        packed, raw = ENTRY.unpack_from(data, place + index * ENTRY.size)
        if raw != width * header.splats or packed > size - end:
            told = f"{packed} bytes for {raw}, expected up to {size - end} for {width * header.splats}"
            raise InputError(f"{path}: stream {index} has {told}: fetch or export it again")
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        readers[name] = decompressor.stream_reader(data[end : end + packed], read_across_frames=True)
        end += packed
    if end != size:
        raise InputError(f"{path}: {size - end} bytes follow its streams, fetch or export it again")
    return readers
