"""The stages of gsplat 1.5.3 under its names, shapes and defaults, in plain torch, for trainers that call them.

Any device, float32 or float64, differentiable. What gsplat leaves as NaN, as unwritten memory or as a crash has an
answer here: culled splats are zeros and get zero gradients, a quaternion of no length is culled (where nothing can be
culled: no rotation), no splats at all give a black picture. `rasterization` is the fast way to the same picture; the
table of what is the same and what is not: docs/gsplat.md. I images (all `...` dimensions together), N splats.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ..constants import BLUR, NEAR
from .blend_lists import Blend, find_tiles
from .footprints import Footprint, box_radii, footprint, lens_of, rotations_of
from .harmonics import sh_basis
from .sparse_rows import SparseRows

CameraModel = Literal["pinhole", "ortho", "fisheye"]

LEAST_SCALE = 1e-10  # a precision is 1 / scale^2: finite in float32
TRIANGLE = ((0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2))  # rows and columns of a symmetric 3x3 matrix as six numbers
SQUARE = ((0, 1, 2), (1, 3, 4), (2, 4, 5))  # and back


def spherical_harmonics(
    degrees_to_use: int,
    dirs: Tensor,  # [..., 3] of any length
    coeffs: Tensor,  # [..., K, D]
    masks: Tensor | None = None,  # [...] bool
) -> Tensor:
    """The sum of the bands up to `degrees_to_use` (0 to 4), [..., D], without the 0.5 of a colour; 0 where masked out.

    Raises:
        ValueError: shapes do not fit, or `coeffs` has fewer than (degrees_to_use + 1)^2 coefficients.
    """
    count = (degrees_to_use + 1) ** 2
    if not 0 <= degrees_to_use <= 4:
        raise ValueError(f"degrees_to_use is {degrees_to_use}, expected 0 to 4")
    if coeffs.shape[:-2] != dirs.shape[:-1] or dirs.shape[-1] != 3:
        raise ValueError(
            f"coeffs {list(coeffs.shape)} do not go with dirs {list(dirs.shape)}: give [..., K, D], [..., 3]"
        )
    if coeffs.shape[-2] < count:
        raise ValueError(f"coeffs has {coeffs.shape[-2]} coefficients, degree {degrees_to_use} needs {count}")
    length = dirs.norm(dim=-1, keepdim=True)
    somewhere = length > 0
    unit = torch.where(somewhere, dirs / torch.where(somewhere, length, 1.0), 0.0)
    basis = sh_basis(unit, count)
    values = (basis[..., None] * coeffs[..., :count, :]).sum(dim=-2)
    return values if masks is None else torch.where(masks[..., None], values, torch.zeros_like(values))


def quat_scale_to_covar_preci(
    quats: Tensor,  # [..., 4] wxyz, of any length
    scales: Tensor,  # [..., 3]
    compute_covar: bool = True,
    compute_preci: bool = True,
    triu: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """Covariances and their inverses, [..., 3, 3], or the six numbers of their upper triangles if `triu`.

    A quaternion of no length means no rotation. Precisions are those of scales of at least 1e-10.
    """
    rotations = rotations_of(quats)[0]
    wanted = (scales if compute_covar else None, 1 / scales.clamp(min=LEAST_SCALE) if compute_preci else None)
    factors = (None if sizes is None else rotations * sizes[..., None, :] for sizes in wanted)
    squares = (None if factor is None else factor @ factor.transpose(-1, -2) for factor in factors)
    covars, precis = (square if square is None or not triu else square[(..., *TRIANGLE)] for square in squares)
    return covars, precis


def world_to_cam(
    means: Tensor,  # [..., N, 3]
    covars: Tensor,  # [..., N, 3, 3]
    viewmats: Tensor,  # [..., C, 4, 4]
) -> tuple[Tensor, Tensor]:
    """Means [..., C, N, 3] and covariances [..., C, N, 3, 3] in camera space."""
    rotation = viewmats[..., None, :3, :3]  # [..., C, 1, 3, 3]
    turned = rotation @ covars[..., None, :, :, :] @ rotation.transpose(-1, -2)
    return _to_camera(means, viewmats), turned


def _to_camera(means: Tensor, viewmats: Tensor) -> Tensor:
    return means[..., None, :, :] @ viewmats[..., :3, :3].transpose(-1, -2) + viewmats[..., None, :3, 3]


def proj(
    means: Tensor,  # [..., C, N, 3] in camera space
    covars: Tensor,  # [..., C, N, 3, 3] in camera space
    Ks: Tensor,  # [..., C, 3, 3]
    width: int,
    height: int,
    camera_model: CameraModel = "pinhole",
) -> tuple[Tensor, Tensor]:
    """Means [..., C, N, 2] in pixels and covariances [..., C, N, 2, 2] in px^2, without any blur."""
    means2d, jacobian = lens_of(camera_model)(means, Ks, width, height)
    return means2d, jacobian @ covars @ jacobian.transpose(-1, -2)


def fully_fused_projection(
    means: Tensor,  # [..., N, 3]
    covars: Tensor | None,  # [..., N, 6]
    quats: Tensor | None,  # [..., N, 4]
    scales: Tensor | None,  # [..., N, 3]
    viewmats: Tensor,  # [..., C, 4, 4]
    Ks: Tensor,  # [..., C, 3, 3]
    width: int,
    height: int,
    eps2d: float = BLUR,
    near_plane: float = NEAR,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    packed: bool = False,
    sparse_grad: bool = False,
    calc_compensations: bool = False,
    camera_model: CameraModel = "pinhole",
    opacities: Tensor | None = None,  # [..., N]
) -> tuple[Any, ...]:
    """Project splats given by `covars` or by `quats` and `scales`.

    Returns:
        radii [..., C, N, 2] int32 (0 where culled), means2d [..., C, N, 2], depths [..., C, N] (z), conics
        [..., C, N, 3], compensations [..., C, N] or None. If `packed`: batch_ids, camera_ids, gaussian_ids [nnz] int64
        before them, and all of them [nnz, ...], only of what is visible.

    Raises:
        ValueError: neither or too little of `covars`, `quats`, `scales` is given, the camera model is unknown, or
            `sparse_grad` comes without `packed` or with batch dimensions.
    """
    batch, n, cameras = means.shape[:-2], means.shape[-2], viewmats.shape[-3]
    if sparse_grad and (not packed or batch):
        raise ValueError(f"sparse_grad needs packed=True and means [N, 3], got packed={packed}, {list(means.shape)}")
    seen = SparseRows() if sparse_grad else None
    if seen is not None:
        means = seen(means)
        covars, quats, scales = (None if t is None else seen(t) for t in (covars, quats, scales))
    if covars is not None:
        shape, fine = covars[(..., SQUARE)], torch.isfinite(covars).all(dim=-1)
    elif quats is not None and scales is not None:
        rotations, fine = rotations_of(quats)
        fine = fine & torch.isfinite(scales).all(dim=-1)
        shape = rotations * torch.where(fine[..., None], scales, 0.0)[..., None, :]
    else:
        raise ValueError("covars is None and so is quats or scales: give covars, or quats and scales")
    factored = covars is None
    fine = fine & torch.isfinite(means).all(dim=-1)
    points = _to_camera(torch.where(fine[..., None], means, 0.0), viewmats)
    turn = viewmats[..., None, :3, :3]
    shape = turn @ torch.where(fine[..., None, None], shape, 0.0)[..., None, :, :, :]
    shape = shape if factored else shape @ turn.transpose(-1, -2)
    depths = points[..., 2]
    fine = fine[..., None, :] & (depths >= near_plane) & (depths <= far_plane)
    fine = fine & (depths > 0) if camera_model == "pinhole" else fine

    def measure(keep: Tensor) -> Footprint:
        """What is not kept takes a harmless place and no size, so that no NaN comes back from its gradient."""
        safe_points = torch.where(keep[..., None], points, points.new_tensor((0.0, 0.0, 1.0)))
        safe_shape = torch.where(keep[..., None, None], shape, 0.0)
        return footprint(safe_points, safe_shape, factored, Ks, width, height, eps2d, camera_model)

    with torch.no_grad():
        radii = box_radii(measure(fine), fine, opacities, width, height, radius_clip, calc_compensations)
    visible = radii[..., 0] > 0
    spot = measure(visible)
    determinant = torch.where(visible, spot.determinant, 1.0)
    xx, yy = spot.diagonal.unbind(dim=-1)
    conics = torch.stack((yy, -spot.corner, xx), dim=-1) / determinant[..., None]
    compensations = None
    if calc_compensations:
        share = spot.sharp / determinant
        some = visible & (share > 0)
        compensations = torch.where(some, torch.where(some, share, 1.0).sqrt(), 0.0)
    means2d, conics = (torch.where(visible[..., None], t, 0.0) for t in (spot.means2d, conics))
    projected = (radii, means2d, torch.where(visible, depths, 0.0), conics, compensations)
    if not packed:
        return projected
    ids = visible.reshape(math.prod(batch), cameras, n).nonzero().unbind(dim=-1)
    if seen is not None:
        seen.ids = ids[2]
    flat = visible.flatten().nonzero()[:, 0]
    lead = len(batch) + 2
    return *ids, *(None if t is None else t.flatten(0, lead - 1)[flat] for t in projected)


@torch.no_grad()
def isect_tiles(
    means2d: Tensor,  # [..., N, 2] or [nnz, 2]
    radii: Tensor,  # [..., N, 2] or [nnz, 2] int32
    depths: Tensor,  # [..., N] or [nnz]
    tile_size: int,
    tile_width: int,
    tile_height: int,
    sort: bool = True,
    segmented: bool = False,
    packed: bool = False,
    n_images: int | None = None,
    image_ids: Tensor | None = None,  # [nnz]
    gaussian_ids: Tensor | None = None,  # [nnz]
) -> tuple[Tensor, Tensor, Tensor]:
    """List the tiles that each splat's box touches. `segmented` changes nothing: it chooses a sort in gsplat.

    Returns:
        tiles_per_gauss [..., N] or [nnz] int32; isect_ids [n_isects] int64, from the highest bit: image, tile, bits of
        the depth as float32; flatten_ids [n_isects] int32, places in [..., N] or [nnz]. Sorted by isect_ids, equal
        ones by place, unless `sort` is False.

    Raises:
        ValueError: `packed` without `n_images` and `image_ids`, tiles without pixels, or images and tiles that do not
            fit into 31 bits.
    """
    if tile_size < 1:
        raise ValueError(f"tile_size is {tile_size}, expected 1 or more pixels")
    if packed:
        if n_images is None or image_ids is None:
            raise ValueError("packed=True needs n_images and image_ids")
        images, image = n_images, image_ids.long()
    else:
        images = math.prod(depths.shape[:-1])
        image = torch.arange(images, device=depths.device).repeat_interleave(depths.shape[-1])
    bits = (tile_width * tile_height).bit_length()
    if images << bits > 1 << 31:
        raise ValueError(
            f"{images} images of {tile_width}x{tile_height} tiles do not fit into 31 bits: give fewer a call"
        )
    centre, reach = means2d.reshape(-1, 2) / tile_size, radii.reshape(-1, 2) / tile_size
    grid = torch.tensor((tile_width, tile_height), dtype=centre.dtype, device=centre.device)
    low, high = (
        (edge.minimum(grid).clamp(min=0.0)).nan_to_num(0.0).long()
        for edge in ((centre - reach).floor(), (centre + reach).ceil())
    )
    spans = (high - low).clamp(min=0) * (radii.reshape(-1, 2) > 0).all(dim=-1, keepdim=True)
    counts = spans.prod(dim=-1)
    splat = torch.repeat_interleave(counts)
    within = torch.arange(len(splat), device=splat.device) - (counts.cumsum(dim=0) - counts)[splat]
    columns = spans[splat, 0]
    tile = (low[splat, 1] + within // columns) * tile_width + low[splat, 0] + within % columns
    depth_bits = depths.reshape(-1).float().view(torch.int32).long() & 0xFFFFFFFF
    isect_ids = ((image[splat] << bits | tile) << 32) | depth_bits[splat]
    if sort:
        isect_ids, order = isect_ids.sort(stable=True)
        splat = splat[order]
    return counts.reshape(depths.shape).int(), isect_ids, splat.int()


@torch.no_grad()
def isect_offset_encode(isect_ids: Tensor, n_images: int, tile_width: int, tile_height: int) -> Tensor:
    """Where each tile's part of the sorted `isect_ids` begins: [n_images, tile_height, tile_width] int32."""
    bits = (tile_width * tile_height).bit_length()
    image, tile = isect_ids >> (32 + bits), (isect_ids >> 32) & ((1 << bits) - 1)
    tiles = n_images * tile_height * tile_width
    counts = torch.bincount(image * (tile_width * tile_height) + tile, minlength=tiles)
    return (counts.cumsum(dim=0) - counts).reshape(n_images, tile_height, tile_width).int()


def rasterize_to_pixels(
    means2d: Tensor,  # [..., N, 2] or [nnz, 2]
    conics: Tensor,  # [..., N, 3] or [nnz, 3]
    colors: Tensor,  # [..., N, D] or [nnz, D]
    opacities: Tensor,  # [..., N] or [nnz]
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Tensor,  # [..., tile_height, tile_width]
    flatten_ids: Tensor,  # [n_isects]
    backgrounds: Tensor | None = None,  # [..., D]
    masks: Tensor | None = None,  # [..., tile_height, tile_width] bool
    packed: bool = False,
    absgrad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Blend the lists as they are, in their order: colours [..., h, w, D] for any D, alphas [..., h, w, 1].

    A tile whose mask is False shows the background, alpha 0. With `absgrad`, `means2d.absgrad` is set in the backward
    pass. Memory is bounded by the tile, not by the lists; tiles are taken one after the other, so this is slow.

    Raises:
        ValueError: shapes do not fit, or the tiles do not cover the picture.
    """
    dims, (rows, columns) = isect_offsets.shape[:-2], isect_offsets.shape[-2:]
    lead, channels = means2d.shape[:-1], colors.shape[-1]
    shapes = {
        "means2d": (means2d, (*(lead if packed else (*dims, means2d.shape[-2])), 2)),
        "conics": (conics, (*lead, 3)),
        "colors": (colors, (*lead, channels)),
        "opacities": (opacities, lead),
        "backgrounds": (backgrounds, (*dims, channels)),
        "masks": (masks, isect_offsets.shape),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tensor.shape != torch.Size(shape):
            raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}")
    if rows * tile_size < image_height or columns * tile_size < image_width:
        raise ValueError(f"{columns}x{rows} tiles of {tile_size} do not cover {image_width}x{image_height} pixels")
    tiles = find_tiles(isect_offsets, len(flatten_ids), masks, tile_size)
    size = (math.prod(dims), image_height, image_width)
    rgb, alpha = Blend.apply(means2d, conics, colors, opacities, flatten_ids, tiles, tile_size, size, absgrad)
    rgb = rgb.reshape(*dims, image_height, image_width, channels)
    alpha = alpha.reshape(*dims, image_height, image_width, 1)
    return (rgb if backgrounds is None else rgb + (1 - alpha) * backgrounds[..., None, None, :]), alpha
