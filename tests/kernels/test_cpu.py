"""The Numba backend against the reference in float64, brute-force tile lists, golden frames, and repeatability."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

from lyra.engine.formats.registry import load
from lyra.engine.scene.camera import load_cameras
from lyra.engine.scene.gaussians import Gaussians
from lyra.kernels.constants import RECORD
from lyra.kernels.cpu import bin as binning
from lyra.kernels.cpu import blend as blending
from lyra.kernels.cpu import sort as sorting
from lyra.kernels.frames import Rendering
from lyra.kernels.rasterize import rasterize

SIZES = [(101, 67), (37, 29), (1, 1), (17, 1), (1, 70), (33, 16)]
SCENES = {  # golden frames: path below the shared folder, least PSNR in dB
    "donut": ("scenes/donut.ply", 60.0),
    "guitar": ("scenes/guitar.compressed.ply", 60.0),
    "train-1000": ("scenes/train-1000.ply", 60.0),
    "st-peter": ("scenes/st-peter.sog", 50.0),
    "playbot": ("scenes/playbot/0_0", 50.0),
}

load_once: Callable[[Path], Gaussians] = cache(load)


@pytest.fixture
def project_and_bin(project_on_cpu) -> Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Records, depth keys, tile lists and their starts of a scene in a view."""

    def make(scene, view) -> tuple[torch.Tensor, ...]:
        records, keys = project_on_cpu(scene, view)
        ids, starts = binning.bin_splats(records, sorting.depth_order(keys), view.width, view.height)
        kinds = np.float32, np.int64, np.int64, np.int64
        arrays = (records, keys, ids, starts)
        return tuple(torch.from_numpy(array.astype(kind)) for array, kind in zip(arrays, kinds, strict=True))

    return make


@pytest.fixture(params=[2, 5], ids="threads {}".format)
def threads(request: pytest.FixtureRequest):
    """A number of Numba threads, for one test."""
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip(f"{request.param} threads asked, Numba has {numba.config.NUMBA_NUM_THREADS}")
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


@pytest.mark.parametrize("sh", [1, 4, 9, 16])
def test_projection_agrees_with_the_reference(
    make_view, make_scene, make_truth, check_records, project_and_bin, sh: int
) -> None:
    view = make_view(61, 47, seed=sh)
    scene = make_scene(view, 400, sh, seed=sh)
    records, keys, _, _ = project_and_bin(scene, view)
    visible = torch.zeros(400, dtype=torch.bool)
    visible[keys & 0xFFFFFFFF] = True
    truth = make_truth(scene, view)
    assert 100 < int(visible.sum()) == len(keys) < 350
    check_records(records, visible, truth)
    depths = torch.from_numpy((keys[:, None].numpy() >> 32).astype(np.int32).view(np.float32))[:, 0]
    torch.testing.assert_close(depths, records[keys & 0xFFFFFFFF, 9], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_frame_agrees_with_the_reference(make_view, make_scene, make_truth, check_frame, size, seed: int) -> None:
    view = make_view(*size, seed=seed)
    scene = make_scene(view, 120, (1, 4, 16)[seed], seed=10 + seed)
    background = torch.tensor((0.9, 0.1, 0.4))
    truth = make_truth(scene, view, background)
    check_frame(rasterize(*scene, *view, background=background, backend="cpu"), truth)


def test_deep_lists_agree_with_the_reference(make_view, make_scene, make_truth, check_frame) -> None:
    """Lists of a thousand, where rows stop early and others go on; many splats, so many edges at 1/255."""
    view = make_view(65, 47)
    scene = make_scene(view, 1500, 4, seed=3)
    scene = scene._replace(scales=scene.scales * 2, opacities=scene.opacities * 0.3)
    truth = make_truth(scene, view)
    frame = rasterize(*scene, *view, backend="cpu")
    check_frame(frame, truth, most_undecided=0.12)
    assert float(truth.frame.alpha.min()) < 0.999 < 0.9998 < float(truth.frame.alpha.max())  # some pixels stop
    assert frame.counts.visible == len(truth.order)


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_tile_lists_hold_every_splat_that_reaches_a_pixel(
    make_view, make_scene, make_truth, check_lists, project_and_bin, size
) -> None:
    view = make_view(*size, seed=5)
    scene = make_scene(view, 200, 1, seed=5)
    _, _, ids, starts = project_and_bin(scene, view)
    check_lists(ids, starts, make_truth(scene, view), binning.TILE_WIDTH, binning.TILE_HEIGHT)


def test_tile_lists_hold_few_splats_more(
    make_view, make_scene, make_truth, check_lists, project_and_bin, record_property
) -> None:
    view = make_view(192, 128)
    scene = make_scene(view, 300, 1, seed=6)
    middle = (torch.arange(300) % 20) > 8
    scene = type(scene)(*(tensor[middle].contiguous() for tensor in scene))
    _, _, ids, starts = project_and_bin(scene, view)
    share = check_lists(ids, starts, make_truth(scene, view), binning.TILE_WIDTH, binning.TILE_HEIGHT)
    record_property("listed_over_needed", share)
    print(f"listed over needed: {share:.3f}")
    assert len(ids) > 400 and share < 1.35


def test_frame_repeats_bit_for_bit_for_any_number_of_threads(make_view, make_scene, threads: int) -> None:
    view = make_view(101, 67)
    scene = make_scene(view, 9000, 4, seed=1)  # three chunks of the projection
    frames = [rasterize(*scene, *view, backend="cpu") for _ in range(2)]
    numba.set_num_threads(1)
    alone = rasterize(*scene, *view, backend="cpu")
    for frame in frames:
        assert frame.counts == alone.counts
        assert all(torch.equal(a, b) for a, b in zip(frame[:3], alone[:3], strict=True)), f"{threads} threads differ"


def test_buffers_are_poisoned_here_so_that_unwritten_results_show() -> None:
    """The other tests rest on this: kernels that write nothing leave NaN."""
    assert np.isnan(blending.blend.__globals__["np"].empty(3, dtype=np.float32)).all()
    nothing = np.empty((0, RECORD), dtype=np.float32)
    ids, starts = binning.bin_splats(nothing, np.zeros(0, dtype=np.uint32), 40, 20)
    blending.blend.__globals__["_blend_all"] = lambda *arguments: None
    frame = blending.blend(nothing, ids, starts, 40, 20, np.zeros(3, dtype=np.float32))
    assert all(np.isnan(plane).all() for plane in frame[:3])


@pytest.mark.parametrize("camera", range(3))
@pytest.mark.parametrize("name", SCENES)
def test_golden_frame(shared: Path, psnr, record_property, name: str, camera: int) -> None:
    path, least = SCENES[name]
    view = load_cameras(shared / "golden" / f"{name}.json")[camera]
    scene = load_once(shared / path).tensors().values()
    frame: Rendering = rasterize(*scene, view.world_to_camera, view.K, view.width, view.height, backend="cpu")
    with np.load(shared / "golden" / f"{name}.npz") as arrays:
        rgb, alpha, depth = (torch.from_numpy(arrays[f"{key}_{camera}"]).double() for key in ("rgb", "alpha", "depth"))
    seen = alpha > 0.5
    error = float(((frame.depth.double() - depth).abs() / depth)[seen].max())
    values = {"rgb_db": psnr(frame.rgb, rgb), "alpha_db": psnr(frame.alpha, alpha), "depth_error": error}
    for key, value in values.items():
        record_property(key, value)
    print(f"{name} {camera}:", *(f"{key} {value:.3g}" for key, value in values.items()))
    assert seen.any()
    assert values["rgb_db"] >= least and values["alpha_db"] >= least
    assert error <= 1e-3
