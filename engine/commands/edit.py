"""`lyra edit`: operations on a scene, from a script or the command line."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from ..command_line import parse
from ..errors import InputError
from ..formats.registry import format_of_name
from ..scene.edit import REST, Merge, apply, split
from ..scene.edit_script import Script, parse_script, plain_script, read_script, write_script
from ..scene.provenance import Provenance, provenance_of
from ..strict_yaml import within
from .scene_files import Inputs, OutputOptions, check_free, check_output, note_axes, write_scenes

RECORDED = 1 << 14  # bytes of operations that provenance repeats; longer ones leave their hash


@dataclass(frozen=True)
class EditOptions(OutputOptions):
    """Do operations on a scene, those of a script file first. docs/editing.md tells which there are. A split writes
    OUT-NAME for each of its parts instead of OUT."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """IN [SCRIPT] OUT"""
    do: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """One operation as in a script, such as 'delete: {filter: opacity<0.05}'. Repeatable. Files are relative to the
    folder that the command runs in."""
    record: Path | None = None
    """Write all operations to a script, which does the same again."""


def command(arguments: list[str]) -> None:
    """Run with arguments of a command line."""
    options = parse(EditOptions, arguments, "lyra edit")
    notes = Console(stderr=True)
    if len(options.paths) not in (2, 3):
        raise InputError(f"{len(options.paths)} files given: give the input, a script where there is one, the output")
    source, *scripts, target = options.paths
    script = _joined(
        [read_script(path) for path in scripts]
        + [within(f"--do {text!r}", lambda text: parse_script(text, Path()), text) for text in options.do]
    )
    targets = _targets(target, script)
    formats = [check_output(path, options) for path in targets.values()]
    if options.record is not None:
        check_free(options.record, options)
        taken = {source, *scripts, *targets.values(), *(op.file for op in script.operations if isinstance(op, Merge))}
        if os.path.realpath(options.record) in {os.path.realpath(path) for path in taken}:
            raise InputError(f"--record {options.record}: is one of the other files of this command, give another name")
    inputs = Inputs(notes)
    scene = apply(inputs.read(source), script.operations, inputs.read)
    if not len(scene):
        raise InputError(f"{target}: no splat is left after the operations: keep more")
    note_axes(notes, "lyra edit", [source], formats[0])
    parts = {"": scene} if script.split is None else split(scene, script.split)
    write_scenes(
        {targets[name]: (part, _provenance(inputs, script, name, options)) for name, part in parts.items()},
        inputs.antialiased,
        options,
        notes,
    )
    if options.record is not None:
        write_script(options.record, script)


def _joined(scripts: list[Script]) -> Script:
    """One script after the other."""
    if any(script.split for script in scripts[:-1]):
        raise InputError("operations follow a split: put the split at the end")
    operations = tuple(operation for script in scripts for operation in script.operations)
    if not operations and not (scripts and scripts[-1].split):
        raise InputError("no operation is given: give a script or --do")
    return Script(operations, scripts[-1].split)


def _targets(target: Path, script: Script) -> dict[str, Path]:
    """Where each part goes; the whole is the part without a name."""
    if script.split is None:
        return {"": target}
    name = target.name.lower()
    ending = max((ending for ending in format_of_name(target).endings if name.endswith(ending)), key=len)
    stem = target.name[: -len(ending)]
    suffix = target.name[-len(ending) :]
    names = [*(name for name, _ in script.split.parts), REST]
    return {name: target.with_name(f"{stem}-{name}{suffix}") for name in names}


def _provenance(inputs: Inputs, script: Script, name: str, options: EditOptions) -> Provenance:
    steps = plain_script(script, None)
    text = json.dumps(steps)
    told = {"steps": len(steps), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    done: list[dict[str, Any]] = [{"edit": steps if len(text) <= RECORDED else told}]
    if name:
        done.append({"part": name})
    return provenance_of(inputs.sources, done, licence=options.licence, consent=options.consent)
