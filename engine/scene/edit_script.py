"""Scripts of operations: a list in YAML or JSON, read strictly into records, and written so that it reads back alike.

docs/editing.md has the grammar. Nothing in a script is run, and a file that it names is relative to its folder.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..files import read_bytes, replacing
from ..strict_yaml import (
    Reader,
    fields,
    list_of,
    number,
    numbers,
    one_of,
    parse_yaml,
    positive,
    rows,
    shown,
    text,
    whole,
    within,
)  # fmt: skip
from .camera import Camera, load_cameras
from .edit import (
    IDENTITY,
    NAMES,
    Delete,
    Duplicate,
    Keep,
    Matrix,
    Merge,
    Operation,
    Recolor,
    ScaleOpacity,
    Split,
    Transform,
)  # fmt: skip
from .filters import Condition, parse_condition
from .regions import Box, Sphere
from .selection import EVERYTHING, And, Cluster, Color, Not, Or, Polygon, Selection
from .transform import axis_angle, placement

CURE = "give a list such as `- delete: {sphere: {center: [0, 0, 0], radius: 1}}`"


@dataclass(frozen=True)
class Script:
    """Operations, and how to split what comes out."""

    operations: tuple[Operation, ...] = ()
    split: Split | None = None


def read_script(path: Path) -> Script:
    """A script from a file.

    Raises:
        InputError: the file cannot be read, or as `parse_script`.
    """
    content = read_bytes(path)
    try:
        return parse_script(content, path.parent)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def write_script(path: Path, script: Script) -> None:
    """A file from which `read_script` makes the same script.

    Raises:
        InputError: the file cannot be written.
    """
    lines = ",\n".join(json.dumps(operation) for operation in plain_script(script, path.parent))
    with replacing(path) as stream:
        stream.write(f"[\n{lines}\n]\n".encode())


def parse_script(content: str | bytes, folder: Path) -> Script:
    """A script from text: a list of operations, or one alone.

    Raises:
        InputError: no YAML, or no such operation; which one, what was received and what is expected.
    """
    raw = parse_yaml(content, CURE)
    entries = raw if isinstance(raw, list) else [raw]
    try:
        steps = [within(f"operation {i}", lambda entry: _step(entry, folder), e) for i, e in enumerate(entries, 1)]
    except RecursionError:
        raise InputError("selections are nested too deeply: say it more simply") from None
    splits = [step for step in steps if isinstance(step, Split)]
    if splits and (len(splits) > 1 or steps[-1] is not splits[0]):
        raise InputError("split is not the last operation: put one split at the end")
    return Script(tuple(step for step in steps if not isinstance(step, Split)), splits[0] if splits else None)


def plain_script(script: Script, folder: Path | None) -> list[dict[str, Any]]:
    """A script as JSON values, files relative to a folder, or by their names alone where it is None."""
    steps: list[dict[str, Any]] = [{NAMES[type(o)]: _plain_operation(o, folder)} for o in script.operations]
    if script.split is not None:
        steps.append({"split": {name: _plain_selection(where) for name, where in script.split.parts}})
    return steps


# Reading


def _step(raw: Any, folder: Path) -> Operation | Split:
    where = lambda value: _selection(value, folder)  # noqa: E731
    placed = {
        "matrix": rows(4), "rotate": _rotation, "scale": positive, "pivot": numbers(3), "translate": numbers(3),
        "where": where,
    }  # fmt: skip
    colored = {
        "set": numbers(3), "tint": numbers(3), "brightness": number, "matrix": rows(3), "offset": numbers(3),
        "where": where,
    }  # fmt: skip
    factor, file = {"factor": number}, {"file": lambda value: _file(value, folder)}
    return one_of(
        raw,
        {
            "delete": lambda value: Delete(where(value)),
            "keep": lambda value: Keep(where(value)),
            "transform": lambda value: Transform(**_placement(fields(value, {}, placed))),
            "recolor": lambda value: Recolor(**_recoloring(fields(value, {}, colored))),
            "scale_opacity": lambda value: ScaleOpacity(**fields(value, factor, {"where": where})),
            "duplicate": lambda value: Duplicate(**_placement(fields(value, {}, placed))),
            "merge": lambda value: Merge(**fields(value, file)),
            "split": lambda value: Split(tuple(_parts(value, where))),
        },
    )


def _selection(raw: Any, folder: Path) -> Selection:
    inner = lambda value: _selection(value, folder)  # noqa: E731
    seen = {"camera": lambda value: _cameras(value, folder), "points": list_of(numbers(2))}
    return one_of(
        raw,
        {
            "box": lambda value: Box(**fields(value, {"low": numbers(3), "high": numbers(3)})),
            "sphere": lambda value: Sphere(**fields(value, {"center": numbers(3), "radius": number})),
            "polygon": lambda value: _polygon(fields(value, seen, {"index": whole, "far": number})),
            "color": lambda value: Color(**fields(value, {"rgb": numbers(3)}, {"tolerance": number})),
            "filter": lambda value: parse_condition(text(value)),
            "cluster": lambda value: Cluster(
                **fields(value, {"point": numbers(3), "distance": number}, {"opacity": number})
            ),
            "all": lambda value: And(list_of(inner)(value)),
            "any": lambda value: Or(list_of(inner)(value)),
            "not": lambda value: Not(inner(value)),
        },
    )


def _placement(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a Transform or Duplicate."""
    where = {"where": given.pop("where")} if "where" in given else {}
    if not given or ("matrix" in given and len(given) > 1):
        raise InputError("give matrix alone, or some of rotate, scale, pivot, translate")
    if "matrix" in given:
        return given | where
    linear = given.get("rotate", torch.eye(3, dtype=torch.float64)) * given.get("scale", 1.0)
    pivot, shift = (
        torch.tensor(given.get(name, (0.0, 0.0, 0.0)), dtype=torch.float64) for name in ("pivot", "translate")
    )
    return {"matrix": tuple(map(tuple, placement(linear, pivot, shift).tolist()))} | where


def _recoloring(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a Recolor."""
    where = {"where": given.pop("where")} if "where" in given else {}
    if set(given) not in ({"set"}, {"tint"}, {"brightness"}, {"matrix"}, {"offset"}, {"matrix", "offset"}):
        raise InputError("give one of set, tint, brightness, or matrix and offset")
    if "set" in given:
        return {"matrix": _diagonal((0.0, 0.0, 0.0)), "offset": given["set"]} | where
    if "tint" in given or "brightness" in given:
        return {"matrix": _diagonal(given.get("tint") or (given["brightness"],) * 3)} | where
    return given | where


def _diagonal(values: tuple[float, ...]) -> Matrix:
    return tuple(tuple(value * one for one in row) for value, row in zip(values, IDENTITY, strict=True))


def _polygon(given: dict[str, Any]) -> Polygon:
    cameras, index = given.pop("camera"), given.pop("index", 0)
    if not 0 <= index < len(cameras):
        raise InputError(f"index {index} is out of range of {len(cameras)} cameras: give 0 to {len(cameras) - 1}")
    return Polygon(cameras[index], **given)


def _cameras(raw: Any, folder: Path) -> list[Camera]:
    """Those of a file, or one written out."""
    if isinstance(raw, str):
        return load_cameras(folder / raw)
    numbers = dict.fromkeys(("fx", "fy", "cx", "cy"), number)
    return [Camera(**fields(raw, {"world_to_camera": _pose} | numbers | {"width": whole, "height": whole}))]


def _pose(raw: Any) -> torch.Tensor:
    return torch.tensor(rows(4)(raw), dtype=torch.float64)


def _rotation(raw: Any) -> torch.Tensor:
    given = fields(raw, {"axis": numbers(3), "degrees": number})
    return axis_angle(torch.tensor(given["axis"], dtype=torch.float64), math.radians(given["degrees"]))


def _parts(raw: Any, where: Reader[Selection]) -> list[tuple[str, Selection]]:
    if not isinstance(raw, dict):
        raise InputError(f"{shown(raw)} given, expected {{name: selection, ...}}")
    return [(name, within(name, where, value)) for name, value in zip(map(text, raw), raw.values(), strict=True)]


def _file(raw: Any, folder: Path) -> Path:
    path = folder / text(raw)
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file, check the path, which is relative to the script")
    return path


# Writing


def _plain_operation(operation: Operation, folder: Path | None) -> dict[str, Any]:
    match operation:
        case Delete(where) | Keep(where):
            return _plain_selection(where)
        case Merge(file):
            if folder is None:
                return {"file": file.name}
            return {"file": Path(os.path.relpath(os.path.realpath(file), os.path.realpath(folder))).as_posix()}
        case Transform(matrix, where) | Duplicate(matrix, where):
            plain: dict[str, Any] = {"matrix": matrix}
        case Recolor(matrix, offset, where):
            plain = {"matrix": matrix, "offset": offset}
        case ScaleOpacity(factor, where):
            plain = {"factor": factor}
    return plain | ({} if where == EVERYTHING else {"where": _plain_selection(where)})


def _plain_selection(selection: Selection) -> dict[str, Any]:
    match selection:
        case Box(low, high):
            return {"box": {"low": low, "high": high}}
        case Sphere(center, radius):
            return {"sphere": {"center": center, "radius": radius}}
        case Polygon(camera, points, far):
            seen = vars(camera) | {"world_to_camera": camera.world_to_camera.tolist()}
            return {"polygon": {"camera": seen, "points": points, "far": far}}
        case Color(rgb, tolerance):
            return {"color": {"rgb": rgb, "tolerance": tolerance}}
        case Condition(field, comparison, value):
            return {"filter": f"{field}{comparison}{value}"}
        case Cluster(point, distance, opacity):
            return {"cluster": {"point": point, "distance": distance, "opacity": opacity}}
        case And(parts):
            return {"all": [_plain_selection(part) for part in parts]}
        case Or(parts):
            return {"any": [_plain_selection(part) for part in parts]}
        case Not(part):
            return {"not": _plain_selection(part)}
