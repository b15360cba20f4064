"""What all commands share: options from dataclasses, one line for what is wrong, and exit codes.

0 when all went well, 2 when what was given cannot be used, 130 when the user stopped it. Progress and warnings go to
stderr, data to stdout.
"""

import dataclasses
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, TypeVar

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .errors import InputError
from .files import read_bytes
from .strict_yaml import parse_yaml, within

Options = TypeVar("Options")

OUT_OF_MEMORY = ("out of memory", "can't allocate memory")  # as torch says it, on a GPU and on a CPU, in RuntimeErrors


def guarded(prog: str, command: Callable[[], None]) -> int:
    """Runs a command; its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # of names that the terminal cannot show
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f"{prog}: warning: {message}", file=sys.stderr)
            command()
            sys.stdout.flush()
    except InputError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(said in str(error) for said in OUT_OF_MEMORY):
            raise
        print(f"{prog}: out of memory: give a smaller scene or resolution", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def parse(kind: type[Options], arguments: list[str], prog: str, default: Options | None = None) -> Options:
    """Options of a dataclass from a command line.

    Raises:
        InputError: the command line is not understood.
        SystemExit: with code 0, after printing the help that was asked for.
    """
    given: dict[str, Any] = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return tyro.cli(kind, args=arguments, prog=prog, **given)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_first_paragraph(complaint.getvalue()) or 'wrong usage'}; see {prog} --help") from None


def parse_with_config(kind: type[Options], arguments: list[str], prog: str, repeatable: tuple[str, ...]) -> Options:
    """As `parse`; the defaults are those of the YAML file that --config names, where it is given.

    Args:
        kind: a dataclass of defaults throughout, with a field `config`.
        repeatable: fields that the command line puts in place of what the file lists, not beside it.

    Raises:
        InputError: as `parse`, or the file cannot be read or holds something that is no option.
    """
    path = _config_path(arguments)
    default: Any = kind() if path is None else _from_yaml(kind, path, prog)
    for name in repeatable:
        if any(argument.split("=")[0] == f"--{name}" for argument in arguments):
            default = dataclasses.replace(default, **{name: ()})
    return parse(kind, arguments, prog, default)


@contextmanager
def progress_bar(console: Console, name: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how many of how many are done; it goes when the block ends."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _config_path(arguments: list[str]) -> Path | None:
    for i, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
        if argument == "--config" and i + 1 < len(arguments):
            return Path(arguments[i + 1])
    return None


def _from_yaml(kind: type[Options], path: Path, prog: str) -> Options:
    values = within(str(path), lambda text: parse_yaml(text, "give lines such as `frames: 60`"), read_bytes(path))
    if not isinstance(values, dict):
        raise InputError(f"{path}: holds no options, give lines such as `frames: 60`")
    names = [field.name for field in dataclasses.fields(kind) if field.name != "config"]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise InputError(f"{path}: {name!r} is no option, give some of {', '.join(names)}")
    # Through the command line's own parser, so that a value of the wrong type is told the same way.
    arguments = []
    for name, value in values.items():
        for item in value if isinstance(value, list) else [value]:
            switched = isinstance(item, bool) and isinstance(getattr(kind, name), bool)
            arguments += [f"--{name}" if item else f"--no-{name}"] if switched else [f"--{name}", str(item)]
    try:
        return parse(kind, arguments, prog, kind())
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _first_paragraph(boxed: str) -> str:
    """What a box drawn by tyro says between its title and the next rule, whether in Unicode or in ASCII."""
    said: list[str] = []
    for text in re.sub(r"\x1b\[[0-9;]*m", "", boxed).splitlines()[1:]:
        if text.strip("│╭╮╰╯─- "):
            said.append(text.strip("│ "))
        elif said:
            break
    return " ".join(said)
