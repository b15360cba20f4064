"""Options hold plain values of the right kind, so that equal ones are one record."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from lyra.kernels.options import Options


def test_numbers_become_floats_and_lists_become_tuples() -> None:
    given = Options(lens="fisheye", near=np.float32(0.5), far=7, distortion=[0.1, 0, np.float64(0.0), 0])  # type: ignore[arg-type]
    assert given == Options(lens="fisheye", near=0.5, far=7.0, distortion=(0.1, 0.0, 0.0, 0.0))
    assert hash(given) == hash(Options(lens="fisheye", near=0.5, far=7.0, distortion=(0.1, 0.0, 0.0, 0.0)))
    assert {type(given.near), type(given.far), *map(type, given.distortion)} == {float}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("near", "1"),
        ("near", torch.tensor(0.1)),
        ("near", True),
        ("near", -1.0),
        ("near", math.nan),
        ("far", 0.0),
        ("far", None),
        ("blur", math.inf),
        ("radius_clip", -0.5),
        ("max_angle", "a"),
        ("max_angle", 4.0),
        ("antialiased", 1),
        ("depth", None),
        ("distortion", None),
        ("distortion", 0.1),
        ("distortion", (0.1, 0.0)),
        ("distortion", (0.1, 0.0, 0.0, math.inf)),
        ("distortion", "0000"),
        ("distortion", (0.1, 0.0, 0.0, 0.0)),  # of a pinhole
        ("lens", "wide"),
        ("precision", "double"),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Options(**{name: value})
