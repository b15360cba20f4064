"""Boxes and conditions as typed, against the same comparison splat by splat."""

import math
import operator

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.scene.filters import FIELDS, Condition, holds, parse_box, parse_condition
from lyra.engine.scene.gaussians import Gaussians
from lyra.engine.scene.regions import Box
from lyra.kernels.constants import SH_C0


def some_scene(n: int = 200) -> Gaussians:
    rng = torch.Generator().manual_seed(n)
    draw = lambda *shape: torch.rand(*shape, generator=rng)  # noqa: E731
    return Gaussians(draw(n, 3), draw(n, 4), draw(n, 3), draw(n), draw(n, 4, 3) - 0.5)


def value_of(scene: Gaussians, field: str, i: int) -> float:
    """What a field means, for one splat."""
    if field == "opacity":
        return float(scene.opacities[i])
    if field == "scale":
        return max(scene.scales[i].tolist())
    if field in "xyz":
        return float(scene.means[i]["xyz".index(field)])
    return 0.5 + SH_C0 * float(scene.sh[i, 0, ["red", "green", "blue"].index(field)])


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(("sign", "compare"), [("<", operator.lt), (">=", operator.ge)])
def test_a_condition_holds_where_its_field_compares(field: str, sign: str, compare) -> None:
    scene = some_scene()
    expected = [compare(value_of(scene, field, i), 0.47) for i in range(len(scene))]
    assert 0 < sum(expected) < len(scene)
    assert holds(parse_condition(f"{field}{sign}0.47"), scene).tolist() == expected


@pytest.mark.parametrize("sign", ["<", "<=", ">", ">="])
def test_equal_counts_only_where_it_is_said(sign: str) -> None:
    scene = some_scene(3)
    scene.opacities[:] = torch.tensor([0.25, 0.5, 0.75])
    expected = {"<": [1, 0, 0], "<=": [1, 1, 0], ">": [0, 0, 1], ">=": [0, 1, 1]}[sign]
    assert holds(Condition("opacity", sign, 0.5), scene).tolist() == [bool(x) for x in expected]


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("opacity>=0.05", Condition("opacity", ">=", 0.05)),
        (" scale <\t1e-3 ", Condition("scale", "<", 1e-3)),
        ("x>-inf", Condition("x", ">", -math.inf)),
        ("blue<=.5", Condition("blue", "<=", 0.5)),
    ],
)
def test_conditions_are_read(text: str, condition: Condition) -> None:
    assert parse_condition(text) == condition


@pytest.mark.parametrize("text", ["", "opacity", "opacity=1", "opacity==1", "alpha<1", "x<", "x<a", "x<nan", "x<1 y<2"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is none: give opacity, scale, x, y, z, red, green, blue, then"):
        parse_condition(text)


def test_boxes_are_read() -> None:
    assert parse_box("-1,0, 2.5,1e1,inf,3") == Box((-1, 0, 2.5), (10, math.inf, 3))


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5,six", "1,2,3,4,5,nan", "0,0,0,1,1,1,1"])
def test_what_is_no_box_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="give six numbers"):
        parse_box(text)


def test_a_box_without_an_inside_is_refused() -> None:
    with pytest.raises(InputError, match="has no inside"):
        parse_box("1,1,1,0,0,0")
