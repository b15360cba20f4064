"""Eight points through a view's lens, on the CPU; `row` is the view's, [40] of kernels/views.py."""

import numpy as np

from .. import adjoint
from .. import views as v
from .compiled import compiled
from .simd import splat, sqrt, where

f32 = np.float32
ORTHOGRAPHIC, FISHEYE = v.LENSES["orthographic"], v.LENSES["fisheye"]

_ZERO, _ONE, _TWO, _PI = f32(0), f32(1), f32(2), f32(np.pi)
_ON_AXIS = f32(1e-6)  # of the distance: nearer than this to the axis a fisheye is a pinhole
_AXIAL = f32(1e-3)  # of q / z^2, below which its derivatives are expanded about the axis
_LEAST_RHO = f32(0.03)  # of the distance; less is near the axis, or behind, where no fisheye looks

# arctan(t) / t on 0..1 as a polynomial in t^2, to 2e-9.
_FIT = np.polynomial.chebyshev.Chebyshev.interpolate(
    lambda s: np.arctan(np.sqrt(s)) / np.sqrt(s), 9, domain=[0, 1]
).convert(kind=np.polynomial.Polynomial)
_A0, _A1, _A2, _A3, _A4, _A5, _A6, _A7, _A8, _A9 = (f32(value) for value in _FIT.coef)

_fisheye, _near_axis = compiled()(adjoint.fisheye), compiled()(adjoint.fisheye_near_axis)
fisheye_jacobian = compiled()(adjoint.fisheye_jacobian)


@compiled(inline=True)
def angle_from_axis(rho, z, distance):
    """atan2(rho, z) of eight points, rho >= 0: twice the arc tangent of half the angle's tangent."""
    t = rho / (distance + max(z, splat(_ZERO) - z))
    s = t * t
    series = splat(_A4) + s * (splat(_A5) + s * (splat(_A6) + s * (splat(_A7) + s * (splat(_A8) + s * splat(_A9)))))
    series = splat(_A0) + s * (splat(_A1) + s * (splat(_A2) + s * (splat(_A3) + s * series)))
    angle = splat(_TWO) * t * series
    return where(z >= splat(_ZERO), angle, splat(_PI) - angle)


@compiled(inline=True)
def to_camera(row, x, y, z):
    """Eight points in camera space; row: [40]."""
    return (
        splat(row[0]) * x + splat(row[1]) * y + splat(row[2]) * z + splat(row[3]),
        splat(row[4]) * x + splat(row[5]) * y + splat(row[6]) * z + splat(row[7]),
        splat(row[8]) * x + splat(row[9]) * y + splat(row[10]) * z + splat(row[11]),
    )


@compiled(inline=True)
def pinhole(row, x, y, z):
    """Screen position and the rows of the Jacobian times the world-to-camera rotation [2, 3]."""
    inverse = splat(_ONE) / z
    slope_x, slope_y = x * inverse, y * inverse
    jx, jy = splat(row[v.FX]) * inverse, splat(row[v.FY]) * inverse
    screen = (splat(row[v.FX]) * slope_x + splat(row[v.CX]), splat(row[v.FY]) * slope_y + splat(row[v.CY]))
    slope_x = min(max(slope_x, splat(row[v.LOW_X])), splat(row[v.HIGH_X]))
    slope_y = min(max(slope_y, splat(row[v.LOW_Y])), splat(row[v.HIGH_Y]))
    a = (
        jx * (splat(row[0]) - slope_x * splat(row[8])),
        jx * (splat(row[1]) - slope_x * splat(row[9])),
        jx * (splat(row[2]) - slope_x * splat(row[10])),
    )
    b = (
        jy * (splat(row[4]) - slope_y * splat(row[8])),
        jy * (splat(row[5]) - slope_y * splat(row[9])),
        jy * (splat(row[6]) - slope_y * splat(row[10])),
    )
    return screen, a, b


@compiled()
def orthographic(row, x, y):
    """The same."""
    fx, fy = splat(row[v.FX]), splat(row[v.FY])
    a = (fx * splat(row[0]), fx * splat(row[1]), fx * splat(row[2]))
    b = (fy * splat(row[4]), fy * splat(row[5]), fy * splat(row[6]))
    return (fx * x + splat(row[v.CX]), fy * y + splat(row[v.CY])), a, b


@compiled()
def fisheye(row, x, y, z, distance):
    """The same, and the angle from the axis."""
    rho = max(sqrt(x * x + y * y), splat(_ON_AXIS) * distance)
    angle = angle_from_axis(rho, z, distance)
    fx, fy = splat(row[v.FX]), splat(row[v.FY])
    distortion = (splat(row[v.K1]), splat(row[v.K2]), splat(row[v.K3]), splat(row[v.K4]))
    h, twice_h_q, h_z, _, _, _ = _fisheye(rho, z, angle, distortion, splat(_ONE))
    xx, xy, xz, yx, yy, yz = fisheye_jacobian(x, y, (fx, fy), h, twice_h_q, h_z)
    a = (
        xx * splat(row[0]) + xy * splat(row[4]) + xz * splat(row[8]),
        xx * splat(row[1]) + xy * splat(row[5]) + xz * splat(row[9]),
        xx * splat(row[2]) + xy * splat(row[6]) + xz * splat(row[10]),
    )
    b = (
        yx * splat(row[0]) + yy * splat(row[4]) + yz * splat(row[8]),
        yx * splat(row[1]) + yy * splat(row[5]) + yz * splat(row[9]),
        yx * splat(row[2]) + yy * splat(row[6]) + yz * splat(row[10]),
    )
    return (fx * h * x + splat(row[v.CX]), fy * h * y + splat(row[v.CY])), a, b, angle


@compiled()
def fisheye_shape(row, x, y, z, distance):
    """See `adjoint.fisheye`; near the axis by its series."""
    q = x * x + y * y
    rho = max(sqrt(q), splat(_LEAST_RHO) * distance)
    distortion = (splat(row[v.K1]), splat(row[v.K2]), splat(row[v.K3]), splat(row[v.K4]))
    one = splat(_ONE)
    f0, f1, f2, f3, f4, f5 = _fisheye(rho, z, angle_from_axis(rho, z, distance), distortion, one)
    n0, n1, n2, n3, n4, n5 = _near_axis(q, z, distortion, one)
    axial = (splat(_AXIAL) * z * z > q) & (z > splat(_ZERO))
    return (
        where(axial, n0, f0), where(axial, n1, f1), where(axial, n2, f2),
        where(axial, n3, f3), where(axial, n4, f4), where(axial, n5, f5),
    )  # fmt: skip


@compiled(inline=True)
def pinhole_bounds(row, x, y, z):
    """x/z and y/z clamped to the limits, and 1 where they are within, and where below."""
    zero, one, inverse = splat(_ZERO), splat(_ONE), splat(_ONE) / z
    slope_x, slope_y = x * inverse, y * inverse
    low_x, high_x = splat(row[v.LOW_X]), splat(row[v.HIGH_X])
    low_y, high_y = splat(row[v.LOW_Y]), splat(row[v.HIGH_Y])
    bounded = min(max(slope_x, low_x), high_x), min(max(slope_y, low_y), high_y)
    free = (
        where((slope_x >= low_x) & (high_x >= slope_x), one, zero),
        where((slope_y >= low_y) & (high_y >= slope_y), one, zero),
    )
    return bounded, free, (where(low_x > slope_x, one, zero), where(low_y > slope_y, one, zero))
