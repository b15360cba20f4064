"""gsplat's stages in plain torch: against the reference, brute force, finite differences, and on degenerate input."""

import math

import pytest
import torch
from torch import Tensor

from lyra.kernels import reference
from lyra.kernels.gsplat import blend_lists
from lyra.kernels.gsplat import stages as gsplat
from lyra.kernels.options import Options
from lyra.kernels.views import pack_views

LENSES = ("pinhole", "ortho", "fisheye")
DOUBLE = torch.float64


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def _cameras(cameras: int, width: int, height: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Poses near the origin that look along z, more or less; pixels that are not square."""
    near_identity = torch.tensor((1.0, 0.0, 0.0, 0.0), dtype=DOUBLE) + 0.1 * _random(cameras, 4, seed=seed)
    poses = torch.eye(4, dtype=DOUBLE).repeat(cameras, 1, 1)
    poses[:, :3, :3] = reference.quats_to_rotations(near_identity)
    poses[:, :3, 3] = 0.2 * _random(cameras, 3, seed=seed + 1)
    lens = torch.tensor([[0.9 * width, 0.0, 0.48 * width], [0.0, 1.1 * height, 0.53 * height], [0.0, 0.0, 1.0]])
    return poses, lens.to(DOUBLE).repeat(cameras, 1, 1)


def _splats(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means, quaternions, scales, opacities; all within sight of `_cameras`."""
    means = torch.cat((0.8 * _random(n, 2, seed=seed), 3.0 + _random(n, 1, seed=seed + 1).abs()), dim=1)
    scales = 0.05 + 0.3 * _random(n, 3, seed=seed + 3).abs()
    return means, _random(n, 4, seed=seed + 2), scales, _random(n, seed=seed + 4).sigmoid()


def test_harmonics() -> None:
    """Bands of the reference; a fourth that is known at a direction and orthogonal to all others; masks; channels."""
    directions, coefficients = 3.0 * _random(5, 7, 3), _random(5, 7, 25, 2, seed=1)
    unit = (directions / directions.norm(dim=-1, keepdim=True)).reshape(-1, 3)
    for degree in range(4):
        count = (degree + 1) ** 2
        basis = reference.sh_basis(unit, count).reshape(5, 7, count)
        expected = torch.einsum("abk,abkd->abd", basis, coefficients[..., :count, :])
        torch.testing.assert_close(gsplat.spherical_harmonics(degree, directions, coefficients), expected)

    def all_bands(unit: Tensor) -> Tensor:
        return gsplat.spherical_harmonics(4, unit, torch.eye(25, dtype=DOUBLE).expand(*unit.shape[:-1], 25, 25))

    one = all_bands(torch.tensor((0.36, 0.48, 0.8), dtype=DOUBLE))
    x, y, z = 0.36, 0.48, 0.8
    root = math.sqrt(math.pi)
    assert float(one[16]) == pytest.approx(0.75 * math.sqrt(35) / root * x * y * (x * x - y * y))
    assert float(one[17]) == pytest.approx(-0.75 * math.sqrt(17.5) / root * y * z * (3 * x * x - y * y))
    assert float(one[21]) == pytest.approx(-0.75 * math.sqrt(2.5) / root * x * z * (7 * z * z - 3))
    heights, turns = torch.linspace(-1, 1, 801, dtype=DOUBLE), torch.arange(24, dtype=DOUBLE) * (math.tau / 24)
    ring = (1 - heights**2).sqrt()[:, None]
    flat = torch.stack((ring * turns.cos(), ring * turns.sin(), heights[:, None].expand(-1, 24)), dim=-1)
    weight = torch.full_like(heights, 2 / 3)
    weight[1::2], weight[0], weight[-1] = 4 / 3, 1 / 3, 1 / 3  # Simpson
    values = all_bands(flat)
    products = torch.einsum("h,htk,htl->kl", weight / 400 * math.tau / 24, values, values)
    torch.testing.assert_close(products, torch.eye(25, dtype=DOUBLE), rtol=0, atol=1e-5)

    mask = torch.rand(5, 7) < 0.5
    masked = gsplat.spherical_harmonics(2, directions, coefficients, mask)
    torch.testing.assert_close(masked, gsplat.spherical_harmonics(2, directions, coefficients) * mask[..., None])


def test_covariances() -> None:
    """R S S R^T, its inverse, upper triangles; and nothing but numbers where there is no length or no size."""
    quats, scales = _random(2, 6, 4), 0.1 + _random(2, 6, 3, seed=1).abs()
    covars, precis = gsplat.quat_scale_to_covar_preci(quats, scales)
    rotations = reference.quats_to_rotations(quats)
    torch.testing.assert_close(covars, rotations @ torch.diag_embed(scales**2) @ rotations.transpose(-1, -2))
    torch.testing.assert_close(covars @ precis, torch.eye(3, dtype=DOUBLE).expand(2, 6, 3, 3))
    upper, none = gsplat.quat_scale_to_covar_preci(quats, scales, compute_preci=False, triu=True)
    assert none is None
    torch.testing.assert_close(upper, torch.stack([covars[..., i, j] for i in range(3) for j in range(i, 3)], dim=-1))

    quats, scales = torch.zeros(3, 4, requires_grad=True), torch.zeros(3, 3, requires_grad=True)
    covars, precis = gsplat.quat_scale_to_covar_preci(quats, scales)
    (covars.sum() + precis.sum()).backward()
    assert all(torch.isfinite(t).all() for t in (covars, precis, quats.grad, scales.grad))


@pytest.mark.parametrize("lens", LENSES)
def test_proj_is_linear_in_the_small(lens: str) -> None:
    """The covariance is that of the lens's own derivative."""
    _, K = _cameras(1, 40, 30)
    points = _splats(6)[0]
    points[0, :2] = 0.0  # on the axis
    factors = _random(1, 6, 3, 3)
    covars = factors @ factors.transpose(-1, -2)
    means2d, covars2d = gsplat.proj(points[None], covars, K, 40, 30, lens)

    def lens_alone(point: Tensor) -> Tensor:
        return gsplat.proj(point[None, None], covars[:, :1], K, 40, 30, lens)[0][0, 0]

    inside = ((points[:, :2] / points[:, 2:]).abs() < 0.5).all(dim=1)
    assert inside.sum() >= 3
    for i in inside.nonzero()[:, 0]:
        slope = torch.autograd.functional.jacobian(lens_alone, points[i])
        torch.testing.assert_close(covars2d[0, i], slope @ covars[0, i] @ slope.T)
    assert torch.isfinite(means2d).all()


def test_projection_is_the_reference(make_view, make_scene) -> None:
    """A pinhole sees what the reference sees, plus splats that miss the picture by less than a pixel."""
    view = make_view(53, 31)
    scene = make_scene(view, 200, 1).double()
    row = pack_views(view.world_to_camera[None], view.K[None], view.width, view.height, Options())[0]
    truth = reference.project(*scene, row, Options())
    radii, means2d, depths, conics, compensations = gsplat.fully_fused_projection(
        scene.means, None, scene.quats, scene.scales, view.world_to_camera[None], view.K[None], view.width,
        view.height, opacities=scene.opacities,
    )  # fmt: skip
    assert compensations is None and radii.dtype == torch.int32
    seen = (radii[0] > 0).all(dim=-1)
    assert not (truth.visible & ~seen).any() and truth.visible.sum() > 50
    beside = (means2d[0] + truth.extents < 1).any(dim=1) | (
        means2d[0] - truth.extents > means2d.new_tensor((view.width, view.height)) - 1
    ).any(dim=1)
    assert beside[seen & ~truth.visible].all()
    visible = truth.visible
    for mine, theirs in ((means2d, truth.means2d), (conics, truth.conics), (depths, truth.depths)):
        torch.testing.assert_close(mine[0][visible], theirs[visible])
    assert ((radii[0] - truth.extents)[visible] >= -1e-9).all() and ((radii[0] - truth.extents)[visible] < 1).all()
    for tensor in (means2d, conics, depths):
        assert not tensor[0][~seen].any()


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("given", ["quats", "covars"])
def test_projection_gradients(lens: str, given: str) -> None:
    """Finite differences of everything, poses and intrinsics too; packed tells the same."""
    means, quats, scales, opacities = _splats(4)
    viewmats, Ks = _cameras(2, 30, 20)
    shape = (quats, scales) if given == "quats" else gsplat.quat_scale_to_covar_preci(quats, scales, triu=True)[:1]

    def project(means: Tensor, viewmats: Tensor, Ks: Tensor, *shape: Tensor) -> tuple[Tensor, ...]:
        options = {"calc_compensations": True, "camera_model": lens, "opacities": opacities, "eps2d": 0.4}
        given = (None, *shape) if len(shape) == 2 else (*shape, None, None)
        return gsplat.fully_fused_projection(means, *given, viewmats, Ks, 30, 20, **options)[1:]

    inputs = [t.clone().requires_grad_() for t in (means, viewmats, Ks, *shape)]
    assert torch.autograd.gradcheck(project, inputs, atol=1e-6)


def test_packed_and_sparse() -> None:
    """Packed rows are those of the full answer, two scenes at a time; sparse gradients are the dense ones."""
    means, quats, scales = (t.reshape(2, 12, *t.shape[1:]) for t in _splats(24)[:3])
    means[0, 3, 2] = -1.0
    viewmats, Ks = (t.reshape(2, 3, *t.shape[1:]) for t in _cameras(6, 30, 20))
    camera = (viewmats, Ks, 30, 20)
    full = gsplat.fully_fused_projection(means, None, quats, scales, *camera, calc_compensations=True)
    batch_ids, camera_ids, gaussian_ids, *rows = gsplat.fully_fused_projection(
        means, None, quats, scales, *camera, calc_compensations=True, packed=True
    )
    seen = (full[0] > 0).all(dim=-1)
    assert not seen.all() and len(batch_ids) == seen.sum()
    assert ((batch_ids * 3 + camera_ids) * 12 + gaussian_ids).tolist() == seen.flatten().nonzero()[:, 0].tolist()
    for row, tensor in zip(rows, full, strict=True):
        assert torch.equal(row, tensor[batch_ids, camera_ids, gaussian_ids])

    grads = []
    for sparse in (False, True):
        inputs = [t[0].clone().requires_grad_() for t in (means, quats, scales)]
        *_, means2d, depths, conics, _ = gsplat.fully_fused_projection(
            inputs[0], None, *inputs[1:], viewmats[0], Ks[0], 30, 20, packed=True, sparse_grad=sparse
        )
        (means2d.sum() + depths.square().sum() + conics.sin().sum()).backward()
        grads.append([t.grad for t in inputs])
    for dense, sparse in zip(*grads, strict=True):
        assert sparse.is_sparse and sparse.sparse_dim() == 1 and sparse._nnz() == 11
        torch.testing.assert_close(sparse.to_dense(), dense)
    with pytest.raises(ValueError, match="sparse_grad needs packed=True"):
        gsplat.fully_fused_projection(means, None, quats, scales, *camera, sparse_grad=True)


def test_tile_lists() -> None:
    """Every tile a box overlaps, once, and the offsets, by brute force over images, splats and tiles."""
    means2d, depths = 20 * _random(2, 15, 2).float() + 12, 1 + _random(2, 15, seed=1).float().abs()
    radii = (6 * _random(2, 15, 2, seed=2)).int()
    means2d[0, 0], radii[0, 0] = math.nan, 5
    means2d[0, 1], radii[0, 1] = 1e9, 5
    means2d[1, 0], radii[1, 0] = 10.0, 1 << 30
    size, columns, rows = 7, 5, 4
    counts, isect_ids, flatten_ids = gsplat.isect_tiles(means2d, radii, depths, size, columns, rows)
    expected = []
    for image in range(2):
        for splat in range(15):
            if (radii[image, splat] <= 0).any() or means2d[image, splat].isnan().any():
                continue
            low, high = ((means2d + sign * radii)[image, splat].double() / size for sign in (-1, 1))
            for row in range(rows):
                for column in range(columns):
                    if low[0] < column + 1 and high[0] > column and low[1] < row + 1 and high[1] > row:
                        depth = float(depths[image, splat])
                        expected.append((image, row * columns + column, depth, image * 15 + splat))
    expected.sort()
    bits = (columns * rows).bit_length()
    depth_bits = (isect_ids & 0xFFFFFFFF).int().view(torch.float32).tolist()
    tiles = ((isect_ids >> 32) & ((1 << bits) - 1)).tolist()
    images = (isect_ids >> (32 + bits)).tolist()
    assert list(zip(images, tiles, depth_bits, flatten_ids.tolist(), strict=True)) == expected
    assert counts.flatten().tolist() == [sum(e[3] == i for e in expected) for i in range(30)]
    assert all(t.dtype == torch.int32 for t in (counts, flatten_ids)) and isect_ids.dtype == torch.int64

    offsets = gsplat.isect_offset_encode(isect_ids, 2, columns, rows)
    assert offsets.shape == (2, rows, columns) and offsets.dtype == torch.int32
    places = [(e[0], e[1]) for e in expected]
    for tile in range(2 * rows * columns):
        assert int(offsets.flatten()[tile]) == sum(p < divmod(tile, rows * columns) for p in places)

    unsorted = gsplat.isect_tiles(means2d, radii, depths, size, columns, rows, sort=False)[2]
    assert unsorted.tolist() == sorted(flatten_ids.tolist())
    with pytest.raises(ValueError, match="do not fit into 31 bits"):
        gsplat.isect_tiles(means2d, radii, depths, 16, 1 << 15, 1 << 15)


def _blended(size: int, n: int = 25) -> tuple[list[Tensor], Tensor, Tensor, tuple]:
    """A projected scene and `rasterize_to_pixels` of it; the same from reference.blend."""
    means, quats, scales, opacities = _splats(n)
    viewmats, Ks = _cameras(1, 23, 17)
    opacities[:3] = 1.0
    radii, means2d, depths, conics, _ = gsplat.fully_fused_projection(
        means, None, quats, scales, viewmats, Ks, 23, 17, opacities=opacities
    )
    columns, rows = -(-23 // size), -(-17 // size)
    _, isect_ids, flatten_ids = gsplat.isect_tiles(means2d, radii, depths, size, columns, rows)
    offsets = gsplat.isect_offset_encode(isect_ids, 1, columns, rows)
    splats = [t.detach().clone().requires_grad_() for t in (means2d, conics, _random(1, n, 3, seed=9), opacities[None])]
    order = torch.argsort(depths[0])
    return splats, radii, order, (23, 17, size, offsets, flatten_ids)


def _by_reference(splats: list[Tensor], radii: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    means2d, conics, colors, opacities = (t[0] for t in splats)
    seen = (radii[0] > 0).all(dim=-1)
    depths = opacities  # not looked at
    projected = reference.Projected(
        means2d, conics, depths, colors, opacities, radii[0].double(), seen, sort_depths=depths
    )
    rgb, alpha = reference.blend(projected, order, 23, 17)[:2]
    return rgb[None], alpha[None, ..., None]


@pytest.mark.parametrize(("size", "chunk"), [(16, 256), (5, 4)])
def test_blending(size: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Picture and gradients are those of reference.blend, backgrounds too, whatever the chunk."""
    monkeypatch.setattr(blend_lists, "CHUNK", chunk)
    splats, radii, order, lists = _blended(size)
    background = _random(1, 3).requires_grad_()
    rgb, alpha = gsplat.rasterize_to_pixels(*splats, *lists, backgrounds=background)
    true_rgb, true_alpha = _by_reference(splats, radii, order)
    true_rgb = true_rgb + (1 - true_alpha) * background[:, None, None]
    torch.testing.assert_close(rgb, true_rgb)
    torch.testing.assert_close(alpha, true_alpha)
    assert (alpha > 0.9).any()
    inputs = (*splats, background)
    weights, weight = _random(*rgb.shape, seed=5), _random(*alpha.shape, seed=6)
    mine = torch.autograd.grad((rgb * weights).sum() + (alpha * weight).sum(), inputs)
    theirs = torch.autograd.grad((true_rgb * weights).sum() + (true_alpha * weight).sum(), inputs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_lists_are_honoured() -> None:
    """Another order in the lists is another picture, and so is a shorter list: those of the reference."""
    splats, radii, _, (width, height, size, offsets, ids) = _blended(32)
    rgb, alpha = gsplat.rasterize_to_pixels(*splats, width, height, size, offsets, ids.flip(0)[:-2])
    true_rgb, true_alpha = _by_reference(splats, radii, ids.flip(0)[:-2].long())
    torch.testing.assert_close(rgb, true_rgb)
    torch.testing.assert_close(alpha, true_alpha)


def test_absolute_gradients() -> None:
    """The sum over pixels of what each gives, without its sign."""
    splats, _, _, lists = _blended(16, n=6)
    weights = torch.zeros(1, 17, 23, 3, dtype=DOUBLE)
    weights[:, 7:11, 13:19] = _random(1, 4, 6, 3, seed=5)  # in two tiles
    rgb, _ = gsplat.rasterize_to_pixels(*splats, *lists)
    expected = torch.zeros_like(splats[0])
    for y in range(7, 11):
        for x in range(13, 19):
            expected += torch.autograd.grad((rgb * weights)[0, y, x].sum(), splats[0], retain_graph=True)[0].abs()
    gsplat.rasterize_to_pixels(*splats, *lists, absgrad=True)[0].mul(weights).sum().backward()
    torch.testing.assert_close(splats[0].absgrad, expected)


def test_packed_masks_and_channels() -> None:
    """Five channels, two images, packed or not, some tiles masked: the same picture tile by tile."""
    means, quats, scales, opacities = _splats(20)
    viewmats, Ks = _cameras(2, 23, 17)
    args = (means, None, quats, scales, viewmats, Ks, 23, 17)
    radii, means2d, depths, conics, _ = gsplat.fully_fused_projection(*args)
    _, camera_ids, gaussian_ids, *rows, _ = gsplat.fully_fused_projection(*args, packed=True)
    colors, backgrounds = _random(2, 20, 5), _random(2, 5, seed=3)
    grid = (8, 3, 3)
    _, ids, places = gsplat.isect_tiles(means2d, radii, depths, *grid)
    offsets = gsplat.isect_offset_encode(ids, 2, 3, 3)
    many = opacities.expand(2, -1)
    whole = gsplat.rasterize_to_pixels(means2d, conics, colors, many, 23, 17, 8, offsets, places, backgrounds)
    _, packed_ids, packed_places = gsplat.isect_tiles(
        rows[1], rows[0], rows[2], *grid, packed=True, n_images=2, image_ids=camera_ids, gaussian_ids=gaussian_ids
    )
    assert torch.equal(packed_ids, ids)
    masks = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.6
    packed = gsplat.rasterize_to_pixels(
        rows[1], rows[3], colors[camera_ids, gaussian_ids], opacities[gaussian_ids], 23, 17, 8,
        gsplat.isect_offset_encode(packed_ids, 2, 3, 3), packed_places, backgrounds, masks, packed=True,
    )  # fmt: skip
    pixels = masks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :17, :23, None]
    assert 0 < pixels.sum() < pixels.numel()
    torch.testing.assert_close(packed[0], torch.where(pixels, whole[0], backgrounds[:, None, None]))
    torch.testing.assert_close(packed[1], torch.where(pixels, whole[1], 0.0))
    with pytest.raises(ValueError, match=r"backgrounds has shape \[5\], expected \[2, 5\]"):
        gsplat.rasterize_to_pixels(means2d, conics, colors, many, 23, 17, 8, offsets, places, backgrounds[0])
    with pytest.raises(ValueError, match="do not cover 32x17"):
        gsplat.rasterize_to_pixels(means2d, conics, colors, many, 32, 17, 8, offsets, places)


@pytest.mark.parametrize("lens", LENSES)
def test_degenerate_splats(lens: str) -> None:
    """Whatever goes in, numbers come out and come back: no NaN, no infinity."""
    n = 16
    means, quats, scales, opacities = (t.float() for t in _splats(n))
    quats[0], quats[1], quats[2] = 0.0, 1e-30, math.nan
    scales[3], scales[4], scales[5] = 0.0, 1e30, math.inf
    means[6], means[7], means[8], means[9] = math.nan, 1e30, -3.0, 0.0
    means[13, :2] = 0.0
    opacities[10], opacities[11], opacities[12] = 0.0, 1.0, math.nan
    viewmats, Ks = (t.float() for t in _cameras(1, 9, 7))
    for width, height in ((9, 7), (1, 1)):
        inputs = [t.clone().requires_grad_() for t in (means, quats, scales, opacities, viewmats, Ks)]
        m, q, s, o, v, k = inputs
        radii, means2d, depths, conics, shares = gsplat.fully_fused_projection(
            m, None, q, s, v, k, width, height, calc_compensations=True, camera_model=lens, opacities=o
        )  # fmt: skip
        seen = (radii[0] > 0).all(dim=-1)
        assert not seen[[0, 1, 2, 5, 6, 8, 10, 12]].any()
        columns, rows = -(-width // 4), -(-height // 4)
        _, ids, places = gsplat.isect_tiles(means2d, radii, depths, 4, columns, rows)
        offsets = gsplat.isect_offset_encode(ids, 1, columns, rows)
        opaque = torch.where(seen, o, 0.0) * shares
        rgb, alpha = gsplat.rasterize_to_pixels(
            means2d, conics, depths[..., None], opaque, width, height, 4, offsets, places
        )
        (rgb.sum() + alpha.square().sum()).backward()
        for tensor in (means2d, depths, conics, shares, rgb, alpha, *(t.grad for t in inputs)):
            assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("n", [0, 3])
def test_nothing_to_see(n: int, packed: bool) -> None:
    """No splats, or all behind the camera: the background, and zero gradients."""
    means, quats, scales, _ = (t.clone().requires_grad_() for t in _splats(n))
    viewmats, Ks = _cameras(2, 9, 7)
    behind = means * means.new_tensor((1.0, 1.0, -1.0))
    *_, radii, means2d, depths, conics, _ = gsplat.fully_fused_projection(
        behind, None, quats, scales, viewmats, Ks, 9, 7, packed=packed
    )
    assert radii.shape == ((0, 2) if packed else (2, n, 2)) and not radii.any()
    image_ids = torch.zeros(0, dtype=torch.int64)
    _, ids, places = gsplat.isect_tiles(
        means2d, radii, depths, 16, 1, 1, packed=packed, n_images=2, image_ids=image_ids, gaussian_ids=image_ids
    )
    offsets = gsplat.isect_offset_encode(ids, 2, 1, 1)
    rgb, alpha = gsplat.rasterize_to_pixels(
        means2d, conics, torch.ones_like(conics), depths, 9, 7, 16, offsets, places, torch.ones(2, 3), packed=packed
    )
    assert (rgb == 1).all() and not alpha.any()
    rgb.sum().backward()
    assert all(t.grad is None or not t.grad.any() for t in (means, quats, scales))


def test_refusals() -> None:
    """Errors name what was given."""
    means, quats, scales, _ = _splats(2)
    viewmats, Ks = _cameras(1, 9, 7)
    with pytest.raises(ValueError, match="camera_model 'ftheta' is not supported: give pinhole, ortho, fisheye"):
        gsplat.fully_fused_projection(means, None, quats, scales, viewmats, Ks, 9, 7, camera_model="ftheta")
    with pytest.raises(ValueError, match="covars is None and so is quats or scales"):
        gsplat.fully_fused_projection(means, None, quats, None, viewmats, Ks, 9, 7)
    with pytest.raises(ValueError, match="has 4 coefficients, degree 2 needs 9"):
        gsplat.spherical_harmonics(2, means, torch.zeros(2, 4, 3))
