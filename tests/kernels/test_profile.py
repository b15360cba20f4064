"""Splats with the profile of a level of detail: every backend against the formula by brute force, in float64."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.kernels import profile as profiles
from lyra.kernels import reference
from lyra.kernels.constants import ALPHA_MAX, ALPHA_MIN, FAINTEST, STOP
from lyra.kernels.cpu import alphas as cpu_alphas
from lyra.kernels.cpu.chunk import BLOCK, CHUNK, ENTRY
from lyra.kernels.frames import Rendering
from lyra.kernels.options import Options
from lyra.kernels.rasterize import rasterize

BACKENDS = ["reference", "cpu", "triton"]
FAST = ["cpu", "triton"]
SIZES = {"reference": ((61, 43), 120), "cpu": ((61, 43), 120), "triton": ((19, 17), 30)}  # the interpreter is slow
BAND = 1e-3  # as in conftest.py
PLAIN, ANTIALIASED = Options(), Options(antialiased=True)


class Case(NamedTuple):
    """A scene with opacities up to 1000 and exponents down to 1/7, and a view of it."""

    scene: tuple[Tensor, ...]  # the first five arguments of `rasterize`; float32
    exponents: Tensor  # [n]
    view: tuple[Any, ...]  # the next four

    def render(self, backend: str, device: str = "cpu", **given: Any) -> Rendering:
        """The frame in float64 by the reference, else in float32."""
        kind = torch.float64 if backend == "reference" else torch.float32
        scene = [tensor.to(device, kind) for tensor in self.scene]
        given = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in given.items()}
        for name in ("features", "background"):
            if name in given:
                given[name] = given[name].to(kind)
        return rasterize(*scene, *self.view, exponents=self.exponents.to(device, kind), backend=backend, **given)


class Truth(NamedTuple):
    """A view by the formula; k splats in front of the camera, nearest first."""

    rgb: Tensor  # [h, w, 3] over black
    alpha: Tensor  # [h, w]
    splats: Tensor  # [k]
    weights: Tensor  # [k, h, w]
    median: Tensor  # [h, w]
    decided: Tensor  # [h, w] bool: no profile is within BAND of 1/255, no transmittance of the stop


@pytest.fixture
def make_case(make_view, make_scene):
    """A function of size and number of splats; a third of them are copies, most are in a transition."""

    def make(size: tuple[int, int], n: int, seed: int = 0) -> Case:
        view = make_view(*size, seed=seed)
        scene = make_scene(view, n, 1, seed=seed)
        random = torch.Generator().manual_seed(seed)
        opacities = scene.opacities.clone()
        for i, value in enumerate((2.0, 30.0, 1000.0)):
            opacities[1 + 2 * i :: 9] = value
        exponents = 1 / torch.tensor([1.0, 2.0, 4.0, 7.0])[torch.randint(0, 4, (n,), generator=random)]
        moving = torch.rand(n, generator=random) < 0.4
        exponents = torch.where(moving, 1 / 7 + (1 - 1 / 7) * torch.rand(n, generator=random), exponents)
        colors = scene.sh[:, 0].abs()  # plain RGB
        scales = (2 * scene.scales).clamp(max=3.0)
        return Case((scene.means, scene.quats, scales, opacities, colors), exponents, tuple(view))

    return make


def own_profile(opacities: Tensor, falloff: Tensor) -> Tensor:
    """A(z) of opacities and exp(-z^2 / 2), float64, before any cut-off."""
    copies = opacities.clamp(min=1)
    return -torch.expm1(copies * torch.log1p(-(opacities.clamp(max=1) * falloff).clamp(max=1)))


def brute_force(case: Case, row: Tensor, options: Options) -> Truth:
    """Every splat in front of the camera at every pixel: no extents, no lists, nothing of the code under test."""
    means, quats, scales, opacities, colors = (tensor.double() for tensor in case.scene)
    *_, width, height = case.view
    projected = reference.project(means, quats, scales, torch.ones_like(opacities), colors, row, options)
    splats = ((projected.depths > options.near) & projected.conics.isfinite().all(dim=1)).nonzero()[:, 0]
    splats = splats[projected.depths[splats].argsort(stable=True)]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    dx, dy = (torch.stack((x, y), dim=-1) + 0.5 - projected.means2d[splats, None, None]).unbind(dim=-1)
    xx, xy, yy = (projected.conics[splats, i, None, None] for i in range(3))
    falloff = torch.exp(-0.5 * (xx * dx * dx + yy * dy * dy) - xy * dx * dy)
    falloff = falloff * projected.opacities[splats, None, None]  # 1, or the compensation where antialiased
    whole = own_profile(opacities[splats, None, None], falloff)
    alphas = 1 - (1 - whole.clamp(max=ALPHA_MAX)) ** case.exponents.double()[splats, None, None]
    alphas = torch.where(whole >= ALPHA_MIN, alphas, 0.0)
    behind = torch.cumprod(1 - alphas, dim=0)
    before = torch.cat((torch.ones_like(behind[:1]), behind[:-1]))
    weights = torch.where(behind > STOP, alphas * before, 0.0)
    falls = (behind <= 0.5) & (before > 0.5) & (behind > STOP)
    doubtful = (((whole / ALPHA_MIN - 1).abs() < BAND) & (before > STOP * (1 - BAND))).any(dim=0)
    doubtful |= ((behind / STOP - 1).abs() < BAND).any(dim=0)
    rgb = torch.einsum("khw,kc->hwc", weights, colors[splats])
    median = (falls * projected.depths[splats, None, None]).sum(dim=0)
    return Truth(rgb, weights.sum(dim=0), splats, weights, median, ~doubtful)


def test_a_profile_is_cut_where_it_covers_a_255th() -> None:
    opacities = torch.tensor([0.0, 0.3, 1.0, 1.5, 2.0, 30.0, 1000.0], dtype=torch.float64)
    exponents = torch.tensor([1.0, 1.0, 1.0, 0.5, 0.25, 1 / 7, 1.0], dtype=torch.float64)
    projected, rows = profiles.make_profiles(opacities, exponents)
    edge = (ALPHA_MIN / projected[1:]).clamp(max=1)  # the falloff where projection cuts
    torch.testing.assert_close(own_profile(opacities[1:], edge), torch.full((6,), ALPHA_MIN, dtype=torch.float64))
    assert torch.equal(projected[:3], opacities[:3]) and torch.equal(rows[:3, :2], torch.tensor([[1.0, 0.0]] * 3))
    torch.testing.assert_close(rows[:, profiles.FLOOR], 0.01**exponents)
    single, single_rows = profiles.make_profiles(opacities.float(), exponents.float())
    torch.testing.assert_close(single, projected.float(), rtol=1e-6, atol=0.0)
    torch.testing.assert_close(single_rows, rows.float(), rtol=2e-6, atol=1e-6)


def test_profiles_on_the_cpu_are_those_of_the_formula() -> None:
    rng = torch.Generator().manual_seed(1)
    opacities = torch.rand(2, 5000, generator=rng)
    opacities[1] = opacities[1] * 1000
    exponents = torch.where(torch.rand(2, 5000, generator=rng) < 0.5, 1.0, torch.rand(2, 5000, generator=rng) + 1e-3)
    exponents = exponents.clamp(max=1.0)
    expected, rows = profiles.make_profiles(opacities.double(), exponents.double())
    for given in ((opacities, exponents), (opacities.T.contiguous().T, exponents)):
        found, found_rows = profiles.make_profiles(*given, backend="cpu")
        torch.testing.assert_close(found, expected.float(), rtol=3e-7, atol=0.0)
        torch.testing.assert_close(found_rows, rows.float(), rtol=2e-7, atol=0.0)
    single = opacities <= 1
    assert torch.equal(found[single], opacities[single])
    assert torch.equal(found_rows[single & (exponents == 1)].unique(dim=0), torch.tensor([[1.0, 0.0, 0.01, 0.0]]))


@pytest.mark.parametrize("copies", [1.0, 2.0, 30.0, 1000.0])
def test_alphas_on_the_cpu_are_those_of_the_formula(copies: float) -> None:
    """At every power from the edge to the middle, of one splat a row."""
    exponents = torch.tensor([1.0, 0.6, 0.5, 1 / 7, 1 / 255]).double()
    opacities, rows = profiles.make_profiles(torch.full((5,), copies).double(), exponents)
    table = np.zeros((CHUNK, ENTRY), dtype=np.float32)
    table[:5, -profiles.PROFILE :] = rows
    for row in range(5):
        powers = np.linspace(math.log2(ALPHA_MIN) + 1e-5, math.log2(opacities[row]), CHUNK * BLOCK).astype(np.float32)
        falloff = torch.exp2(torch.from_numpy(powers).double()) / opacities[row]
        whole = own_profile(torch.tensor(copies).double(), falloff).clamp(max=ALPHA_MAX)
        expected = (1 - (1 - whole) ** exponents[row]).numpy()
        assert 0 < expected[0] <= 1.001 * ALPHA_MIN and expected[-1] == pytest.approx(1 - 0.01 ** float(exponents[row]))
        entries = np.full(CHUNK, row * ENTRY, dtype=np.int64)
        cpu_alphas.profiled_alphas(table.reshape(-1), entries, CHUNK, powers)
        np.testing.assert_allclose(powers, expected, rtol=2e-4, atol=4e-5)
        below = np.full(BLOCK, math.log2(ALPHA_MIN) - 1e-5, dtype=np.float32)
        cpu_alphas.profiled_alphas(table.reshape(-1), entries, 1, below)
        assert not below.any()


@pytest.mark.parametrize("options", [PLAIN, ANTIALIASED], ids=["plain", "antialiased"])
def test_the_reference_is_the_formula(make_case, row_of, make_view, options: Options) -> None:
    size, n = SIZES["reference"]
    case = make_case(size, n, seed=3)
    truth = brute_force(case, row_of(make_view(*size, seed=3), options), options)
    frame = case.render("reference", options=options, features=case.scene[4])
    assert float(truth.alpha.max()) > 0.9 and float(truth.decided.double().mean()) > 0.8
    torch.testing.assert_close(frame.rgb, truth.rgb, rtol=0, atol=1e-9)
    torch.testing.assert_close(frame.features, truth.rgb, rtol=0, atol=1e-9)
    torch.testing.assert_close(frame.alpha, truth.alpha, rtol=0, atol=1e-9)
    plain = rasterize(*(tensor.double() for tensor in case.scene), *case.view, options=options, backend="reference")
    assert float((plain.rgb - frame.rgb).abs().max()) > 0.1


@pytest.mark.parametrize("antialiased", [False, True], ids=["plain", "antialiased"])
@pytest.mark.parametrize("backend", FAST)
def test_all_outputs_agree_with_the_reference(
    make_case, make_view, row_of, psnr, devices, backend: str, antialiased: bool
) -> None:
    options = Options(antialiased=antialiased, median=True, contribution=True)
    size, n = SIZES[backend]
    case = make_case(size, n, seed=5)
    truth = brute_force(case, row_of(make_view(*size, seed=5), options), options)
    mask = torch.ones(size[1], size[0], dtype=torch.bool)
    mask[4:9, 3:] = False
    features = torch.randn(n, 5, generator=torch.Generator().manual_seed(1))
    given = {"options": options, "mask": mask, "features": features, "background": torch.tensor((0.9, 0.1, 0.4))}
    expected, frame = case.render("reference", **given), case.render(backend, devices[backend], **given)
    assert float((~truth.decided).double().mean()) < 0.1
    for name in ("rgb", "alpha", "features"):
        ours, theirs = getattr(frame, name).cpu().double(), getattr(expected, name)
        torch.testing.assert_close(ours[truth.decided], theirs[truth.decided], rtol=1e-4, atol=1e-4, msg=name)
    assert psnr(frame.rgb.cpu(), expected.rgb) > 60.0
    seen = truth.decided & (expected.alpha > 0.5)
    torch.testing.assert_close(frame.depth.cpu().double()[seen], expected.depth[seen], rtol=1e-3, atol=0.0)
    shown = truth.decided & mask
    for median in (frame.median.cpu().double(), expected.median):
        assert float(torch.isclose(median[shown], truth.median[shown], rtol=1e-4, atol=1e-6).double().mean()) > 0.98
    assert float((expected.median[shown] > 0).double().mean()) > 0.2
    assert not frame.alpha.cpu()[~mask].any() and not frame.median.cpu()[~mask].any()
    by_hand = torch.zeros(n, dtype=torch.float64)
    by_hand[truth.splats] = truth.weights[:, mask].sum(dim=1)
    torch.testing.assert_close(expected.contribution, by_hand, rtol=1e-9, atol=1e-9)
    undecided = float((~truth.decided).sum())
    torch.testing.assert_close(frame.contribution.cpu().double(), by_hand, rtol=1e-3, atol=0.01 * undecided + 1e-3)


@pytest.mark.parametrize("backend", FAST)
def test_stereo_agrees_with_the_reference(make_case, psnr, devices, backend: str) -> None:
    """Eyes apart: some splats are seen by one of them only."""
    size, n = SIZES[backend]
    case = make_case(size, n, seed=7)
    pose, lens, *_ = case.view
    pair = torch.stack((pose, pose))
    pair[:, 0, 3] += torch.tensor((0.1, -0.1))
    case = case._replace(view=(pair, lens, *size))
    features = torch.randn(n, 2, generator=torch.Generator().manual_seed(1))
    expected = case.render("reference", stereo=True, features=features)
    frame = case.render(backend, devices[backend], stereo=True, features=features)
    assert float((expected.rgb[0] - expected.rgb[1]).abs().max()) > 0.05
    for name in ("rgb", "features"):
        ours, theirs = getattr(frame, name).cpu(), getattr(expected, name)
        close = torch.isclose(ours.double(), theirs, rtol=0, atol=1e-4)
        assert float(close.double().mean()) > 0.95  # the rest lies at a cut-off
        assert psnr(ours, theirs) > 55.0


def cells(count: int, opacities: list[float], height: int) -> dict[str, Any]:
    """A scene for each opacity: `count` splats in one place, exponents 1 / count, seen twice as high as wide."""
    scenes = len(opacities)
    return {
        "means": torch.tensor((0.1, -0.2, 3.0)).expand(scenes, count, 3),
        "quats": torch.tensor((0.9, 0.3, -0.2, 0.4)).expand(scenes, count, 4),
        "scales": torch.tensor((0.5, 0.3, 0.8)).expand(scenes, count, 3),
        "opacities": torch.tensor(opacities)[:, None].expand(scenes, count),
        "colors": torch.tensor((1.0, 0.7, 0.4)).expand(scenes, count, 3),
        "world_to_camera": torch.eye(4).expand(scenes, 4, 4),
        "K": torch.tensor([[1.5 * height, 0.0, height / 4], [0.0, 1.6 * height, height / 2], [0.0, 0.0, 1.0]]),
        "width": height // 2, "height": height,
        "exponents": torch.full((scenes, count), 1 / count),
    }  # fmt: skip


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("backend, precision", [*((name, "parity") for name in BACKENDS), ("triton", "half")])
def test_coincident_children_are_their_parent(psnr, devices, backend: str, precision: Any, count: int) -> None:
    opacities, height = [0.3, 0.9, 1.0, 5.0, 100.0], 64 if backend != "triton" else 16
    kind = torch.float64 if backend == "reference" else torch.float32
    given = {
        name: value.to(devices[backend], kind) if isinstance(value, Tensor) else value
        for name, value in cells(count, opacities, height).items()
    }
    frame = rasterize(**given, options=Options(precision=precision), backend=backend)
    parents = {
        name: value.double() if isinstance(value, Tensor) else value
        for name, value in cells(1, opacities, height).items()
    }
    expected = rasterize(**parents, backend="reference")
    for i, opacity in enumerate(opacities):
        assert float(expected.alpha[i].max()) > 0.9 * min(opacity, 0.99)
        assert psnr(frame.rgb[i].cpu(), expected.rgb[i]) >= 60.0, f"opacity {opacity}"
        assert psnr(frame.alpha[i].cpu(), expected.alpha[i]) >= 60.0, f"opacity {opacity}"
    alone = parents["opacities"].clamp(max=0.99)  # of opacities to 1 a parent is an ordinary splat
    plain = rasterize(**{**parents, "exponents": None, "opacities": alone}, backend="reference")
    torch.testing.assert_close(expected.rgb[:2], plain.rgb[:2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("t", [FAINTEST, 0.4])
def test_a_parent_and_what_fades_in_at_its_place_are_the_parent(psnr, devices, backend: str, t: float) -> None:
    """From the very start of a transition on: what a parent has lost its copies have."""
    opacities, height = [0.3, 1.0, 100.0], 64 if backend != "triton" else 16
    kind = torch.float64 if backend == "reference" else torch.float32
    given = cells(5, opacities, height)
    given["exponents"] = torch.tensor([1 - t] + [t / 4] * 4).expand(len(opacities), 5)
    given = {
        name: value.to(devices[backend], kind) if isinstance(value, Tensor) else value for name, value in given.items()
    }
    frame = rasterize(**given, backend=backend)
    expected = rasterize(**cells(1, opacities, height), backend="reference")
    for i, opacity in enumerate(opacities):
        assert psnr(frame.rgb[i].cpu(), expected.rgb[i]) >= 60.0, f"opacity {opacity}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_exponents_of_one_change_nothing(make_case, psnr, devices, backend: str) -> None:
    size, n = SIZES[backend]
    case = make_case(size, n, seed=2)
    scene = list(case.scene)
    scene[3] = scene[3].clamp(max=1.0)
    case = case._replace(scene=tuple(scene), exponents=torch.ones(n))
    features = case.scene[4][:, :2]
    frame = case.render(backend, devices[backend], features=features)
    kind, device = frame.rgb.dtype, devices[backend]
    moved = [tensor.to(device, kind) for tensor in scene]
    plain = rasterize(*moved, *case.view, features=features.to(device, kind), backend=backend)
    assert float(plain.alpha.max()) > 0.9
    for name in ("rgb", "alpha", "depth", "features"):
        ours, theirs = getattr(frame, name).cpu(), getattr(plain, name).cpu()
        assert torch.equal(ours, theirs) if backend == "cpu" else psnr(ours, theirs) >= 80.0, name


@pytest.mark.parametrize("precision, least", [("fast", 60.0), ("half", 45.0)])
def test_cheaper_forms_are_near_the_reference(make_case, psnr, devices, precision: Any, least: float) -> None:
    size, n = SIZES["triton"]
    case = make_case(size, n, seed=3)
    features, options = case.scene[4][:, :2], Options(precision=precision)
    expected = case.render("reference", features=features)
    frame = case.render("triton", devices["triton"], features=features, options=options)
    for name in ("rgb", "alpha", "features"):
        found = psnr(getattr(frame, name).cpu(), getattr(expected, name))
        print(f"{precision} {name}: {found:.1f} dB")
        assert found >= least, name


@pytest.mark.parametrize("precision", ["parity", "fast"])
def test_lists_in_chunks_and_splats_without_room_blend_the_same(
    make_case, devices, monkeypatch, precision: Any
) -> None:
    from lyra.kernels.gpu import blend as blending

    size, n = SIZES["triton"]
    case, options = make_case(size, n, seed=4), Options(precision=precision)
    scene = list(case.scene)
    scene[3] = 20 * scene[3]  # so that pixels stop
    case = case._replace(scene=tuple(scene))
    whole = case.render("triton", devices["triton"], options=options)
    short = case.render("triton", devices["triton"], options=options, capacity=5)
    assert int(short.counts.pairs) > 10
    torch.testing.assert_close(short.rgb, whole.rgb, rtol=0, atol=1e-6)
    plan, plans = blending.plan_chunks, []
    monkeypatch.setattr(blending, "plan_chunks", lambda lists, size: plans.append(plan(lists, 4)) or plans[-1])
    chunked = case.render("triton", devices["triton"], options=options)
    assert plans[0].size == 4 and int(plans[0].ends[-1]) > 3  # chunks that are not the first
    torch.testing.assert_close(chunked.rgb, whole.rgb, rtol=0, atol=2e-4 if precision == "fast" else 1e-5)
    torch.testing.assert_close(chunked.depth, whole.depth, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("exponents", "told"),
    [
        (torch.ones(3), r"exponents has shape \[3\], expected \[6\]"),
        (torch.ones(6, dtype=torch.float64), "exponents is torch.float64, expected one float type"),
        (torch.ones(6, dtype=torch.int32), "exponents is torch.int32, expected one float type"),
        ([1.0] * 6, "exponents is a list, expected a torch tensor"),
        (torch.tensor([1.0, 0.5, 0.0, 1.0, 1.0, 1.0]), "exponents holds 0, expected numbers above 0, to 1"),
        (torch.tensor([1.0, 0.5, 0.1, 1.0, 1.0, 1.5]), "exponents holds 1.5, expected"),
        (torch.tensor([1.0, math.nan, 0.1, 1.0, 1.0, 1.0]), "exponents holds nan, expected"),
    ],
)  # fmt: skip
def test_what_is_no_exponent_is_refused(backend: str, exponents: Any, told: str) -> None:
    given = cells(6, [0.5], 8)
    scene = {name: value[0] for name, value in given.items() if isinstance(value, Tensor) and name != "K"}
    with pytest.raises(ValueError, match=told):
        rasterize(**{**given, **scene, "exponents": exponents}, backend=backend)


@pytest.mark.parametrize("wanted", ["means", "opacities", "exponents", "world_to_camera"])
@pytest.mark.parametrize("backend", FAST)
def test_gradients_are_refused_where_there_are_none(devices, backend: str, wanted: str) -> None:
    given = cells(2, [0.5], 8)
    moved = {name: value.to(devices[backend]) if isinstance(value, Tensor) else value for name, value in given.items()}
    moved[wanted] = moved[wanted].clone().requires_grad_()
    with pytest.raises(ValueError, match=f"{backend} has no gradients with exponents: take reference"):
        rasterize(**moved, backend=backend)
    with torch.no_grad():
        assert float(rasterize(**moved, backend=backend).alpha.max()) > 0.3


def test_the_reference_has_gradients() -> None:
    given = cells(4, [0.5], 8)
    inputs = {
        name: value[0].double().clone() for name, value in given.items() if isinstance(value, Tensor) and name != "K"
    }
    inputs["opacities"] = torch.tensor((0.4, 1.3, 6.0, 0.8), dtype=torch.float64)
    inputs["exponents"] = torch.tensor((0.5, 0.3, 0.15, 0.9), dtype=torch.float64)
    inputs["means"] += 0.3 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs["scales"] *= 4  # no cut-off inside the picture
    names = ("means", "scales", "opacities", "exponents")

    def picture(*leaves: Tensor) -> Tensor:
        frame = rasterize(
            **{**inputs, **dict(zip(names, leaves, strict=True))}, K=given["K"], width=4, height=8, backend="reference"
        )
        return frame.rgb

    assert torch.autograd.gradcheck(picture, tuple(inputs[name].requires_grad_() for name in names), atol=1e-6)
