"""Morton order against codes made bit by bit, and the packing of quaternions that shares its users."""

import random

import pytest
import torch

from lyra.engine.scene.morton import morton_order


def code(cells: list[int]) -> int:
    """x in bits 0, 3, 6..., y in 1, 4, 7..., z in 2, 5, 8..."""
    return sum((cell >> bit & 1) << 3 * bit + axis for axis, cell in enumerate(cells) for bit in range(21))


@pytest.mark.parametrize("n", [1, 2, 257, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_order_by_code(n: int, dtype: torch.dtype) -> None:
    means = torch.randn(n, 3, generator=torch.Generator().manual_seed(n), dtype=dtype) * torch.tensor([1, 50, 1e-3])
    rows = means.double().tolist()
    bounds = [(min(column), max(column)) for column in zip(*rows, strict=True)]

    def cell(value: float, low: float, high: float) -> int:
        return min(int((value - low) / ((high - low) or 1) * 2**21), 2**21 - 1)

    codes = [code([cell(v, *bound) for v, bound in zip(row, bounds, strict=True)]) for row in rows]
    order = morton_order(means)
    assert order.dtype == torch.int64 and sorted(order.tolist()) == list(range(n))
    assert order.tolist() == sorted(range(n), key=lambda i: codes[i])


def test_corners_of_a_cube() -> None:
    corners = torch.tensor([[x, y, z] for z in (0.0, 1.0) for y in (0.0, 1.0) for x in (0.0, 1.0)])
    shuffled = list(range(8))
    random.Random(1).shuffle(shuffled)
    assert [shuffled[i] for i in morton_order(corners[shuffled])] == list(range(8))


def test_equal_points_keep_their_order() -> None:
    means = torch.tensor([[2.0, 2, 2], [1, 1, 1], [2, 2, 2], [1, 1, 1], [2, 2, 2]])
    assert morton_order(means).tolist() == [1, 3, 0, 2, 4]
    assert morton_order(torch.full((300, 3), 7.0)).tolist() == list(range(300))


def test_the_largest_numbers() -> None:
    top = torch.finfo(torch.float32).max
    assert morton_order(torch.tensor([[top, top, top], [0, 0, 0], [-top, -top, -top]])).tolist() == [2, 1, 0]


def test_no_points() -> None:
    assert morton_order(torch.empty(0, 3)).tolist() == []
