"""Triton's tile lists against brute force over every pixel: what must be listed is, in order, and little more.

In Triton's interpreter where there is no GPU, on the device where there is one: see tests/conftest.py.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from lyra.kernels import constants as c
from lyra.kernels.gpu import bin as binning
from lyra.kernels.gpu import masks, project, sort
from lyra.kernels.gpu.bin import Lists
from lyra.kernels.options import Options
from lyra.kernels.views import pack_views

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BAND = 1e-3  # share of alpha by which float32 may differ from float64
AT_THE_CUT = ("next to pixel centres", "opacity of the cut-off", "between pixels", "thin needles")  # the slack decides


def records_of(means: Tensor, sigmas: Tensor, angles: Tensor, opacities: Tensor) -> Tensor:
    """Records [n, 12] of ellipses with standard deviations `sigmas` [n, 2] pixels, turned by `angles` [n]."""
    cos, sin = angles.double().cos(), angles.double().sin()
    turn = torch.stack((torch.stack((cos, -sin), dim=-1), torch.stack((sin, cos), dim=-1)), dim=-2)
    covariances = turn * sigmas.double()[:, None].square() @ turn.transpose(1, 2)
    conics = torch.linalg.inv(covariances)
    l0 = conics[:, 0, 0].sqrt()
    l1 = conics[:, 0, 1] / l0
    l2 = (1 / covariances[:, 1, 1]).sqrt()
    reach = (2 * (opacities.double() / c.ALPHA_MIN).log()).clamp(min=0).sqrt()
    extents = reach[:, None] * covariances.diagonal(dim1=1, dim2=2).sqrt()
    factor = torch.stack((l0, l1, l2), dim=1) * c.SQRT_HALF_LOG2E
    records = torch.full((len(means), c.RECORD), math.nan, dtype=torch.float64)
    records[:, : c.L0], records[:, c.L0 : c.LOG2_OPACITY] = means, factor
    records[:, c.LOG2_OPACITY], records[:, c.EXTENT_X :] = opacities.double().log2(), extents
    return records.float()


def ellipses(n: int, width: int, height: int, low: float, high: float, seed: int = 0) -> Tensor:
    """Records of n ellipses, low to high pixels from edge to edge, in and a little round a picture."""
    generator = torch.Generator().manual_seed(seed)
    opacities = 0.05 + 0.95 * torch.rand(n, generator=generator)
    means = (torch.rand(n, 2, generator=generator) * 1.2 - 0.1) * torch.tensor((width, height))
    widths = low * (high / low) ** torch.rand(n, 2, generator=generator)
    reach = (2 * (opacities / c.ALPHA_MIN).log()).sqrt()
    return records_of(means, widths / 2 / reach[:, None], math.pi * torch.rand(n, generator=generator), opacities)


def depth_order(groups: int, n: int, hidden: Tensor | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Some order of the entries of all groups, those that are `hidden` [g, n] last."""
    shuffled = torch.randperm(groups * n, generator=torch.Generator().manual_seed(seed))
    if hidden is not None:
        shuffled = torch.cat((shuffled[~hidden.flatten()[shuffled]], shuffled[hidden.flatten()[shuffled]]))
    seen = groups * n - (0 if hidden is None else int(hidden.sum()))
    return shuffled.int(), torch.tensor(seen)


def reached(records: Tensor, width: int, height: int, tile: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Largest alpha over 1/255 of each splat of [n, 12] in each fine tile: [n, rows, columns], whole macro tiles."""
    x, y = torch.arange(width).double() + 0.5, torch.arange(height).double() + 0.5
    record = records.double()[:, :, None, None]
    dx, dy = x[None, None, :] - record[:, c.MEAN_X], y[None, :, None] - record[:, c.MEAN_Y]
    u, v = record[:, c.L0] * dx + record[:, c.L1] * dy, record[:, c.L2] * dy
    over = torch.exp2(record[:, c.LOG2_OPACITY] - u * u - v * v) / c.ALPHA_MIN
    columns, rows = binning.macro_grid(width, height)
    padded = torch.zeros(len(records), rows * masks.MACRO_HEIGHT, columns * masks.MACRO_WIDTH, dtype=torch.float64)
    padded[:, :height, :width] = over
    return padded.unflatten(2, (-1, tile[0])).unflatten(1, (-1, tile[1])).amax(dim=(2, 4))


def bin_splats(records: Tensor, order: Tensor, visible: Tensor, *arguments, **options) -> Lists:
    tensors = (tensor.to(DEVICE) for tensor in (records, order, visible))
    return Lists(*(tensor.cpu() for tensor in binning.bin_splats(*tensors, *arguments, **options)))


def check(
    lists: Lists, records: Tensor, width: int, height: int, tile: tuple[int, int], eyes: int = 1
) -> tuple[int, int]:
    """Everything the lists promise, for the splats that are emitted; returns bits set and bits needed."""
    views, n, _ = records.shape
    columns, rows = binning.macro_grid(width, height)
    across, down = masks.MACRO_WIDTH // tile[0], masks.MACRO_HEIGHT // tile[1]
    order, emitted, used = lists.order.long(), int(lists.emitted), int(lists.starts[-1])
    assert lists.starts.dtype == torch.int64 and len(lists.starts) == views * rows * columns + 1
    assert int(lists.starts[0]) == 0 and bool((lists.starts.diff() >= 0).all())
    assert used == (int(lists.ends[emitted - 1]) if emitted else 0) <= len(lists.ids)
    assert used + int((lists.places[used:] >= used).sum()) == len(lists.ids)
    rank = torch.full((len(order),), -1)
    rank[order[:emitted]] = torch.arange(emitted)
    macros = torch.searchsorted(lists.starts[1:], torch.arange(used), right=True)
    ids = lists.ids[:used].long()
    view = ids // n
    assert torch.equal(view, macros // (rows * columns)), "a splat of another view"
    ranks = rank[view // eyes * n + ids % n]
    assert (ranks >= 0).all(), "a splat that is not to be seen, or not wholly listed"
    same = macros.diff() == 0
    assert (ranks.diff()[same] > 0).all(), "out of depth order, or listed twice"
    # Before the sort each splat's entries were neighbours, in depth order.
    before = torch.empty(used, dtype=torch.long)
    before[lists.places[:used]] = ranks
    assert (before.diff() >= 0).all()
    assert torch.equal(torch.bincount(before, minlength=emitted).cumsum(0), lists.ends[:emitted])
    listed = torch.zeros(views, n, rows * down, columns * across, dtype=torch.bool)
    bits = (lists.masks[:used, None].long() >> torch.arange(down * across)) & 1
    for entry in range(used):
        row, column = divmod(int(macros[entry]) % (rows * columns), columns)
        block = listed[
            view[entry], ids[entry] % n, row * down : (row + 1) * down, column * across : (column + 1) * across
        ]
        block |= bits[entry].reshape(down, across).bool()
    needed = 0
    for v in range(views):
        there = (rank[v // eyes * n : (v // eyes + 1) * n] >= 0) & (records[v, :, c.EXTENT_X] >= 0)
        over = torch.where(there[:, None, None], reached(records[v].nan_to_num(-1.0), width, height, tile), 0.0)
        missing = (over >= 1 + BAND) & ~listed[v]
        assert not missing.any(), f"view {v} lacks {missing.nonzero()[:5].tolist()}"
        needed += int((over >= 1).sum())
    return int(listed.sum()), needed


@pytest.fixture(params=binning.TILES, ids="{0[0]}x{0[1]}".format)
def tile(request) -> tuple[int, int]:
    return request.param


@pytest.mark.parametrize("size", [(150, 101), (64, 32), (65, 33), (1, 1), (7, 70)], ids="{0[0]}x{0[1]}".format)
def test_lists_hold_all_that_is_needed_and_little_more(size, tile) -> None:
    width, height = size
    records = ellipses(60, width, height, 2.0, 60.0)[None]
    lists = bin_splats(records, *depth_order(1, 60), width, height, tile=tile)
    assert int(lists.emitted) == int(lists.visible) == 60 and int(lists.pairs) == len(lists.ids) == int(
        lists.starts[-1]
    )
    listed, needed = check(lists, records, width, height, tile)
    print(f"bits {listed}, needed {needed}: {listed / max(needed, 1) - 1:.2%} too many")
    assert needed and listed <= 1.02 * needed + 2


@pytest.mark.parametrize("low, high", [(2.0, 6.0), (6.0, 20.0), (20.0, 60.0), (60.0, 200.0)])
def test_few_bits_are_too_many(low: float, high: float, tile) -> None:
    """Exact to the slack, at every size of splats."""
    records = ellipses(60, 200, 120, low, high, seed=1)[None]
    listed, needed = check(bin_splats(records, *depth_order(1, 60), 200, 120, tile=tile), records, 200, 120, tile)
    print(f"{low:g} to {high:g} px: {listed / needed - 1:.2%} too many of {needed}")
    assert needed > 50 and listed <= 1.02 * needed


def special() -> dict[str, Tensor]:
    """Ellipses at the places and of the kinds that tile tests get wrong."""
    corners = torch.tensor([[x, y] for x in (0.0, 8.0, 16.0, 64.0, 96.0, 128.0) for y in (0.0, 8.0, 16.0, 32.0, 64.0)])
    n = len(corners)

    def alike(sigma_x: float, sigma_y: float, opacity: float, angle: float = 0.0, move: float = 0.0) -> Tensor:
        sigmas = torch.tensor((sigma_x, sigma_y)).expand(n, 2)
        return records_of(corners + move, sigmas, torch.full((n,), angle), torch.full((n,), opacity))

    spread = torch.arange(n)
    return {
        "on corners": alike(2.0, 1.0, 0.8),
        "on pixel centres": alike(0.6, 0.6, 0.5, move=0.5),
        "next to pixel centres": alike(0.55, 0.55, 0.02, move=0.499),
        "below a pixel": alike(0.1, 0.05, 0.9, angle=0.3, move=0.45),
        "between pixels": alike(0.1, 0.1, 0.9),
        "barely opaque": alike(9.0, 3.0, 1.0001 / 255, angle=0.6, move=0.5),
        "opacity of the cut-off": alike(9.0, 3.0, 1.0 / 255, move=0.5),
        "wider than the picture": alike(900.0, 400.0, 0.9, angle=1.1),
        "far wider": alike(3e5, 2e5, 0.9, angle=0.2),
        "needles": records_of(corners, torch.tensor((60.0, 0.55)).expand(n, 2), spread * 0.21, torch.full((n,), 0.99)),
        "flat needles": records_of(
            corners, torch.tensor((400.0, 0.55)).expand(n, 2), spread * 0.01, torch.full((n,), 0.9)
        ),
        "steep needles": records_of(
            corners, torch.tensor((400.0, 0.55)).expand(n, 2), 1.57 + spread * 0.01, torch.full((n,), 0.9)
        ),
        "thin needles": records_of(
            corners, torch.tensor((300.0, 0.01)).expand(n, 2), spread * 0.21, torch.full((n,), 0.99)
        ),
        "beside the picture": records_of(
            corners * 30 - 500, torch.tensor((150.0, 20.0)).expand(n, 2), spread * 0.4, torch.full((n,), 0.9)
        ),
    }


@pytest.mark.parametrize("kind", special())
def test_lists_of_special_splats(kind: str, tile) -> None:
    records = special()[kind][None]
    n = records.shape[1]
    lists = bin_splats(records, *depth_order(1, n), 131, 67, tile=tile)
    listed, needed = check(lists, records, 131, 67, tile)
    print(f"bits {listed}, needed {needed}")
    if kind not in AT_THE_CUT:
        assert needed and listed <= 1.02 * needed


@pytest.mark.parametrize("key", [torch.int16, torch.int32], ids=str)
def test_lists_of_three_views_with_hidden_splats(key, tile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binning, "macro_key_type", lambda tiles: key)
    records = torch.stack([ellipses(30, 90, 50, 2.0, 60.0, seed=seed) for seed in range(3)])
    hidden = torch.rand(3, 30, generator=torch.Generator().manual_seed(2)) < 0.3
    records[hidden] = math.nan  # as projection leaves them
    lists = bin_splats(records, *depth_order(3, 30, hidden), 90, 50, tile=tile)
    assert int(lists.emitted) == int(lists.visible) == 90 - int(hidden.sum())
    listed, needed = check(lists, records, 90, 50, tile)
    assert needed > 100 and listed <= 1.02 * needed
    assert (lists.ends[int(lists.visible) :] == lists.pairs).all()


@pytest.mark.parametrize("short", [None, 4, 5, 6])
def test_lists_of_pairs_of_eyes(short: int | None, tile) -> None:
    """Two groups of two; a splat that one eye does not see has extents of -1 there and NaN besides.

    Also where room is one entry short for a splat: then neither eye has it.
    """
    records = torch.stack([ellipses(25, 90, 50, 2.0, 60.0, seed=seed) for seed in range(4)])
    generator = torch.Generator().manual_seed(2)
    hidden = torch.rand(2, 25, generator=generator) < 0.2
    for view in range(4):
        missed = (torch.rand(25, generator=generator) < 0.3) & (torch.arange(25) % 2 == view % 2)
        records[view, missed] = math.nan
        records[view, missed, c.EXTENT_X :] = -1.0
        records[view, hidden[view // 2]] = math.nan
    order, visible = depth_order(2, 25, hidden)
    lists = bin_splats(records, order, visible, 90, 50, eyes=2, tile=tile)
    assert int(lists.emitted) == int(lists.visible)
    if short is not None:
        lists = bin_splats(records, order, visible, 90, 50, eyes=2, tile=tile, capacity=int(lists.ends[short]) - 1)
        assert int(lists.emitted) == int((lists.ends < lists.ends[short]).sum()) < int(lists.visible)
    listed, needed = check(lists, records, 90, 50, tile, eyes=2)
    assert listed <= 1.02 * needed + 2 and (needed > 50 or short is not None)


@pytest.mark.parametrize("room", [0, 1, 40, "just so", "one short", 10_000])
def test_what_does_not_fit_is_left_out_in_depth_order(room: int | str) -> None:
    records = ellipses(50, 150, 101, 2.0, 120.0)[None]
    order, visible = depth_order(1, 50)
    whole = bin_splats(records, order, visible, 150, 101)
    assert int(whole.ends[19]) < int(whole.ends[20]) < int(whole.ends[21])
    if isinstance(room, str):
        room = int(whole.ends[20]) - (room == "one short")
    lists = bin_splats(records, order, visible, 150, 101, capacity=room)
    assert len(lists.ids) == len(lists.masks) == len(lists.places) == room
    assert int(lists.pairs) == int(whole.pairs) > 57 and torch.equal(lists.ends, whole.ends)
    assert int(lists.visible) == 50 and int(lists.emitted) == min(int((whole.ends <= room).sum()), 50)
    if room == 10_000:
        assert int(lists.emitted) == 50
    check(lists, records, 150, 101, (8, 16))


def test_more_than_two_to_the_31_entries_do_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    records = ellipses(40, 150, 101, 2.0, 60.0)[None]
    order, visible = depth_order(1, 40)
    counts: Callable[..., Tensor] = binning._count

    def many(*arguments) -> Tensor:
        found = counts(*arguments)
        found[5:] = torch.iinfo(torch.int32).max
        return found

    monkeypatch.setattr(binning, "_count", many)
    lists = bin_splats(records, order, visible, 150, 101, capacity=200)
    assert int(lists.pairs) == int(lists.ends[4]) + 35 * (2**31 - 1) > 2**36
    assert int(lists.emitted) == 5 and int(lists.starts[-1]) == int(lists.ends[4])
    check(lists, records, 150, 101, (8, 16))


@pytest.mark.parametrize("tiles, kind", [(1, torch.int16), (32766, torch.int16), (32767, torch.int32)])
def test_macro_keys_are_as_narrow_as_their_number_allows(tiles: int, kind: torch.dtype) -> None:
    assert sort.macro_key_type(tiles) == kind
    assert tiles <= torch.iinfo(kind).max  # what is unused comes after all tiles


def test_empty_scenes_and_splats_out_of_sight_have_empty_lists() -> None:
    none = bin_splats(torch.zeros(2, 0, c.RECORD), torch.zeros(0, dtype=torch.int32), torch.tensor(0), 150, 101)
    assert none.starts.tolist() == [0] * (2 * 12 + 1) and int(none.pairs) == int(none.emitted) == len(none.ids) == 0
    records = torch.full((2, 20, c.RECORD), math.nan)
    for room in (None, 0, 7):
        lists = bin_splats(records, torch.arange(40, dtype=torch.int32), torch.tensor(0), 150, 101, capacity=room)
        assert lists.starts.tolist() == [0] * (2 * 12 + 1) and int(lists.pairs) == int(lists.emitted) == 0
        assert len(lists.ids) == (room or 0)


def test_a_tile_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tile is \(32, 8\), expected one of"):
        bin_splats(torch.zeros(1, 1, c.RECORD), torch.zeros(1, dtype=torch.int32), torch.tensor(1), 9, 9, tile=(32, 8))


@pytest.mark.parametrize("eyes", [1, 2])
def test_lists_of_projected_splats(make_view, make_scene, eyes: int) -> None:
    """Every kind of splat, through projection and sort: what they promise is what the lists expect."""
    view = make_view(70, 50, seed=5)
    scene = make_scene(view, 60, 1, seed=5).to(DEVICE)
    poses = view.world_to_camera.repeat(eyes, 1, 1)
    poses[:, 0, 3] += 0.1 * torch.arange(eyes)
    rows = pack_views(poses, view.K.expand(eyes, 3, 3), 70, 50, Options(), eyes)
    records, keys = project.project(*scene, rows.float().to(DEVICE), options=Options(), eyes=eyes)
    order, visible = sort.depth_order(keys)
    lists = bin_splats(records, order, visible, 70, 50, eyes=eyes)
    check(lists, records.cpu(), 70, 50, (8, 16), eyes)


class NoWaiting(TorchDispatchMode):
    """Refuses every operator of torch that would wait for a GPU."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal.default")
        assert not any(name in str(function) for name in waits), function
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("bits", [32, 16])
def test_nothing_is_waited_for_where_there_is_room(make_view, make_scene, bits: int) -> None:
    view = make_view(30, 30)
    scene = make_scene(view, 40, 1).to(DEVICE)
    rows = pack_views(view.world_to_camera[None], view.K[None], 30, 30, Options()).float().to(DEVICE)
    with NoWaiting():
        records, keys = project.project(*scene, rows, options=Options())
        order, visible = sort.depth_order(keys, bits=bits)
        binning.bin_splats(records, order, visible, 30, 30, capacity=100)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            binning.bin_splats(records, order, visible, 30, 30)
