"""The arithmetic of a projection and of its derivative, written once for Triton, Numba (scalars or `Vec8`) and torch.

Every function is a leaf: sums, products and quotients of its arguments, tuples in and out. No calls, no globals, no
annotations, which Triton would look up, and no number but `one`, which each caller passes in its own type: a Python
number would turn Numba's float32 into float64. What needs more - roots, angles, comparisons - the callers do.

`g_x` is the gradient of x. Matrices are flat tuples, row by row. What the forward pass uses too has no `adjoint` in its
name.
"""


def covariance_adjoint(
    # scene:
    quat,  # w x y z, of any length
    scale,  # 3
    # camera:
    jacobian,  # 2x3, of the lens at the splat
    rotation,  # 3x3, world to camera
    blur,
    # record:
    l0,  # of the conic's Cholesky factor
    l2,
    g_l,  # 3
    g_ratio,  # of the natural logarithm of det(covariance without blur) / det(covariance), times 2; or zero
    tiny,  # keeps zero / zero out where there is no such gradient
    one,
):
    """Gradients of the quaternion [4], the scale [3], the Jacobian [6] and the rotation [9]."""
    w, x, y, z = quat
    s0, s1, s2 = scale
    jxx, jxy, jxz, jyx, jyy, jyz = jacobian
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = rotation
    g_l0, g_l1, g_l2 = g_l

    # The Jacobian times the world-to-camera rotation: rows a and b.
    a0, a1, a2 = jxx * w00 + jxy * w10 + jxz * w20, jxx * w01 + jxy * w11 + jxz * w21, jxx * w02 + jxy * w12 + jxz * w22
    b0, b1, b2 = jyx * w00 + jyy * w10 + jyz * w20, jyx * w01 + jyy * w11 + jyz * w21, jyx * w02 + jyy * w12 + jyz * w22
    inverse = one / (w * w + x * x + y * y + z * z)
    two = inverse + inverse
    r00, r10, r20 = one - two * (y * y + z * z), two * (x * y + w * z), two * (x * z - w * y)
    r01, r11, r21 = two * (x * y - w * z), one - two * (x * x + z * z), two * (y * z + w * x)
    r02, r12, r22 = two * (x * z + w * y), two * (y * z - w * x), one - two * (x * x + y * y)
    # ... times the splat's rotation: rows u and v; times its scales: rows p and q, whose products are the covariance.
    u0, u1, u2 = a0 * r00 + a1 * r10 + a2 * r20, a0 * r01 + a1 * r11 + a2 * r21, a0 * r02 + a1 * r12 + a2 * r22
    v0, v1, v2 = b0 * r00 + b1 * r10 + b2 * r20, b0 * r01 + b1 * r11 + b2 * r21, b0 * r02 + b1 * r12 + b2 * r22
    p0, p1, p2 = s0 * u0, s1 * u1, s2 * u2
    q0, q1, q2 = s0 * v0, s1 * v1, s2 * v2
    xx, yy = p0 * p0 + p1 * p1 + p2 * p2 + blur, q0 * q0 + q1 * q1 + q2 * q2 + blur
    k0, k1, k2 = p1 * q2 - p2 * q1, p2 * q0 - p0 * q2, p0 * q1 - p1 * q0
    plain = k0 * k0 + k1 * k1 + k2 * k2
    determinant = plain + blur * (xx + yy - blur)

    # l0 = t sqrt(yy / determinant), l1 = -l0 xy / yy, l2 = t / sqrt(yy); quotients first, so that nothing overflows.
    inverse_yy = one / yy
    slope = (p0 * q0 + p1 * q1 + p2 * q2) * inverse_yy
    along = l0 * (g_l0 - slope * g_l1)
    across = l0 * g_l1
    shrink = (along + g_ratio) / determinant
    zero = one - one
    g_xy = zero - across * inverse_yy
    twice_g_xx = zero - blur * shrink
    twice_g_yy = twice_g_xx + (along + (across + across) * slope - l2 * g_l2) * inverse_yy
    cross = g_ratio / (plain + tiny) - shrink
    c0, c1, c2 = k0 * cross, k1 * cross, k2 * cross
    g_p0 = p0 * twice_g_xx + q0 * g_xy + (q1 * c2 - q2 * c1)
    g_p1 = p1 * twice_g_xx + q1 * g_xy + (q2 * c0 - q0 * c2)
    g_p2 = p2 * twice_g_xx + q2 * g_xy + (q0 * c1 - q1 * c0)
    g_q0 = q0 * twice_g_yy + p0 * g_xy + (c1 * p2 - c2 * p1)
    g_q1 = q1 * twice_g_yy + p1 * g_xy + (c2 * p0 - c0 * p2)
    g_q2 = q2 * twice_g_yy + p2 * g_xy + (c0 * p1 - c1 * p0)

    g_scale = (g_p0 * u0 + g_q0 * v0, g_p1 * u1 + g_q1 * v1, g_p2 * u2 + g_q2 * v2)
    g_u0, g_u1, g_u2 = s0 * g_p0, s1 * g_p1, s2 * g_p2
    g_v0, g_v1, g_v2 = s0 * g_q0, s1 * g_q1, s2 * g_q2
    g_r00, g_r10, g_r20 = a0 * g_u0 + b0 * g_v0, a1 * g_u0 + b1 * g_v0, a2 * g_u0 + b2 * g_v0
    g_r01, g_r11, g_r21 = a0 * g_u1 + b0 * g_v1, a1 * g_u1 + b1 * g_v1, a2 * g_u1 + b2 * g_v1
    g_r02, g_r12, g_r22 = a0 * g_u2 + b0 * g_v2, a1 * g_u2 + b1 * g_v2, a2 * g_u2 + b2 * g_v2
    turn_w, turn_x, turn_y, turn_z = (
        two * (z * (g_r10 - g_r01) + y * (g_r02 - g_r20) + x * (g_r21 - g_r12)),
        two * (y * (g_r10 + g_r01) + z * (g_r20 + g_r02) + w * (g_r21 - g_r12) - (x + x) * (g_r11 + g_r22)),
        two * (x * (g_r10 + g_r01) + z * (g_r21 + g_r12) + w * (g_r02 - g_r20) - (y + y) * (g_r00 + g_r22)),
        two * (x * (g_r20 + g_r02) + y * (g_r21 + g_r12) + w * (g_r10 - g_r01) - (z + z) * (g_r00 + g_r11)),
    )
    radial = inverse * (w * turn_w + x * turn_x + y * turn_y + z * turn_z)  # a longer quaternion turns no further
    g_quat = (turn_w - radial * w, turn_x - radial * x, turn_y - radial * y, turn_z - radial * z)

    g_a0, g_a1, g_a2 = (
        g_u0 * r00 + g_u1 * r01 + g_u2 * r02,
        g_u0 * r10 + g_u1 * r11 + g_u2 * r12,
        g_u0 * r20 + g_u1 * r21 + g_u2 * r22,
    )
    g_b0, g_b1, g_b2 = (
        g_v0 * r00 + g_v1 * r01 + g_v2 * r02,
        g_v0 * r10 + g_v1 * r11 + g_v2 * r12,
        g_v0 * r20 + g_v1 * r21 + g_v2 * r22,
    )
    g_jacobian = (
        g_a0 * w00 + g_a1 * w01 + g_a2 * w02,
        g_a0 * w10 + g_a1 * w11 + g_a2 * w12,
        g_a0 * w20 + g_a1 * w21 + g_a2 * w22,
        g_b0 * w00 + g_b1 * w01 + g_b2 * w02,
        g_b0 * w10 + g_b1 * w11 + g_b2 * w12,
        g_b0 * w20 + g_b1 * w21 + g_b2 * w22,
    )
    g_rotation = (
        jxx * g_a0 + jyx * g_b0, jxx * g_a1 + jyx * g_b1, jxx * g_a2 + jyx * g_b2,
        jxy * g_a0 + jyy * g_b0, jxy * g_a1 + jyy * g_b1, jxy * g_a2 + jyy * g_b2,
        jxz * g_a0 + jyz * g_b0, jxz * g_a1 + jyz * g_b1, jxz * g_a2 + jyz * g_b2,
    )  # fmt: skip
    return g_quat, g_scale, g_jacobian, g_rotation


def pose_adjoint(mean, rotation, g_point, g_rotation):
    """Gradients of the mean [3] and the pose's rows [12], from those of the point in camera space and the rotation."""
    x, y, z = mean
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = rotation
    gx, gy, gz = g_point
    g00, g01, g02, g10, g11, g12, g20, g21, g22 = g_rotation
    g_mean = (w00 * gx + w10 * gy + w20 * gz, w01 * gx + w11 * gy + w21 * gz, w02 * gx + w12 * gy + w22 * gz)
    g_pose = (
        g00 + gx * x, g01 + gx * y, g02 + gx * z, gx,
        g10 + gy * x, g11 + gy * y, g12 + gy * z, gy,
        g20 + gz * x, g21 + gz * y, g22 + gz * z, gz,
    )  # fmt: skip
    return g_mean, g_pose


def pinhole_adjoint(
    point,  # x, y, z in camera space
    focal,  # fx, fy
    bounded,  # x/z and y/z, clamped to the limits
    free,  # 1 where x/z (y/z) is within its limits, else 0
    low,  # 1 where it is below the lower one, else 0
    g_screen,  # 2
    g_jacobian,  # 6
    one,
):
    """Gradients of the point [3], of fx fy cx cy, and of the limits low_x high_x low_y high_y."""
    x, y, z = point
    fx, fy = focal
    bounded_x, bounded_y = bounded
    free_x, free_y = free
    low_x, low_y = low
    gx, gy = g_screen
    g_xx, _, g_xz, _, g_yy, g_yz = g_jacobian
    inverse = one / z
    slope_x, slope_y = x * inverse, y * inverse
    g_xx, g_yy = g_xx - g_xz * bounded_x, g_yy - g_yz * bounded_y  # of fx / z and fy / z, all that they reach
    zero = one - one
    g_bounded_x, g_bounded_y = zero - g_xz * fx * inverse, zero - g_yz * fy * inverse
    g_slope_x, g_slope_y = fx * gx + free_x * g_bounded_x, fy * gy + free_y * g_bounded_y
    g_inverse = fx * g_xx + fy * g_yy + x * g_slope_x + y * g_slope_y
    g_point = (g_slope_x * inverse, g_slope_y * inverse, zero - g_inverse * inverse * inverse)
    g_lens = (gx * slope_x + g_xx * inverse, gy * slope_y + g_yy * inverse, gx, gy)
    low_x, low_y = low_x * g_bounded_x, low_y * g_bounded_y
    g_limits = (
        low_x,
        g_bounded_x - free_x * g_bounded_x - low_x,
        low_y,
        g_bounded_y - free_y * g_bounded_y - low_y,
    )
    return g_point, g_lens, g_limits


def orthographic_adjoint(point, focal, g_screen, g_jacobian):
    """Gradients of the point's x and y, and of fx fy cx cy."""
    x, y = point
    fx, fy = focal
    gx, gy = g_screen
    g_xx, _, _, _, g_yy, _ = g_jacobian
    return (fx * gx, fy * gy), (gx * x + g_xx, gy * y + g_yy, gx, gy)


def fisheye(rho, z, angle, distortion, one):
    """A fisheye's picture of (x, y, z) is f h x + c with h = r / rho, a function of q = rho^2 = x^2 + y^2 and z.

    Returns h, 2 h_q, h_z, 4 h_qq, 2 h_qz and h_zz; `angle` is that of the point from the axis. Cancels near the axis.
    """
    k1, k2, k3, k4 = distortion
    two = one + one
    three = two + one
    five, seven, nine = three + two, three + two + two, three + three + three
    s = angle * angle
    r = angle * (one + s * (k1 + s * (k2 + s * (k3 + s * k4))))
    dr = one + s * (three * k1 + s * (five * k2 + s * (seven * k3 + s * nine * k4)))
    ddr = angle * two * (three * k1 + s * (two * five * k2 + s * (three * seven * k3 + s * two * two * nine * k4)))
    q = rho * rho
    inverse = one / (q + z * z)
    inverse_rho = one / rho
    inverse_q = inverse_rho * inverse_rho
    h = r * inverse_rho
    fall = dr * inverse
    twice_h_q = (z * fall - h) * inverse_q
    twice_h_qz = (two * dr - ddr * z * inverse_rho) * inverse * inverse
    h_zz = (ddr * rho + two * dr * z) * inverse * inverse
    zero = one - one
    four_h_qq = zero - (z * twice_h_qz + three * twice_h_q) * inverse_q
    return h, twice_h_q, zero - fall, four_h_qq, twice_h_qz, h_zz


def fisheye_near_axis(q, z, distortion, one):
    """What `fisheye` returns, by its power series in q / z^2, z > 0: h = (1 + c1 q / z^2 + c2 q^2 / z^4) / z."""
    k1, k2, _, _ = distortion
    two = one + one
    three, four, five = two + one, two + two, two + two + one
    c1, c2 = k1 - one / three, one / five - k1 + k2
    inverse = one / z
    inverse_2 = inverse * inverse
    inverse_3 = inverse_2 * inverse
    w, zero = q * inverse_2, one - one
    return (
        inverse * (one + w * (c1 + w * c2)),
        inverse_3 * two * (c1 + two * w * c2),
        zero - inverse_2 * (one + w * (three * c1 + five * w * c2)),
        inverse_3 * inverse_2 * two * four * c2,
        zero - inverse_2 * inverse_2 * two * (three * c1 + two * five * w * c2),
        inverse_3 * two * (one + w * (two * three * c1 + three * five * w * c2)),
    )


def fisheye_jacobian(x, y, focal, h, twice_h_q, h_z):
    """Derivative of f h x + c: 2x3."""
    fx, fy = focal
    mixed = twice_h_q * x * y
    return (
        fx * (h + twice_h_q * x * x), fx * mixed, fx * h_z * x,
        fy * mixed, fy * (h + twice_h_q * y * y), fy * h_z * y,
    )  # fmt: skip


def fisheye_adjoint(x, y, focal, shape, g_screen, g_jacobian):
    """Gradients of the point [3] and of fx fy cx cy; `shape` is what `fisheye` returns."""
    fx, fy = focal
    h, twice_h_q, h_z, four_h_qq, twice_h_qz, h_zz = shape
    gx, gy = g_screen
    g_xx, g_xy, g_xz, g_yx, g_yy, g_yz = g_jacobian
    diagonal_x, diagonal_y, mixed = h + twice_h_q * x * x, h + twice_h_q * y * y, twice_h_q * x * y
    g_fx = gx * h * x + g_xx * diagonal_x + g_xy * mixed + g_xz * h_z * x
    g_fy = gy * h * y + g_yx * mixed + g_yy * diagonal_y + g_yz * h_z * y
    px, py = fx * gx, fy * gy
    g_xx, g_yy, g_xz, g_yz = fx * g_xx, fy * g_yy, fx * g_xz, fy * g_yz
    g_mixed = fx * g_xy + fy * g_yx
    g_h = g_xx + g_yy + px * x + py * y
    g_twice_h_q = g_xx * x * x + g_yy * y * y + g_mixed * x * y
    g_h_z = g_xz * x + g_yz * y
    around = g_h * twice_h_q + g_twice_h_q * four_h_qq + g_h_z * twice_h_qz  # times x and y: through q
    g_x = px * h + (g_xx + g_xx) * twice_h_q * x + g_mixed * twice_h_q * y + g_xz * h_z + around * x
    g_y = py * h + (g_yy + g_yy) * twice_h_q * y + g_mixed * twice_h_q * x + g_yz * h_z + around * y
    return (g_x, g_y, g_h * h_z + g_twice_h_q * twice_h_qz + g_h_z * h_zz), (g_fx, g_fy, gx, gy)


def sh_slope_1(c, d):
    """Gradient of the direction [3], from those of the basis functions of degree 1 [3]; `c`: the basis' constants."""
    c0, c1, c2 = c
    d0, d1, d2 = d
    return c2 * d2, c0 * d0, c1 * d1


def sh_slope_2(x, y, z, c, d):
    """The same of degree 2 [5]."""
    c0, c1, c2, c3, c4 = c
    d0, d1, d2, d3, d4 = d
    e0, e1, e2, e3, e4 = c0 * d0, c1 * d1, c2 * d2, c3 * d3, c4 * d4
    e2 = e2 + e2
    e4 = e4 + e4
    return y * e0 + z * e3 + x * (e4 - e2), x * e0 + z * e1 - y * (e2 + e4), y * e1 + x * e3 + (z + z) * e2


def sh_slope_3(x, y, z, c, d):
    """The same of degree 3 [7]."""
    c0, c1, c2, c3, c4, c5, c6 = c
    d0, d1, d2, d3, d4, d5, d6 = d
    e0, e1, e2, e3, e4, e5, e6 = c0 * d0, c1 * d1, c2 * d2, c3 * d3, c4 * d4, c5 * d5, c6 * d6
    xx, yy, zz, xy, yz, xz = x * x, y * y, z * z, x * y, y * z, x * z
    twice_xy, twice_yz, twice_xz = xy + xy, yz + yz, xz + xz
    spread = xx + xx + xx - yy - yy - yy
    ring = zz + zz + zz + zz - xx - yy
    return (
        (twice_xy + twice_xy + twice_xy) * e0 + yz * e1 - twice_xy * e2 - (twice_xz + twice_xz + twice_xz) * e3
        + (ring - xx - xx) * e4 + twice_xz * e5 + spread * e6,
        spread * e0 + xz * e1 + (ring - yy - yy) * e2 - (twice_yz + twice_yz + twice_yz) * e3
        - twice_xy * e4 - twice_yz * e5 - (twice_xy + twice_xy + twice_xy) * e6,
        xy * e1 + (twice_yz + twice_yz + twice_yz + twice_yz) * e2 + (ring + zz + zz - xx - xx - yy - yy) * e3
        + (twice_xz + twice_xz + twice_xz + twice_xz) * e4 + (xx - yy) * e5,
    )  # fmt: skip


def direction_adjoint(offset, inverse, g_direction):
    """Gradient of the offset [3] whose direction is offset * inverse, inverse = 1 / |offset|."""
    x, y, z = offset
    gx, gy, gz = g_direction
    x, y, z = x * inverse, y * inverse, z * inverse
    along = x * gx + y * gy + z * gz
    return inverse * (gx - along * x), inverse * (gy - along * y), inverse * (gz - along * z)
