"""Blending in Triton against the reference in float64: records and lists are made here, by brute force.

In Triton's interpreter where there is no GPU, on the device where there is one: see tests/conftest.py.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from lyra.kernels import constants as c
from lyra.kernels import reference
from lyra.kernels.gpu import blend as blending
from lyra.kernels.gpu import features as featuring
from lyra.kernels.gpu.bin import TILES, Lists, bin_splats
from lyra.kernels.options import Options

# Where float16 overflows to infinity a GPU is silent, and an infinite falloff is right; numpy tells.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MANY = 513 if torch.cuda.is_available() else 53  # channels; the interpreter takes a third of a second a pass
BAND = 1e-3  # relative distance of an alpha to 1/255, or of a transmittance to 1e-4, within which float32 may differ
BACKGROUND = torch.tensor([[0.3, 0.2, 0.9], [0.0, 0.7, 0.1], [1.0, 0.5, 0.2]])


class Truth(NamedTuple):
    """One view in float64; k splats it sees, nearest first."""

    rgb: Tensor  # [h, w, 3] background excluded
    alpha: Tensor  # [h, w]
    depth: Tensor  # [h, w]
    splats: Tensor  # [k]
    weights: Tensor  # [k, h, w]
    after: Tensor  # [k, h, w] transmittance behind each splat, never mind the stop
    decided: Tensor  # [h, w] bool: no alpha is within BAND of 1/255, no transmittance of the stop


def make_records(views: int, n: int, width: int, height: int, *, seed: int = 0, opacity: float = 1.0) -> Tensor:
    """Ellipses of all sizes and shapes about a picture, in one order of depth; every seventh is not visible."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    records = torch.empty(views, n, c.RECORD, dtype=torch.float64)
    records[..., c.MEAN_X] = uniform(-0.1 * width - 2, 1.1 * width + 2, n) + uniform(-3, 3, views, n)
    records[..., c.MEAN_Y] = uniform(-0.1 * height - 2, 1.1 * height + 2, n) + uniform(-3, 3, views, n)
    sizes = 0.85 / torch.exp(uniform(-0.5, 2.8, 2, views, n))
    records[..., c.L0], records[..., c.L2] = sizes
    records[..., c.L1] = sizes[0] * uniform(-2.0, 2.0, views, n)
    records[..., c.LOG2_OPACITY] = torch.log2(uniform(0.02, opacity, views, n))
    records[..., c.LOG2_OPACITY][:, ::11] = 0.0
    records[..., c.RED : c.BLUE + 1] = uniform(0.0, 1.2, views, n, 3)
    records[..., c.DEPTH] = 0.5 * torch.exp(uniform(0.0, 4.0, n))
    return finish_records(records, hidden=slice(3, None, 7))


def finish_records(records: Tensor, hidden: slice = slice(0, 0)) -> Tensor:
    """In float32, with extents; hidden splats are NaN, as nobody writes them."""
    l0, l1, l2 = (records[..., j] for j in (c.L0, c.L1, c.L2))
    reach = (records[..., c.LOG2_OPACITY] - c.LOG2_ALPHA_MIN).clamp(min=0).sqrt()
    records[..., c.EXTENT_X] = reach * (l1 * l1 + l2 * l2).sqrt() / (l0 * l2)
    records[..., c.EXTENT_Y] = reach / l2
    records[:, hidden] = torch.nan
    return records.float()


def stack(n: int, opacity: float, size: float = 9.0) -> Tensor:
    """Wide splats behind one another near the middle of a picture of 20x18."""
    generator = torch.Generator().manual_seed(n)
    records = torch.empty(1, n, c.RECORD, dtype=torch.float64)
    records[0, :, : c.L0] = torch.tensor((10.0, 9.0)) + 8 * torch.rand(n, 2, generator=generator) - 4
    records[0, :, c.L0] = 0.85 / size
    records[0, :, c.L1] = 0.2 / size
    records[0, :, c.L2] = 0.7 / size
    records[0, :, c.LOG2_OPACITY] = torch.log2(torch.tensor(opacity))
    records[0, :, c.RED : c.DEPTH] = torch.rand(n, 3, generator=generator)
    records[0, :, c.DEPTH] = torch.linspace(2.0, 9.0, n)
    return finish_records(records)


def seen(records: Tensor) -> Tensor:
    """Which splats each view sees: [v, n] bool."""
    return records[..., c.EXTENT_X] >= 0


def depth_order(records: Tensor, eyes: int) -> tuple[Tensor, int]:
    """Entries group * n + splat, nearest first, unseen ones last; and how many are seen."""
    views, n = records.shape[:2]
    shown = seen(records).view(views // eyes, eyes, n)
    depths = torch.where(shown, records[..., c.DEPTH].view(views // eyes, eyes, n), torch.inf).amin(dim=1).flatten()
    return torch.sort(depths, stable=True).indices, int(shown.any(dim=1).sum())


def alphas_of(records: Tensor, width: int, height: int) -> Tensor:
    """Alpha before the cut-offs of one view's splats [k, 12] at all pixels: [k, h, w] float64."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    mean_x, mean_y, l0, l1, l2, log2_opacity = (records.double()[:, j, None, None] for j in range(6))
    u, v = l0 * (x - mean_x) + l1 * (y - mean_y), l2 * (y - mean_y)
    return torch.exp2(log2_opacity - u * u - v * v)


def make_lists(
    records: Tensor, width: int, height: int, tile: tuple[int, int], eyes: int = 1, emitted: int | None = None
) -> Lists:
    """Lists of the first `emitted` entries of the order, by looking at every pixel; some masks have a bit too many."""
    views, n = records.shape[:2]
    order, visible = depth_order(records, eyes)
    emitted = visible if emitted is None else min(emitted, visible)
    columns, rows = -(-width // 64), -(-height // 32)
    ids, masks, starts = [], [], [0]
    for view in range(views):
        entries = [int(entry) for entry in order[:emitted] if int(entry) // n == view // eyes]
        splats = [entry % n for entry in entries if bool(seen(records)[view, entry % n])]
        alphas = alphas_of(records[view, splats], columns * 64, rows * 32)
        inside = torch.zeros(rows * 32, columns * 64, dtype=torch.bool)
        inside[:height, :width] = True
        reached = ((alphas >= 0.95 * c.ALPHA_MIN) & inside).view(
            len(splats), rows, 32 // tile[1], tile[1], columns, 64 // tile[0], tile[0]
        )
        reached = reached.any(dim=6).any(dim=3).permute(0, 1, 3, 2, 4).flatten(3)  # [k, rows, columns, fine]
        for row in range(rows):
            for column in range(columns):
                for k, splat in enumerate(splats):
                    bits = int((reached[k, row, column].long() << torch.arange(reached.shape[3])).sum())
                    if splat % 5 == 0:
                        bits |= 1 << splat % reached.shape[3]
                    if bits or splat % 3 == 0:
                        ids.append(view * n + splat)
                        masks.append(bits - (1 << 32) if bits >= 1 << 31 else bits)
                starts.append(len(ids))
    numbers = (torch.tensor(values, dtype=torch.int32) for values in (ids, masks))
    totals = (torch.tensor(value) for value in (visible, emitted, len(ids)))
    unused = torch.empty(0, dtype=torch.int64)
    return Lists(*numbers, torch.tensor(starts), order.int(), *totals, unused, unused)


def make_truth(records: Tensor, width: int, height: int, eyes: int = 1) -> list[Truth]:
    """Every view by the reference."""
    views, n = records.shape[:2]
    order, visible = depth_order(records, eyes)
    truths = []
    for view in range(views):
        entries = order[:visible]
        splats = entries[entries // n == view // eyes] % n
        splats = splats[seen(records)[view, splats]]
        mine = records[view, splats].double()
        l0, l1, l2 = mine[:, c.L0], mine[:, c.L1], mine[:, c.L2]
        conics = torch.stack((l0 * l0, l0 * l1, l1 * l1 + l2 * l2), dim=-1) / c.SQRT_HALF_LOG2E**2
        projected = reference.Projected(
            mine[:, :2], conics, mine[:, c.DEPTH], mine[:, c.RED : c.DEPTH], torch.exp2(mine[:, c.LOG2_OPACITY]),
            mine[:, c.EXTENT_X :] + 1.0, torch.ones(len(mine), dtype=torch.bool), mine[:, c.DEPTH],
        )  # fmt: skip
        frame = reference.blend(projected, torch.arange(len(mine)), width, height)
        bare = alphas_of(mine, width, height).clamp(max=c.ALPHA_MAX)
        alphas = torch.where(bare < c.ALPHA_MIN, 0.0, bare)
        after = torch.cumprod(1 - alphas, dim=0)
        before = torch.cat((torch.ones(1, height, width, dtype=torch.float64), after[:-1]))[: len(mine)]
        weights = torch.where(after > c.STOP, alphas * before, 0.0)
        doubtful = (((bare / c.ALPHA_MIN - 1).abs() < BAND) & (before > c.STOP * (1 - BAND))).any(dim=0)
        doubtful |= ((after / c.STOP - 1).abs() < BAND).any(dim=0)
        truths.append(Truth(frame.rgb, frame.alpha, frame.depth, splats, weights, after, ~doubtful))
    return truths


def run(
    records: Tensor, lists: Lists, width: int, height: int, *, mask: Tensor | None = None, **rest
) -> blending.Blended:
    """The blend, its results on the CPU."""
    options = rest.pop("options", Options())
    blended = blending.blend(
        records.to(DEVICE), Lists(*(tensor.to(DEVICE) for tensor in lists)), width, height,
        background=BACKGROUND[: len(records)].to(DEVICE), options=options,
        mask=None if mask is None else mask.to(DEVICE), **rest,
    )  # fmt: skip
    return blending.Blended(*(None if tensor is None else tensor.cpu() for tensor in blended))


def psnr(ours: Tensor, theirs: Tensor) -> float:
    """Decibels for a peak of 1."""
    return float(-10 * torch.log10((ours.double() - theirs).square().mean().clamp(min=1e-30)))


def check(blended: blending.Blended, truths: list[Truth], atol: float = 2e-5) -> None:
    """The parity form, away from the cut-offs."""
    assert sum(float((~truth.decided).double().mean()) for truth in truths) <= 0.08 * len(truths)
    for view, truth in enumerate(truths):
        rgb = truth.rgb + (1 - truth.alpha[..., None]) * BACKGROUND[view]
        decided = truth.decided
        torch.testing.assert_close(blended.rgb[view].double()[decided], rgb[decided], rtol=0.0, atol=atol)
        torch.testing.assert_close(blended.alpha[view].double()[decided], truth.alpha[decided], rtol=0.0, atol=atol)
        if blended.depth is not None:
            depth = blended.depth[view].double()
            torch.testing.assert_close(depth[decided], truth.depth[decided], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tile", TILES, ids="{0[0]}x{0[1]}".format)
@pytest.mark.parametrize("size", [(13, 19), (66, 33), (1, 1)], ids="{0[0]}x{0[1]}".format)
def test_pictures_agree_with_the_reference(size, tile) -> None:
    records = make_records(1, 20, *size, seed=size[0])
    lists = make_lists(records, *size, tile)
    blended = run(records, lists, *size, tile=tile)
    check(blended, make_truth(records, *size))
    assert blended.median is None and blended.contribution is None
    bits = sum(int(mask) & 0xFFFFFFFF and bin(int(mask) & 0xFFFFFFFF).count("1") for mask in lists.masks)
    assert 0 < int(blended.taken.sum()) <= bits


def test_each_view_has_its_own_records_and_background() -> None:
    records = make_records(3, 14, 20, 34, seed=8)
    check(run(records, make_lists(records, 20, 34, (8, 16)), 20, 34), make_truth(records, 20, 34))


def test_an_unknown_tile_is_told() -> None:
    records = make_records(1, 5, 9, 9)
    with pytest.raises(ValueError, match=r"tile is \(16, 8\): give"):
        run(records, make_lists(records, 9, 9, (16, 16)), 9, 9, tile=(16, 8))


@pytest.mark.parametrize("views", [1, 2])
def test_without_splats_there_is_the_background(views: int) -> None:
    for n in (0, 4):
        records = torch.full((views, n, c.RECORD), torch.nan)
        blended = run(records, make_lists(records, 20, 40, (8, 16)), 20, 40, options=Options(median=True))
        assert torch.equal(blended.rgb, BACKGROUND[:views, None, None].expand(views, 40, 20, 3))
        assert blended.alpha.count_nonzero() == 0 and blended.taken.count_nonzero() == 0
        assert blended.depth is not None and blended.depth.count_nonzero() == 0
        assert blended.median is not None and blended.median.count_nonzero() == 0


def test_masked_pixels_show_the_background_and_cost_nothing() -> None:
    records = make_records(2, 15, 37, 13, seed=3)
    lists, truths = make_lists(records, 37, 13, (8, 8)), make_truth(records, 37, 13)
    mask = torch.rand(2, 13, 37, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, :, 24:] = False  # whole tiles
    for k, truth in enumerate(truths):
        truth.rgb[~mask[k]], truth.alpha[~mask[k]], truth.depth[~mask[k]] = 0.0, 0.0, 0.0
    for precision in ("parity", "fast", "half"):
        blended = run(
            records, lists, 37, 13, mask=mask, tile=(8, 8), options=Options(precision=precision, median=False)
        )
        if precision == "parity":
            check(blended, truths)
        for k in range(2):
            assert torch.equal(blended.rgb[k][~mask[k]], BACKGROUND[k].expand(int((~mask[k]).sum()), 3))
            assert blended.alpha[k][~mask[k]].count_nonzero() == 0
            assert blended.depth is not None and blended.depth[k][~mask[k]].count_nonzero() == 0
        assert blended.taken.view(2, 32)[:, 3:8].count_nonzero() == 0


@pytest.mark.parametrize("precision", ["parity", "fast", "half"])
def test_median_depth_and_contributions(precision) -> None:
    records = make_records(2, 20, 15, 17, seed=4)
    records[1, :, c.LOG2_OPACITY] -= 2.0
    lists, truths = make_lists(records, 15, 17, (16, 16)), make_truth(records, 15, 17)
    options = Options(precision=precision, depth=False, median=True, contribution=True)
    blended = run(records, lists, 15, 17, tile=(16, 16), options=options)
    assert blended.depth is None and blended.median is not None and blended.contribution is not None
    for view, truth in enumerate(truths):
        falls = truth.after <= 0.5
        depths = records[view, truth.splats, c.DEPTH]
        median = torch.where(falls.any(dim=0), depths[falls.int().argmax(dim=0)], 0.0)
        sure = truth.decided & ((truth.after - 0.5).abs() > 1e-4).all(dim=0)
        assert torch.equal(blended.median[view][sure], median[sure])
        assert (median == 0).any() if view else (median > 0).any()
        expected = torch.zeros(records.shape[1], dtype=torch.float64)
        expected[truth.splats] = truth.weights.sum(dim=(1, 2))
        atol = 0.02 if precision == "parity" else 1.2  # the fast form counts the splat that stops a pixel
        torch.testing.assert_close(blended.contribution[view].double(), expected, rtol=1e-3, atol=atol)
        assert blended.contribution[view][~seen(records)[view]].count_nonzero() == 0
    again = run(records, lists, 15, 17, tile=(16, 16), options=options)
    assert torch.equal(again.contribution, blended.contribution)


@pytest.mark.parametrize("precision, least", [("fast", 60.0), ("half", 45.0)])
@pytest.mark.parametrize("tile", TILES, ids="{0[0]}x{0[1]}".format)
def test_cheaper_forms_are_near_the_reference(tile, precision, least: float) -> None:
    records = make_records(2, 20, 21, 18, seed=5)
    truths = make_truth(records, 21, 18)
    blended = run(records, make_lists(records, 21, 18, tile), 21, 18, tile=tile, options=Options(precision=precision))
    for view, truth in enumerate(truths):
        rgb = truth.rgb + (1 - truth.alpha[..., None]) * BACKGROUND[view]
        found = psnr(blended.rgb[view], rgb), psnr(blended.alpha[view], truth.alpha)
        print(f"{precision} {tile}: {found[0]:.1f} and {found[1]:.1f} dB")
        assert min(found) >= least
        thick = truth.alpha > 0.3
        assert blended.depth is not None
        torch.testing.assert_close(blended.depth[view].double()[thick], truth.depth[thick], rtol=2e-2, atol=0.0)


@pytest.mark.parametrize("opacity", [0.006, 0.02])
def test_float16_holds_over_long_lists(opacity: float) -> None:
    """Weights of a few thousandths, which a sum of float16 near 1 would swallow or round all alike."""
    records = stack(250, opacity, size=40.0)
    lists, (truth,) = make_lists(records, 8, 16, (8, 16)), make_truth(records, 8, 16)
    blended = run(records, lists, 8, 16, options=Options(precision="half"))
    rgb = truth.rgb + (1 - truth.alpha[..., None]) * BACKGROUND[0]
    found = psnr(blended.rgb[0], rgb), psnr(blended.alpha[0], truth.alpha)
    print(f"opacity {opacity}: {found[0]:.1f} and {found[1]:.1f} dB")
    assert min(found) >= 55.0
    assert blended.depth is not None
    torch.testing.assert_close(blended.depth[0].double(), truth.depth, rtol=5e-3, atol=0.0)


def test_float16_takes_the_steepest_splats_and_the_farthest() -> None:
    """Falloffs and depths that float16 can not hold."""
    records = stack(6, 0.3).double()
    records[0, 0, c.L0 : c.L2 + 1] = torch.tensor((7e4, 3e4, 8e4))  # hits no pixel centre
    records[0, 1, c.L0 : c.L2 + 1] = torch.tensor((5e3, 5e3, 0.05))  # a needle along x + y = const
    records[0, 1, :2] = torch.tensor((10.5, 9.5))
    records[0, :, c.DEPTH] = torch.tensor((0.02, 1.0, 50.0, 300.0, 2e3, 4e4))
    records = finish_records(records)
    truth = make_truth(records, 20, 18)[0]
    blended = run(records, make_lists(records, 20, 18, (8, 8)), 20, 18, tile=(8, 8), options=Options(precision="half"))
    assert truth.weights[1].count_nonzero() > 5
    assert psnr(blended.rgb[0] - (1 - blended.alpha[0, ..., None]) * BACKGROUND[0], truth.rgb) > 50.0
    assert blended.depth is not None
    torch.testing.assert_close(blended.depth[0].double(), truth.depth, rtol=1e-2, atol=0.0)


def test_pixels_stop_before_the_splat_that_closes_them() -> None:
    records = stack(40, 0.9, size=200.0)
    truth = make_truth(records, 20, 18)[0]
    lists = make_lists(records, 20, 18, (8, 16))
    parity = run(records, lists, 20, 18)
    check(parity, [truth])
    assert int(parity.taken.max()) < 40, "no tile was left early"
    fast = run(records, lists, 20, 18, options=Options(precision="fast"))
    assert int(fast.taken.max()) < 40
    assert bool((fast.alpha > 1 - c.STOP).all()) and bool((parity.alpha < 1 - c.STOP).all())


@pytest.mark.parametrize("emitted, precision", [(0, "parity"), (11, "parity"), (11, "half")])
def test_splats_without_room_in_the_lists_are_blended_all_the_same(emitted: int, precision) -> None:
    records = make_records(2, 20, 15, 17, seed=6)
    records[1, 1::9, c.EXTENT_X :] = -1.0  # seen by the other eye only, and otherwise unwritten
    records[1, 1::9, : c.EXTENT_X] = torch.nan
    options = Options(precision=precision)
    for eyes in (1, 2):
        whole = run(records, make_lists(records, 15, 17, (8, 16), eyes), 15, 17, options=options, eyes=eyes)
        if precision == "parity":
            check(whole, make_truth(records, 15, 17, eyes))
        lists = make_lists(records, 15, 17, (8, 16), eyes, emitted)
        assert int(lists.emitted) == emitted < int(lists.visible)
        part = run(records, lists, 15, 17, options=options, eyes=eyes)
        tolerance = 2e-3 if precision == "half" else 0.0  # float16 settles at other places
        for ours, theirs in zip(part[:3], whole[:3], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_lists_of_the_binning_give_the_same_pictures() -> None:
    """Once with room for all, once without."""
    records = make_records(2, 14, 68, 10, seed=9)
    order, visible = depth_order(records, 1)
    picture = None
    for capacity in (None, 14):
        lists = bin_splats(
            records.to(DEVICE), order.int().to(DEVICE), torch.tensor(visible, device=DEVICE), 68, 10, capacity=capacity
        )
        blended = run(records, lists, 68, 10)
        picture = blended if picture is None else picture
        assert int(lists.emitted) == visible if capacity is None else int(lists.emitted) < visible
        assert torch.equal(blended.rgb, picture.rgb) and torch.equal(blended.alpha, picture.alpha)
    assert picture is not None
    check(picture, make_truth(records, 68, 10))


@pytest.mark.parametrize(
    "opacity, precision", [(0.05, "parity"), (0.45, "parity"), (0.9, "parity"), (0.45, "fast"), (0.45, "half")]
)
def test_chunks_put_together_are_the_whole_list(opacity: float, precision) -> None:
    """Lists of several chunks in which no pixel stops, or some do in a later chunk, or all in the first."""
    records, size = stack(18, opacity, size=6.0), (12, 14)
    options = Options(precision=precision)
    truth = make_truth(records, *size)[0]
    lists = make_lists(records, *size, (8, 16))
    whole = run(records, lists, *size, options=options)
    parts = run(records, lists, *size, options=options, chunk=5)
    assert len(parts.taken) == 16 + 2 * 3 * 16
    if precision == "parity":
        check(parts, [truth])
        walked = int(parts.taken[-48:].sum())
        assert walked == 0 if opacity == 0.05 else walked > 0
        again = run(records, lists, *size, options=options, chunk=5)
        assert torch.equal(parts.rgb, again.rgb) and torch.equal(parts.alpha, again.alpha)
    tolerance = {"parity": 1e-6, "fast": 1.1e-4, "half": 3e-3}[precision]  # the fast forms leave a tile, not a pixel
    for ours, theirs in zip(parts[:2], whole[:2], strict=True):
        torch.testing.assert_close(ours[0][truth.decided], theirs[0][truth.decided], rtol=tolerance, atol=tolerance)


def test_chunks_of_several_views_with_a_mask_and_an_overflow() -> None:
    """Lists of no, one and several chunks side by side."""
    records = make_records(2, 20, 68, 9, seed=7)
    records[1, :, c.MEAN_X] *= 0.2
    mask = torch.rand(2, 9, 68, generator=torch.Generator().manual_seed(0)) < 0.8
    lists, tile = make_lists(records, 68, 9, (16, 16), emitted=28), (16, 16)
    lengths = lists.starts.diff()
    assert int((lengths > 10).sum()) and int((lengths <= 5).sum()) and int(lists.emitted) < int(lists.visible)
    options = Options(depth=False)
    whole = run(records, lists, 68, 9, mask=mask, tile=tile, options=options)
    parts = run(records, lists, 68, 9, mask=mask, tile=tile, options=options, chunk=5)
    torch.testing.assert_close(parts.rgb, whole.rgb, rtol=0.0, atol=2e-6)
    torch.testing.assert_close(parts.alpha, whole.alpha, rtol=0.0, atol=2e-6)
    exact = run(records, lists, 68, 9, mask=mask & False, tile=tile, options=Options(median=True), chunk=5)
    assert len(exact.taken) == len(whole.taken) < len(parts.taken)


@pytest.mark.parametrize(
    "count, tile, shared, precision",
    [
        (1, (8, 16), True, "parity"),
        (4, (8, 8), False, "fast"),
        (13, (16, 16), False, "parity"),
        (20, (8, 16), True, "parity"),
    ],
)
def test_features_are_blended_like_colour(count: int, tile, shared: bool, precision) -> None:
    records = make_records(2, 14, 13, 17, seed=count)
    values = torch.randn(*([] if shared else [2]), 14, count, generator=torch.Generator().manual_seed(count))
    values[..., 3::7, :] = torch.nan  # of hidden splats
    mask = torch.rand(2, 17, 13, generator=torch.Generator().manual_seed(1)) < 0.9
    lists = make_lists(records, 13, 17, tile, emitted=17)
    blended = featuring.features(
        records.to(DEVICE), values.to(DEVICE), Lists(*(tensor.to(DEVICE) for tensor in lists)), 13, 17,
        options=Options(precision=precision), mask=mask.to(DEVICE), tile=tile,
    ).cpu()  # fmt: skip
    assert blended.shape == (2, 17, 13, count)
    for view, truth in enumerate(make_truth(records, 13, 17)):
        mine = (values if shared else values[view])[truth.splats].double()
        expected = torch.einsum("khw,kc->hwc", truth.weights, mine) * mask[view, ..., None]
        sure = truth.decided if precision == "parity" else truth.decided & (truth.after > 2 * c.STOP).all(dim=0)
        atol = 5e-5 if precision == "parity" else 0.03  # alpha may reach 1
        torch.testing.assert_close(blended[view].double()[sure], expected[sure], rtol=0.0, atol=atol)


def test_features_of_very_many_channels() -> None:
    records = stack(2, 0.7)
    values = torch.randn(2, MANY, generator=torch.Generator().manual_seed(0))
    lists = make_lists(records, 7, 5, (8, 16))
    blended = featuring.features(
        records.to(DEVICE), values.to(DEVICE), Lists(*(tensor.to(DEVICE) for tensor in lists)), 7, 5,
        options=Options(),
    ).cpu()  # fmt: skip
    truth = make_truth(records, 7, 5)[0]
    expected = torch.einsum("khw,kc->hwc", truth.weights, values[truth.splats].double())
    torch.testing.assert_close(blended[0].double(), expected, rtol=0.0, atol=2e-5)
