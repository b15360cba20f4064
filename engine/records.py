"""Frozen dataclasses from what YAML holds, and back: every field by its name and its declared type."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from .errors import InputError
from .strict_yaml import number, shown, text, whole, within

Record = TypeVar("Record")


def read_record(kind: type[Record], raw: Any) -> Record:
    """An instance of a dataclass from a mapping; fields that are not given keep their defaults.

    Types may be int, float, bool, str, Path, dataclasses, tuples of these of fixed or any length, and any of these or
    None.

    Raises:
        InputError: something is unknown, missing or of another type; the message leads to it.
    """
    if not isinstance(raw, dict):
        raise InputError(f"{shown(raw)} given, expected a mapping with some of {_names(kind)}")
    hints = typing.get_type_hints(kind)
    for name in raw:
        if name not in hints:
            raise InputError(f"{name!r} is no option, give some of {_names(kind)}")
    given = {name: within(name, lambda value, hint=hints[name]: _read(hint, value), raw[name]) for name in raw}
    try:
        return kind(**given)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from None


def plain(record: Any) -> dict[str, Any]:
    """A dataclass as what YAML and JSON hold."""
    return {field.name: _plain(getattr(record, field.name)) for field in dataclasses.fields(record)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return plain(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _names(kind: type) -> str:
    return ", ".join(field.name for field in dataclasses.fields(kind))


def _read(hint: Any, raw: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if raw is None and type(None) in arguments:
            return None
        return _read(next(argument for argument in arguments if argument is not type(None)), raw)
    if origin is tuple:
        return _read_tuple(arguments, raw)
    if dataclasses.is_dataclass(hint):
        return read_record(typing.cast(type, hint), raw)
    if hint is bool:
        if not isinstance(raw, bool):
            raise InputError(f"{shown(raw)} given, expected true or false")
        return raw
    return {int: whole, float: number, str: text, Path: lambda value: Path(text(value))}[hint](raw)


def _read_tuple(arguments: tuple[Any, ...], raw: Any) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise InputError(f"{shown(raw)} given, expected a list")
    endless = len(arguments) == 2 and arguments[1] is Ellipsis
    if not endless and len(raw) != len(arguments):
        raise InputError(f"{shown(raw)} given, expected a list of {len(arguments)}")
    hints = [arguments[0]] * len(raw) if endless else arguments
    return tuple(
        within(f"entry {i}", lambda value, hint=hint: _read(hint, value), item)
        for i, (hint, item) in enumerate(zip(hints, raw, strict=True), 1)
    )
