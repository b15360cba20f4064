"""Gradients of the Triton blend against autograd in float64, on lists by brute force.

In Triton's interpreter where there is no GPU, on the device where there is one: see tests/conftest.py.
"""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from lyra.kernels import constants as c
from lyra.kernels import reference
from lyra.kernels.gpu import blend_backward as backward
from lyra.kernels.gpu.features_backward import features_backward
from lyra.kernels.gpu.masks import MACRO_HEIGHT, MACRO_WIDTH

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BAND = 1e-3  # relative distance to a cut-off within which float32 may decide otherwise
GROUPS = {
    "mean": slice(0, 2),
    "factor": slice(2, 5),
    "opacity": slice(5, 6),
    "colour": slice(6, 9),
    "depth": slice(9, 10),
}


class Lists(NamedTuple):
    """What kernels/bin.py makes, here from all pairs of a splat and a pixel."""

    ids: Tensor
    masks: Tensor
    starts: Tensor
    order: Tensor
    visible: Tensor
    emitted: Tensor
    pairs: Tensor
    places: Tensor
    ends: Tensor


class Case(NamedTuple):
    """Splats as V views see them, and what the loss says of their pictures."""

    records: Tensor  # [V, n, 12] float32, NaN for splats that the view's group does not see
    orders: list[Tensor]  # of each view: ids of its splats, nearest first
    width: int
    height: int
    background: Tensor  # [V, 3] float64
    grads: tuple[Tensor, Tensor, Tensor]  # d loss / d rgb, alpha, depth; 0 where `decided` is False
    mask: Tensor  # [V, h, w] bool
    decided: Tensor  # [V, h, w] bool


def make_records(
    views: int, n: int, width: int, height: int, seed: int, *, opacity=(0.05, 0.95), size=(1.5, 9.0)
) -> Tensor:
    """Splats of random place, shape, opacity and colour, float32; depths agree between views but for a little."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    records = torch.zeros(views, n, c.RECORD, dtype=torch.float64)
    records[..., c.MEAN_X], records[..., c.MEAN_Y] = uniform(0, width, views, n), uniform(0, height, views, n)
    long, short, angle = uniform(*size, views, n), uniform(*size, views, n), uniform(0, 3.2, views, n)
    xx = (long * angle.cos()) ** 2 + (short * angle.sin()) ** 2
    yy = (long * angle.sin()) ** 2 + (short * angle.cos()) ** 2
    xy = (long**2 - short**2) * angle.sin() * angle.cos()
    determinant = xx * yy - xy * xy
    records[..., c.L0] = (yy / determinant).sqrt() * c.SQRT_HALF_LOG2E
    records[..., c.L1] = -xy / (yy * determinant).sqrt() * c.SQRT_HALF_LOG2E
    records[..., c.L2] = c.SQRT_HALF_LOG2E / yy.sqrt()
    opacities = uniform(*opacity, n).expand(views, n)
    records[..., c.LOG2_OPACITY] = opacities.log2()
    records[..., c.RED : c.BLUE + 1] = uniform(-0.2, 1.3, views, n, 3)
    records[..., c.DEPTH] = 1.0 + torch.randperm(n, generator=generator) + uniform(0, 0.4, views, n)
    reach = (2 * (opacities / c.ALPHA_MIN).clamp(min=1.0).log()).sqrt()
    records[..., c.EXTENT_X], records[..., c.EXTENT_Y] = xx.sqrt() * reach, yy.sqrt() * reach
    return records.float()


def cover(record: Tensor, width: int, height: int, shift: Tensor | float = 0.0) -> Tensor:
    """Alphas [n, h, w] before clamp and cut; `shift` [2, n, h, w] moves the centres as each pixel sees them."""
    x, y = torch.arange(width).double() + 0.5, torch.arange(height).double()[:, None] + 0.5
    mean_x, mean_y, l0, l1, l2, log2_opacity = record[:, :6, None, None].unbind(1)
    shift_x, shift_y = shift if isinstance(shift, Tensor) else (shift, shift)
    dx, dy = x - mean_x - shift_x, y - mean_y - shift_y
    return torch.exp2(log2_opacity - (l0 * dx + l1 * dy) ** 2 - (l2 * dy) ** 2)


def weigh(full: Tensor, *, stop: float = c.STOP) -> tuple[Tensor, Tensor]:
    """Weights and transmittances [n, h, w] of splats in depth order."""
    alpha = full.clamp(max=c.ALPHA_MAX)
    alpha = torch.where(alpha < c.ALPHA_MIN, 0.0, alpha)
    after = torch.cumprod(1 - alpha, dim=0)
    before = torch.cat((torch.ones_like(after[:1]), after[:-1]))[: len(full)]
    return torch.where(after > stop, alpha * before, 0.0), after


def blend(case: Case, view: int, record: Tensor, **options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """RGB over the background, alpha, depth and weights [v, h, w] of a view, in float64."""
    record = record[case.orders[view]]
    shift = options.pop("shift", 0.0)
    shift = shift[:, case.orders[view]] if isinstance(shift, Tensor) else shift
    weights, _ = weigh(cover(record, case.width, case.height, shift), **options)
    weights = weights * case.mask[view]
    alpha = weights.sum(0)
    rgb = torch.einsum("nhw,nc->hwc", weights, record[:, c.RED : c.BLUE + 1])
    depth = torch.einsum("nhw,n->hw", weights, record[:, c.DEPTH]) / torch.where(alpha > 0, alpha, 1.0)
    return rgb + (1 - alpha[..., None]) * case.background[view], alpha, depth, weights


def make_case(records: Tensor, width: int, height: int, *, seed: int = 0, eyes: int = 1, mask: bool = False) -> Case:
    """Splats that no eye of a group sees become NaN; a random loss over the decided pixels."""
    generator = torch.Generator().manual_seed(1000 + seed)
    views = len(records)
    records, orders, decided = records.clone(), [], torch.ones(views, height, width, dtype=torch.bool)
    for group in range(views // eyes):
        own = range(group * eyes, group * eyes + eyes)
        seen = torch.zeros(records.shape[1], dtype=torch.bool)
        for view in own:
            seen |= (cover(records[view].double(), width, height) >= c.ALPHA_MIN).any(-1).any(-1)
        depths = records[group * eyes, :, c.DEPTH]
        order = torch.argsort(depths, stable=True)
        order = order[seen[order]]
        for view in own:
            records[view, ~seen] = torch.nan
            orders.append(order)
            full = cover(records[view].double()[order], width, height)
            _, after = weigh(full)
            before = torch.cat((torch.ones_like(after[:1]), after[:-1]))[: len(order)]
            alive = before > c.STOP * (1 - BAND)
            doubtful = (((full / c.ALPHA_MIN - 1).abs() < BAND) | ((full / c.ALPHA_MAX - 1).abs() < BAND)) & alive
            decided[view] = ~(doubtful | ((after / c.STOP - 1).abs() < BAND)).any(0)
    shape = (views, height, width)
    grads = [torch.randn(*shape, *rest, generator=generator, dtype=torch.float64) for rest in ((3,), (), ())]
    grads = tuple(grad * (decided[..., None] if grad.dim() == 4 else decided) for grad in grads)
    background = torch.rand(views, 3, generator=generator, dtype=torch.float64)
    shown = torch.rand(shape, generator=generator) < (0.6 if mask else 2.0)
    return Case(records, orders, width, height, background, grads, shown, decided)


def make_lists(case: Case, tile: tuple[int, int] = (8, 16), *, eyes: int = 1) -> Lists:
    """Lists with a few fine tiles more than needed; splats from place `room` of the order on are left out."""
    views, n = case.records.shape[:2]
    generator = torch.Generator().manual_seed(7)
    columns, rows = -(-case.width // MACRO_WIDTH), -(-case.height // MACRO_HEIGHT)
    across, macros = MACRO_WIDTH // tile[0], -(-case.width // MACRO_WIDTH) * -(-case.height // MACRO_HEIGHT)
    groups = [order + g * n for g, order in enumerate(case.orders[::eyes])]
    order = torch.cat(groups)
    depths = case.records[::eyes, :, c.DEPTH].reshape(-1)
    order = order[torch.argsort(depths[order], stable=True)]
    culled = sorted(set(range(views // eyes * n)) - set(order.tolist()))
    emitted = len(order)
    found, ends = [], []  # (macro tile, id, mask), before the sort
    for entry in order[:emitted].tolist():
        group, splat = divmod(entry, n)
        for view in range(group * eyes, group * eyes + eyes):
            full = cover(case.records[view, splat : splat + 1].double(), case.width, case.height)[0]
            masks: dict[int, int] = {}
            for y, x in (full >= c.ALPHA_MIN * (1 - BAND)).nonzero().tolist():
                macro = (view * rows + y // MACRO_HEIGHT) * columns + x // MACRO_WIDTH
                bit = y % MACRO_HEIGHT // tile[1] * across + x % MACRO_WIDTH // tile[0]
                masks[macro] = masks.get(macro, 0) | 1 << bit
            for macro in sorted(masks):
                extra = int(torch.randint(0, 1 << 31, (1,), generator=generator)) & 0x01010101
                found.append((macro, view * n + splat, masks[macro] | extra))
        ends.append(len(found))
    ends += [len(found)] * (views // eyes * n - len(ends))
    places = sorted(range(len(found)), key=lambda p: found[p][0])
    masks = [found[p][2] - (1 << 32 if found[p][2] >= 1 << 31 else 0) for p in places]
    counts = torch.bincount(torch.tensor([found[p][0] for p in places], dtype=torch.int64), minlength=views * macros)
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0)))
    tail = [0x7FFFFFF] * 3  # buffers are longer than what is in them
    order = torch.cat((order, torch.tensor(culled, dtype=torch.int64))).int()
    assert int(starts[-1]) == len(found)
    return Lists(
        ids=torch.tensor([found[p][1] for p in places] + tail, dtype=torch.int32),
        masks=torch.tensor(masks + tail, dtype=torch.int32),
        starts=starts,
        order=order,
        visible=torch.tensor(sum(map(len, groups))),
        emitted=torch.tensor(emitted),
        pairs=torch.tensor(len(found)),
        places=torch.tensor(places + [len(found) + i for i in range(3)], dtype=torch.int32),
        ends=torch.tensor(ends),
    )


def fold(case: Case, *, depth: bool = True, **options) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """What the kernel wants to know of each pixel, float32, from frame and loss."""
    frames = [blend(case, view, record.double(), **options) for view, record in enumerate(case.records)]
    rgb, alpha, mean_depth = (torch.stack([frame[i] for frame in frames]) for i in range(3))
    grad_rgb, grad_alpha, grad_depth = case.grads
    background = case.background[:, None, None]
    safe = torch.where(alpha > 0, alpha, 1.0)
    grad_a = grad_alpha - (grad_rgb * background).sum(-1)
    raw = rgb - (1 - alpha[..., None]) * background
    if not depth:
        total = (raw * grad_rgb).sum(-1) + alpha * grad_a
        return grad_rgb.float(), grad_a.float(), None, total.float()
    grad_s = torch.where(alpha > 0, grad_depth / safe, 0.0)
    grad_a = grad_a - grad_s * mean_depth
    total = (raw * grad_rgb).sum(-1) + alpha * grad_a + mean_depth * alpha * grad_s
    return grad_rgb.float(), grad_a.float(), grad_s.float(), total.float()


def truth(case: Case, *, depth: bool = True, **options) -> Tensor:
    """Gradient [V, n, 12] by autograd; 0 for splats that are not visible and in slots 10 and 11."""
    expected = []
    for view, record in enumerate(case.records):
        leaf = record.double().nan_to_num(1.0).requires_grad_()
        rgb, alpha, mean_depth, _ = blend(case, view, leaf, **options)
        loss = (rgb * case.grads[0][view]).sum() + (alpha * case.grads[1][view]).sum()
        if depth:
            loss = loss + (mean_depth * case.grads[2][view]).sum()
        expected.append(torch.autograd.grad(loss, leaf)[0])
    return torch.stack(expected)


def run(
    case: Case, lists: Lists, *, depth: bool = True, masked: bool = False, stop: float = c.STOP, **options
) -> Tensor:
    """The kernel's gradient, on the CPU."""
    pixels = [None if tensor is None else tensor.to(DEVICE) for tensor in fold(case, depth=depth, stop=stop)]
    mask = case.mask.to(DEVICE) if masked else None
    lists = Lists(*(tensor.to(DEVICE) for tensor in lists))
    size = (case.width, case.height)
    return backward.blend_backward(case.records.to(DEVICE), lists, *size, *pixels, mask=mask, **options).cpu()


def error(ours: Tensor, expected: Tensor) -> float:
    """Largest relative error of a tensor's parts, in the norm."""
    assert torch.isfinite(ours).all()
    errors = {}
    for name, slots in GROUPS.items():
        size = expected[..., slots].norm()
        errors[name] = float((ours[..., slots].double() - expected[..., slots]).norm() / size.clamp(min=1e-12))
    print({name: f"{value:.1e}" for name, value in errors.items()})
    return max(errors.values())


def test_the_truth_here_is_that_of_the_reference() -> None:
    case = make_case(make_records(1, 30, 21, 18, seed=3, opacity=(0.3, 1.0)), 21, 18)
    leaf = case.records[0].double().nan_to_num(1.0).requires_grad_()
    l0, l1, l2 = leaf[:, c.L0], leaf[:, c.L1], leaf[:, c.L2]
    conics = torch.stack((l0 * l0, l0 * l1, l1 * l1 + l2 * l2), dim=-1) / c.SQRT_HALF_LOG2E**2
    opacities = torch.exp2(leaf[:, c.LOG2_OPACITY])
    projected = reference.Projected(
        leaf[:, :2], conics, leaf[:, c.DEPTH], leaf[:, c.RED : c.BLUE + 1], opacities, leaf[:, c.EXTENT_X :].detach(),
        torch.ones(len(leaf), dtype=torch.bool), leaf[:, c.DEPTH].detach(),
    )  # fmt: skip
    rgb, alpha, depth = reference.blend(projected, case.orders[0], 21, 18)[:3]
    rgb = rgb + (1 - alpha[..., None]) * case.background[0]
    loss = (rgb * case.grads[0][0]).sum() + (alpha * case.grads[1][0]).sum() + (depth * case.grads[2][0]).sum()
    expected = torch.autograd.grad(loss, leaf)[0]
    torch.testing.assert_close(truth(case)[0], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tile", [(8, 8), (8, 16), (16, 16)], ids="{0[0]}x{0[1]}".format)
def test_gradient_agrees_with_autograd(tile: tuple[int, int]) -> None:
    """Two macro tiles, the second of them cut by the picture's edge."""
    case = make_case(make_records(1, 12, 70, 21, seed=1, size=(1.0, 5.0)), 70, 21)
    assert float(case.decided.double().mean()) > 0.9
    ours = run(case, make_lists(case, tile), tile=tile)
    assert error(ours, truth(case)) <= 1e-4
    assert (ours[..., 10:] == 0).all()
    unlisted = case.records[..., 0].isnan()
    assert (ours[unlisted] == 0).all()


@pytest.mark.parametrize("precision", ["parity", "fast"])
def test_clamped_alphas_and_stopped_pixels(precision: str) -> None:
    """Splats behind one another whose middles are opaque; behind them, one that no pixel of the parity form sees."""
    records = make_records(1, 16, 8, 16, 5, opacity=(0.7, 0.95), size=(14.0, 30.0))
    records[..., :2] = 0.3 * records[..., :2] + 0.35 * torch.tensor((8, 16))
    records[:, ::3, c.LOG2_OPACITY] = 0.0
    case = make_case(records, 8, 16)
    full = cover(case.records[0].double()[case.orders[0]], 8, 16)
    _, after = weigh(full)
    alive = torch.cat((torch.ones_like(after[:1]), after[:-1])) > c.STOP
    assert int(((full > c.ALPHA_MAX) & alive).sum()) > 5 and (after[-2] < c.STOP).all()
    assert float(case.decided.double().mean()) > 0.8
    ours = run(case, make_lists(case), precision=precision)
    if precision == "parity":
        assert error(ours, truth(case)) <= 1e-3
        assert (ours[0, case.orders[0][-1]] == 0).all()
    else:
        assert torch.isfinite(ours).all()


def test_fast_form_lets_the_splat_count_that_stops_a_pixel() -> None:
    """All of them here; alphas stay below the clamp, of which the fast form has none."""
    records = make_records(1, 9, 8, 16, 5, opacity=(0.6, 0.9), size=(7.0, 12.0))
    records[..., :2] = 0.3 * records[..., :2] + 0.35 * torch.tensor((8, 16))
    case = make_case(records, 8, 16)
    _, after = weigh(cover(case.records[0].double()[case.orders[0]], 8, 16))
    assert 0.02 < float((after[-1] < c.STOP).double().mean()) < 0.98
    ours = run(case, make_lists(case), precision="fast", stop=0.0)
    assert error(ours, truth(case, stop=0.0)) <= 1e-4


def test_views_backgrounds_and_masks() -> None:
    """Masked pixels give no gradient, whatever the planes hold there."""
    case = make_case(make_records(2, 8, 18, 17, seed=8, size=(1.5, 5.0)), 18, 17, mask=True)
    assert not torch.equal(case.background[0], case.background[1])
    assert error(run(case, make_lists(case), masked=True), truth(case)) <= 1e-4


def test_without_depth() -> None:
    case = make_case(make_records(1, 8, 16, 16, seed=9), 16, 16)
    ours = run(case, make_lists(case), depth=False)
    assert error(ours, truth(case, depth=False)) <= 1e-4
    assert (ours[..., c.DEPTH] == 0).all()


@pytest.mark.parametrize("deterministic", [False, True])
def test_absolute_gradients_are_summed_pixel_by_pixel(deterministic: bool) -> None:
    case = make_case(make_records(1, 6, 20, 17, seed=4), 20, 17)
    ours = run(case, make_lists(case), absgrad=True, deterministic=deterministic)
    shift = torch.zeros(2, 6, 17, 20, dtype=torch.float64, requires_grad=True)
    rgb, alpha, depth, _ = blend(case, 0, case.records[0].double().nan_to_num(1.0), shift=shift)
    loss = (rgb * case.grads[0][0]).sum() + (alpha * case.grads[1][0]).sum() + (depth * case.grads[2][0]).sum()
    each = torch.autograd.grad(loss, shift)[0]
    torch.testing.assert_close(ours[0, :, :2].double(), each.sum((2, 3)).T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[0, :, 10:].double(), each.abs().sum((2, 3)).T, rtol=1e-4, atol=1e-5)
    assert error(ours, truth(case)) <= 1e-4


@pytest.mark.parametrize("eyes", [1, 2])
def test_deterministic_gradients_are_the_same_and_repeat(eyes: int) -> None:
    case = make_case(make_records(2, 7, 67, 10, seed=6, size=(1.5, 5.0)), 67, 10, eyes=eyes)
    lists = make_lists(case, (16, 16), eyes=eyes)
    first, second = (run(case, lists, eyes=eyes, tile=(16, 16), deterministic=True) for _ in range(2))
    assert torch.equal(first, second)
    assert error(first, truth(case)) <= 1e-4


def test_lists_without_entries() -> None:
    case = make_case(make_records(1, 5, 20, 17, seed=2, opacity=(0.001, 0.003)), 20, 17)
    assert case.records.isnan().all()
    for deterministic in (False, True):
        assert (run(case, make_lists(case), deterministic=deterministic) == 0).all()


def run_features(case: Case, lists: Lists, features: Tensor, grad: Tensor, **options) -> tuple[Tensor, Tensor]:
    """The kernel's gradients of records and features; the frame of the features is blended in float64."""
    records = case.records.double()
    blended = []
    for view in range(len(records)):
        own = (features if features.dim() == 2 else features[view]).double()[case.orders[view]]
        blended.append(torch.einsum("nhw,nc->hwc", blend(case, view, records[view])[3], own))
    grad_records = torch.ones_like(case.records, device=DEVICE)  # to be added to
    lists = Lists(*(tensor.to(DEVICE) for tensor in lists))
    grads = features_backward(
        case.records.to(DEVICE), features.to(DEVICE), lists, case.width, case.height, grad.to(DEVICE),
        torch.stack(blended).float().to(DEVICE), grad_records, **options,
    )  # fmt: skip
    return grad_records.cpu() - 1.0, grads.cpu()


def true_features(case: Case, features: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The same by autograd."""
    leaf, records = features.double().requires_grad_(), case.records.double().nan_to_num(1.0).requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for view in range(len(records)):
        own = (leaf if leaf.dim() == 2 else leaf[view])[case.orders[view]]
        loss = loss + torch.einsum("nhw,nc,hwc->", blend(case, view, records[view])[3], own, grad[view].double())
    return torch.autograd.grad(loss, (records, leaf))


@pytest.mark.parametrize(
    "channels, views, shared, deterministic",
    [(1, 1, True, False), (3, 2, True, True), (5, 2, False, False), (19, 2, False, True), (21, 2, True, False)],
)
def test_features_agree_with_autograd(channels: int, views: int, shared: bool, deterministic: bool) -> None:
    case = make_case(make_records(views, 4, 9, 17, seed=channels, size=(1.5, 3.0)), 9, 17)
    check_features(case, (case.records.shape[1],) if shared else case.records.shape[:2], channels, deterministic)


def test_many_features() -> None:
    case = make_case(make_records(1, 1, 8, 8, seed=1, size=(2.0, 4.0)), 8, 8)
    check_features(case, (1,), 513 if torch.cuda.is_available() else 53, False)  # the interpreter is slow


def check_features(case: Case, shape: tuple[int, ...], channels: int, deterministic: bool) -> None:
    generator = torch.Generator().manual_seed(channels)
    features = torch.randn(*shape, channels, generator=generator)
    grad = torch.randn(*case.decided.shape, channels, generator=generator) * case.decided[..., None]
    options = {"mask": case.mask.to(DEVICE), "deterministic": deterministic}
    records, ours = run_features(case, make_lists(case), features, grad, **options)
    true_records, expected = true_features(case, features, grad)
    slots = slice(0, c.RED)
    assert torch.isfinite(ours).all() and torch.isfinite(records).all()
    assert float((ours - expected).norm() / expected.norm()) <= 1e-4
    assert float((records - true_records)[..., slots].norm() / true_records[..., slots].norm()) <= 1e-4
    assert (records[..., c.RED :] == 0).all()
    if deterministic:
        again = run_features(case, make_lists(case), features, grad, **options)
        assert torch.equal(again[0], records) and torch.equal(again[1], ours)
