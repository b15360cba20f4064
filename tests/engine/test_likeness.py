"""PSNR, MS-SSIM and FLIP: what holds of any pictures, and what other implementations say of one pair."""

import math

import pytest
import torch

from lyra.engine.likeness import flip, ms_ssim, psnr


def pair(height: int = 192, width: int = 208) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures from formulas, so that anyone can make them."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    first = torch.stack((x, y, 0.5 + 0.5 * torch.sin(40 * x * y)), -1)
    return first, 0.9 * first.roll((2, 1), (0, 1)) + 0.05


@pytest.mark.parametrize(("measure", "best"), [(psnr, math.inf), (ms_ssim, 1.0), (flip, 0.0)])
def test_equal_pictures_are_best(measure, best: float) -> None:
    first, second = pair()
    assert measure(first, first) == pytest.approx(best, abs=1e-6)
    assert measure(first, second) != pytest.approx(best, abs=1e-3)


def test_likeness_has_no_direction() -> None:
    first, second = pair()
    assert psnr(first, second) == psnr(second, first)
    assert ms_ssim(first, second) == pytest.approx(ms_ssim(second, first), abs=1e-6)
    assert flip(first, second) == pytest.approx(flip(second, first), abs=1e-6)


def test_psnr_of_a_known_error() -> None:
    assert psnr(torch.zeros(4, 5, 3), torch.full((4, 5, 3), 0.1)) == pytest.approx(20.0, abs=1e-5)


def test_black_and_white_are_as_far_apart_as_can_be() -> None:
    black, white = torch.zeros(40, 50, 3), torch.ones(40, 50, 3)
    assert flip(black, white) == pytest.approx(0.96740, abs=2e-4)


def test_what_others_say_of_a_pair() -> None:
    """pytorch-msssim 1.0.0 and NVIDIA's flip-evaluator 1.7 (LDR, 67 pixels a degree)."""
    first, second = pair()
    assert ms_ssim(first, second) == pytest.approx(0.9719884, abs=2e-6)
    assert flip(first, second) == pytest.approx(0.320411, abs=2e-5)


def test_small_pictures_have_no_ms_ssim() -> None:
    assert ms_ssim(*pair(175, 300)) is None
    assert ms_ssim(*pair(176, 176)) is not None


def test_noise_costs_more_the_more_there_is() -> None:
    first, _ = pair()
    noise = torch.randn(first.shape, generator=torch.Generator().manual_seed(1))
    pictures = [(first + share * noise).clamp(0, 1) for share in (0.02, 0.05, 0.2)]
    for measure, rising in ((psnr, False), (ms_ssim, False), (flip, True)):
        values = [measure(first, picture) for picture in pictures]
        assert values == sorted(values, reverse=not rising)
