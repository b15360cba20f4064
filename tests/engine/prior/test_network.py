"""The networks: what they must not depend on, how they begin, and the same weights through diffusers and without."""

import dataclasses
from pathlib import Path

import pytest
import torch

from lyra.engine.errors import InputError
from lyra.engine.prior.clips import Clips
from lyra.engine.prior.decoder import DecoderNetwork, as_gaussians, look
from lyra.engine.prior.denoiser import DenoiserNetwork, Planes, denoise, make_condition
from lyra.engine.prior.inference import decode
from lyra.engine.prior.network import MultiViewTransformer, NetworkOptions
from lyra.engine.prior.sampling import integrate, ode_step, sample
from lyra.engine.prior.weights import load_network
from lyra.kernels.reference import quats_to_rotations

SMALL, PLANES = NetworkOptions(width=64, depth=2, patch=2, stem=8), Planes(count=5)


def randomised(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """With no weight at 0, where networks begin."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def scene(views: int = 3, size: tuple[int, int] = (8, 6), seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    poses = torch.eye(4).repeat(2, views, 1, 1)
    poses[:, :, :3, 3] = 0.2 * torch.randn(2, views, 3, generator=generator)
    K = torch.tensor([[8.0, 0, 4], [0, 8, 3], [0, 0, 1]]).expand(2, views, 3, 3)
    rgb = torch.rand(2, views, 3, size[1], size[0], generator=generator)
    return {"rgb": rgb, "poses": poses, "K": K, "times": torch.rand(2, views, generator=generator)}


def condition_of(views: dict[str, torch.Tensor], known: int = 1, **options: bool):
    return make_condition(views["rgb"][:, :known], views["poses"], views["K"], views["times"], PLANES, **options)


def test_the_order_of_views_does_not_matter() -> None:
    network = randomised(MultiViewTransformer(5, 4, 2, SMALL))
    pixels, labels = torch.randn(2, 3, 5, 6, 8), torch.rand(2, 3, 2)
    turned = [2, 0, 1]
    found = network(pixels, labels)
    assert torch.allclose(network(pixels[:, turned], labels[:, turned]), found[:, turned], atol=1e-5)
    assert not torch.allclose(network(pixels, labels[:, turned]), found, atol=1e-3)


def test_every_pixel_can_reach_every_other() -> None:
    network = randomised(MultiViewTransformer(5, 4, 1, SMALL))
    pixels = torch.randn(1, 3, 5, 6, 8, requires_grad=True)
    network(pixels, torch.rand(1, 3, 1))[0, 2, 0, 5, 7].backward()
    assert (pixels.grad.abs().amax(dim=2) > 0).all()


def test_a_denoiser_returns_known_views_and_ignores_noise_in_them() -> None:
    views = scene()
    condition = condition_of(views)
    network = randomised(DenoiserNetwork(SMALL, PLANES))
    noisy, levels = torch.randn_like(views["rgb"]), torch.tensor([0.3, 0.9])
    found = denoise(network, noisy, levels, condition)
    assert torch.equal(found[:, 0], 2 * views["rgb"][:, 0] - 1)
    spoiled = noisy.clone()
    spoiled[:, 0] = 1e6
    assert torch.equal(denoise(network, spoiled, levels, condition), found)
    assert not torch.equal(denoise(network, noisy, levels / 2, condition)[:, 1:], found[:, 1:])


def test_a_fresh_denoiser_shows_the_mean_of_what_is_seen() -> None:
    views = scene()
    condition = condition_of(views)
    found = denoise(DenoiserNetwork(SMALL, PLANES), torch.randn_like(views["rgb"]), torch.ones(2), condition)
    seen = (condition.evidence[:, :, :, 0] > 0).float()
    wanted = (condition.colors * seen[:, :, :, None]).sum(dim=2) / (seen.sum(dim=2) + 1)[:, :, None]
    assert torch.allclose(found[:, 1:], wanted[:, 1:], atol=1e-3)


def test_rays_can_be_taken_away() -> None:
    views = scene()
    assert condition_of(views, use_rays=False).rays.abs().max() == 0
    assert condition_of(views).rays.abs().max() > 0


def test_solving_and_sampling_know_the_truth_when_the_network_does() -> None:
    """A predictor that always says the same leads there in any number of steps; the same seed gives the same bytes."""
    views = scene()
    condition = condition_of(views)
    truth = 2 * views["rgb"] - 1
    for way in (integrate, sample):
        for steps in (1, 3):
            found = way(lambda x, level: truth, condition, steps, torch.Generator().manual_seed(1))
            assert torch.allclose(found, truth, atol=1e-5)
    network = randomised(DenoiserNetwork(SMALL, PLANES))
    first, same, other = (
        sample(lambda x, level: denoise(network, x, level, condition), condition, 2, torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_a_step_of_the_flow_is_eulers() -> None:
    clean, noise = torch.randn(2, 1, 3, 4, 4), torch.randn(2, 1, 3, 4, 4)
    at = lambda level: (1 - level) * clean + level * noise  # noqa: E731
    found = ode_step(at(0.8), clean, torch.full((2,), 0.8), torch.full((2,), 0.3))
    assert torch.allclose(found, at(0.3), atol=1e-6)


def test_a_decoder_puts_gaussians_on_the_rays_of_their_pixels() -> None:
    views = scene()
    inputs = look(views["rgb"], views["poses"], views["K"], PLANES)
    network = randomised(DecoderNetwork(SMALL, PLANES))
    raw = network(*inputs, views["times"], views["times"])
    found = as_gaussians(raw, views["rgb"], views["poses"], views["K"], PLANES)
    means = found["means"].view(2, 3, 6, 8, 3)
    local = (
        torch.einsum("bvij,bvhwj->bvhwi", views["poses"][..., :3, :3], means) + views["poses"][:, :, None, None, :3, 3]
    )
    assert torch.allclose(local[..., 2], found["depths"], rtol=1e-4)
    assert torch.allclose(8 * local[..., 0] / local[..., 2] + 4, (torch.arange(8) + 0.5).expand(2, 3, 6, 8), atol=1e-3)
    inverse = 1 / found["depths"]
    assert inverse.min() > 1 / PLANES.far / 2 and inverse.max() < 1 / PLANES.near * 1.2
    assert (found["scales"] > 0).all() and ((found["opacities"] > 0) & (found["opacities"] < 1)).all()


def test_gaussians_of_a_turned_view_turn_with_it() -> None:
    views = scene(views=1)
    raw = torch.randn(2, 1, PLANES.count + 12, 6, 8)
    plain = as_gaussians(raw, views["rgb"], torch.eye(4).repeat(2, 1, 1, 1), views["K"], PLANES)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3))).Q
    turn = turn * torch.linalg.det(turn)
    pose = torch.eye(4)
    pose[:3, :3] = turn
    turned = as_gaussians(raw, views["rgb"], pose.repeat(2, 1, 1, 1), views["K"], PLANES)
    assert torch.allclose(turned["means"], plain["means"] @ turn, atol=1e-5)
    before, after = (quats_to_rotations(f["quats"] / f["quats"].norm(dim=-1, keepdim=True)) for f in (plain, turned))
    assert torch.allclose(after, turn.T @ before, atol=1e-5)


def test_views_can_be_kept_from_looking_at_each_other() -> None:
    views = scene()
    _, _, colors, evidence = look(views["rgb"], views["poses"], views["K"], PLANES, fused=False)
    assert colors.abs().max() == 0 and evidence.abs().max() == 0
    decoder = randomised(DecoderNetwork(SMALL, PLANES))
    rgb, one = views["rgb"], torch.ones_like(views["rgb"][:, :, 0])
    times = torch.zeros(rgb.shape[:2])
    clips = Clips(rgb, one, one, views["poses"], views["K"], times)
    other = dataclasses.replace(clips, rgb=torch.cat((rgb[:, :1], 1 - rgb[:, 1:]), 1))
    pixels = rgb.shape[-1] * rgb.shape[-2]
    for fused in (True, False):
        found, changed = (decode(decoder, c, times[:, 0], PLANES, fused=fused) for c in (clips, other))
        assert torch.equal(found["opacities"][:, :pixels], changed["opacities"][:, :pixels]) != fused
        assert not torch.equal(found["opacities"][:, pixels:], changed["opacities"][:, pixels:])


@pytest.mark.parametrize("kind", ["Denoiser", "GaussianDecoder"])
def test_diffusers_and_the_plain_loader_read_the_same_files(kind: str, tmp_path: Path) -> None:
    from lyra.engine.prior import models

    made = models.Denoiser if kind == "Denoiser" else models.GaussianDecoder
    model = randomised(made(**models.config_of(SMALL, PLANES)))
    model.half().save_pretrained(tmp_path)
    again = made.from_pretrained(tmp_path, torch_dtype=torch.float32)
    plain = load_network(tmp_path)
    assert dataclasses.asdict(plain.core.options) == dataclasses.asdict(SMALL) and plain.planes == PLANES
    states = model.float().state_dict(), again.state_dict(), plain.state_dict()
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]) and torch.equal(states[0][name], states[2][name])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds no network of the prior"):
        load_network(tmp_path)


def test_attention_backends_are_diffusers_own() -> None:
    from lyra.engine.prior import models

    model = randomised(models.Denoiser(**models.config_of(SMALL, PLANES)))
    views = scene()
    condition, noisy = condition_of(views), torch.randn_like(views["rgb"])
    plain = denoise(model, noisy, torch.ones(2), condition)
    model.set_attention_backend("_native_math")
    assert torch.allclose(denoise(model, noisy, torch.ones(2), condition), plain, atol=1e-5)
    model.set_attention_backend("native")
    assert torch.equal(denoise(model, noisy, torch.ones(2), condition), plain)
    with pytest.raises(InputError, match="'fast' is unknown: give .*xformers"):
        model.set_attention_backend("fast")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="'xformers' cannot run here .*or give native"):
            model.set_attention_backend("xformers")


@pytest.mark.gpu
def test_xformers_agrees_with_torch() -> None:
    pytest.importorskip("xformers")
    from lyra.engine.prior import models

    model = randomised(models.Denoiser(**models.config_of(SMALL, PLANES))).cuda()
    views = {name: tensor.cuda() for name, tensor in scene().items()}
    condition, noisy = condition_of(views), torch.randn_like(views["rgb"])
    plain = denoise(model, noisy, torch.ones(2).cuda(), condition)
    model.set_attention_backend("xformers")
    assert torch.allclose(denoise(model, noisy, torch.ones(2).cuda(), condition), plain, atol=1e-3)


def test_widths_are_whole_heads() -> None:
    with pytest.raises(ValueError, match="width is 96, expected a multiple of 64"):
        NetworkOptions(width=96)
