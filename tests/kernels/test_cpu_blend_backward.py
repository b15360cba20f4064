"""The Numba blend's gradients against float64 autograd of the reference, for the record's own numbers as leaves."""

from typing import NamedTuple

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.kernels import constants as c
from lyra.kernels import reference
from lyra.kernels.cpu import bin as binning
from lyra.kernels.cpu import blend_backward as backward
from lyra.kernels.cpu import features_backward as features_pass
from lyra.kernels.cpu.compiled import compiled
from lyra.kernels.cpu.lane_sums import sums
from lyra.kernels.cpu.simd import load, store
from lyra.kernels.options import Options
from lyra.kernels.views import pack_views

SIZES = [(101, 67), (37, 29), (1, 1), (17, 1), (1, 70), (33, 16)]
BAND = 1e-3  # see conftest.py
NAMES = ("mean x", "mean y", "l0", "l1", "l2", "log2 opacity", "red", "green", "blue", "depth")


class Case(NamedTuple):
    """A scene as records and lists, what the loss weighs each pixel with, and autograd's answer."""

    records: np.ndarray  # [n, 12] float32, NaN where culled
    ids: np.ndarray
    starts: np.ndarray
    size: tuple[int, int]
    grad_c: Tensor  # [h, w, 3] float32, and so on: zero in undecided pixels
    grad_a: Tensor
    grad_s: Tensor
    total: Tensor
    alphas: Tensor  # [v, h, w] float64, clamped, not cut
    stopped: Tensor  # [h, w] bool
    expected: Tensor  # [n, 10] float64
    projected: reference.Projected
    order: Tensor


def to_records(projected: reference.Projected) -> Tensor:
    """The records of a projection, in float32 with NaN where culled."""
    xx, xy, yy = (c.SQRT_HALF_LOG2E**2 * projected.conics).unbind(-1)
    l0 = xx.sqrt()
    l1 = xy / l0
    l2 = (yy - l1 * l1).sqrt()
    log2_opacity = torch.log2(projected.opacities)
    columns = [projected.means2d, l0, l1, l2, log2_opacity, projected.colors, projected.depths, projected.extents]
    records = torch.cat([column.reshape(len(l0), -1) for column in columns], dim=1).float()
    records[~projected.visible] = torch.nan
    return records


def to_projected(leaves: Tensor, projected: reference.Projected) -> reference.Projected:
    """What the reference blends, made from leaves [n, 10] float64, slots as in the records."""
    mean, (l0, l1, l2, log2_opacity) = leaves[:, :2], leaves[:, 2:6].unbind(-1)
    conics = torch.stack((l0 * l0, l0 * l1, l1 * l1 + l2 * l2), dim=-1) / c.SQRT_HALF_LOG2E**2
    colors, depths = leaves[:, c.RED : c.DEPTH], leaves[:, c.DEPTH]
    return projected._replace(
        means2d=mean, conics=conics, opacities=torch.exp2(log2_opacity), colors=colors, depths=depths
    )


def look_at_pairs(projected: reference.Projected, order: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Clamped alphas [v, h, w] of all pairs, and the pixels [h, w] that no cut-off could tip."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    offset = torch.stack((x, y), dim=-1).double() + 0.5 - projected.means2d[order][:, None, None]
    dx, dy = offset[..., 0], offset[..., 1]
    xx, xy, yy = (projected.conics[order][:, i, None, None] for i in range(3))
    alphas = projected.opacities[order][:, None, None] * torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
    clamped = alphas.clamp(max=c.ALPHA_MAX)
    transmittance = torch.cumprod(1 - torch.where(alphas < c.ALPHA_MIN, 0.0, clamped), dim=0)
    before = torch.cat((torch.ones_like(transmittance[:1]), transmittance[:-1]))[: len(order)]
    doubtful = ((alphas / c.ALPHA_MIN - 1).abs() < BAND) | ((alphas / c.ALPHA_MAX - 1).abs() < 1e-5)
    doubtful = (doubtful & (before > c.STOP * (1 - BAND))).any(dim=0)
    doubtful |= ((transmittance / c.STOP - 1).abs() < BAND).any(dim=0)
    return clamped, ~doubtful


def make_case(projected: reference.Projected, width: int, height: int, seed: int = 0, mask=None) -> Case:
    """Random gradients for every decided pixel, and autograd's gradients of the records."""
    records = to_records(projected)
    order = reference.depth_order([projected._replace(sort_depths=records[:, c.DEPTH])])
    leaves = torch.nan_to_num(records[:, : c.EXTENT_X], nan=0.5).double().requires_grad_()
    blended = to_projected(leaves, projected)
    with torch.no_grad():
        alphas, decided = look_at_pairs(blended, order, width, height)
    if mask is not None:
        decided = decided & mask
    generator = torch.Generator().manual_seed(seed)
    grad_c, grad_a, grad_s = (
        torch.randn(height, width, channels, generator=generator).squeeze(-1) * decided.reshape(height, width, *extra)
        for channels, extra in ((3, (1,)), (1, ()), (1, ()))
    )
    rgb, alpha, depth = reference.blend(blended, order, width, height)[:3]
    pixels = (rgb * grad_c).sum(dim=-1) + alpha * grad_a + depth * alpha * grad_s
    (expected,) = torch.autograd.grad(pixels.sum(), leaves)
    ids, starts = binning.bin_splats(records.numpy(), order.numpy().astype(np.uint32), width, height)
    stopped = torch.cumprod(1 - torch.where(alphas < c.ALPHA_MIN, 0.0, alphas), dim=0)[-1:].amin(dim=0) <= c.STOP
    total = pixels.detach().float()
    given = grad_c.contiguous(), grad_a.contiguous(), grad_s.contiguous(), total
    size = width, height
    return Case(records.numpy(), ids, starts, size, *given, alphas, stopped, expected, projected, order)


def run(case: Case, *, depth: bool = True, mask: Tensor | None = None, absgrad: bool = False) -> Tensor:
    """The gradients of a case by the kernel."""
    result = backward.blend_backward(
        case.records,
        case.ids,
        case.starts,
        *case.size,
        case.grad_c.numpy(),
        case.grad_a.numpy(),
        case.grad_s.numpy() if depth else None,
        case.total.numpy(),
        mask=None if mask is None else mask.numpy(),
        absgrad=absgrad,
    )
    return torch.from_numpy(result)


def check(result: Tensor, expected: Tensor, case: Case, *, least: float = 1e-3) -> None:
    """Each slot within `least` of its own length, zero where nothing was seen."""
    assert result.dtype == torch.float32 and result.shape == (len(case.records), c.RECORD)
    unseen = torch.ones(len(result), dtype=torch.bool)
    unseen[case.order] = False
    assert (result[unseen] == 0).all(), "a culled splat has a gradient"
    assert torch.isfinite(result).all()
    for slot, name in enumerate(NAMES):
        error = float((result[:, slot] - expected[:, slot]).norm() / expected[:, slot].norm().clamp(min=1e-12))
        print(f"{name} {error:.1e}", end="  ")
        assert error <= least, f"gradient of {name} is {error:.1e} off"
    print()


def in_sight(means: Tensor, conics: Tensor, depths: Tensor, colors: Tensor, opacities: Tensor) -> reference.Projected:
    """Splats that are all visible, with the extents that belong to them."""
    xx, xy, yy = conics.unbind(-1)
    variances = torch.stack((yy, xx), dim=-1) / (xx * yy - xy * xy)[:, None]
    extents = (2 * torch.log(opacities / c.ALPHA_MIN)[:, None] * variances).sqrt()
    visible = torch.ones(len(means), dtype=torch.bool)
    return reference.Projected(means, conics, depths, colors, opacities, extents, visible, depths)


def project_scene(make_view, make_scene, width: int, height: int, n: int, seed: int) -> reference.Projected:
    """A random scene through the reference."""
    view = make_view(width, height, seed=seed)
    return project(make_scene(view, n, 4, seed=seed), view)


def project(scene, view) -> reference.Projected:
    """A scene through the reference."""
    row = pack_views(view.world_to_camera[None], view.K[None], view.width, view.height, Options())[0]
    return reference.project(*scene.double(), row, Options())


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_gradients_agree_with_autograd(make_view, make_scene, size, seed: int) -> None:
    case = make_case(project_scene(make_view, make_scene, *size, 120, 20 + seed), *size)
    check(run(case), case.expected, case)


def test_gradients_of_clamped_and_stopped_pixels(make_view, make_scene) -> None:
    """Opaque splats in deep lists: most pixels stop, many alphas are clamped, and lists end early."""
    view = make_view(65, 47, seed=3)
    scene = make_scene(view, 900, 4, seed=3)
    scene = scene._replace(scales=scene.scales * 2, opacities=(scene.opacities * 2).clamp(max=1.0))
    case = make_case(project(scene, view), 65, 47)
    assert float(case.stopped.double().mean()) > 0.5
    assert int((case.alphas == c.ALPHA_MAX).sum()) > 100
    check(run(case), case.expected, case)


def test_smooth_pixels_agree_closely() -> None:
    """No cut-off near: wide and faint splats. Here float32 itself is the only difference."""
    generator = torch.Generator().manual_seed(0)
    n, width, height = 20, 47, 35

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    conics = torch.stack((uniform(2e-4, 8e-4, n), uniform(-1e-4, 1e-4, n), uniform(2e-4, 8e-4, n)), dim=-1)
    means = uniform(0.0, 1.0, n, 2) * torch.tensor((width, height))
    projected = in_sight(means, conics, uniform(1.0, 3.0, n), uniform(0.0, 1.0, n, 3), uniform(0.2, 0.3, n))
    case = make_case(projected, width, height)
    assert float(case.alphas.min()) > 2 * c.ALPHA_MIN and not case.stopped.any()
    check(run(case), case.expected, case, least=2e-5)


def test_needles_far_from_their_means_agree_closely() -> None:
    """A needle's u is a small difference of large numbers, most of all in tiles far from its mean."""
    n, width, height = 30, 150, 90
    generator = torch.Generator().manual_seed(1)
    angle = torch.rand(n, generator=generator, dtype=torch.float64) * 3.1
    along = torch.stack((angle.cos(), angle.sin()), dim=-1)
    across = torch.stack((-angle.sin(), angle.cos()), dim=-1)
    covariance = 400.0**2 * along[:, :, None] * along[:, None] + 0.6**2 * across[:, :, None] * across[:, None]
    inverse = torch.linalg.inv(covariance)
    conics = torch.stack((inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]), dim=-1)
    middle = torch.tensor((width, height)) * torch.rand(n, 2, generator=generator, dtype=torch.float64)
    reach = 600 * torch.rand(n, 1, generator=generator, dtype=torch.float64) - 300
    colors = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    depths, opacities = 1 + colors[:, 0], 0.2 + 0.7 * colors[:, 1]
    case = make_case(in_sight(middle + reach * along, conics, depths, colors, opacities), width, height)
    check(run(case), case.expected, case)


def test_depth_is_left_out_where_it_has_no_gradient(make_view, make_scene) -> None:
    case = make_case(project_scene(make_view, make_scene, 61, 43, 120, 5), 61, 43)
    _, alpha, depth = reference.blend(case.projected, case.order, *case.size)[:3]
    flat = case._replace(
        grad_s=torch.zeros_like(case.grad_s), total=case.total - (depth * alpha * case.grad_s).detach().float()
    )
    given, left_out = run(flat), run(flat, depth=False)
    torch.testing.assert_close(given, left_out, rtol=1e-4, atol=1e-5)
    assert (left_out[:, c.DEPTH] == 0).all() and not torch.allclose(left_out[:, 0], run(case)[:, 0])


def test_masked_pixels_count_for_nothing(make_view, make_scene) -> None:
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(53, 140, generator=generator) < 0.6
    mask[:, :70] = False  # whole tiles
    case = make_case(project_scene(make_view, make_scene, 140, 53, 150, 6), 140, 53, mask=mask)
    for name in ("grad_c", "grad_a", "grad_s", "total"):
        getattr(case, name)[~mask] = torch.nan
    check(run(case, mask=mask), case.expected, case)


def test_absolute_sums_agree_with_brute_force() -> None:
    """One backward pass of the reference for each pixel."""
    generator = torch.Generator().manual_seed(4)
    n, width, height = 9, 11, 9
    scale = torch.tensor((width, height))
    means = torch.rand(n, 2, generator=generator, dtype=torch.float64) * scale
    noise = torch.rand(n, 8, generator=generator, dtype=torch.float64)
    conics = torch.stack((0.03 + 0.1 * noise[:, 0], 0.03 * (noise[:, 1] - 0.5), 0.03 + 0.1 * noise[:, 2]), dim=-1)
    case = make_case(in_sight(means, conics, 1 + noise[:, 3], noise[:, 4:7], 0.1 + 0.7 * noise[:, 7]), width, height)
    leaves = torch.from_numpy(case.records[:, : c.EXTENT_X]).double().requires_grad_()
    rgb, alpha, depth = reference.blend(to_projected(leaves, case.projected), case.order, width, height)[:3]
    pixels = (rgb * case.grad_c).sum(dim=-1) + alpha * case.grad_a + depth * alpha * case.grad_s
    expected = torch.zeros(n, 2, dtype=torch.float64)
    for pixel in pixels.flatten():
        (gradient,) = torch.autograd.grad(pixel, leaves, retain_graph=True)
        expected += gradient[:, :2].abs()
    result = run(case, absgrad=True)
    check(result, case.expected, case)
    torch.testing.assert_close(result[:, 10:].double(), expected, rtol=1e-3, atol=1e-5)
    assert torch.equal(result[:, :10], run(case)[:, :10])
    assert (run(case)[:, 10:] == 0).all()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_gradients_repeat_bit_for_bit_for_any_number_of_threads(make_view, make_scene, threads: int) -> None:
    if threads > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"{threads} threads asked, Numba has {numba.config.NUMBA_NUM_THREADS}")
    case = make_case(project_scene(make_view, make_scene, 201, 77, 300, 7), 201, 77)
    first = run(case, absgrad=True)
    before = numba.get_num_threads()
    numba.set_num_threads(threads)
    try:
        assert all(torch.equal(run(case, absgrad=True), first) for _ in range(2))
    finally:
        numba.set_num_threads(before)


def test_an_empty_scene_has_no_gradients() -> None:
    for n in (0, 3):
        records = np.full((n, c.RECORD), np.nan, dtype=np.float32)
        ids, starts = binning.bin_splats(records, np.zeros(0, dtype=np.uint32), 90, 33)
        plane = np.ones((33, 90), dtype=np.float32)
        colors = np.ones((33, 90, 3), dtype=np.float32)
        result = backward.blend_backward(records, ids, starts, 90, 33, colors, plane, plane, plane)
        assert result.shape == (n, c.RECORD) and (result == 0).all()


def test_gradients_may_lie_in_memory_in_any_way(make_view, make_scene) -> None:
    """What autograd hands over may be expanded or transposed."""
    case = make_case(project_scene(make_view, make_scene, 40, 30, 60, 8), 40, 30)
    ones = torch.ones(1, 1)
    rgb, alpha, _ = reference.blend(case.projected, case.order, *case.size)[:3]
    total = (rgb.sum(dim=-1) + alpha).float()
    plain = case._replace(grad_c=ones.repeat(30, 40, 3).reshape(30, 40, 3), grad_a=ones.repeat(30, 40), total=total)
    odd = plain._replace(grad_c=ones[..., None].expand(30, 40, 3), grad_a=ones.expand(30, 40), total=total.T.clone().T)
    assert torch.equal(run(plain, depth=False), run(odd, depth=False))


@pytest.mark.parametrize("channels", [1, 3, 9, 513])
def test_gradients_of_features_agree_with_autograd(make_view, make_scene, channels: int) -> None:
    width, height = (70, 35) if channels < 100 else (11, 7)
    projected = project_scene(make_view, make_scene, width, height, 60, 9)
    generator = torch.Generator().manual_seed(channels)
    mask = torch.rand(height, width, generator=generator) < 0.8
    case = make_case(projected, width, height, mask=mask)
    features = torch.randn(len(projected.depths), channels, generator=generator)
    seen = (case.grad_a != 0).double()
    grad = (torch.randn(height, width, channels, generator=generator) * seen[..., None]).float()
    leaves = torch.nan_to_num(torch.from_numpy(case.records[:, : c.EXTENT_X]), nan=0.5).double().requires_grad_()
    wide = features.double().requires_grad_()
    blended = to_projected(leaves, projected)
    threes = torch.nn.functional.pad(wide, (0, -channels % 3)).split(3, dim=1)
    parts = [reference.blend(blended._replace(colors=part), case.order, width, height)[0] for part in threes]
    rendered = torch.cat(parts, dim=-1)[..., :channels]
    expected, expected_features = torch.autograd.grad((rendered * grad).sum(), (leaves, wide), materialize_grads=True)
    start = torch.randn(len(features), c.RECORD, generator=generator)
    grad_records = start.numpy().copy()
    scene = case.records, features.numpy(), case.ids, case.starts, width, height
    given = rendered.detach().float().numpy(), grad.numpy(), grad_records
    result = torch.from_numpy(features_pass.features_backward(*scene, *given, mask=mask.numpy()))
    assert result.shape == features.shape
    assert float((result - expected_features).norm() / expected_features.norm()) <= 1e-3
    added = torch.from_numpy(grad_records) - start
    assert (added[:, c.RED :] == 0).all()
    for slot in range(c.RED):
        assert float((added[:, slot] - expected[:, slot]).norm() / expected[:, slot].norm()) <= 1e-3, NAMES[slot]


def test_sums_of_lanes() -> None:
    @compiled()
    def add(values, sums_out):
        eight = load(values, 0), load(values, 8), load(values, 16), load(values, 24)
        more = load(values, 32), load(values, 40), load(values, 48), load(values, 56)
        store(sums_out, 0, sums(*eight, *more))

    values, result = np.arange(64, dtype=np.float32) ** 2, np.empty(8, dtype=np.float32)
    add(values, result)
    assert (result == values.reshape(8, 8).sum(axis=1)).all()


def test_buffers_are_poisoned_here_so_that_unwritten_gradients_show() -> None:
    backward.blend_backward.__globals__["_walk_all"] = lambda *arguments: None
    backward.blend_backward.__globals__["_add_up"] = lambda *arguments: None
    nothing, starts = np.zeros((2, c.RECORD), dtype=np.float32), np.zeros(2, dtype=np.int64)
    plane, colors = np.zeros((5, 5), dtype=np.float32), np.zeros((5, 5, 3), dtype=np.float32)
    result = backward.blend_backward(nothing, np.zeros(0, dtype=np.uint32), starts, 5, 5, colors, plane, None, plane)
    assert np.isnan(result).all()
