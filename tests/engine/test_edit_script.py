"""Scripts against the records that they stand for, against their own writing, and against what is no script."""

import json
import math
import random
from pathlib import Path

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats.registry import load, save
from lyra.engine.scene.camera import look_at
from lyra.engine.scene.edit import (
    NAMES,
    Delete,
    Duplicate,
    Keep,
    Merge,
    Recolor,
    ScaleOpacity,
    Split,
    Transform,
    apply,
    split,
)
from lyra.engine.scene.edit_script import Script, parse_script, plain_script, read_script, write_script
from lyra.engine.scene.filters import Condition
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.history import History
from lyra.engine.scene.regions import Box, Sphere
from lyra.engine.scene.selection import And, Cluster, Color, Not, Or, Polygon

HERE = Path()
BALL = Sphere((1.0, 2.0, 3.0), 0.5)
CAMERA = look_at((0.3, -1.0, -5.0), (0.0, 0.0, 0.0), width=320, height=200)
ENTRY = vars(CAMERA) | {"world_to_camera": CAMERA.world_to_camera.tolist()}
IN_BALL = "{sphere: {center: [1, 2, 3], radius: 0.5}}"
SHIFT = ((1.0, 0.0, 0.0, 0.1), (0.0, 1.0, 0.0, 0.2), (0.0, 0.0, 1.0, 0.3), (0.0, 0.0, 0.0, 1.0))
THIRD = ((0.1, 0.2, 1 / 3), (0.0, 1e-30, 0.0), (-2.5, 0.0, 1.0))


def some_scene(n: int = 80) -> Gaussians:
    rng = torch.Generator().manual_seed(n)
    draw = lambda *shape: torch.randn(*shape, generator=rng)  # noqa: E731
    return Gaussians(draw(n, 3), draw(n, 4), draw(n, 3).abs(), torch.rand(n, generator=rng), 0.3 * draw(n, 16, 3))


def one(text: str):
    """The only operation of a script, or its split."""
    script = parse_script(text, HERE)
    steps = [*script.operations, *([script.split] if script.split else [])]
    assert len(steps) == 1
    return steps[0]


@pytest.mark.parametrize(
    ("text", "operation"),
    [
        (f"delete: {IN_BALL}", Delete(BALL)),
        (f"- keep: {{not: {IN_BALL}}}", Keep(Not(BALL))),
        ('[{"delete": {"filter": "opacity<0.05"}}]', Delete(Condition("opacity", "<", 0.05))),
        (
            "delete: {box: {low: [-inf, 0, -1e-3], high: [.inf, 1, 2.5]}}",
            Delete(Box((-math.inf, 0, -1e-3), (math.inf, 1, 2.5))),
        ),
        ("delete: {color: {rgb: [1, 0, 0]}}", Delete(Color((1, 0, 0), 0.1))),
        ("delete: {color: {rgb: [1, 0, 0], tolerance: 0}}", Delete(Color((1, 0, 0), 0))),
        ("keep: {cluster: {point: [0, 1, 0], distance: 0.1}}", Keep(Cluster((0, 1, 0), 0.1))),
        (
            "keep: {any: [{all: []}, {cluster: {point: [0, 1, 0], distance: 1, opacity: 0.5}}]}",
            Keep(Or((And(()), Cluster((0, 1, 0), 1, 0.5)))),
        ),
        ("transform: {translate: [0.1, 0.2, 0.3]}", Transform(SHIFT)),
        (f"duplicate: {{translate: [0.1, 0.2, 0.3], where: {IN_BALL}}}", Duplicate(SHIFT, BALL)),
        (f"transform: {{matrix: {json.dumps(SHIFT)}}}", Transform(SHIFT)),
        ("recolor: {set: [1, 0.5, 0]}", Recolor(((0.0,) * 3,) * 3, (1, 0.5, 0))),
        ("recolor: {tint: [1, 0.5, 0]}", Recolor(((1, 0, 0), (0, 0.5, 0), (0, 0, 0)))),
        (
            f"recolor: {{brightness: 1.5, where: {IN_BALL}}}",
            Recolor(((1.5, 0, 0), (0, 1.5, 0), (0, 0, 1.5)), where=BALL),
        ),
        (f"recolor: {{matrix: {json.dumps(THIRD)}, offset: [1, 2, 3]}}", Recolor(THIRD, (1, 2, 3))),
        ("recolor: {offset: [0.1, 0, 0]}", Recolor(offset=(0.1, 0, 0))),
        ("scale_opacity: {factor: 0.5}", ScaleOpacity(0.5)),
        (f"split: {{a: {IN_BALL}, b-2: {{not: {IN_BALL}}}}}", Split((("a", BALL), ("b-2", Not(BALL))))),
    ],
)
def test_operations_are_read(text: str, operation) -> None:
    assert one(text) == operation


def test_a_turn_is_in_degrees_about_the_pivot() -> None:
    read = one("transform: {rotate: {axis: [0, 0, 2], degrees: 90}, scale: 2, pivot: [1, 0, 5], translate: [0, 0, -1]}")
    expected = torch.tensor([[0.0, -2, 0, 1], [2, 0, 0, -2], [0, 0, 2, -6], [0, 0, 0, 1]])
    torch.testing.assert_close(torch.tensor(read.matrix), expected)


def test_a_camera_is_taken_from_a_list_or_written_out(tmp_path: Path) -> None:
    (tmp_path / "cameras.json").write_text(json.dumps({"cameras": [ENTRY, ENTRY | {"fx": 77}]}))
    corners = "points: [[0, 0], [10, 0], [5, 9]]"
    (tmp_path / "script.yaml").write_text(
        f"- delete: {{polygon: {{camera: cameras.json, index: 1, {corners}, far: 3}}}}\n"
        f"- delete: {{polygon: {{camera: {json.dumps(ENTRY)}, {corners}}}}}\n"
    )
    first, second = (operation.where for operation in read_script(tmp_path / "script.yaml").operations)
    assert isinstance(first, Polygon) and isinstance(second, Polygon)
    assert (first.camera.fx, first.far, first.points) == (77, 3, ((0, 0), (10, 0), (5, 9)))
    assert torch.equal(second.camera.world_to_camera, CAMERA.world_to_camera) and second.camera.fx == CAMERA.fx


def all_kinds(folder: Path) -> Script:
    """Every operation and every selection."""
    folder.joinpath("parts").mkdir(exist_ok=True)
    save(some_scene(20), folder / "parts" / "other.ply")
    corners = ((10.0, 10.0), (300.0, 1 / 3), (150.0, 190.0))
    cluster = Cluster((0.0, 0.1, 0.0), 0.7, 0.05)
    return Script(
        (
            Delete(And((Box((-math.inf, 0.0, -9.0), (0.1, 1 / 3, math.inf)), Condition("scale", ">=", 1 / 3)))),
            Keep(Or((Polygon(CAMERA, corners), Polygon(CAMERA, corners, 4.7), cluster))),
            Transform(SHIFT),
            Duplicate(SHIFT, BALL),
            Recolor(THIRD, (0.1, 0.0, 1 / 7), Not(Color((0.5, 0.5, 0.5), 0.2))),
            Recolor(),
            ScaleOpacity(2 / 3, BALL),
            Merge(folder / "parts" / "other.ply"),
        ),
        Split((("ball", Sphere((0.0, 0.0, 0.0), 1.0)),)),
    )


def tensors_of(script: Script, scene: Gaussians) -> list[torch.Tensor]:
    after = apply(scene, script.operations, load)
    assert script.split is not None
    return [t for part in [after, *split(after, script.split).values()] for t in part.tensors().values()]


@pytest.mark.filterwarnings("ignore:.* means none of")
def test_what_is_written_is_read_back_and_gives_the_same_bytes(tmp_path: Path) -> None:
    script = all_kinds(tmp_path)
    assert {type(operation) for operation in script.operations} == set(NAMES)
    (tmp_path / "scripts").mkdir()
    write_script(tmp_path / "scripts" / "script.json", script)
    back = read_script(tmp_path / "scripts" / "script.json")
    assert plain_script(back, tmp_path) == plain_script(script, tmp_path)
    without_camera = [operation for operation in script.operations if not isinstance(operation, Keep | Merge)]
    assert [operation for operation in back.operations if not isinstance(operation, Keep | Merge)] == without_camera
    expected, found = tensors_of(script, some_scene()), tensors_of(back, some_scene())
    assert len(expected) == len(found) == 15
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    write_script(tmp_path / "again.json", back)
    write_script(tmp_path / "thrice.json", read_script(tmp_path / "again.json"))
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "thrice.json").read_bytes()


def test_a_history_is_saved_as_a_script_that_replays(tmp_path: Path) -> None:
    history = History(some_scene(), load)
    for text in ("scale_opacity: {factor: 0.3}", "delete: {filter: x<0.1}", "transform: {scale: 1.1}"):
        history.do(one(text))
    history.undo()
    history.do(one("recolor: {brightness: 0.9}"))
    assert 5 < len(history.scene) < 75
    write_script(tmp_path / "history.json", Script(history.operations))
    replayed = apply(some_scene(), read_script(tmp_path / "history.json").operations, load)
    for name, tensor in history.scene.tensors().items():
        assert torch.equal(getattr(replayed, name), tensor)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# nothing", "operation 1: None given, expected {name: ...} with one of delete, keep, transform"),
        ("hello", "operation 1: 'hello' given"),
        ("- delete: {box: [1, 2}", "not YAML"),
        ("\0", "not YAML"),
        ("- &a delete: {all: []}\n- *a", "not YAML (it has an alias: write it out)"),
        ("- {delete: {all: []}, delete: {any: []}}", "'delete' stands twice in one place: keep one"),
        ("- !!python/object:os.system {}", "not YAML"),
        ("- !!int ''", "not YAML"),
        ("- !!timestamp x", "not YAML"),
        ("- remove: {all: []}", "operation 1: {'remove': {'all': []}} given"),
        ("- delete: {all: []}\n- delete: {all: []}\n  keep: {all: []}", "operation 2: {'delete': {'all': []}, 'keep'"),
        ("delete: everything", "operation 1: delete: 'everything' given, expected {name: ...} with one of box, sphere"),
        ("delete: {box: {low: [0, 0, 0]}}", "delete: box: {'low': [0, 0, 0]} given, expected {name: ...} with low"),
        ("delete: {box: {low: [0, 0, 0], high: [1, 1, 0]}}", "delete: box: box from [0.0, 0.0, 0.0]"),
        ("delete: {box: {low: [0, 0], high: [1, 1, 1]}}", "box: low: [0, 0] given, expected 3 numbers in brackets"),
        ("delete: {box: {low: [0, 0, x], high: [1, 1, 1]}}", "box: low: 'x' given, expected a number"),
        ("delete: {box: {low: [0, 0, yes], high: [1, 1, 1]}}", "box: low: True given, expected a number"),
        ("delete: {box: {low: [0, 0, .nan], high: [1, 1, 1]}}", "box: low: nan given, expected a number"),
        (f"delete: {{sphere: {{center: [0, 0, 0], radius: 0x{'f' * 9000}}}}}", "radius: a number of thousands"),
        ("delete: {sphere: {center: [0, 0, 0], radius: 1, color: 2}}", "given, expected {name: ...} with center, rad"),
        ("delete: {filter: opacity}", "delete: filter: filter 'opacity' is none: give opacity, scale"),
        ("delete: {filter: 3}", "delete: filter: 3 given, expected text"),
        ("delete: {all: {box: 1}}", "delete: all: {'box': 1} given, expected a list"),
        ("delete: {all: [{all: []}, 7]}", "delete: all: entry 2: 7 given"),
        ("delete: " + "{not: " * 250 + "{all: []}" + "}" * 250, "nested too deeply"),
        ("delete: " + "[" * 100_000, "not YAML"),
        ("delete: {polygon: {camera: none.json, points: []}}", "polygon: camera: camera file none.json: no such file"),
        (
            f"delete: {{polygon: {{camera: {json.dumps(ENTRY)}, index: 1, points: [[0, 0]]}}}}",
            "index 1 is out of range of 1 cameras: give 0 to 0",
        ),
        (f"delete: {{polygon: {{camera: {json.dumps(ENTRY)}, points: [[0, 0]]}}}}", "polygon of 1 corners"),
        (
            f"delete: {{polygon: {{camera: {json.dumps(ENTRY | {'width': 9.5})}, points: []}}}}",
            "camera: width: 9.5 given, expected a whole number",
        ),
        (f"delete: {{polygon: {{camera: {json.dumps(ENTRY | {'fx': 0})}, points: []}}}}", "focal length"),
        ("transform: {}", "transform: give matrix alone, or some of rotate, scale, pivot, translate"),
        ("transform: {where: {all: []}}", "transform: give matrix alone"),
        (f"transform: {{matrix: {json.dumps(SHIFT)}, scale: 2}}", "transform: give matrix alone"),
        ("transform: {matrix: [[1, 0, 0, 0]]}", "expected 4 rows of 4 numbers in brackets"),
        ("transform: {scale: 0}", "transform: scale: 0 given, expected a positive number"),
        ("transform: {scale: [1, 2, 1]}", "scale: [1, 2, 1] given, expected a number"),
        ("transform: {rotate: 90}", "rotate: 90 given, expected {name: ...} with axis, degrees"),
        ("transform: {rotate: {axis: [0, 0, 0], degrees: 90}}", "rotation axis [0.0, 0.0, 0.0] has no direction"),
        ("transform: {translate: [inf, 0, 0]}", "finite"),
        ("transform: {spin: 3}", "given, expected {name: ...} with perhaps matrix, rotate"),
        ("recolor: {tint: [1, 1, 1], brightness: 2}", "recolor: give one of set, tint, brightness, or matrix"),
        ("recolor: {where: {all: []}}", "recolor: give one of set"),
        ("recolor: {brightness: .inf}", "row of a colour matrix is"),
        ("scale_opacity: {factor: -1}", "factor -1.0 is negative"),
        ("scale_opacity: 2", "scale_opacity: 2 given, expected {name: ...} with factor and perhaps where"),
        ("merge: other.ply", "merge: 'other.ply' given, expected {name: ...} with file"),
        ("merge: {file: none.ply}", "merge: file: none.ply: no such file, check the path, which is relative to"),
        ("- split: {a: {all: []}}\n- delete: {all: []}", "split is not the last operation: put one split at the end"),
        ("- split: {a: {all: []}}\n- split: {a: {all: []}}", "split is not the last operation"),
        ("split: [a]", "split: ['a'] given, expected {name: selection, ...}"),
        ("split: {}", "split without a part"),
        ("split: {1: {all: []}}", "split: 1 given, expected text: put it in quotes"),
        ("split: {a: 1}", "split: a: 1 given"),
        ("split: {../a: {all: []}}", "part '../a'"),
    ],
)  # fmt: skip
def test_what_is_no_script_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "script.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_script(path)
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert message.startswith("script.yaml: ") and said in message, message
    assert "\n" not in message and len(message) < 500


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none.yaml: no such file"):
        read_script(tmp_path / "none.yaml")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_scripts_are_read_or_refused_in_one_line(tmp_path: Path, seed: int) -> None:
    write_script(tmp_path / "script.json", all_kinds(tmp_path))
    whole, rng = (tmp_path / "script.json").read_text(), random.Random(seed)
    read = refused = 0
    for case in range(60):
        text = whole
        for _ in range(1 + case % 3):
            place = rng.randrange(len(text))
            text = text[:place] + rng.choice(["", "{", "]", '"', "7", "-", ":", "\n", "nan"]) + text[place + 1 :]
        try:
            assert isinstance(parse_script(text, tmp_path), Script)
            read += 1
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
            refused += 1
    assert read > 0 and refused > 5
