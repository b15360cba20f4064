"""Every stage in plain torch: any float type, any device, autograd through all of it. The truth for all other backends.

No tile lists of pairs, no early exit, no fused anything: each line is the formula. Slow by design; use it to test, to
read, and to differentiate. n splats, v visible, p pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .constants import ALPHA_MAX, ALPHA_MIN, BLUR, FRUSTUM_MARGIN, NEAR, SH_C0, SH_C1, SH_C2, SH_C3, STOP

TILE = 16  # pixels; only bounds the memory of `blend`, the picture does not depend on it


class Projected(NamedTuple):
    """Splats in the picture plane, in the order of the scene."""

    means2d: Tensor  # [n, 2] pixels
    conics: Tensor  # [n, 3] inverse 2D covariance: xx, xy, yy, px^-2
    depths: Tensor  # [n] z in camera space, world units
    colors: Tensor  # [n, 3] RGB
    opacities: Tensor  # [n]
    extents: Tensor  # [n, 2] half width and height of the box that holds every alpha >= 1/255, pixels
    visible: Tensor  # [n] bool


def quats_to_rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [n, 3, 3] of quaternions wxyz [n, 4] of any length but zero."""
    w, x, y, z = torch.unbind(quats / quats.norm(dim=-1, keepdim=True), dim=-1)
    rows = [
        torch.stack((1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)), dim=-1),
        torch.stack((2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)), dim=-1),
        torch.stack((2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)), dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def sh_basis(directions: Tensor, count: int) -> Tensor:
    """Real spherical harmonics [n, count] at unit directions [n, 3], count in 1, 4, 9, 16 (degree 0 to 3)."""
    x, y, z = torch.unbind(directions, dim=-1)
    basis = [torch.full_like(x, SH_C0)]
    if count > 1:
        basis += [-SH_C1 * y, SH_C1 * z, -SH_C1 * x]
    if count > 4:
        xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
        basis += [SH_C2[0] * xy, SH_C2[1] * yz, SH_C2[2] * (2 * zz - xx - yy), SH_C2[3] * xz, SH_C2[4] * (xx - yy)]
        if count > 9:
            basis += [
                SH_C3[0] * y * (3 * xx - yy),
                SH_C3[1] * xy * z,
                SH_C3[2] * y * (4 * zz - xx - yy),
                SH_C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
                SH_C3[4] * x * (4 * zz - xx - yy),
                SH_C3[5] * z * (xx - yy),
                SH_C3[6] * x * (xx - 3 * yy),
            ]
    return torch.stack(basis, dim=-1)


def sh_colors(sh: Tensor, directions: Tensor) -> Tensor:
    """RGB [n, 3], 0 or above, of coefficients [n, k, 3] seen along `directions` [n, 3], camera to splat, any length."""
    basis = sh_basis(directions / directions.norm(dim=-1, keepdim=True).clamp(min=1e-12), sh.shape[1])
    return ((basis[..., None] * sh).sum(dim=-2) + 0.5).clamp(min=0.0)


def project(
    # scene:
    means: Tensor,  # [n, 3]
    quats: Tensor,  # [n, 4]
    scales: Tensor,  # [n, 3]
    opacities: Tensor,  # [n]
    sh: Tensor,  # [n, k, 3]
    # camera:
    world_to_camera: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
) -> Projected:
    """EWA projection of every splat (Zwicker et al., "EWA Splatting", 2002, with the 3DGS clamp and blur)."""
    rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    x, y, z = torch.unbind(means @ rotation.T + translation, dim=-1)
    in_front = z > NEAR
    z_safe = torch.where(in_front, z, torch.ones_like(z))
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    means2d = torch.stack((fx * x / z_safe + cx, fy * y / z_safe + cy), dim=-1)

    margin_x, margin_y = FRUSTUM_MARGIN * 0.5 * width / fx, FRUSTUM_MARGIN * 0.5 * height / fy
    slope_x = (x / z_safe).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    slope_y = (y / z_safe).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z_safe)
    jacobian = torch.stack(
        (
            torch.stack((fx / z_safe, zero, -fx * slope_x / z_safe), dim=-1),
            torch.stack((zero, fy / z_safe, -fy * slope_y / z_safe), dim=-1),
        ),
        dim=-2,
    )
    factor = (
        jacobian @ rotation @ quats_to_rotations(quats) * scales[:, None, :]
    )  # [n, 2, 3]; covariance = factor factor^T
    xx = (factor[:, 0] * factor[:, 0]).sum(dim=-1) + BLUR
    xy = (factor[:, 0] * factor[:, 1]).sum(dim=-1)
    yy = (factor[:, 1] * factor[:, 1]).sum(dim=-1) + BLUR
    # The determinant of (factor factor^T + BLUR I) as a sum of terms that are never negative: no cancellation.
    cross = torch.linalg.cross(factor[:, 0], factor[:, 1])
    determinant = (cross * cross).sum(dim=-1) + BLUR * (xx + yy - BLUR)
    conics = torch.stack((yy, -xy, xx), dim=-1) / determinant[:, None]

    reach = (2 * torch.log((opacities / ALPHA_MIN).clamp(min=1.0))).sqrt().detach()  # in standard deviations
    extents = torch.stack((xx.sqrt(), yy.sqrt()), dim=-1).detach() * reach[:, None]
    inside = (means2d + extents > 0).all(dim=-1) & (means2d - extents < means2d.new_tensor((width, height))).all(dim=-1)
    finite = torch.isfinite(conics).all(dim=-1) & torch.isfinite(means2d).all(dim=-1)
    visible = in_front & inside & finite & (opacities >= ALPHA_MIN)

    eye = -rotation.T @ translation
    return Projected(means2d, conics, z, sh_colors(sh, means - eye), opacities, extents, visible)


def depth_order(projected: Projected) -> Tensor:
    """Indices of the visible splats, nearest first, ties by index: [v] int64."""
    visible = projected.visible.nonzero().squeeze(-1)
    return visible[torch.argsort(projected.depths[visible], stable=True)]


def blend(projected: Projected, order: Tensor, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """RGB [h, w, 3], alpha [h, w] and expected depth [h, w] (0 where nothing is seen), splats taken in `order`."""
    rgb = projected.colors.new_zeros(height, width, 3)
    alpha = projected.colors.new_zeros(height, width)
    depth = projected.colors.new_zeros(height, width)
    low, high = projected.means2d - projected.extents, projected.means2d + projected.extents
    for top in range(0, height, TILE):
        bottom = min(top + TILE, height)
        band = order[(high[order, 1] > top) & (low[order, 1] < bottom)]
        for left in range(0, width, TILE):
            right = min(left + TILE, width)
            here = band[(high[band, 0] > left) & (low[band, 0] < right)]
            y, x = torch.meshgrid(torch.arange(top, bottom), torch.arange(left, right), indexing="ij")
            pixels = torch.stack((x, y), dim=-1).reshape(-1, 2).to(projected.means2d) + 0.5
            tile = _blend_pixels(projected, here, pixels)
            shape = (bottom - top, right - left)
            rgb[top:bottom, left:right] = tile[0].reshape(*shape, 3)
            alpha[top:bottom, left:right] = tile[1].reshape(shape)
            depth[top:bottom, left:right] = tile[2].reshape(shape)
    return rgb, alpha, depth


def _blend_pixels(projected: Projected, order: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    offset = pixels[None] - projected.means2d[order][:, None]  # [g, p, 2]
    dx, dy = offset[..., 0], offset[..., 1]
    xx, xy, yy = (projected.conics[order][:, i, None] for i in range(3))
    power = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    alpha = (projected.opacities[order][:, None] * torch.exp(-power)).clamp(max=ALPHA_MAX)
    alpha = torch.where(alpha < ALPHA_MIN, torch.zeros_like(alpha), alpha)
    transmittance = torch.cumprod(1 - alpha, dim=0)
    before = torch.cat((torch.ones_like(transmittance[:1]), transmittance[:-1]))[: len(order)]
    weights = torch.where(transmittance > STOP, alpha * before, torch.zeros_like(alpha))  # [g, p]
    total = weights.sum(dim=0)
    depth = (weights * projected.depths[order][:, None]).sum(dim=0)
    return weights.T @ projected.colors[order], total, depth / torch.where(total > 0, total, torch.ones_like(total))
