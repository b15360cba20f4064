"""YAML and JSON that must fit: readers of what a file holds, each of which refuses in one line what is not expected.

A reader takes a value as YAML gives it and returns it in a plain type, or raises InputError. One that holds others puts
the name of the part before what these say.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import yaml

from .errors import InputError
from .files import cause

Value = TypeVar("Value")
Reader = Callable[[Any], Value]
Rows = tuple[tuple[float, ...], ...]

SHOWN = 80  # characters of a value that an error repeats


def parse_yaml(text: str | bytes, cure: str) -> Any:
    """What YAML holds; every key once, and no aliases, which let a small file grow without end.

    Raises:
        InputError: it is none; the message ends in the cure.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"not YAML ({cause(error)}), {cure}") from None


def within(name: str, reader: Reader[Value], raw: Any) -> Value:
    """What a reader returns; the name stands before what it refuses."""
    try:
        return reader(raw)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def one_of(raw: Any, readers: dict[str, Reader[Value]]) -> Value:
    """The value of a mapping's only key, read as the key demands."""
    if not isinstance(raw, dict) or len(raw) != 1 or next(iter(raw)) not in readers:
        raise InputError(f"{shown(raw)} given, expected {{name: ...}} with one of {', '.join(readers)}")
    name, value = next(iter(raw.items()))
    return within(name, readers[name], value)


def fields(raw: Any, needed: dict[str, Reader[Any]], optional: dict[str, Reader[Any]] | None = None) -> dict[str, Any]:
    """The values of a mapping that holds what is needed and nothing unknown."""
    readers = needed | (optional or {})
    if not isinstance(raw, dict) or not needed.keys() <= raw.keys() <= readers.keys():
        lists = [", ".join(needed)] * bool(needed) + [f"perhaps {', '.join(optional or ())}"] * bool(optional)
        raise InputError(f"{shown(raw)} given, expected {{name: ...}} with {' and '.join(lists)}")
    return {name: within(name, readers[name], value) for name, value in raw.items()}


def list_of(reader: Reader[Value]) -> Reader[tuple[Value, ...]]:
    """Reads a list of any length."""

    def read(raw: Any) -> tuple[Value, ...]:
        if not isinstance(raw, list):
            raise InputError(f"{shown(raw)} given, expected a list")
        return tuple(within(f"entry {i}", reader, value) for i, value in enumerate(raw, 1))

    return read


def numbers(count: int) -> Reader[tuple[float, ...]]:
    """Reads a list of so many numbers."""

    def read(raw: Any) -> tuple[float, ...]:
        if not isinstance(raw, list) or len(raw) != count:
            raise InputError(f"{shown(raw)} given, expected {count} numbers in brackets")
        return tuple(map(number, raw))

    return read


def rows(count: int) -> Reader[Rows]:
    """Reads a square matrix, row by row."""

    def read(raw: Any) -> Rows:
        if not isinstance(raw, list) or len(raw) != count:
            raise InputError(f"{shown(raw)} given, expected {count} rows of {count} numbers in brackets")
        return tuple(map(numbers(count), raw))

    return read


def number(raw: Any) -> float:
    """A number other than NaN; as text too, since YAML takes 1e-3 for text."""
    try:
        value = math.nan if isinstance(raw, bool) or not isinstance(raw, int | float | str) else float(raw)
    except (ValueError, OverflowError):
        value = math.nan
    if math.isnan(value):
        raise InputError(f"{shown(raw)} given, expected a number")
    return value


def positive(raw: Any) -> float:
    """A finite number above 0."""
    if not 0 < (value := number(raw)) < math.inf:
        raise InputError(f"{shown(raw)} given, expected a positive number")
    return value


def whole(raw: Any) -> int:
    """A whole number."""
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise InputError(f"{shown(raw)} given, expected a whole number")
    return raw


def text(raw: Any) -> str:
    """Text."""
    if not isinstance(raw, str):
        raise InputError(f"{shown(raw)} given, expected text: put it in quotes")
    return raw


def shown(raw: Any) -> str:
    """A value on one line, cut where it is long."""
    try:
        line = " ".join(repr(raw).split())
    except ValueError:  # Python writes out no number of more than 4300 digits
        line = "a number of thousands of digits"
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias: write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise yaml.YAMLError(f"{twice!r} stands twice in one place: keep one")
        return super().construct_mapping(node, deep)
