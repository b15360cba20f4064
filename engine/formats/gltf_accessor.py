"""Accessors of glTF 2.0: rows of numbers within a buffer, side by side or strided, some replaced where they are sparse.

Every offset and count is checked against the bytes that are there before anything of that size is allocated.
Source: Khronos, "glTF 2.0 Specification", section 3.6.2; the scales of normalised integers from section 3.11.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .gltf_file import Buffer, Document, element, integer, refuse

COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
STRIDE_LIMIT = 252  # bytes from one row to the next


@dataclass(frozen=True)
class Accessor:
    """Rows of numbers in a file."""

    count: int  # rows
    kind: tuple[str, str, bool]  # SCALAR to VEC4, numpy type of a component, whether it is normalised
    dense: bool  # every row has its bytes in the file
    read: Callable[[slice], np.ndarray]  # [m, width] float32, normalised to 0..1 or -1..1 where the accessor says so


def accessor(document: Document, index: Any) -> Accessor:
    """An accessor by its number, with its bounds checked.

    Raises:
        ValueError: anything in it that does not fit the file.
    """
    raw = element(document, "accessors", index)
    width, dtype = WIDTHS.get(raw["type"]), COMPONENTS.get(raw["componentType"])
    if width is None or dtype is None:
        refuse(f"accessor {index} has type {raw['type']!r} and componentType {raw['componentType']!r}")
    count, normalized = integer(raw, "count"), raw.get("normalized", False) is True
    sparse = _sparse(document, raw["sparse"], count, width, dtype) if "sparse" in raw else None
    rows = _rows(document, raw, count, width, dtype) if "bufferView" in raw else None
    if rows is None and sparse is None:
        refuse(f"accessor {index} has no bufferView")

    def read(block: slice) -> np.ndarray:
        values = np.zeros((block.stop - block.start, width), dtype) if rows is None else rows(block)
        if sparse is not None:
            places, replaced = sparse()
            first, last = np.searchsorted(places, (block.start, block.stop))
            values = values.copy()
            values[places[first:last] - block.start] = replaced[first:last]
        numbers = values.astype(np.float32)
        if normalized and np.dtype(dtype).kind != "f":
            numbers = np.maximum(numbers / np.float32(np.iinfo(dtype).max), -1)
        return numbers

    return Accessor(count, (raw["type"], dtype, normalized), rows is not None, read)


def _rows(document: Document, raw: dict[str, Any], count: int, width: int, dtype: str) -> Callable[[slice], np.ndarray]:
    """A reader of blocks of rows [m, width] of the numbers as stored."""
    buffer, start, length, stride = _view(document, raw["bufferView"])
    item = np.dtype(dtype).itemsize
    stride, start, left = stride or width * item, start + integer(raw, "byteOffset", 0), length
    left -= integer(raw, "byteOffset", 0)
    if stride < width * item:
        refuse(f"byteStride {stride} is below the {width * item} bytes of a row")
    if count and (count - 1) * stride + width * item > left:
        refuse(f"{count} rows need {(count - 1) * stride + width * item} bytes where bufferView leaves {max(left, 0)}")

    def read(block: slice) -> np.ndarray:
        m = block.stop - block.start
        data = buffer.read(start + block.start * stride, (m - 1) * stride + width * item)
        return np.ndarray((m, width), dtype, data, strides=(stride, item))

    return read


def _sparse(
    document: Document, raw: Any, count: int, width: int, dtype: str
) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
    """A reader of which rows are replaced [m] int64, ascending, and by what [m, width]."""
    m, indices = integer(raw, "count"), raw["indices"]
    index_type = COMPONENTS.get(indices["componentType"])
    if not 1 <= m <= count or index_type not in ("<u1", "<u2", "<u4"):
        refuse(f"a sparse accessor replaces {m} of {count} rows by indices of type {indices['componentType']!r}")
    place_rows = _rows(document, indices, m, 1, index_type)
    value_rows = _rows(document, raw["values"], m, width, dtype)

    def read() -> tuple[np.ndarray, np.ndarray]:
        places = place_rows(slice(0, m))[:, 0].astype(np.int64)
        if (np.diff(places) <= 0).any() or places[-1] >= count:
            refuse(f"indices of a sparse accessor do not ascend below {count}")
        return places, value_rows(slice(0, m))

    return read


def _view(document: Document, index: Any) -> tuple[Buffer, int, int, int]:
    """A bufferView: its buffer, start and length in that, and the stride, 0 where it is not told."""
    raw = element(document, "bufferViews", index)
    compressed = [name for name in raw.get("extensions", {}) if "compression" in name]
    if compressed:
        refuse(f"bufferView {index} is compressed with {compressed[0]}")
    if not isinstance(raw["buffer"], int) or isinstance(raw["buffer"], bool):
        refuse(f"buffers are named by {str(raw['buffer'])[:40]!r}")
    buffer = document.buffer(raw["buffer"])
    start, length = integer(raw, "byteOffset", 0), integer(raw, "byteLength")
    if start + length > buffer.length:
        refuse(f"bufferView {index} ends at byte {start + length} of a buffer of {buffer.length}")
    stride = integer(raw, "byteStride", 0)
    if stride > STRIDE_LIMIT:
        refuse(f"byteStride {stride} is above {STRIDE_LIMIT}")
    return buffer, start, length, stride
