"""Operations against what they mean splat by splat, and against pictures of the scene as it was."""

import math
import warnings
from pathlib import Path

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.formats.registry import load, save
from lyra.engine.renderer import render
from lyra.engine.scene.camera import Camera, load_cameras, look_at
from lyra.engine.scene.edit import (
    Delete,
    Duplicate,
    Keep,
    Merge,
    Operation,
    Recolor,
    ScaleOpacity,
    Split,
    Transform,
    apply,
    edited,
    split,
)  # fmt: skip
from lyra.engine.scene.filters import parse_condition
from lyra.engine.scene.gaussians import Gaussians, merge
from lyra.engine.scene.regions import Box, Sphere, inside
from lyra.engine.scene.selection import Not, Or
from lyra.engine.scene.transform import axis_angle, placement, transform
from lyra.kernels.reference import sh_basis

BALL = Sphere((0.2, 0.0, 0.1), 1.0)
MATRIX = ((0.2, 0.7, 0.1), (0.0, 1.5, -0.1), (0.3, 0.3, 0.3))
NOTHING = Sphere((99.0, 0.0, 0.0), 1.0)


def some_scene(n: int = 120, degree: int = 3, dtype: torch.dtype = torch.float32) -> Gaussians:
    rng = torch.Generator().manual_seed(n)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    scene = Gaussians(
        means=draw(n, 3),
        quats=draw(n, 4),
        scales=0.05 + 0.15 * draw(n, 3).abs(),
        opacities=torch.rand(n, generator=rng, dtype=torch.float64),
        sh=0.3 * draw(n, (degree + 1) ** 2, 3),
    )
    return scene.to(dtype=dtype)


def turned(axis: tuple[float, ...], degrees: float, scale: float = 1.0, pivot=(0.0, 0.0, 0.0), shift=(0.0, 0.0, 0.0)):
    linear = axis_angle(torch.tensor(axis), math.radians(degrees)) * scale
    rows = placement(linear, torch.tensor(pivot), torch.tensor(shift)).tolist()
    return tuple(map(tuple, rows))


MOVE = turned((1.0, 2.0, -0.5), 70.0, 1.5, (0.3, 0.0, -1.0), (1.0, 2.0, 3.0))
OPERATIONS = {
    "delete": Delete(BALL),
    "keep": Keep(BALL),
    "transform": Transform(MOVE),
    "transform part": Transform(MOVE, BALL),
    "recolor": Recolor(MATRIX, (0.1, -0.2, 0.0)),
    "recolor part": Recolor(MATRIX, (0.1, -0.2, 0.0), BALL),
    "opacity": ScaleOpacity(1.7),
    "opacity part": ScaleOpacity(0.4, BALL),
    "duplicate": Duplicate(MOVE),
    "duplicate part": Duplicate(MOVE, BALL),
}


def same(one: Gaussians, other: Gaussians) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True))


def no_files(path: Path) -> Gaussians:
    raise AssertionError(path)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_changes_its_input_or_its_type_and_the_same_gives_the_same(name: str, dtype: torch.dtype) -> None:
    scene = some_scene(dtype=dtype)
    before = {key: tensor.clone() for key, tensor in scene.tensors().items()}
    first, second = (edited(scene, OPERATIONS[name], no_files) for _ in range(2))
    assert same(scene, Gaussians(**before)) and same(first, second) and not (len(first) == 120 and same(first, scene))
    assert {tensor.dtype for tensor in first.tensors().values()} == {dtype}


def test_delete_and_keep_are_complements_in_the_order_of_the_file() -> None:
    scene = some_scene()
    chosen = inside(BALL, scene.means)
    assert 5 < int(chosen.sum()) < 80
    assert same(edited(scene, Delete(BALL), no_files), scene.select(~chosen))
    assert same(edited(scene, Keep(BALL), no_files), scene.select(chosen))


def test_a_part_is_transformed_where_it_lies() -> None:
    scene = some_scene()
    chosen = inside(BALL, scene.means)
    after = edited(scene, Transform(MOVE, BALL), no_files)
    assert same(after.select(~chosen), scene.select(~chosen))
    assert same(after.select(chosen), transform(scene.select(chosen), torch.tensor(MOVE, dtype=torch.float64)))


def test_placement_is_about_the_pivot() -> None:
    matrix = torch.tensor(turned((0.0, 0.0, 1.0), 90.0, 2.0, (1.0, 0.0, 5.0), (0.0, 0.0, -1.0)), dtype=torch.float64)
    points = torch.tensor([[1.0, 0, 5, 1], [2.0, 0, 5, 1], [1.0, 1, 6, 1]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0, 4], [1, 2, 4], [-1, 0, 6]], dtype=torch.float64)  # x turns to y, y to -x
    torch.testing.assert_close((points @ matrix.T)[:, :3], expected)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_recolouring_is_the_matrix_of_the_colour_seen_from_anywhere(degree: int) -> None:
    scene = some_scene(degree=degree, dtype=torch.float64)
    directions = torch.nn.functional.normalize(torch.randn(120, 3, generator=torch.Generator().manual_seed(1)).double())
    basis = sh_basis(directions, (degree + 1) ** 2)
    colors = lambda s: 0.5 + (basis[:, :, None] * s.sh).sum(dim=1)  # noqa: E731  without the cut at 0
    after = edited(scene, Recolor(MATRIX, (0.1, -0.2, 0.0)), no_files)
    expected = colors(scene) @ torch.tensor(MATRIX).double().T + torch.tensor([0.1, -0.2, 0.0]).double()
    torch.testing.assert_close(colors(after), expected)
    part = edited(scene, Recolor(MATRIX, (0.1, -0.2, 0.0), BALL), no_files)
    chosen = inside(BALL, scene.means)
    torch.testing.assert_close(colors(part), torch.where(chosen[:, None], expected, colors(scene)))


def test_opacities_are_multiplied_and_held_to_one() -> None:
    scene = some_scene()
    after = edited(scene, ScaleOpacity(1.7, parse_condition("x>0")), no_files)
    expected = [
        min(1.0, o * 1.7) if x > 0 else o
        for o, x in zip(scene.opacities.tolist(), scene.means[:, 0].tolist(), strict=True)
    ]
    assert expected.count(1.0) > 3
    torch.testing.assert_close(after.opacities, torch.tensor(expected))


def test_duplicates_follow_all_others() -> None:
    scene = some_scene()
    after = edited(scene, Duplicate(MOVE, BALL), no_files)
    chosen = inside(BALL, scene.means)
    assert same(after.select(slice(120)), scene)
    assert same(after.select(slice(120, None)), edited(scene.select(chosen), Transform(MOVE), no_files))


def test_what_is_left_alone_is_shared() -> None:
    scene = some_scene()
    shared = {
        "recolor part": {"means", "quats", "scales", "opacities"},
        "opacity part": {"means", "quats", "scales", "sh"},
        "transform part": {"opacities"},
    }
    for name, expected in shared.items():
        after = edited(scene, OPERATIONS[name], no_files).tensors()
        assert {key for key, tensor in scene.tensors().items() if after[key] is tensor} == expected


def test_files_are_merged_after_what_is_there(tmp_path: Path) -> None:
    scene, other = some_scene(degree=1), some_scene(30, degree=2)
    save(other, tmp_path / "other.ply")
    merged = edited(scene, Merge(tmp_path / "other.ply"), load)
    assert same(merged, merge([scene, load(tmp_path / "other.ply")])) and (len(merged), merged.sh_degree) == (150, 2)


def test_operations_follow_each_other(tmp_path: Path) -> None:
    scene = some_scene()
    steps: list[Operation] = [Delete(BALL), Transform(MOVE), Keep(Not(BALL))]
    by_hand = scene
    for step in steps:
        by_hand = edited(by_hand, step, no_files)
    assert same(apply(scene, steps, no_files), by_hand) and same(apply(scene, [], no_files), scene)
    with pytest.raises(InputError, match="^operation 2, merge: .*no such file") as caught:
        apply(scene, [*steps[:1], Merge(tmp_path / "none.ply")], load)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("operation", [Delete(NOTHING), Recolor(MATRIX, where=NOTHING), Duplicate(MOVE, NOTHING)])
def test_a_selection_of_nothing_is_told(operation: Operation) -> None:
    scene = some_scene()
    with pytest.warns(UserWarning, match=r"means none of 120 splats"):
        assert same(edited(scene, operation, no_files), scene)


def test_an_empty_scene_can_be_edited_further() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="keep means none|.* means none of 0 splats")
        after = apply(some_scene(), [Keep(NOTHING), *OPERATIONS.values()], no_files)
    assert len(after) == 0


def test_a_split_gives_every_splat_to_the_first_part_that_means_it() -> None:
    scene = some_scene()
    parts = split(scene, Split((("ball", BALL), ("left", Box((-9, -9, -9), (0, 9, 9))))))
    ball = inside(BALL, scene.means)
    left = ~ball & (scene.means[:, 0] <= 0)
    assert list(parts) == ["ball", "left", "rest"]
    for part, chosen in zip(parts.values(), (ball, left, ~ball & ~left), strict=True):
        assert same(part, scene.select(chosen))
    assert list(split(scene, Split((("ball", BALL), ("others", Not(BALL)))))) == ["ball", "others"]
    with pytest.raises(InputError, match="part 'again' has no splat"):
        split(scene, Split((("ball", Or((BALL,))), ("again", BALL))))


def small_scene() -> tuple[Gaussians, list[Camera]]:
    cameras = [look_at(eye, (0.0, 0.0, 0.0), width=160, height=120) for eye in ((0.5, -1.0, -6.0), (5.0, 2.0, 3.0))]
    return some_scene(300), cameras


def real_scene(shared: Path) -> tuple[Gaussians, list[Camera]]:
    return load(shared / "scenes" / "train-1000.ply"), load_cameras(shared / "golden" / "train-1000.json")


@pytest.mark.parametrize("name", ["small", "train-1000"])
@pytest.mark.parametrize("axis", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_a_quarter_turn_seen_by_the_turned_camera_is_the_same_picture(
    name: str, axis: tuple[float, ...], request: pytest.FixtureRequest
) -> None:
    scene, cameras = small_scene() if name == "small" else real_scene(request.getfixturevalue("shared"))
    assert scene.sh_degree == 3
    pivot = tuple(scene.means.double().median(dim=0).values.tolist())
    matrix = turned(axis, 90.0, pivot=pivot)
    after = apply(scene, [Transform(matrix)], no_files)
    unturned = apply(scene, [Transform(matrix)], no_files).tensors() | {"sh": scene.sh}
    for camera in cameras:
        pose = camera.world_to_camera @ torch.tensor(matrix, dtype=torch.float64).inverse()
        moved = Camera(pose, camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height)
        expected = render(scene, camera, backend="cpu").rgb
        assert float(expected.std()) > 0.01
        found = psnr(render(after, moved, backend="cpu").rgb, expected)
        forgotten = psnr(render(Gaussians(**unturned), moved, backend="cpu").rgb, expected)  # harmonics
        assert found >= 100 and found > forgotten + 50


def psnr(frame: torch.Tensor, expected: torch.Tensor) -> float:
    return -10 * math.log10(float((frame.double() - expected.double()).square().mean()) + 1e-20)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Transform(((1.0, 0, 0, 0), (0, 2, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))), "cannot follow a shear"),
        (lambda: Transform(((1.0, 0), (0, 1.0, 2), (0,), (1,))), "expected four rows of four numbers"),
        (lambda: Duplicate(((1.0, 0), (0, 1.0))), "has 2 rows, expected four"),
        (lambda: Transform(((1.0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0))), r"shape \[4, 3\]"),
        (lambda: Recolor(((1.0, 0, 0), (0, 1, 0))), "has 2 rows"),
        (lambda: Recolor(((1.0, 0, 0), (0, 1, 0), (0, 0))), "row of a colour matrix"),
        (lambda: Recolor(offset=(0, math.nan, 0)), r"offset is \[0, nan, 0\]"),
        (lambda: ScaleOpacity(-0.5), "factor -0.5 is negative"),
        (lambda: ScaleOpacity(math.inf), r"factor is \[inf\]"),
        (lambda: Split(()), "split without a part"),
        (lambda: Split((("rest", BALL),)), "part 'rest'"),
        (lambda: Split((("a/b", BALL),)), "part 'a/b'"),
        (lambda: Split((("", BALL),)), "part ''"),
        (lambda: Split((("Chair", BALL), ("chair", BALL))), "part 'chair'.*each name once"),
    ],
)
def test_what_is_no_operation_is_refused(made, said: str) -> None:
    with pytest.raises(InputError, match=said):
        made()
