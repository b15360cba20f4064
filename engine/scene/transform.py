"""Scenes turned, mirrored, scaled and moved: every tensor of a splat follows, spherical harmonics included."""

from functools import cache

import torch
from torch import Tensor

from ...kernels.reference import quats_to_rotations, sh_basis
from ..errors import InputError
from .gaussians import Gaussians

BLOCK = 1 << 18  # splats that are turned at a time
TOLERANCE = 1e-4  # how far a matrix may be from a rotation or mirror times a scale


def transform(gaussians: Gaussians, matrix: Tensor) -> Gaussians:
    """The scene x -> A x + t, with A a rotation or a mirror times one positive scale.

    Quaternions come out of unit length. Tensors that do not change are shared with the scene given.

    Args:
        matrix: [4, 4], or [3, 3] where t is 0; of any float type, taken as float64.

    Raises:
        InputError: the matrix shears, scales unevenly, or is not finite.
    """
    linear, shift, scale = similarity(matrix)
    device = gaussians.means.device
    means = (gaussians.means.double() @ (scale * linear).T.to(device) + shift.to(device)).to(gaussians.means.dtype)
    if torch.equal(linear, torch.eye(3, dtype=torch.float64)):
        return Gaussians(means, gaussians.quats, gaussians.scales * scale, gaussians.opacities, gaussians.sh)
    turn = rotation_quat(linear * torch.linalg.det(linear).sign())  # a mirror is its negative's turn: covariances agree
    return Gaussians(
        means=means,
        quats=multiply_quats(turn.to(gaussians.quats), torch.nn.functional.normalize(gaussians.quats, dim=-1)),
        scales=gaussians.scales * scale,
        opacities=gaussians.opacities,
        sh=rotate_sh(gaussians.sh, linear),
    )


def similarity(matrix: Tensor) -> tuple[Tensor, Tensor, float]:
    """The orthogonal matrix, the shift [3] and the scale of which a matrix as `transform` takes it is made, float64.

    Raises:
        InputError: as `transform`.
    """
    matrix = matrix.detach().double().cpu()
    shift = matrix[:3, 3] if matrix.shape == (4, 4) else torch.zeros(3, dtype=torch.float64)
    if matrix.shape not in ((3, 3), (4, 4)) or not torch.isfinite(matrix).all():
        raise InputError(f"a transform has shape {list(matrix.shape)}, expected [3, 3] or [4, 4] of finite numbers")
    if matrix.shape == (4, 4) and matrix[3].tolist() != [0.0, 0.0, 0.0, 1.0]:
        raise InputError(f"the last row of a transform is {matrix[3].tolist()}, expected 0 0 0 1")
    scale = float(torch.linalg.det(matrix[:3, :3]).abs() ** (1 / 3))
    linear = matrix[:3, :3] / scale if scale > 0 else matrix[:3, :3]
    error = float((linear @ linear.T - torch.eye(3, dtype=torch.float64)).abs().max())
    if not error <= TOLERANCE:
        raise InputError(f"a transform is off by {error:.3g} from a turn with one scale: splats cannot follow a shear")
    return linear, shift, scale


def rotate_sh(sh: Tensor, linear: Tensor) -> Tensor:
    """Coefficients [n, k, 3] of the function that is turned by `linear`, [3, 3] orthogonal: f'(d) = f(linear^T d)."""
    turned = sh.clone()
    for degree in range(1, int(sh.shape[1] ** 0.5)):
        band, turn = slice(degree * degree, (degree + 1) * (degree + 1)), sh_rotation(degree, linear).to(sh)
        for before, after in zip(sh.split(BLOCK), turned.split(BLOCK), strict=True):
            after[:, band] = torch.einsum("ij,njc->nic", turn, before[:, band])
    return turned


def sh_rotation(degree: int, linear: Tensor) -> Tensor:
    """[2 degree + 1, 2 degree + 1] float64 that turns the coefficients of one degree by an orthogonal matrix.

    A degree is closed under rotation and mirroring, so the matrix is what takes the degree's basis at some directions
    to the basis at the directions turned back; it is solved for by least squares and exact to rounding.
    """
    directions, inverse = _probes(degree)
    return inverse @ _degree_basis(directions @ linear.double().cpu(), degree)


def rotation_quat(rotation: Tensor) -> Tensor:
    """[..., 4] float64 unit quaternions w x y z, w >= 0, of rotations [..., 3, 3].

    Source: Bar-Itzhack, "New Method for Extracting the Quaternion from a Rotation Matrix", 2000: the eigenvector of
    the largest eigenvalue, well-conditioned everywhere.
    """
    a, b, c, d, e, f, g, h, i = rotation.detach().double().flatten(-2).unbind(-1)
    o = torch.zeros_like(a)
    rows = (a + e + i, o, o, o, h - f, a - e - i, o, o, c - g, b + d, e - a - i, o, d - b, c + g, f + h, i - a - e)
    quats = torch.linalg.eigh(torch.stack(rows, -1).unflatten(-1, (4, 4)), UPLO="L").eigenvectors[..., -1]
    return torch.where(quats[..., :1] < 0, -quats, quats)


def multiply_quats(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton products of quaternions w x y z, [..., 4] each."""
    a, b, c, d = left.unbind(-1)
    w, x, y, z = right.unbind(-1)
    return torch.stack(
        (
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ),
        -1,
    )


def axis_angle(axis: Tensor, angle: float) -> Tensor:
    """[3, 3] float64 rotation by `angle` radians, right-handed, about an axis [3] of any length.

    Raises:
        InputError: the axis is zero or not finite.
    """
    length = float(axis.double().norm())
    if not 0.0 < length < float("inf"):
        raise InputError(f"rotation axis {axis.tolist()} has no direction: give three numbers that are not all zero")
    half = torch.tensor(angle / 2, dtype=torch.float64)
    return quats_to_rotations(torch.cat((half.cos()[None], half.sin() * axis.double() / length)))


def placement(linear: Tensor, pivot: Tensor, shift: Tensor) -> Tensor:
    """[4, 4] float64 of x -> pivot + linear (x - pivot) + shift."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = linear
    matrix[:3, 3] = pivot.double() - linear.double() @ pivot.double() + shift.double()
    return matrix


@cache
def _probes(degree: int) -> tuple[Tensor, Tensor]:
    """Directions [m, 3] spread over the sphere, and the pseudo-inverse of the degree's basis there."""
    i = torch.arange(64, dtype=torch.float64) + 0.5
    z, turn = 1 - i / 32, i * (torch.pi * (5**0.5 - 1))  # Fibonacci's lattice
    radius = (1 - z * z).sqrt()
    directions = torch.stack((radius * turn.cos(), radius * turn.sin(), z), dim=-1)
    return directions, torch.linalg.pinv(_degree_basis(directions, degree))


def _degree_basis(directions: Tensor, degree: int) -> Tensor:
    return sh_basis(directions, (degree + 1) ** 2)[:, degree * degree :]
