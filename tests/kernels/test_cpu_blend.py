"""Sorting, lists and blending on the CPU beyond a plain frame: masks, median depth, contribution, N channels."""

from typing import NamedTuple

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.kernels import constants as c
from lyra.kernels.cpu import bin as binning
from lyra.kernels.cpu import blend as blending
from lyra.kernels.cpu import chunk
from lyra.kernels.cpu import features as channels
from lyra.kernels.cpu import sort as sorting

SIZES = [(71, 45), (37, 29), (1, 1), (17, 1), (1, 40), (33, 16)]
BACKGROUND = np.array((0.9, 0.1, 0.4), dtype=np.float32)


class Case(NamedTuple):
    """A scene as the blend sees it, and its weights by brute force in float64."""

    records: np.ndarray
    ids: np.ndarray
    starts: np.ndarray
    width: int
    height: int
    order: Tensor  # [v]
    depths: Tensor  # [v] float64
    transmittance: Tensor  # [v, h, w] behind each splat, had no pixel stopped
    weights: Tensor  # [v, h, w]
    decided: np.ndarray  # [h, w] bool

    def blend(self, **options) -> blending.Blended:
        """On the CPU, by name, since the poisoned copy replaces the function."""
        return blending.blend(*self[:5], BACKGROUND, **options)


@pytest.fixture
def make_case(make_view, make_scene, make_truth, project_on_cpu):
    """A function of size, number of splats and seed."""

    def make(size: tuple[int, int], n: int = 120, seed: int = 0, *, dense: bool = False) -> Case:
        view = make_view(*size, seed=seed)
        scene = make_scene(view, n, 1, seed=20 + seed)
        if dense:
            scene = scene._replace(scales=scene.scales * 2, opacities=scene.opacities * 0.5)
        truth = make_truth(scene, view)
        records, keys = project_on_cpu(scene, view)
        order = sorting.depth_order(keys)
        assert order.tolist() == truth.order.tolist()
        ids, starts = binning.bin_splats(records, order, *size)
        alphas = torch.where(truth.alphas < c.ALPHA_MIN, 0.0, truth.alphas)
        behind = torch.cumprod(1 - alphas, dim=0)
        before = torch.cat((torch.ones_like(behind[:1]), behind[:-1]))[: len(behind)]
        weights = torch.where(behind > c.STOP, alphas * before, 0.0)
        depths = truth.projected.depths[truth.order]
        return Case(records, ids, starts, *size, truth.order, depths, behind, weights, truth.decided.numpy())

    return make


@pytest.mark.parametrize("n", [0, 1, 2, 4097, 100_003])
def test_depth_order_is_that_of_a_stable_sort(n: int) -> None:
    generator = np.random.default_rng(n)
    depths = (generator.integers(1, max(n // 3, 2), n) * 0.37).astype(np.float32)  # many ties
    depths[::7] = 0.0
    depths[1::7] *= np.float32(1e30)
    keys = (depths.view(np.uint32).astype(np.uint64) << np.uint64(32)) | np.arange(n, dtype=np.uint64)
    given = keys.copy()
    order = sorting.depth_order(keys)
    assert order.dtype == np.uint32 and np.array_equal(order, np.argsort(depths, kind="stable"))
    assert np.array_equal(keys, given)


def test_a_splat_that_this_eye_does_not_see_is_in_no_list(make_case) -> None:
    case = make_case((71, 45))
    order = case.order.numpy().astype(np.uint32)
    records, culled = case.records.copy(), order[::3]
    records[culled] = np.nan
    records[culled, c.EXTENT_X :] = -1.0
    ids, starts = binning.bin_splats(records, order, case.width, case.height)
    without = np.setdiff1d(np.arange(len(order)), np.arange(len(order))[::3])
    expected = binning.bin_splats(case.records, order[without], case.width, case.height)
    assert np.array_equal(ids, expected[0]) and np.array_equal(starts, expected[1])
    assert len(ids) > 20


def test_words_of_a_chunk_are_transposed() -> None:
    words = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, chunk.CHUNK, dtype=np.int64)
    grid = (words[:, None] >> np.arange(64)) & 1
    chunk._transpose(words)
    assert np.array_equal((words[:, None] >> np.arange(64)) & 1, grid.T)


def test_blocks_looked_at_are_few_more_than_needed(make_view, make_scene, make_truth, project_on_cpu) -> None:
    """Nothing stops here, so that every listed pair of a splat and a block is looked at."""
    view = make_view(192, 128)
    scene = make_scene(view, 200, 1, seed=6)
    middle = (torch.arange(200) % 20) > 8
    scene = type(scene)(*(tensor[middle].contiguous() for tensor in scene))
    scene = scene._replace(opacities=scene.opacities * 0.1)
    truth = make_truth(scene, view)
    records, keys = project_on_cpu(scene, view)
    ids, starts = binning.bin_splats(records, sorting.depth_order(keys), 192, 128)
    seen = blending.blend(records, ids, starts, 192, 128, BACKGROUND).seen
    reached = (truth.alphas >= c.ALPHA_MIN).unfold(1, chunk.BLOCK_HEIGHT, chunk.BLOCK_HEIGHT)
    needed = int(reached.unfold(2, chunk.BLOCK_WIDTH, chunk.BLOCK_WIDTH).flatten(3).any(dim=3).sum())
    share = seen / chunk.BLOCK / needed
    print(f"looked at over needed: {share:.3f}")
    assert needed > 1000 and 1.0 <= share < 1.05


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_median_depth_agrees_with_brute_force(make_case, size) -> None:
    case = make_case(size, seed=1)
    frame = case.blend(median=True)
    crossed = case.transmittance <= 0.5
    expected = torch.where(crossed.any(dim=0), case.depths[crossed.int().argmax(dim=0)], 0.0)
    clear = ((case.transmittance - 0.5).abs() > 1e-4).all(dim=0).numpy() & case.decided
    assert np.isfinite(frame.median).all() and clear.mean() > 0.8
    np.testing.assert_allclose(frame.median[clear], expected.numpy()[clear], rtol=2e-6)
    if min(size) > 1:
        assert (frame.median[clear] == 0).any() and (frame.median[clear] > 0).any()


def test_what_is_not_asked_for_is_none_and_changes_nothing(make_case) -> None:
    case = make_case((71, 45), seed=2)
    plain = case.blend()
    assert plain.median is None and plain.contribution is None
    for options in ({"depth": False}, {"median": True}, {"depth": False, "median": True}, {"contribution": True}):
        frame = case.blend(**options)
        assert np.array_equal(frame.rgb, plain.rgb) and np.array_equal(frame.alpha, plain.alpha)
        assert (frame.depth is None) == ("depth" in options) and (frame.median is None) == ("median" not in options)
        assert frame.depth is None or np.array_equal(frame.depth, plain.depth)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_contribution_agrees_with_brute_force(make_case, size, dense: bool) -> None:
    case = make_case(size, 500 if dense else 120, seed=3, dense=dense)
    frame = case.blend(contribution=True, mask=case.decided)
    expected = np.zeros(len(case.records))
    expected[case.order.numpy()] = (case.weights * torch.from_numpy(case.decided)).sum(dim=(1, 2))
    np.testing.assert_allclose(frame.contribution, expected, rtol=1e-4, atol=1e-4)
    again = channels.contributions(*case[:5], mask=case.decided)
    assert np.array_equal(frame.contribution, again) and again.dtype == np.float32
    np.testing.assert_allclose(frame.contribution.sum(), frame.alpha.sum(dtype=np.float64), rtol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)
def test_masked_pixels_come_out_empty_and_the_others_unchanged(make_case, size) -> None:
    case = make_case(size, seed=4)
    mask = np.random.default_rng(4).random((size[1], size[0])) < 0.6
    mask[:, size[0] // 2 :] &= np.arange(size[1])[:, None] < 20  # whole blocks and tiles, too
    whole, frame = case.blend(median=True), case.blend(median=True, mask=mask)
    assert np.array_equal(frame.rgb[~mask], np.broadcast_to(BACKGROUND, frame.rgb[~mask].shape))
    for name in ("alpha", "depth", "median"):
        assert not getattr(frame, name)[~mask].any()
        assert np.array_equal(getattr(frame, name)[mask], getattr(whole, name)[mask])
    assert np.array_equal(frame.rgb[mask], whole.rgb[mask])
    assert frame.seen <= whole.seen
    nothing = case.blend(mask=np.zeros_like(mask), contribution=True)
    assert nothing.seen == 0 and not nothing.alpha.any() and not nothing.contribution.any()


@pytest.mark.parametrize(
    ("size", "count"), [(SIZES[0], 1), (SIZES[0], 5), (SIZES[1], 513), (SIZES[2], 65), (SIZES[3], 4)]
)
def test_features_agree_with_brute_force(make_case, size, count: int) -> None:
    case = make_case(size, seed=5)
    values = np.random.default_rng(count).normal(size=(len(case.records), count)).astype(np.float32)
    pictures = channels.features(case.records, values, *case[1:5])
    expected = torch.einsum("vhw,vc->hwc", case.weights, torch.from_numpy(values)[case.order].double()).numpy()
    assert pictures.shape == (size[1], size[0], count) and np.isfinite(pictures).all()
    assert np.abs(pictures - expected)[case.decided].max() <= 1e-4
    mask = np.random.default_rng(5).random((size[1], size[0])) < 0.5
    masked = channels.features(case.records, values, *case[1:5], mask=mask)
    assert not masked[~mask].any() and np.array_equal(masked[mask], pictures[mask])


def test_features_of_deep_lists_are_the_colours(make_case) -> None:
    """Channels beside what the frame itself blends, over lists of several chunks, where pixels stop."""
    case = make_case((65, 47), 900, seed=6, dense=True)
    assert np.diff(case.starts).max() > 3 * chunk.CHUNK
    frame = case.blend()
    pictures = channels.features(case.records, np.ascontiguousarray(case.records[:, c.RED : c.DEPTH + 1]), *case[1:5])
    clear = (1 - frame.alpha)[..., None]
    np.testing.assert_allclose(pictures[..., :3] + clear * BACKGROUND, frame.rgb, atol=2e-6)
    np.testing.assert_allclose(pictures[..., 3], frame.depth * frame.alpha, rtol=1e-5, atol=1e-6)
    assert frame.alpha.max() > 0.9998  # some pixels stop


def test_no_splats_give_an_empty_picture() -> None:
    nothing = np.empty((0, c.RECORD), dtype=np.float32)
    ids, starts = binning.bin_splats(nothing, sorting.depth_order(np.zeros(0, dtype=np.uint64)), 40, 37)
    frame = blending.blend(nothing, ids, starts, 40, 37, BACKGROUND, median=True, contribution=True)
    assert np.array_equal(frame.rgb, np.broadcast_to(BACKGROUND, (37, 40, 3))) and frame.contribution.shape == (0,)
    assert not frame.alpha.any() and not frame.depth.any() and not frame.median.any() and frame.seen == 0
    assert not channels.features(nothing, np.empty((0, 5), dtype=np.float32), ids, starts, 40, 37).any()


def test_everything_repeats_bit_for_bit_for_any_number_of_threads(make_case) -> None:
    threads = numba.get_num_threads()
    if threads == 1:
        pytest.skip("Numba has one thread")
    case = make_case((130, 70), 400, seed=7)
    values = np.random.default_rng(7).normal(size=(400, 6)).astype(np.float32)

    def everything() -> list[np.ndarray]:
        frame = case.blend(median=True, contribution=True)
        return [*frame[:5], channels.features(case.records, values, *case[1:5])]

    before = everything()
    numba.set_num_threads(1)
    try:
        alone = everything()
    finally:
        numba.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(before, alone, strict=True))
