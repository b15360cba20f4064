"""Each Triton kernel and the whole of them against the reference in float64.

In Triton's interpreter where there is no GPU, on the device where there is one: see tests/conftest.py.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from lyra.engine.formats.registry import load
from lyra.engine.scene.camera import load_cameras
from lyra.kernels import bin as binning
from lyra.kernels import blend as blending
from lyra.kernels import constants as c
from lyra.kernels import project as projection
from lyra.kernels import reference, sort
from lyra.kernels.rasterize import rasterize

SIZES = [(37, 29), (1, 1), (17, 1), (16, 33)]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def project_and_bin(scene, view) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Records, depth keys, order, tile lists and their starts, on the CPU."""
    pose, lens, width, height = view
    records, keys = projection.project(*scene.to(DEVICE), pose, lens, width, height)
    order = sort.depth_order(keys)
    ids, starts = binning.bin_splats(records, order, width, height)
    return records.cpu(), keys.cpu(), order.cpu(), ids.cpu(), starts.cpu()


def records_of(projected: reference.Projected) -> Tensor:
    """Records in float32 of splats that the reference has projected."""
    xx, xy, yy = projected.conics.T
    l0 = xx.sqrt()
    l1 = xy / l0
    factor = torch.stack((l0, l1, (yy - l1 * l1).sqrt()), dim=1) * c.SQRT_HALF_LOG2E
    opacity = torch.log2(projected.opacities)[:, None]
    parts = (projected.means2d, factor, opacity, projected.colors, projected.depths[:, None], projected.extents)
    return torch.cat(parts, dim=1).float()


def stack(depths: list[float], opacity: float) -> reference.Projected:
    """Wide splats behind one another, with centres and colours of their own, for a picture of 20x18."""
    n = len(depths)
    generator = torch.Generator().manual_seed(n)
    centres = torch.tensor((10.0, 9.0)) + 8 * torch.rand(n, 2, generator=generator) - 4
    conics = torch.tensor((0.02, 0.005, 0.03)).expand(n, 3)
    colors = torch.rand(n, 3, generator=generator)
    shown = torch.ones(n, dtype=torch.bool)
    tensors = (centres, conics, torch.tensor(depths), colors, torch.full((n,), opacity), torch.full((n, 2), 30.0))
    return reference.Projected(*(tensor.double() for tensor in tensors), shown)


@pytest.mark.parametrize("sh", [1, 4, 9, 16])
def test_projection_agrees_with_the_reference(make_view, make_scene, make_truth, check_records, sh: int) -> None:
    view = make_view(61, 47, seed=sh)
    scene = make_scene(view, 300, sh, seed=sh)  # two programs and part of a third
    records, keys = (tensor.cpu() for tensor in projection.project(*scene.to(DEVICE), *view))
    visible = keys != projection.CULLED
    assert 80 < int(visible.sum()) < 260
    check_records(records, visible, make_truth(scene, view))
    assert torch.equal(keys[visible].view(torch.float32), records[visible, c.DEPTH])


def test_depth_order_leaves_out_the_culled_and_keeps_ties() -> None:
    depths = torch.tensor([3.0, 0.5, 3.0, 1e-2, 3.0e38, 0.5])
    keys = depths.view(torch.int32)
    keys[1] = projection.CULLED
    order = sort.depth_order(keys.to(DEVICE))
    assert order.dtype == torch.int32 and order.tolist() == [3, 5, 0, 2, 4]
    many = torch.randint(5, 12, (3000,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    expected = sorted(range(3000), key=lambda i: (int(many[i]), i))
    assert sort.depth_order(many.to(DEVICE)).tolist() == expected
    assert sort.depth_order(torch.full((4,), projection.CULLED, dtype=torch.int32, device=DEVICE)).tolist() == []


@pytest.mark.parametrize("tiles, kind", [(1, torch.int16), (32767, torch.int16), (32768, torch.int32)])
def test_tile_keys_are_as_narrow_as_their_number_allows(tiles: int, kind: torch.dtype) -> None:
    assert sort.tile_key_type(tiles) == kind


@pytest.mark.parametrize("kind", [torch.int16, torch.int32], ids=str)
@pytest.mark.parametrize("size", [*SIZES, (70, 50)], ids="{0[0]}x{0[1]}".format)
def test_tile_lists_hold_every_splat_that_reaches_a_pixel(
    make_view, make_scene, make_truth, check_lists, monkeypatch, size, kind
) -> None:
    monkeypatch.setattr(binning, "tile_key_type", lambda tiles: kind)
    view = make_view(*size, seed=5)
    scene = make_scene(view, 100, 1, seed=5)
    _, _, order, ids, starts = project_and_bin(scene, view)
    truth = make_truth(scene, view)
    assert torch.equal(order.long(), truth.order)
    share = check_lists(ids, starts, truth, binning.TILE, binning.TILE)
    print(f"listed over needed: {share:.3f}")


def test_tile_lists_hold_few_splats_more(make_view, make_scene, make_truth, check_lists) -> None:
    view = make_view(150, 100)
    scene = make_scene(view, 120, 1, seed=6)
    middle = (torch.arange(120) % 20) > 8
    scene = type(scene)(*(tensor[middle].contiguous() for tensor in scene))
    _, _, _, ids, starts = project_and_bin(scene, view)
    share = check_lists(ids, starts, make_truth(scene, view), binning.TILE, binning.TILE)
    print(f"listed over needed: {share:.3f}")
    assert len(ids) > 200 and share < 1.35


def test_tiles_without_a_splat_have_empty_lists(make_view, make_scene) -> None:
    """First, last and inner tiles; one splat in the middle of 5x5 tiles."""
    view = make_view(80, 80)
    projected = stack([2.0], 0.8)
    small = projected._replace(means2d=projected.means2d * 0 + 40, extents=projected.extents * 0 + 3)
    order = torch.zeros(1, dtype=torch.int32)
    records = records_of(small._replace(conics=torch.tensor([[1.0, 0.0, 1.0]]).double()))
    ids, starts = binning.bin_splats(records.to(DEVICE), order.to(DEVICE), view.width, view.height)
    assert ids.tolist() == [0] and starts.tolist() == [0] * 13 + [1] * 13


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 8, 13, 31])
def test_blend_agrees_with_the_reference_for_lists_of_any_length(length: int) -> None:
    """Four tiles, of which only the second and third list something; record 0 is that of a culled splat."""
    projected = stack([2.0 + 0.1 * i for i in range(length)], 0.15)
    records = torch.cat((torch.full((1, c.RECORD), torch.nan), records_of(projected)))
    ids = torch.arange(1, length + 1, dtype=torch.int32).repeat(2)
    starts = torch.tensor([0, 0, length, 2 * length, 2 * length])
    background = torch.tensor((0.3, 0.2, 0.9))
    arguments = (tensor.to(DEVICE) for tensor in (records, ids, starts))
    rgb, alpha, depth, listed = blending.blend(*arguments, 20, 18, background.to(DEVICE))
    expected = list(reference.blend(projected, torch.arange(length), 20, 18))
    for plane in expected:  # what the first and the last tile do not list
        plane[:16, :16] = 0.0
        plane[16:, 16:] = 0.0
    expected[0] += (1 - expected[1][..., None]) * background
    for ours, theirs in zip((rgb, alpha, depth), expected, strict=True):
        torch.testing.assert_close(ours.cpu().double(), theirs, rtol=0.0, atol=2e-5)
    assert listed.tolist() == [0, length, length, 0]


def test_blend_leaves_a_tile_when_all_of_its_pixels_have_stopped() -> None:
    projected = stack([2.0 + 0.1 * i for i in range(40)], 0.999)._replace(
        conics=torch.tensor((1e-6, 0.0, 1e-6)).double().expand(40, 3)
    )
    records, ids = records_of(projected), torch.arange(40, dtype=torch.int32)
    starts = torch.tensor([0, 40])
    arguments = (tensor.to(DEVICE) for tensor in (records, ids, starts))
    _, alpha, depth, listed = blending.blend(*arguments, 16, 16, torch.zeros(3, device=DEVICE))
    assert listed.tolist() == [blending.UNROLL]
    assert float(alpha.min()) > 0.98 and float(depth.max()) < 2.15


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_frame_agrees_with_the_reference(make_view, make_scene, make_truth, check_frame, size, seed: int) -> None:
    view = make_view(*size, seed=seed)
    scene = make_scene(view, 60, (4, 16)[seed], seed=20 + seed)
    background = torch.tensor((0.9, 0.1, 0.4))
    truth = make_truth(scene, view, background)
    frame = rasterize(*scene.to(DEVICE), *view, background=background.to(DEVICE), backend="triton")
    check_frame(frame, truth)
    assert frame.counts.visible == len(truth.order)


def test_frame_repeats_bit_for_bit(make_view, make_scene) -> None:
    view = make_view(37, 29)
    scene = make_scene(view, 60, 4).to(DEVICE)
    first, second = (rasterize(*scene, *view, backend="triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first[:3], second[:3], strict=True))


def test_buffers_are_poisoned_here_so_that_unwritten_results_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other tests rest on this: kernels that write nothing leave NaN."""

    class Idle:
        def __getitem__(self, grid):
            return lambda *arguments, **options: None

    monkeypatch.setattr(blending, "blend_kernel", Idle())
    records, ids, starts = torch.zeros(1, c.RECORD), torch.zeros(0, dtype=torch.int32), torch.zeros(7).long()
    rgb, alpha, depth, listed = blending.blend(records, ids, starts, 40, 20, torch.zeros(3))
    assert rgb.isnan().all() and alpha.isnan().all() and depth.isnan().all() and (listed > 1 << 20).all()


@pytest.mark.gpu
def test_large_scene_on_the_device_agrees_with_the_cpu(make_view, make_scene, psnr) -> None:
    view = make_view(640, 360)
    scene = make_scene(view, 20_000, 16)
    frame = rasterize(*scene.to("cuda"), *view, backend="triton")
    expected = rasterize(*scene, *view, backend="cpu")
    assert psnr(frame.rgb.cpu(), expected.rgb) >= 60.0 and psnr(frame.alpha.cpu(), expected.alpha) >= 60.0
    flips = ((frame.rgb.cpu() - expected.rgb).abs().amax(dim=-1) > 1e-4).double().mean()
    assert float(flips) <= 1e-3
    seen = expected.alpha > 0.5
    close = torch.isclose(frame.depth.cpu()[seen], expected.depth[seen], rtol=1e-3, atol=0.0)
    assert float(close.double().mean()) >= 0.999


@pytest.mark.gpu
@pytest.mark.parametrize("camera", range(3))
def test_golden_donut_on_the_device(shared: Path, psnr, camera: int) -> None:
    view = load_cameras(shared / "golden" / "donut.json")[camera]
    scene = load(shared / "scenes" / "donut.ply").to("cuda").tensors().values()
    frame = rasterize(*scene, view.world_to_camera, view.K, view.width, view.height, backend="triton")
    with np.load(shared / "golden" / "donut.npz") as arrays:
        rgb, alpha, depth = (torch.from_numpy(arrays[f"{key}_{camera}"]).double() for key in ("rgb", "alpha", "depth"))
    assert psnr(frame.rgb.cpu(), rgb) >= 60.0 and psnr(frame.alpha.cpu(), alpha) >= 60.0
    seen = alpha > 0.5
    torch.testing.assert_close(frame.depth.cpu().double()[seen], depth[seen], rtol=1e-3, atol=0.0)
