"""The CPU projection against the reference in float64: lenses, cut-offs, colours, several views, stereo."""

from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from lyra.kernels import constants as c
from lyra.kernels import reference
from lyra.kernels.cpu import project as projection
from lyra.kernels.options import Options
from lyra.kernels.views import pack_views

WIDE = Options(lens="fisheye", distortion=(0.05, -0.01, 0.002, -0.0002), max_angle=2.2)
OPTIONS = {
    "pinhole": Options(),
    "orthographic": Options(lens="orthographic"),
    "fisheye": WIDE,
    "equidistant": Options(lens="fisheye"),
    "antialiased": Options(antialiased=True),
    "wide antialiased": Options(lens="fisheye", antialiased=True, blur=0.1),
    "range": Options(near=1.0, far=6.0, blur=0.05, radius_clip=4.0),
    "no blur": Options(blur=0.0),
}


def make_row(make_view, make_scene, options: Options, *, n: int = 203, sh: int = 4, views: int = 1, eyes: int = 1):
    """A scene, and rows [v, 40] float64 of cameras near each other; splats all round for a fisheye."""
    view = make_view(61, 47)
    scene = make_scene(view, n, sh)
    if options.lens == "fisheye":  # the same depths and sizes, in all directions
        generator = torch.Generator().manual_seed(5)
        directions = torch.randn(n, 3, generator=generator, dtype=torch.float64)
        directions /= directions.norm(dim=-1, keepdim=True)
        directions[::29] = view.world_to_camera[2, :3]  # on the axis
        directions[1::29] = view.world_to_camera[2, :3] + 1e-3 * directions[1::29]
        eye = -view.world_to_camera[:3, :3].T @ view.world_to_camera[:3, 3]
        distance = (scene.means.double() - eye).norm(dim=-1, keepdim=True)
        scene = scene._replace(means=(eye + distance * directions).float())
    pose, K = view.world_to_camera.repeat(views, 1, 1), view.K.repeat(views, 1, 1)
    pose[:, 0, 3] -= 0.07 * torch.arange(views)  # to the right of each other
    if options.lens == "orthographic":
        K[:, :2, :2] /= 4
    if options.lens == "fisheye":
        K[:, :2, :2] /= 4
    rows = pack_views(pose, K, view.width, view.height, options, eyes).float()
    return scene, rows.double()


def project(scene, rows: Tensor, options: Options, eyes: int = 1) -> tuple[Tensor, list[np.ndarray]]:
    arrays = [tensor.numpy() for tensor in scene]
    records, keys = projection.project(*arrays, rows.float().numpy(), options=options, eyes=eyes)
    return torch.from_numpy(records), keys


def split(keys: np.ndarray) -> tuple[Tensor, Tensor]:
    """Ids int64 and depths of the keys of a group."""
    return torch.from_numpy((keys & 0xFFFFFFFF).astype(np.int64)), torch.from_numpy(
        (keys >> np.uint64(32)).astype(np.uint32).view(np.float32)
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_records_agree_with_the_reference(make_view, make_scene, check_records, name: str) -> None:
    options = OPTIONS[name]
    scene, rows = make_row(make_view, make_scene, options)
    records, (keys,) = project(scene, rows, options)
    ids, depths = split(keys)
    visible = torch.zeros(len(scene.means), dtype=torch.bool)
    visible[ids] = True
    projected = reference.project(*scene.double(), rows[0], options)
    assert 20 < len(ids) < 0.95 * len(scene.means)
    assert bool((ids.diff() > 0).all())
    check_records(records[0], visible, SimpleNamespace(projected=projected))
    torch.testing.assert_close(depths.double(), projected.sort_depths[ids], rtol=1e-5, atol=1e-6)


def test_a_fisheye_shows_what_lies_behind(make_view, make_scene) -> None:
    scene, rows = make_row(make_view, make_scene, WIDE)
    _, (keys,) = project(scene, rows, WIDE)
    z = (scene.means.double() @ rows[0, 8:11] + rows[0, 11])[split(keys)[0]]
    assert int((z < 0).sum()) > 10


@pytest.mark.parametrize("sh", [1, 4, 9, 16])
def test_colors_agree_with_the_reference(make_view, make_scene, sh: int) -> None:
    scene, rows = make_row(make_view, make_scene, Options(), sh=sh, n=61)
    records, (keys,) = project(scene, rows, Options())
    ids, _ = split(keys)
    colors = reference.project(*scene.double(), rows[0], Options()).colors
    torch.testing.assert_close(records[0, ids, c.RED : c.BLUE + 1].double(), colors[ids], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False], ids=["one for all views", "own for each view"])
@pytest.mark.parametrize("eyes", [1, 2], ids="eyes {}".format)
def test_rgb_is_taken_as_it_is(make_view, make_scene, shared: bool, eyes: int) -> None:
    scene, rows = make_row(make_view, make_scene, Options(), n=61, views=4, eyes=eyes)
    colors = torch.randn(*(() if shared else (4,)), 61, 3)
    records, keys = project(scene._replace(colors=colors) if hasattr(scene, "colors") else scene._replace(sh=colors),
                            rows, Options(), eyes)  # fmt: skip
    for view in range(4):
        ids, _ = split(keys[view // eyes])
        ids = ids[records[view, ids, c.EXTENT_X] >= 0]
        assert len(ids) > 20
        assert torch.equal(records[view, ids, c.RED : c.BLUE + 1], colors.expand(4, 61, 3)[view, ids])


@pytest.mark.parametrize("name", ["pinhole", "orthographic", "fisheye"])
def test_eyes_share_color_and_order_and_cull_for_themselves(make_view, make_scene, check_records, name: str) -> None:
    options = OPTIONS[name]
    scene, rows = make_row(make_view, make_scene, options, n=403, views=4, eyes=2)
    rows[1::2, 3] -= 0.5  # wide apart, so that some splats are seen by one eye only
    records, keys = project(scene, rows, options, eyes=2)
    alone = 0
    for group in range(2):
        ids, depths = split(keys[group])
        eyes = [reference.project(*scene.double(), row, options) for row in rows[2 * group : 2 * group + 2]]
        some = eyes[0].visible | eyes[1].visible
        assert torch.equal(some.nonzero().flatten(), ids)
        torch.testing.assert_close(depths.double(), eyes[0].sort_depths[ids], rtol=1e-5, atol=1e-6)
        for eye, projected in enumerate(eyes):
            own = records[2 * group + eye]
            absent = some & ~projected.visible
            alone += int(absent.sum())
            assert (own[absent][:, c.EXTENT_X :] == -1).all()
            own[absent] = torch.nan
            check_records(own, projected.visible, SimpleNamespace(projected=projected))
    assert alone > 10


def test_results_do_not_depend_on_the_threads(make_view, make_scene) -> None:
    scene, rows = make_row(make_view, make_scene, WIDE, n=9001)  # three chunks and a rest
    before = numba.get_num_threads()
    records, (keys,) = project(scene, rows, WIDE)
    numba.set_num_threads(1)
    try:
        alone, (lonely,) = project(scene, rows, WIDE)
    finally:
        numba.set_num_threads(before)
    assert np.array_equal(keys, lonely) and torch.equal(records.nan_to_num(), alone.nan_to_num())


def test_no_splats(make_view, make_scene) -> None:
    scene, rows = make_row(make_view, make_scene, Options(), n=41, views=2)
    records, keys = project(type(scene)(*(tensor[:0] for tensor in scene)), rows, Options())
    assert records.shape == (2, 0, c.RECORD) and [len(key) for key in keys] == [0, 0]


def test_colors_of_another_shape_are_refused(make_view, make_scene) -> None:
    scene, rows = make_row(make_view, make_scene, Options(), n=41)
    arrays = [tensor.numpy() for tensor in scene]
    for shape in ((41, 5, 3), (41,), (40, 3), (2, 41, 3)):
        with pytest.raises(ValueError, match="colors have shape"):
            projection.project(*arrays[:4], np.zeros(shape, np.float32), rows.float().numpy(), options=Options())
    with pytest.raises(ValueError, match="1 views are no groups of 2 eyes"):
        projection.project(*arrays, rows.float().numpy(), options=Options(), eyes=2)
