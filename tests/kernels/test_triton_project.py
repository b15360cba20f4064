"""The Triton projection against the reference in float64: lenses, antialiasing, stereo, many views, ranges, colours.

In Triton's interpreter where there is no GPU, on the device where there is one: see tests/conftest.py.
"""

import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from lyra.kernels import constants as c
from lyra.kernels import reference
from lyra.kernels.gpu import project as projection
from lyra.kernels.gpu.sort import depth_order
from lyra.kernels.options import Options
from lyra.kernels.views import pack_views

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BENT = (0.05, -0.02, 0.003, -0.0004)


def project(scene, rows: Tensor, options: Options, eyes: int = 1) -> tuple[Tensor, Tensor]:
    """Records and keys on the CPU."""
    tensors = (tensor.to(DEVICE) for tensor in scene)
    found = projection.project(*tensors, rows.float().to(DEVICE), options=options, eyes=eyes)
    return found[0].cpu(), found[1].cpu()


def orthographic(view):
    """The same view through a lens that keeps sizes; the scene's middle depth, 4, looks as before."""
    lens = view.K.clone()
    lens[0, 0], lens[1, 1] = lens[0, 0] / 4, lens[1, 1] / 4
    return view._replace(K=lens)


def wide(view, degrees: float = 200.0):
    """The same view with so many degrees from the left edge to the right, and as many from top to bottom."""
    lens = view.K.clone()
    lens[0, 0], lens[1, 1] = view.width / math.radians(degrees), view.height / math.radians(degrees)
    return view._replace(K=lens)


@pytest.mark.parametrize("sh", [1, 4, 9, 16])
def test_projection_agrees_with_the_reference(make_view, make_scene, make_truth, row_of, check_records, sh) -> None:
    view = make_view(61, 47, seed=sh)
    scene = make_scene(view, 300, sh, seed=sh)  # two programs and part of a third
    records, keys = project(scene, row_of(view)[None], Options())
    visible = keys[0] != projection.CULLED
    assert 80 < int(visible.sum()) < 260
    check_records(records[0], visible, make_truth(scene, view))
    assert torch.equal(keys[0][visible].view(torch.float32), records[0][visible, c.DEPTH])


@pytest.mark.parametrize("antialiased", [False, True], ids=["plain", "antialiased"])
@pytest.mark.parametrize("lens", ["pinhole", "orthographic", "fisheye", "bent fisheye"])
def test_lenses_agree_with_the_reference(
    make_view, make_scene, make_truth, row_of, check_records, lens: str, antialiased: bool
) -> None:
    view = make_view(61, 47, seed=3)
    scene = make_scene(view, 140, 4, seed=3)
    view = {"orthographic": orthographic, "pinhole": lambda view: view}.get(lens, wide)(view)
    bent = BENT if lens == "bent fisheye" else (0.0, 0.0, 0.0, 0.0)
    options = Options(lens=lens.split()[-1], distortion=bent, antialiased=antialiased)
    truth = make_truth(scene, view, options=options)
    records, keys = project(scene, row_of(view, options)[None], options)
    visible = keys[0] != projection.CULLED
    assert 35 < int(visible.sum()) < 135
    check_records(records[0], visible, truth)
    depths = keys[0][visible].view(torch.float32).double()
    torch.testing.assert_close(depths, truth.projected.sort_depths[visible], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 0.1, 30.0, 89.9999, 90.0, 90.0001, 130.0, 171.0])
@pytest.mark.parametrize("distortion", [(0.0, 0.0, 0.0, 0.0), (-0.02, 0.001, 0.0, 0.0)], ids=["even", "bent"])
def test_fisheye_spreads_a_splat_by_the_derivative_of_its_map(row_of, make_view, degrees: float, distortion) -> None:
    """Float64 autograd of the map, on and off the axis, at right angles, and behind."""
    view = wide(make_view(200, 200), 400.0)._replace(world_to_camera=torch.eye(4).double())
    options = Options(lens="fisheye", distortion=distortion)
    angle = math.radians(degrees)
    directions = [
        [math.sin(angle) * math.cos(turn), math.sin(angle) * math.sin(turn), math.cos(angle)]
        for turn in (0.0, 0.7, 2.5)
    ]
    means = (2.0 * torch.tensor(directions, dtype=torch.float64)).float()
    generator = torch.Generator().manual_seed(4)
    quats, scales = torch.randn(3, 4, generator=generator), 0.1 + 0.2 * torch.rand(3, 3, generator=generator)
    records, keys = project(
        (means, quats, scales, torch.full((3,), 0.9), torch.rand(3, 3)), row_of(view, options)[None], options
    )
    assert (keys != projection.CULLED).all()

    def image(point: Tensor) -> Tensor:
        rho = (point[:2].square().sum() + 1e-24).sqrt()
        theta = torch.atan2(rho, point[2])
        powers = sum(k * theta ** (2 * j + 3) for j, k in enumerate(distortion))
        return view.K.diagonal()[:2] * (theta + powers) * point[:2] / rho + view.K[:2, 2]

    for i, point in enumerate(means.double()):
        axes = (
            torch.autograd.functional.jacobian(image, point)
            @ reference.quats_to_rotations(quats[i : i + 1].double())[0]
        )
        axes = axes * scales[i].double()
        conic = torch.linalg.inv(axes @ axes.T + c.BLUR * torch.eye(2).double())
        mean_x, mean_y, l0, l1, l2 = records[0, i, :5].double()
        torch.testing.assert_close(torch.stack((mean_x, mean_y)), image(point), rtol=1e-6, atol=1e-4)
        found = torch.stack((l0 * l0, l0 * l1, l0 * l1, l1 * l1 + l2 * l2)).reshape(2, 2) / c.SQRT_HALF_LOG2E**2
        torch.testing.assert_close(found / conic.abs().max(), conic / conic.abs().max(), rtol=0.0, atol=2e-5)


def test_fisheye_culls_beyond_its_angle(row_of, make_view) -> None:
    view = wide(make_view(400, 400), 720.0)._replace(world_to_camera=torch.eye(4).double())
    angles = torch.tensor([0.5, 1.19, 1.21, 2.0, 3.1], dtype=torch.float64)
    means = torch.stack((angles.sin(), 0 * angles, angles.cos()), dim=1).float()
    n = len(means)
    rest = (torch.tensor([[1.0, 0, 0, 0]]).expand(n, 4).contiguous(), torch.full((n, 3), 0.05), torch.full((n,), 0.9))
    for limit, seen in ((1.2, 2), (3.0, 4)):
        options = Options(lens="fisheye", max_angle=limit)
        _, keys = project((means, *rest, torch.rand(n, 3)), row_of(view, options)[None], options)
        assert ((keys[0] != projection.CULLED).cumsum(0)[-1], keys[0, seen]) == (seen, projection.CULLED)
    bent = Options(lens="fisheye", distortion=(-0.1, 0.0, 0.0, 0.0))  # folds back at 1 / sqrt(0.3) = 1.83
    _, keys = project((means, *rest, torch.rand(n, 3)), row_of(view, bent)[None], bent)
    assert (keys[0] != projection.CULLED).tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("lens", ["pinhole", "fisheye"])
def test_the_eyes_of_a_pair_share_colour_and_key(make_view, make_scene, lens: str) -> None:
    """Two pairs, whose eyes see different splats; each eye against the reference with its own row."""
    view = make_view(61, 47, seed=8)
    scene = make_scene(view, 140, 4, seed=8)
    if lens == "fisheye":
        view = wide(view)
    options = Options(
        lens=lens, antialiased=True, near=1.0, far=15.0, distortion=(-0.02 * (lens == "fisheye"), 0, 0, 0)
    )
    poses = view.world_to_camera.repeat(4, 1, 1)
    poses[:, 0, 3] += torch.tensor([0.2, -0.2, 0.6, 0.1], dtype=torch.float64)
    poses[:, 2, 3] += torch.tensor([0.3, -0.3, 0.0, 0.8], dtype=torch.float64)  # one eye sees farther than the other
    rows = pack_views(poses, view.K.expand(4, 3, 3), view.width, view.height, options, eyes=2)
    records, keys = project(scene, rows, options, eyes=2)
    assert keys.shape == (2, 140) and records.shape == (4, 140, c.RECORD)
    single = 0
    for g in range(2):
        eyes = [reference.project(*scene.double(), row, options) for row in rows[2 * g : 2 * g + 2]]
        seen = eyes[0].visible | eyes[1].visible
        assert torch.equal(keys[g] != projection.CULLED, seen)
        sort_depths = keys[g][seen].view(torch.float32).double()
        torch.testing.assert_close(sort_depths, eyes[0].sort_depths[seen], rtol=1e-5, atol=1e-6)
        for e, eye in enumerate(eyes):
            record = records[2 * g + e]
            assert torch.isnan(record[~seen]).all()
            assert torch.equal((record[:, c.EXTENT_X] >= 0) & seen, eye.visible)
            assert (record[seen & ~eye.visible, c.EXTENT_X :] == -1).all()
            mine = record[eye.visible].double()
            torch.testing.assert_close(mine[:, : c.L0], eye.means2d[eye.visible], rtol=2e-5, atol=2e-4)
            torch.testing.assert_close(mine[:, c.RED : c.DEPTH], eye.colors[eye.visible], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(mine[:, c.DEPTH], eye.depths[eye.visible], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(mine[:, c.EXTENT_X :], eye.extents[eye.visible], rtol=1e-4, atol=1e-4)
            single += int((seen & ~eye.visible).sum())
    assert single > 4


def test_views_are_independent_and_rgb_is_taken_as_it_is(make_view, make_scene) -> None:
    """Three views; one set of RGB, one a view, each also out of 0..1."""
    views = [make_view(40, 30, seed=seed) for seed in range(3)]
    scene = make_scene(views[0], 70, 1)
    options = Options()
    poses, lenses = torch.stack([view.world_to_camera for view in views]), torch.stack([view.K for view in views])
    rows = pack_views(poses, lenses, 40, 30, options)
    generator = torch.Generator().manual_seed(0)
    shared, own = 4 * torch.rand(70, 3, generator=generator) - 2, 4 * torch.rand(3, 70, 3, generator=generator) - 2
    for colors in (shared, own):
        records, keys = project((*scene[:4], colors), rows, options)
        for view in range(3):
            alone, key = project((*scene[:4], shared), rows[view : view + 1], options)
            visible = key[0] != projection.CULLED
            assert torch.equal(keys[view], key[0])
            assert torch.equal(records[view, visible, c.RED : c.DEPTH], colors.expand(3, 70, 3)[view, visible])
            kept = [*range(c.RED), *range(c.DEPTH, c.RECORD)]
            assert torch.equal(records[view][visible][:, kept], alone[0][visible][:, kept])
    assert sum(int((keys[view] != projection.CULLED).sum()) for view in range(3)) > 30


@pytest.mark.parametrize(
    "options",
    [
        Options(near=2.0, far=9.0),
        Options(radius_clip=3.0),
        Options(blur=0.0),
        Options(blur=0.0, antialiased=True),
        Options(blur=1.5, antialiased=True),
        Options(lens="fisheye", near=2.0, far=9.0),
    ],
    ids=["range", "clip", "sharp", "sharp antialiased", "blurred", "fisheye range"],
)
def test_ranges_clip_and_blur_agree_with_the_reference(
    make_view, make_scene, make_truth, row_of, check_records, options: Options
) -> None:
    view = make_view(61, 47, seed=6)
    scene = make_scene(view, 140, 1, seed=6)
    if not options.blur:  # without blur float32 does not carry needles and flat splats through
        usual = (torch.arange(140) % 20) > 8
        scene = type(scene)(*(tensor[usual].contiguous() for tensor in scene))
    records, keys = project(scene, row_of(view, options)[None], options)
    visible = keys[0] != projection.CULLED
    assert int(visible.sum()) > 15
    check_records(records[0], visible, make_truth(scene, view, options=options))


def test_splats_without_a_rotation_are_culled(make_view, make_scene, row_of) -> None:
    view = make_view(30, 30)
    scene = make_scene(view, 40, 1)
    _, keys = project(scene._replace(quats=torch.zeros(40, 4)), row_of(view)[None], Options())
    assert (keys == projection.CULLED).all()


def test_what_does_not_fit_is_refused(make_view, make_scene, row_of) -> None:
    view = make_view(30, 30)
    scene, row = make_scene(view, 10, 1), row_of(view)[None]
    with pytest.raises(ValueError, match=r"colors have shape \[10, 5, 3\]"):
        project((*scene[:4], torch.zeros(10, 5, 3)), row, Options())
    with pytest.raises(ValueError, match="3 views are no groups of 2 eyes"):
        project(scene, row.repeat(3, 1), Options(), eyes=2)
    many = [tensor[:1].expand(1 << 30, *tensor.shape[1:]) for tensor in scene]
    with pytest.raises(ValueError, match="2 views of 1073741824 splats"):
        projection.project(*many, row.repeat(2, 1).float(), options=Options())
    records, keys = project([tensor[:0] for tensor in scene], row, Options())
    assert records.shape == (1, 0, c.RECORD) and keys.shape == (1, 0)


def test_depth_order_puts_the_culled_last_and_keeps_ties() -> None:
    depths = torch.tensor([[3.0, 0.5, 3.0], [1e-2, 3.0e38, 0.5]])
    keys = depths.view(torch.int32)
    keys[0, 1] = projection.CULLED
    order, visible = depth_order(keys.to(DEVICE))
    assert order.dtype == torch.int32 and visible.dtype == torch.int64 and visible.dim() == 0
    assert order.tolist() == [3, 5, 0, 2, 4, 1] and int(visible) == 5
    many = torch.randint(5, 12, (3, 1000), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    expected = sorted(range(3000), key=lambda i: (int(many.flatten()[i]), i))
    for bits in (32, 16):
        assert depth_order(many.to(DEVICE), bits=bits)[0].tolist() == expected
        order, visible = depth_order(torch.full((1, 4), projection.CULLED, dtype=torch.int32, device=DEVICE), bits=bits)
        assert order.tolist() == [0, 1, 2, 3] and int(visible) == 0
        assert depth_order(torch.zeros(1, 0, dtype=torch.int32, device=DEVICE), bits=bits)[0].shape == (0,)


def test_sixteen_bits_of_depth_swap_only_neighbours() -> None:
    generator = torch.Generator().manual_seed(1)
    depths = torch.exp(torch.rand(2, 5000, generator=generator) * 6 - 3)
    depths[1, -1] = 30.0  # the farthest, after all that are culled
    keys = depths.view(torch.int32).clone()
    keys[(torch.rand(2, 5000, generator=generator) < 0.2) & (depths < 30.0)] = projection.CULLED
    order, visible = (tensor.cpu() for tensor in depth_order(keys.to(DEVICE), bits=16))
    seen = keys.flatten()[order.long()]
    assert int(visible) == int((keys != projection.CULLED).sum())
    assert (seen[: int(visible)] != projection.CULLED).all() and (seen[int(visible) :] == projection.CULLED).all()
    assert sorted(order.tolist()) == list(range(10000))
    seen = seen[: int(visible)].long()
    behind = seen.cummax(0).values - seen
    assert 0 < int(behind.max()) <= 1.01 * int(seen.max() - seen.min()) / 65534 + 1
