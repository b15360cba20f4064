"""Gradients of the projection, of both backends, against float64 autograd through the reference."""

import importlib
import math

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.kernels import constants as c
from lyra.kernels import reference
from lyra.kernels import views as v
from lyra.kernels.cpu import project as projection
from lyra.kernels.options import Options
from lyra.kernels.views import pack_views

MODULES = {"cpu": "lyra.kernels.cpu.project_backward", "triton": "lyra.kernels.gpu.project_backward"}
OPTIONS = {
    "pinhole": Options(),
    "orthographic": Options(lens="orthographic"),
    "fisheye": Options(lens="fisheye", distortion=(0.05, -0.01, 0.002, -0.0002), max_angle=2.6),
    "equidistant": Options(lens="fisheye"),
    "antialiased": Options(antialiased=True),
    "fisheye antialiased": Options(lens="fisheye", antialiased=True, blur=0.1),
    "no blur": Options(blur=0.0, near=0.2, far=20.0),
}
NAMES = ("means", "quats", "scales", "opacities", "colors", "rows")
SLOTS = c.DEPTH + 1  # of a record that have a gradient
IN_ROW = [*range(v.WIDTH), *range(v.LOW_X, v.HIGH_Y + 1)]  # entries that have one
N = 47
MOST = 1e-4  # relative error


@pytest.fixture(params=MODULES)
def backward(request: pytest.FixtureRequest, devices: dict[str, str]):
    """`project_backward` of a backend, on torch tensors."""
    if request.param == "triton":
        pytest.importorskip("triton")
    device = devices[request.param]

    def call(scene: list[Tensor], rows: Tensor, records: Tensor, grads: Tensor, options: Options) -> list[Tensor]:
        module = importlib.import_module(MODULES[request.param])
        inputs = [tensor.float().to(device) for tensor in (*scene, rows, records, grads)]
        if request.param == "triton":
            return [tensor.cpu() for tensor in module.project_backward(*inputs, options=options)]
        found = module.project_backward(*(tensor.numpy() for tensor in inputs), options=options)
        return [torch.from_numpy(array) for array in found]

    return call


def make_case(make_view, make_scene, options: Options, *, n: int = N, sh: int = 4, views: int = 3, eyes: int = 1):
    """A scene and rows [v, 40] of cameras near each other; for a fisheye splats all round, some of them on the axis."""
    view = make_view(61, 47)
    scene = make_scene(view, n, sh)
    pose, K = view.world_to_camera.repeat(views, 1, 1), view.K.repeat(views, 1, 1)
    pose[:, 0, 3] -= 0.07 * torch.arange(views)  # to the right of each other
    if options.lens == "orthographic":
        K[:, :2, :2] /= 4
    if options.lens == "fisheye":
        K[:, :2, :2] /= 4
        generator = torch.Generator().manual_seed(5)
        directions = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        directions /= directions.norm(dim=-1, keepdim=True)
        axis = view.world_to_camera[2, :3]
        directions[9::20] = axis
        directions[10::20] = axis + 1e-3 * directions[10::20]
        directions[11::20] = axis + 3e-2 * directions[11::20]  # where the series hands over
        eye = -view.world_to_camera[:3, :3].T @ view.world_to_camera[:3, 3]
        distance = (scene.means.double() - eye).norm(dim=-1, keepdim=True)
        scene = scene._replace(means=(eye + distance * directions).float())
    return list(scene), pack_views(pose, K, view.width, view.height, options, eyes).float()


def random_gradients(scene: list[Tensor], rows: Tensor, options: Options, eyes: int = 1, seed: int = 0):
    """Records of the float32 projection, and a gradient for each that is visible; NaN where nobody may look."""
    arrays = [tensor.numpy() for tensor in scene]
    records, keys = projection.project(*arrays, rows.numpy(), options=options, eyes=eyes)
    records = torch.from_numpy(records)
    grads = torch.randn(records.shape, generator=torch.Generator().manual_seed(seed))
    visible = torch.zeros(records.shape[:2], dtype=torch.bool)
    for view in range(len(rows)):
        ids = torch.from_numpy((keys[view // eyes] & 0xFFFFFFFF).astype(np.int64))
        visible[view, ids] = records[view, ids, c.EXTENT_X] >= 0
    grads[~visible] = 0.0
    grads[..., c.EXTENT_X :] = math.nan
    return records, grads, visible


def truth(scene: list[Tensor], rows: Tensor, grads: Tensor, visible: Tensor, options: Options) -> list[Tensor]:
    """The same gradients by autograd in float64."""
    leaves = [tensor.double().requires_grad_() for tensor in (*scene, rows)]
    loss = torch.zeros((), dtype=torch.float64)
    for view, seen in enumerate(visible):
        colors = leaves[4] if len(leaves[4]) == len(seen) else leaves[4][view]
        splats = [tensor[seen] for tensor in (*leaves[:4], colors)]
        projected = reference.project(*splats, leaves[5][view], options)
        xx, xy, yy = projected.conics.unbind(dim=-1)
        l0, l1, l2 = xx.sqrt(), xy / xx.sqrt(), ((xx * yy - xy * xy) / xx).sqrt()
        columns = (
            projected.means2d,
            torch.stack((l0, l1, l2), dim=-1) * c.SQRT_HALF_LOG2E,
            torch.log2(projected.opacities)[:, None],
            projected.colors,
            projected.depths[:, None],
        )
        loss = loss + (torch.cat(columns, dim=-1) * grads[view, seen, :SLOTS].double()).sum()
    found = [
        torch.zeros_like(leaf) if grad is None else grad
        for leaf, grad in zip(leaves, torch.autograd.grad(loss, leaves, allow_unused=True), strict=True)
    ]
    found[5][:, [i for i in range(v.ROW) if i not in IN_ROW]] = 0.0
    return found


def check(found: list[Tensor], expected: list[Tensor], visible: Tensor) -> None:
    """Relative errors of each tensor, of each kind of splat, and of each entry of the rows; zeros where nothing is."""
    for name, tensor, true in zip(NAMES, found, expected, strict=True):
        assert tensor.dtype == torch.float32 and tensor.shape == true.shape
        assert torch.isfinite(tensor).all(), name
        error = tensor.double() - true
        assert float(error.norm()) <= MOST * float(true.norm()), f"{name}: {float(error.norm() / true.norm()):.1e}"
        if name == "rows":
            by_entry = error.norm(dim=0) - 1e-3 * true.norm(dim=0)
            assert (by_entry <= 1e-6 * true.norm(dim=0).max()).all(), by_entry
            continue
        if len(tensor) != visible.shape[1]:  # colours of their own for each view
            assert (tensor[~visible] == 0).all()
            continue
        assert (tensor[~visible.any(dim=0)] == 0).all(), f"{name} of a splat that no view sees"
        for kind in range(20):  # of `make_scene`
            wrong, right = float(error[kind::20].norm()), float(true[kind::20].norm())
            assert wrong <= 1e-3 * right + 1e-6 * float(true.norm()), (
                f"{name} of kind {kind}: {wrong:.1e} of {right:.1e}"
            )


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_agree_with_autograd(make_view, make_scene, backward, name: str) -> None:
    options = OPTIONS[name]
    scene, rows = make_case(make_view, make_scene, options)
    records, grads, visible = random_gradients(scene, rows, options)
    assert 15 < int(visible.sum(dim=1).min()) < N
    check(backward(scene, rows, records, grads, options), truth(scene, rows, grads, visible, options), visible)


@pytest.mark.parametrize("slot", range(SLOTS))
@pytest.mark.parametrize("name", ["pinhole", "fisheye antialiased"])
def test_each_gradient_of_a_record_alone(make_view, make_scene, backward, name: str, slot: int) -> None:
    options = OPTIONS[name]
    scene, rows = make_case(make_view, make_scene, options, n=23, views=1)
    records, grads, visible = random_gradients(scene, rows, options)
    grads[..., [i for i in range(SLOTS) if i != slot]] = 0.0
    check(backward(scene, rows, records, grads, options), truth(scene, rows, grads, visible, options), visible)


@pytest.mark.parametrize("colors", ["sh 1", "sh 4", "sh 9", "sh 16", "rgb", "rgb for each view"])
def test_colors(make_view, make_scene, backward, colors: str) -> None:
    count = int(colors.split()[1]) if colors.startswith("sh") else 1
    scene, rows = make_case(make_view, make_scene, Options(), sh=count, views=2)
    if not colors.startswith("sh"):
        scene[4] = torch.randn(*((N, 3) if colors == "rgb" else (2, N, 3)))
    records, grads, visible = random_gradients(scene, rows, Options())
    if count == 16:
        assert (records[visible][:, c.RED] == 0).any()  # some are cut off
    check(backward(scene, rows, records, grads, Options()), truth(scene, rows, grads, visible, Options()), visible)


@pytest.mark.parametrize("name", ["pinhole", "orthographic", "fisheye"])
def test_stereo(make_view, make_scene, backward, name: str) -> None:
    options = OPTIONS[name]
    scene, rows = make_case(make_view, make_scene, options, views=4, eyes=2)
    rows[1::2, 3] -= 1.5  # wide apart, so that some splats are seen by one eye only
    records, grads, visible = random_gradients(scene, rows, options, eyes=2)
    assert (visible[0] != visible[1]).any()
    check(backward(scene, rows, records, grads, options), truth(scene, rows, grads, visible, options), visible)


def test_the_limits_of_a_pinhole_have_gradients(make_view, make_scene, backward) -> None:
    """Tight limits, so that every one of them is reached."""
    scene, rows = make_case(make_view, make_scene, Options())
    rows[:, v.LOW_X : v.HIGH_Y + 1] *= 0.4
    records, grads, visible = random_gradients(scene, rows, Options())
    expected = truth(scene, rows, grads, visible, Options())
    assert (expected[5][:, v.LOW_X : v.HIGH_Y + 1] != 0).all()
    check(backward(scene, rows, records, grads, Options()), expected, visible)


def test_absurd_splats_that_are_not_seen_spoil_nothing(make_view, make_scene, backward) -> None:
    scene, rows = make_case(make_view, make_scene, Options())
    records, grads, visible = random_gradients(scene, rows, Options())
    unseen = (~visible.any(dim=0)).nonzero().flatten()
    scene[0][unseen[0]], scene[2][unseen[1]], scene[1][unseen[2]] = math.nan, 1e30, 0.0
    scene[4][unseen[3]], scene[3][unseen[4]] = math.inf, math.nan
    check(backward(scene, rows, records, grads, Options()), truth(scene, rows, grads, visible, Options()), visible)


def test_gradients_repeat_bit_for_bit(make_view, make_scene, backward) -> None:
    scene, rows = make_case(make_view, make_scene, Options(), views=1)
    records, grads, _ = random_gradients(scene, rows, Options())
    first, second = (backward(scene, rows, records, grads, Options()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_splats(make_view, make_scene, backward) -> None:
    scene, rows = make_case(make_view, make_scene, Options(), n=21)
    nothing = torch.zeros(3, 0, c.RECORD)
    found = backward([tensor[:0] for tensor in scene], rows, nothing, nothing, Options())
    assert [tuple(tensor.shape) for tensor in found[:5]] == [(0, 3), (0, 4), (0, 3), (0,), (0, 4, 3)]
    assert torch.equal(found[5], torch.zeros(3, v.ROW))


@pytest.mark.parametrize("name", ["pinhole", "fisheye antialiased"])
def test_many_splats_on_the_cpu_for_any_number_of_threads(make_view, make_scene, name: str) -> None:
    """Three chunks and a rest; near planes and needles by the hundred."""
    options = OPTIONS[name]
    scene, rows = make_case(make_view, make_scene, options, n=9001)
    records, grads, visible = random_gradients(scene, rows, options)
    arguments = [tensor.numpy() for tensor in (*scene, rows, records, grads)]
    backward = importlib.import_module(MODULES["cpu"]).project_backward
    before = numba.get_num_threads()
    many = [torch.from_numpy(array) for array in backward(*arguments, options=options)]
    numba.set_num_threads(1)
    try:
        alone = [torch.from_numpy(array) for array in backward(*arguments, options=options)]
    finally:
        numba.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(many, alone, strict=True))
    check(many, truth(scene, rows, grads, visible, options), visible)
