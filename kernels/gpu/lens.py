"""Points through a view's lens, one a lane, in Triton; `row` is the view's, [40] of kernels/views.py."""

import triton
import triton.language as tl

from .. import adjoint
from .compiled import leaf
from .constants import (
    CX,
    CY,
    FISHEYE,
    FX,
    FY,
    HIGH_X,
    HIGH_Y,
    K1,
    K2,
    K3,
    K4,
    LOW_X,
    LOW_Y,
    MAX_ANGLE,
    ORTHOGRAPHIC,
)  # fmt: skip

PI = tl.constexpr(3.141592653589793)
AXIAL = tl.constexpr(1e-3)  # of q / z^2, below which a fisheye's derivatives are expanded about its axis
LEAST_RHO = tl.constexpr(0.03)  # of the distance; less is near the axis, or behind, where no fisheye looks

_fisheye, _fisheye_near_axis = leaf(adjoint.fisheye), leaf(adjoint.fisheye_near_axis)


@triton.jit
def to_camera(row, mx, my, mz):
    x = tl.load(row) * mx + tl.load(row + 1) * my + tl.load(row + 2) * mz + tl.load(row + 3)
    y = tl.load(row + 4) * mx + tl.load(row + 5) * my + tl.load(row + 6) * mz + tl.load(row + 7)
    z = tl.load(row + 8) * mx + tl.load(row + 9) * my + tl.load(row + 10) * mz + tl.load(row + 11)
    return x, y, z


@triton.jit
def depth_of(x, y, z, LENS: tl.constexpr):
    if LENS == FISHEYE:
        z = tl.sqrt(x * x + y * y + z * z)
    return z


@triton.jit
def _angle(rho, z, depth):
    """atan2(rho, z) to 2e-7 of itself, rho >= 0, depth = hypot(rho, z): twice the arc tangent of the half angle's."""
    t = rho / (depth + tl.abs(z))  # 0 to 1
    q = t * t
    series = 0.042691501662 + q * (-0.016068618433 + q * 0.00284988703)  # minimax, relative error 1.5e-8
    series = 0.1999261935776 + q * (-0.1420364424217 + q * (0.1064093323915 + q * (-0.0750429097858 + q * series)))
    angle = 2.0 * t * (0.9999999847653 + q * (-0.3333307334276 + q * series))
    return tl.where(z < 0.0, PI - angle, angle)


@triton.jit
def project_point(row, x, y, z, depth, visible, LENS: tl.constexpr):
    """Mean in pixels, the two rows of the Jacobian of the lens, and whether the lens shows the point at all."""
    fx, fy = tl.load(row + FX), tl.load(row + FY)
    zero = tl.zeros_like(x)
    if LENS == ORTHOGRAPHIC:
        mean_x, mean_y = fx * x, fy * y
        xx, xy, xz, yx, yy, yz = fx + zero, zero, zero, zero, fy + zero, zero
    elif LENS == FISHEYE:
        safe = tl.where(visible, depth, 1.0)
        rho = tl.maximum(tl.sqrt(x * x + y * y), 1e-7 * safe)  # on the axis the limit of the formulas, the pinhole's
        angle = _angle(rho, z, safe)
        t = angle * angle
        k1, k2, k3, k4 = tl.load(row + K1), tl.load(row + K2), tl.load(row + K3), tl.load(row + K4)
        stretch = angle * (1.0 + t * (k1 + t * (k2 + t * (k3 + t * k4)))) / rho
        slope = 1.0 + t * (3.0 * k1 + t * (5.0 * k2 + t * (7.0 * k3 + t * (9.0 * k4))))  # dr / dangle
        mean_x, mean_y = fx * stretch * x, fy * stretch * y
        unit_x, unit_y = x / rho, y / rho
        inverse = slope / (safe * safe)
        radial = inverse * z - stretch
        xx, xy, xz = fx * (stretch + radial * unit_x * unit_x), fx * radial * unit_x * unit_y, -fx * inverse * x
        yx, yy, yz = fy * radial * unit_x * unit_y, fy * (stretch + radial * unit_y * unit_y), -fy * inverse * y
        visible &= angle <= tl.load(row + MAX_ANGLE)
    else:
        inverse = 1.0 / tl.where(visible, z, 1.0)
        slope_x, slope_y = x * inverse, y * inverse
        mean_x, mean_y = fx * slope_x, fy * slope_y
        slope_x = tl.minimum(tl.maximum(slope_x, tl.load(row + LOW_X)), tl.load(row + HIGH_X))
        slope_y = tl.minimum(tl.maximum(slope_y, tl.load(row + LOW_Y)), tl.load(row + HIGH_Y))
        xx, xy, xz = fx * inverse, zero, -fx * inverse * slope_x
        yx, yy, yz = zero, fy * inverse, -fy * inverse * slope_y
    return mean_x + tl.load(row + CX), mean_y + tl.load(row + CY), xx, xy, xz, yx, yy, yz, visible


@triton.jit
def fisheye_shape(row, x, y, z, distance):
    """See `adjoint.fisheye`; near the axis by its series."""
    q = x * x + y * y
    rho = tl.maximum(tl.sqrt(q), LEAST_RHO * distance)
    distortion = (tl.load(row + K1), tl.load(row + K2), tl.load(row + K3), tl.load(row + K4))
    far = _fisheye(rho, z, _angle(rho, z, distance), distortion, 1.0)
    near = _fisheye_near_axis(q, z, distortion, 1.0)
    axial = (q < AXIAL * z * z) & (z > 0.0)
    shape = ()
    for k in tl.static_range(6):
        shape = shape + (tl.where(axial, near[k], far[k]),)
    return shape


@triton.jit
def pinhole_bounds(row, x, y, z):
    """x/z and y/z clamped to the limits, and 1 where they are within, and where below."""
    low_x, high_x = tl.load(row + LOW_X), tl.load(row + HIGH_X)
    low_y, high_y = tl.load(row + LOW_Y), tl.load(row + HIGH_Y)
    slope_x, slope_y = x / z, y / z
    bounded_x = tl.minimum(tl.maximum(slope_x, low_x), high_x)
    bounded_y = tl.minimum(tl.maximum(slope_y, low_y), high_y)
    free_x = tl.where((slope_x >= low_x) & (slope_x <= high_x), 1.0, 0.0)
    free_y = tl.where((slope_y >= low_y) & (slope_y <= high_y), 1.0, 0.0)
    below_x, below_y = tl.where(slope_x < low_x, 1.0, 0.0), tl.where(slope_y < low_y, 1.0, 0.0)
    return (bounded_x, bounded_y), (free_x, free_y), (below_x, below_y)
