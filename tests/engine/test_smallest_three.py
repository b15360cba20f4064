"""Packing of quaternions against plain Python, and back."""

import math
import random

import pytest
import torch

from lyra.engine.formats.smallest_three import pack, unit, unpack


def made(n: int) -> list[list[float]]:
    """Of many lengths, with ties, zeros, negative zeros and every component the largest."""
    rng = random.Random(n)
    quats = [[rng.gauss(0, 1) * 10.0 ** rng.choice((-15, 0, 15)) for _ in range(4)] for _ in range(n)]
    for i, quat in enumerate(quats):
        scale = 10.0 ** rng.choice((-15, 0, 15))
        if i % 3 == 0:
            quats[i] = [scale * rng.choice((-1.0, -0.0, 0.0, 1.0)) for _ in range(4)]
            quats[i][rng.randrange(4)] = rng.choice((-scale, scale))
        elif i % 3 == 1:
            quats[i] = [scale * v / max(map(abs, quat)) for v in quat]
    return quats


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pack(dtype: torch.dtype) -> None:
    quats = torch.tensor(made(600), dtype=dtype)
    largest, stored = pack(quats)
    assert set(largest.tolist()) == {0, 1, 2, 3}
    for quat, index, others in zip(quats.tolist(), largest.tolist(), stored.tolist(), strict=True):
        length = math.sqrt(sum(v * v for v in quat))
        sizes = [abs(v) for v in quat]
        assert sizes[index] == max(sizes) and index == sizes.index(max(sizes))
        sign = -1 if quat[index] < 0 else 1
        assert others == pytest.approx([sign * v / length for i, v in enumerate(quat) if i != index], abs=1e-12)
        assert max(map(abs, others)) <= math.sqrt(0.5) + 1e-12


def test_unpack_is_the_inverse() -> None:
    quats = torch.tensor(made(600), dtype=torch.float64)
    back, units = unpack(*pack(quats)), unit(quats)
    assert torch.allclose(units.norm(dim=1), torch.ones(600, dtype=torch.float64), rtol=0, atol=1e-14)
    assert torch.allclose((back * units).sum(dim=1).abs(), torch.ones(600, dtype=torch.float64), rtol=0, atol=1e-12)
