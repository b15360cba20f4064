"""Augmentation: what is seen changes, where it lies does not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lyra.engine.prior.clips import Clips
from lyra.engine.prior.data.augment import (
    AugmentOptions,
    augment,
    blurred,
    mirrored_where,
    relit,
    reversed_where,
    zoomed,
)
from lyra.engine.scene.camera import look_at

NEVER = AugmentOptions(light=0, blur=0, crop=0, reverse=0, mirror=0)
ALWAYS = AugmentOptions(light=1, blur=1, crop=1, reverse=1, mirror=1)
ACROSS = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))


@pytest.fixture
def clips(seen_sphere: Callable) -> Clips:
    """Two scenes of three views, off the middle of the picture and not square."""
    eyes = [[(0.5, -1.0, -3.0), (1.5, 0.2, -2.5), (2.0, 1.0, 2.0)], [(-3.0, 0.1, 0.2), (-2.5, 1.5, 0), (0, 0.5, 3)]]
    rows = [[look_at(eye, (0.2, -0.1, 0.1), fov=0.9, width=56, height=40) for eye in row] for row in eyes]
    return seen_sphere([[replace(c, cx=c.cx + 3, fy=c.fy * 1.1) for c in row] for row in rows])


def test_the_check_sees_errors(clips: Clips, shows_sphere: Callable) -> None:
    shows_sphere(clips, off=1e-5, colour=1e-5)
    for wrong in (
        replace(clips, K=clips.K * torch.tensor([1.05, 1, 1])),
        replace(clips, rgb=clips.rgb.flip(-1)),
        replace(clips, world_to_camera=clips.world_to_camera * torch.tensor([-1.0, 1, 1, 1])),
    ):
        with pytest.raises(AssertionError):
            shows_sphere(wrong, off=0.005, colour=0.005)


def test_mirror_is_that_of_the_world(clips: Clips, shows_sphere: Callable) -> None:
    mirrored = mirrored_where(clips, torch.tensor([True, True]))
    shows_sphere(mirrored, off=1e-5, colour=1e-5, turned=ACROSS)
    assert torch.equal(mirrored.rgb, clips.rgb.flip(-1)) and torch.equal(mirrored.alpha, clips.alpha.flip(-1))
    torch.testing.assert_close(torch.linalg.det(mirrored.world_to_camera), torch.ones(2, 3))
    again = mirrored_where(mirrored, torch.tensor([True, True]))
    for name, tensor in again.tensors().items():
        torch.testing.assert_close(tensor, clips.tensors()[name])
    one = mirrored_where(clips, torch.tensor([False, True]))
    same(one.scenes(slice(0, 1)), clips.scenes(slice(0, 1)))
    same(one.scenes(slice(1, 2)), mirrored.scenes(slice(1, 2)))


def same(a: Clips, b: Clips) -> None:
    assert {name for name, tensor in a.tensors().items() if not torch.equal(tensor, b.tensors()[name])} == set()


@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.8)])
def test_crop_moves_the_intrinsics(clips: Clips, shows_sphere: Callable, place: tuple[float, float]) -> None:
    cut = zoomed(clips, torch.tensor([1.2, 1.07]), torch.tensor([place, place]))
    # The nearest pixel's depth stands up to half a pixel beside its ray.
    shows_sphere(cut, off=0.02, colour=0.02)
    torch.testing.assert_close(cut.K[:, :, 0, 0], clips.K[:, :, 0, 0] * torch.tensor([[1.2], [1.07]]))
    assert torch.equal(cut.world_to_camera, clips.world_to_camera)


def test_crop_is_what_a_longer_lens_sees(clips: Clips, seen_sphere: Callable) -> None:
    """Colour and alpha against the sphere traced with the new intrinsics."""
    cut = zoomed(clips, torch.tensor([1.2, 1.0]), torch.tensor([[0.25, 0.5], [0.9, 0.9]]))
    same(cut.scenes(slice(1, 2)), clips.scenes(slice(1, 2)))
    eyes = [(0.5, -1.0, -3.0), (1.5, 0.2, -2.5), (2.0, 1.0, 2.0)]
    plain = [look_at(eye, (0.2, -0.1, 0.1), fov=0.9, width=56, height=40) for eye in eyes]
    lenses = [{"fx": K[0, 0], "fy": K[1, 1], "cx": K[0, 2], "cy": K[1, 2]} for K in cut.K[0].double()]
    traced = seen_sphere([[replace(c, **lens) for c, lens in zip(plain, lenses, strict=True)]])
    inside = (traced.alpha == 1) & (cut.alpha[:1] > 0.999)
    assert float((traced.alpha - cut.alpha[:1]).abs().mean()) < 0.025  # half of the outline's pixels
    assert float((traced.alpha - clips.alpha[:1]).abs().mean()) > 0.05
    assert float((traced.rgb - cut.rgb[:1]).abs().movedim(2, -1)[inside].mean()) < 0.005


def test_light_is_linear_and_alike_in_all_views(clips: Clips) -> None:
    half = replace(clips, rgb=clips.rgb * 0.5, alpha=clips.alpha * 0.5)  # straight colours as before, half there
    gain = torch.tensor([[[0.5, 0.7, 1.0]], [[1.0, 1.0, 1.0]]])
    lit, faint = relit(clips, gain), relit(half, gain)
    torch.testing.assert_close(faint.rgb, lit.rgb * 0.5)
    linear = (((clips.rgb[0].double() + 0.055) / 1.055) ** 2.4) * gain[0, 0, :, None, None]  # colours lie above 0.1
    seen = (clips.alpha[0] == 1)[:, None].expand_as(linear)
    wanted = 1.055 * linear ** (1 / 2.4) - 0.055
    torch.testing.assert_close(lit.rgb[0].double()[seen], wanted[seen], atol=1e-5, rtol=0)
    assert torch.equal(lit.rgb[0][~seen], torch.zeros(int((~seen).sum())))
    same(lit.scenes(slice(1, 2)), clips.scenes(slice(1, 2)))
    assert float(relit(clips, 100 * gain).rgb.max()) == pytest.approx(1.0)


def test_blur_against_a_plain_sum(clips: Clips) -> None:
    soft = blurred(clips, torch.tensor([0.8, 0.0]))
    weights = torch.exp(-0.5 * (torch.arange(-3, 4) / 0.8) ** 2)
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    padded = torch.nn.functional.pad(clips.rgb[0], (3, 3, 3, 3), mode="replicate")
    wanted = (padded.unfold(2, 7, 1).unfold(3, 7, 1) * kernel).sum((-1, -2))
    torch.testing.assert_close(soft.rgb[0], wanted, atol=1e-5, rtol=0)
    same(soft.scenes(slice(1, 2)), clips.scenes(slice(1, 2)))
    assert torch.equal(soft.depth, clips.depth) and bool((soft.rgb <= soft.alpha[:, :, None] + 1e-6).all())


def test_time_runs_backward(clips: Clips) -> None:
    back = reversed_where(clips, torch.tensor([True, False]))
    assert back.times.tolist() == [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
    assert torch.equal(back.rgb, clips.rgb)


def draw(clips: Clips, options: AugmentOptions, seed: int = 0) -> Clips:
    return augment(clips, torch.Generator().manual_seed(seed), options)


def test_all_together_stay_true(clips: Clips, shows_sphere: Callable) -> None:
    plain_light = replace(ALWAYS, stops=0.0, tint=0.0, sigma=(0.3, 0.3))
    for seed in range(4):
        shows_sphere(draw(clips, plain_light, seed), off=0.02, colour=0.03, turned=ACROSS)
        changed = draw(clips, replace(ALWAYS, flicker=0.2), seed)
        assert 0 <= float(changed.rgb.min()) and float(changed.rgb.max()) <= 1
        assert not torch.equal(changed.rgb, clips.rgb.flip(-1))


def test_the_seed_decides(clips: Clips) -> None:
    same(draw(clips, AugmentOptions(), 3), draw(clips, AugmentOptions(), 3))
    assert not torch.equal(draw(clips, ALWAYS, 3).rgb, draw(clips, ALWAYS, 4).rgb)
    same(draw(clips, NEVER), clips)


def test_shares_are_those_of_the_options(clips: Clips) -> None:
    many = Clips(
        **{name: tensor[:1].repeat(400, *[1] * (tensor.dim() - 1)) for name, tensor in clips.tensors().items()}
    )
    small = replace(many, rgb=many.rgb[..., :2, :2], depth=many.depth[..., :2, :2], alpha=many.alpha[..., :2, :2])
    out = draw(small, AugmentOptions(crop=0.3, mirror=0.7, reverse=0.1))

    def share(chosen: Tensor) -> float:
        return float(chosen.float().mean())

    assert share(out.K[:, 0, 0, 0] > clips.K[0, 0, 0, 0]) == pytest.approx(0.3, abs=0.07)
    assert share(out.world_to_camera[:, 0, 0, 3] != clips.world_to_camera[0, 0, 0, 3]) == pytest.approx(0.7, abs=0.07)
    assert share(out.times[:, 0] == 1) == pytest.approx(0.1, abs=0.05)
