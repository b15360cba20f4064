"""Every stage in plain torch: any float type, any device, autograd through all of it. The truth for all other backends.

No tile lists of pairs, no early exit, no fused anything: each line is the formula. Slow by design; use it to test, to
read, and to differentiate. One view of one scene: n splats, v visible, p pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import views
from .constants import ALPHA_MAX, ALPHA_MIN, SH_C0, SH_C1, SH_C2, SH_C3, STOP
from .options import Options
from .profile import COPIES_EXPONENT, FLOOR, LOG2_SHARE

TILE = 16  # pixels; only bounds the memory of `blend`, the picture does not depend on it
MEDIAN = 0.5  # transmittance at which median depth is taken
TINY = 1e-12


class Projected(NamedTuple):
    """Splats in the picture plane, in the order of the scene."""

    means2d: Tensor  # [n, 2] pixels
    conics: Tensor  # [n, 3] inverse 2D covariance: xx, xy, yy, px^-2
    depths: Tensor  # [n] z in camera space, of a fisheye the distance, world units
    colors: Tensor  # [n, 3] RGB
    opacities: Tensor  # [n], compensated where antialiased
    extents: Tensor  # [n, 2] half width and height of the box that holds every alpha >= 1/255, pixels
    visible: Tensor  # [n] bool
    sort_depths: Tensor  # [n] the same as depths, but of a stereo pair's middle


class Blended(NamedTuple):
    """One view; background is not in it."""

    rgb: Tensor  # [h, w, 3]
    alpha: Tensor  # [h, w]
    depth: Tensor  # [h, w] expected, 0 where nothing is seen
    median: Tensor  # [h, w] of the splat at which transmittance falls to a half, 0 where it does not; no gradient
    features: Tensor  # [h, w, N]
    contribution: Tensor  # [n] blending weights summed over the pixels; no gradient


def quats_to_rotations(quats: Tensor) -> Tensor:
    """Rotation matrices [n, 3, 3] of quaternions wxyz [n, 4] of any length; of zeros, the identity."""
    w, x, y, z = torch.unbind(quats / quats.norm(dim=-1, keepdim=True).clamp(min=1e-18), dim=-1)
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


def pinhole(points: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, Jacobian and z; in the Jacobian x/z and y/z are clamped to the row's limits, as 3DGS does."""
    x, y, z = points.unbind(dim=-1)
    ahead = z > row[views.NEAR]
    z_safe = torch.where(ahead, z, torch.ones_like(z))
    slope_x, slope_y = x / z_safe, y / z_safe
    near_x = slope_x.clamp(row[views.LOW_X], row[views.HIGH_X])
    near_y = slope_y.clamp(row[views.LOW_Y], row[views.HIGH_Y])
    zero = torch.zeros_like(z)
    jacobian = _rows((1 / z_safe, zero, -near_x / z_safe), (zero, 1 / z_safe, -near_y / z_safe))
    return torch.stack((slope_x, slope_y), dim=-1), jacobian, z


def orthographic(points: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, Jacobian and z."""
    zero, one = torch.zeros_like(points[:, 0]), torch.ones_like(points[:, 0])
    return points[:, :2], _rows((one, zero, zero), (zero, one, zero)), points[:, 2]


def fisheye(points: Tensor, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, exact Jacobian and distance (Kannala and Brandt, "A Generic Camera Model", 2006, radial part)."""
    x, y, z = points.unbind(dim=-1)
    axial = x * x + y * y < 1e-12 * z * z  # on the axis the general formula is 0 / 0, and a pinhole's is right
    x_safe = torch.where(axial, torch.ones_like(x), x)
    y_safe = torch.where(axial, torch.ones_like(y), y)
    rho = (x_safe * x_safe + y_safe * y_safe).sqrt()
    square = rho * rho + z * z
    theta = torch.atan2(rho, z)
    k1, k2, k3, k4 = row[views.K1 : views.K4 + 1]
    t = theta * theta
    radius = theta * (1 + t * (k1 + t * (k2 + t * (k3 + t * k4))))
    slope = 1 + t * (3 * k1 + t * (5 * k2 + t * (7 * k3 + t * 9 * k4)))  # dr / dtheta
    along, across = slope * z / square, radius / rho
    cos, sin = x_safe / rho, y_safe / rho
    mixed = (along - across) * cos * sin
    jacobian = _rows(
        (along * cos * cos + across * sin * sin, mixed, -slope * x_safe / square),
        (mixed, along * sin * sin + across * cos * cos, -slope * y_safe / square),
    )
    z_safe = torch.where(axial, z, torch.ones_like(z))
    zero = torch.zeros_like(z)
    straight = _rows((1 / z_safe, zero, -x / z_safe**2), (zero, 1 / z_safe, -y / z_safe**2))
    flat = torch.where(axial[:, None], torch.stack((x, y), dim=-1) / z_safe[:, None], torch.stack((cos, sin), dim=-1))
    picture = torch.where(axial[:, None], flat, radius[:, None] * flat)
    theta = torch.where(axial, torch.where(z > 0, 0.0, torch.pi), theta)
    distance = (x * x + y * y + z * z).clamp(min=TINY**2).sqrt()
    on_lens = theta <= row[views.MAX_ANGLE]
    distance = torch.where(on_lens, distance, -distance)  # behind the lens, so that it is culled like what is too near
    return picture, torch.where(axial[:, None, None], straight, jacobian), distance


LENSES = {"pinhole": pinhole, "orthographic": orthographic, "fisheye": fisheye}


def _rows(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
    return torch.stack((torch.stack(first, dim=-1), torch.stack(second, dim=-1)), dim=-2)


def project(
    # scene:
    means: Tensor,  # [n, 3]
    quats: Tensor,  # [n, 4]
    scales: Tensor,  # [n, 3]
    opacities: Tensor,  # [n]
    colors: Tensor,  # [n, k, 3] spherical harmonics, or [n, 3] RGB
    # camera:
    row: Tensor,  # [40] see views.py
    options: Options,
) -> Projected:
    """EWA projection of every splat (Zwicker et al., "EWA Splatting", 2002, with the 3DGS clamp and blur)."""
    usable = torch.cat((means, quats, scales, opacities[:, None]), dim=-1).isfinite().all(dim=-1)
    usable = usable & (quats != 0).any(dim=-1)
    # The others are put away before they meet the camera, whose gradients would become NaN with theirs.
    means, quats, scales = (torch.where(usable[:, None], tensor, 0.0) for tensor in (means, quats, scales))
    opacities = torch.where(usable, opacities, 0.0)
    pose = row[: views.EYE].reshape(3, 4)
    rotation, translation = pose[:, :3], pose[:, 3]
    means_seen = means @ rotation.T + translation
    flat, jacobian, depths = LENSES[options.lens](means_seen, row)
    focal = row[views.FX : views.FY + 1]
    means2d = flat * focal + row[views.CX : views.CY + 1]
    jacobian = jacobian * focal[:, None]
    factor = jacobian @ rotation @ quats_to_rotations(quats) * scales[:, None, :]  # [n, 2, 3]; covariance F F^T
    blur = row[views.BLUR]
    xx = (factor[:, 0] * factor[:, 0]).sum(dim=-1) + blur
    xy = (factor[:, 0] * factor[:, 1]).sum(dim=-1)
    yy = (factor[:, 1] * factor[:, 1]).sum(dim=-1) + blur
    # The determinant of (factor factor^T + blur I) as a sum of terms that are never negative: no cancellation.
    cross = torch.linalg.cross(factor[:, 0], factor[:, 1])
    sharp = (cross * cross).sum(dim=-1)  # the determinant without blur
    determinant = sharp + blur * (xx + yy - blur)
    conics = torch.stack((yy, -xy, xx), dim=-1) / determinant[:, None]
    if options.antialiased:
        opacities = opacities * (sharp / determinant).clamp(min=TINY).sqrt()

    reach = (2 * torch.log((opacities / ALPHA_MIN).clamp(min=1.0))).sqrt().detach()  # in standard deviations
    extents = torch.stack((xx.sqrt(), yy.sqrt()), dim=-1).detach() * reach[:, None]
    inside = (means2d + extents > 0).all(dim=-1) & (means2d - extents < row[views.WIDTH : views.HEIGHT + 1]).all(dim=-1)
    inside &= (extents > row[views.RADIUS_CLIP]).any(dim=-1) | (row[views.RADIUS_CLIP] <= 0)
    finite = torch.isfinite(conics).all(dim=-1) & torch.isfinite(means2d).all(dim=-1)
    ranged = (depths > row[views.NEAR]) & (depths < row[views.FAR])
    visible = usable & ranged & inside & finite & (opacities >= ALPHA_MIN)

    towards = means - row[views.EYE : views.EYE + 3]
    rgb = sh_colors(colors, towards) if colors.dim() == 3 else colors
    axis = row[views.SORT : views.SORT + 4]
    sort_depths = towards.norm(dim=-1) if options.lens == "fisheye" else means @ axis[:3] + axis[3]
    return Projected(means2d, conics, depths, rgb, opacities, extents, visible, sort_depths.detach().clamp(min=0))


def depth_order(eyes: list[Projected]) -> Tensor:
    """Indices of the splats that some eye of a group sees, nearest first, ties by index: [v] int64."""
    visible = torch.stack([eye.visible for eye in eyes]).any(dim=0).nonzero().squeeze(-1)
    return visible[torch.argsort(eyes[0].sort_depths[visible], stable=True)]


def blend(
    projected: Projected,
    order: Tensor,  # [v]
    width: int,
    height: int,
    *,
    features: Tensor | None = None,  # [n, N]
    mask: Tensor | None = None,  # [h, w] bool; nothing is drawn where it is False
    profiles: Tensor | None = None,  # [n, 4] of profile.py
) -> Blended:
    """The splats blended front to back, in `order`."""
    if features is None:
        features = projected.colors.new_zeros(len(projected.colors), 0)
    payload = torch.cat((projected.colors, projected.depths[:, None], features), dim=1)
    sums = payload.new_zeros(height, width, payload.shape[1])
    alpha, median = (payload.new_zeros(height, width) for _ in range(2))
    contribution = payload.new_zeros(len(payload))
    order = order[projected.visible[order]]
    low, high = projected.means2d - projected.extents, projected.means2d + projected.extents
    for top in range(0, height, TILE):
        bottom = min(top + TILE, height)
        band = order[(high[order, 1] > top) & (low[order, 1] < bottom)]
        for left in range(0, width, TILE):
            right = min(left + TILE, width)
            here = band[(high[band, 0] > left) & (low[band, 0] < right)]
            y, x = torch.meshgrid(torch.arange(top, bottom), torch.arange(left, right), indexing="ij")
            pixels = torch.stack((x, y), dim=-1).reshape(-1, 2).to(payload) + 0.5
            weights, middle = _weigh(projected, here, pixels, profiles)  # [g, p] [p]
            if mask is not None:
                shown = mask[top:bottom, left:right].reshape(-1)
                weights, middle = torch.where(shown, weights, 0.0), torch.where(shown, middle, 0.0)
            shape = (bottom - top, right - left)
            sums[top:bottom, left:right] = (weights.T @ payload[here]).reshape(*shape, -1)
            alpha[top:bottom, left:right] = weights.sum(dim=0).reshape(shape)
            median[top:bottom, left:right] = middle.reshape(shape)
            contribution.index_add_(0, here, weights.sum(dim=1).detach())
    depth = sums[..., 3] / torch.where(alpha > 0, alpha, torch.ones_like(alpha))
    return Blended(sums[..., :3], alpha, depth, median, sums[..., 4:], contribution)


def _weigh(projected: Projected, order: Tensor, pixels: Tensor, profiles: Tensor | None) -> tuple[Tensor, Tensor]:
    """Blending weights [g, p] of the splats in `order` at pixels [p, 2], and median depth [p]."""
    offset = pixels[None] - projected.means2d[order][:, None]  # [g, p, 2]
    dx, dy = offset[..., 0], offset[..., 1]
    xx, xy, yy = (projected.conics[order][:, i, None] for i in range(3))
    power = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
    covered = projected.opacities[order][:, None] * torch.exp(-power)
    alpha = covered.clamp(max=ALPHA_MAX) if profiles is None else _profiled(covered, profiles[order])
    alpha = torch.where(covered < ALPHA_MIN, torch.zeros_like(alpha), alpha)
    transmittance = torch.cumprod(1 - alpha, dim=0)
    before = torch.cat((torch.ones_like(transmittance[:1]), transmittance[:-1]))[: len(order)]
    goes_on = transmittance > STOP
    weights = torch.where(goes_on, alpha * before, torch.zeros_like(alpha))
    falls = (transmittance <= MEDIAN) & (before > MEDIAN) & goes_on
    return weights, (falls * projected.depths[order][:, None]).sum(dim=0).detach()


def _profiled(covered: Tensor, profiles: Tensor) -> Tensor:
    """Alpha [g, p] of splats with profiles [g, 4], from their projected opacities times the falloff: see profile.py."""
    exponents, floors = profiles[:, COPIES_EXPONENT, None], profiles[:, FLOOR, None]
    one = covered * torch.exp2(profiles[:, LOG2_SHARE, None])  # copy of m: min(o, 1) g
    one = torch.minimum(one, 1 - floors ** (1 / exponents))  # where m of them come to 0.99
    return -torch.expm1(exponents * torch.log1p(-one))
