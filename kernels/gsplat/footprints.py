"""Splats as ellipses in the picture, many views at once, in plain torch: what the stages of gsplat are made of here.

No NaN leaves or comes back: `footprint` is to be given harmless numbers for what is culled. C cameras, N splats.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..constants import ALPHA_MIN, FRUSTUM_MARGIN
from ..reference import quats_to_rotations

REACH = 3.33  # standard deviations; at 3.329 a splat of opacity 1 has faded to 1/255
LARGEST_RADIUS = 1 << 30  # pixels; int32 holds it


def rotations_of(quats: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations [..., 3, 3], and whether the quaternion had a length [...]; where it had none: no rotation."""
    length = quats.detach().norm(dim=-1, keepdim=True)
    fine = (length > 0) & torch.isfinite(length)
    return quats_to_rotations(torch.where(fine, quats, quats.new_tensor((1.0, 0.0, 0.0, 0.0)))), fine[..., 0]


def _pinhole(points: Tensor, Ks: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    focal, centre = _intrinsics(Ks)
    size = focal.new_tensor((width, height))
    z = points[..., 2:]
    slopes = points[..., :2] / z
    margin = FRUSTUM_MARGIN * 0.5 * size / focal
    clamped = torch.minimum(torch.maximum(slopes, -centre / focal - margin), (size - centre) / focal + margin)
    return focal * slopes + centre, torch.cat((torch.diag_embed(focal / z), (-focal * clamped / z)[..., None]), dim=-1)


def _ortho(points: Tensor, Ks: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    focal, centre = _intrinsics(Ks)
    jacobian = torch.cat((torch.diag_embed(focal), torch.zeros_like(focal)[..., None]), dim=-1)
    return focal * points[..., :2] + centre, jacobian.expand(*points.shape[:-1], 2, 3)


def _fisheye(points: Tensor, Ks: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Equidistant: pixel = focal angle (x, y) / rho. Its radial slope is z / |p|^2, across it is angle / rho."""
    focal, centre = _intrinsics(Ks)
    xy, z = points[..., :2], points[..., 2:]
    rho = xy.norm(dim=-1, keepdim=True)
    on_axis = rho <= 1e-6 * z.abs()
    rho_safe = torch.where(on_axis, torch.ones_like(rho), rho)
    angle_per_rho = torch.where(on_axis, 1 / torch.where(on_axis, z, 1.0), torch.atan2(rho_safe, z) / rho_safe)
    square = (points * points).sum(dim=-1, keepdim=True)
    way = torch.where(on_axis, torch.zeros_like(xy), xy / rho_safe)  # unit vector outwards
    outwards = way[..., :, None] * way[..., None, :]
    across = torch.eye(2, dtype=points.dtype, device=points.device) - outwards
    planar = outwards * (z / square)[..., None] + across * angle_per_rho[..., None]
    jacobian = focal[..., None] * torch.cat((planar, (-xy / square)[..., None]), dim=-1)
    return focal * xy * angle_per_rho + centre, jacobian


_LENSES = {"pinhole": _pinhole, "ortho": _ortho, "fisheye": _fisheye}


def lens_of(camera_model: str) -> Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]]:
    """Pixels [..., C, N, 2] and Jacobians [..., C, N, 2, 3] of points [..., C, N, 3], `Ks`, width and height.

    Raises:
        ValueError: there is no such lens.
    """
    if camera_model not in _LENSES:
        raise ValueError(f"camera_model {camera_model!r} is not supported: give {', '.join(_LENSES)}")
    return _LENSES[camera_model]


def _intrinsics(Ks: Tensor) -> tuple[Tensor, Tensor]:
    return Ks[..., None, :2, :2].diagonal(dim1=-2, dim2=-1), Ks[..., None, :2, 2]  # [..., C, 1, 2] each


class Footprint(NamedTuple):
    means2d: Tensor  # [..., C, N, 2]
    diagonal: Tensor  # [..., C, N, 2] px^2, blurred
    corner: Tensor  # [..., C, N] px^2, off the diagonal
    determinant: Tensor  # [..., C, N] blurred
    sharp: Tensor  # [..., C, N] determinant without blur


def footprint(
    points: Tensor, shape: Tensor, factored: bool, Ks: Tensor, width: int, height: int, eps2d: float, camera_model: str
) -> Footprint:
    """`shape` [..., C, N, 3, 3] in camera space: F with covariance F F^T if `factored`, else the covariance."""
    means2d, jacobian = lens_of(camera_model)(points, Ks, width, height)
    flat = jacobian @ shape
    if factored:  # no cancellation in the determinant: see reference.project
        covariance = flat @ flat.transpose(-1, -2)
        sharp = torch.linalg.cross(flat[..., 0, :], flat[..., 1, :]).square().sum(dim=-1)
    else:
        covariance = flat @ jacobian.transpose(-1, -2)
        sharp = (covariance[..., 0, 0] * covariance[..., 1, 1] - covariance[..., 0, 1].square()).clamp(min=0.0)
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    determinant = sharp + eps2d * (diagonal.sum(dim=-1) + eps2d)
    return Footprint(means2d, diagonal + eps2d, covariance[..., 0, 1], determinant, sharp)


def box_radii(
    spot: Footprint,
    fine: Tensor,
    opacities: Tensor | None,
    width: int,
    height: int,
    radius_clip: float,
    compensated: bool,
) -> Tensor:
    """Half sides [..., C, N, 2] int32 of the boxes that hold every alpha of 1/255 and more; 0 for what is not seen."""
    reach = torch.full_like(spot.corner, REACH)
    if opacities is not None:
        share = (spot.sharp / spot.determinant).sqrt() if compensated else torch.ones_like(reach)
        ratio = opacities[..., None, :] * share / ALPHA_MIN
        fine = fine & (ratio >= 1)
        reach = (2 * ratio.clamp(min=1.0).log()).sqrt().clamp(max=REACH)
    radii = (reach[..., None] * spot.diagonal.sqrt()).ceil().clamp(max=LARGEST_RADIUS)
    size = radii.new_tensor((width, height))
    inside = ((spot.means2d + radii > 0) & (spot.means2d - radii < size)).all(dim=-1)
    invertible = (spot.determinant > 0) & torch.isfinite(spot.diagonal / spot.determinant[..., None]).all(dim=-1)
    large = (radii > 0).all(dim=-1) & ~(radii <= radius_clip).all(dim=-1)
    seen = fine & inside & invertible & torch.isfinite(spot.determinant) & large
    return torch.where(seen[..., None], radii, 0.0).to(torch.int32)
