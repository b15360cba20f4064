"""Project splats to records, in Triton: one lane a splat and group of views, colours in the same pass.

Reads 44 bytes a splat and its colour, 12 k or 3 floats (only 16 bytes of those out of the depth range), and writes a
48-byte record (kernels/constants.py) a view, in three 16-byte stores, and a 4-byte depth key a group. The eyes of a
group share the turned and scaled axes of the splat, its colour and its key. Same formulas as kernels/reference.py, in
float32. Constexpr: COUNT, SH coefficients a channel (0: the colours are RGB); LENS; ANTIALIASED; EYES of a group.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import constants as c
from .. import views as v
from ..arguments import SH_COUNTS
from ..options import Options
from .harmonics import load_four, sh_color

CULLED = 0x7FFFFFFF  # depth key of a splat that is not seen; larger than any depth's bits
BLOCK = 128
LENSES = {"pinhole": 0, "orthographic": 1, "fisheye": 2}

ORTHOGRAPHIC, FISHEYE = tl.constexpr(LENSES["orthographic"]), tl.constexpr(LENSES["fisheye"])
RECORD, CULLED_KEY, HUGE = tl.constexpr(c.RECORD), tl.constexpr(CULLED), tl.constexpr(3.0e38)
ALPHA_MIN, LOG2_ALPHA_MIN = tl.constexpr(c.ALPHA_MIN), tl.constexpr(c.LOG2_ALPHA_MIN)
TO_EXP2, PI = tl.constexpr(c.SQRT_HALF_LOG2E), tl.constexpr(3.14159265358979)
ROW, EYE, SORT = tl.constexpr(v.ROW), tl.constexpr(v.EYE), tl.constexpr(v.SORT)
FX, FY, CX, CY = tl.constexpr(v.FX), tl.constexpr(v.FY), tl.constexpr(v.CX), tl.constexpr(v.CY)
WIDTH, HEIGHT, MAX_ANGLE = tl.constexpr(v.WIDTH), tl.constexpr(v.HEIGHT), tl.constexpr(v.MAX_ANGLE)
LOW_X, HIGH_X = tl.constexpr(v.LOW_X), tl.constexpr(v.HIGH_X)
LOW_Y, HIGH_Y = tl.constexpr(v.LOW_Y), tl.constexpr(v.HIGH_Y)
K1, K2, K3, K4 = tl.constexpr(v.K1), tl.constexpr(v.K2), tl.constexpr(v.K3), tl.constexpr(v.K4)
NEAR, FAR = tl.constexpr(v.NEAR), tl.constexpr(v.FAR)
BLUR, RADIUS_CLIP = tl.constexpr(v.BLUR), tl.constexpr(v.RADIUS_CLIP)


@triton.jit
def _store_four(pointers, a, b, c, d, mask):
    fours = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (pointers.shape[0], 4))
    tl.store(pointers[:, None] + tl.arange(0, 4)[None, :], fours, mask=mask[:, None])


@triton.jit
def _to_camera(row, mx, my, mz):
    x = tl.load(row) * mx + tl.load(row + 1) * my + tl.load(row + 2) * mz + tl.load(row + 3)
    y = tl.load(row + 4) * mx + tl.load(row + 5) * my + tl.load(row + 6) * mz + tl.load(row + 7)
    z = tl.load(row + 8) * mx + tl.load(row + 9) * my + tl.load(row + 10) * mz + tl.load(row + 11)
    return x, y, z


@triton.jit
def _depth(x, y, z, LENS: tl.constexpr):
    if LENS == FISHEYE:
        z = tl.sqrt(x * x + y * y + z * z)
    return z


@triton.jit
def _scaled_axes(quats, scales, i, mask):
    """Columns of rotation times scale, x, y, z of the first axis, then of the others; and where there is a rotation."""
    qw, qx, qy, qz = load_four(quats + 4 * i, mask)
    square = qw * qw + qx * qx + qy * qy + qz * qz
    turned = mask & (square > 0.0)
    two = 2.0 / tl.where(turned, square, 1.0)
    s0 = tl.load(scales + 3 * i, mask=mask, other=0.0)
    s1 = tl.load(scales + 3 * i + 1, mask=mask, other=0.0)
    s2 = tl.load(scales + 3 * i + 2, mask=mask, other=0.0)
    m00, m10, m20 = 1.0 - two * (qy * qy + qz * qz), two * (qx * qy + qw * qz), two * (qx * qz - qw * qy)
    m01, m11, m21 = two * (qx * qy - qw * qz), 1.0 - two * (qx * qx + qz * qz), two * (qy * qz + qw * qx)
    m02, m12, m22 = two * (qx * qz + qw * qy), two * (qy * qz - qw * qx), 1.0 - two * (qx * qx + qy * qy)
    return m00 * s0, m10 * s0, m20 * s0, m01 * s1, m11 * s1, m21 * s1, m02 * s2, m12 * s2, m22 * s2, turned


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
def _lens(row, x, y, z, depth, visible, LENS: tl.constexpr):
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
def _direction(row, mx, my, mz):
    """From the eye to the splat: a unit vector, and the distance."""
    dx, dy, dz = mx - tl.load(row + EYE), my - tl.load(row + EYE + 1), mz - tl.load(row + EYE + 2)
    square = tl.maximum(dx * dx + dy * dy + dz * dz, 1e-30)
    inverse = tl.rsqrt(square)
    return dx * inverse, dy * inverse, dz * inverse, square * inverse


@triton.jit
def _jacobian_row(row, AXIS: tl.constexpr, own, cross, along, LENS: tl.constexpr):
    """One row of the Jacobian times the world-to-camera rotation; terms that a lens has not are left out."""
    a, b, c = (
        own * tl.load(row + 4 * AXIS),
        own * tl.load(row + 4 * AXIS + 1),
        own * tl.load(row + 4 * AXIS + 2),
    )
    if LENS == FISHEYE:
        a += cross * tl.load(row + 4 - 4 * AXIS)
        b += cross * tl.load(row + 5 - 4 * AXIS)
        c += cross * tl.load(row + 6 - 4 * AXIS)
    if LENS != ORTHOGRAPHIC:
        a += along * tl.load(row + 8)
        b += along * tl.load(row + 9)
        c += along * tl.load(row + 10)
    return a, b, c


@triton.jit
def _footprint(
    row, x, y, z, depth, visible, opacity,
    m00, m10, m20, m01, m11, m21, m02, m12, m22,
    LENS: tl.constexpr, ANTIALIASED: tl.constexpr,
):  # fmt: skip
    """The splat in one view: mean, factor of the conic, log2 of the opacity, extents, and whether it is seen."""
    mean_x, mean_y, xx, xy, xz, yx, yy, yz, visible = _lens(row, x, y, z, depth, visible, LENS)
    ax, ay, az = _jacobian_row(row, 0, xx, xy, xz, LENS)
    bx, by, bz = _jacobian_row(row, 1, yy, yx, yz, LENS)
    # The two rows whose products are the 2D covariance.
    a0, b0 = ax * m00 + ay * m10 + az * m20, bx * m00 + by * m10 + bz * m20
    a1, b1 = ax * m01 + ay * m11 + az * m21, bx * m01 + by * m11 + bz * m21
    a2, b2 = ax * m02 + ay * m12 + az * m22, bx * m02 + by * m12 + bz * m22
    blur = tl.load(row + BLUR)
    xx = a0 * a0 + a1 * a1 + a2 * a2 + blur
    xy = a0 * b0 + a1 * b1 + a2 * b2
    yy = b0 * b0 + b1 * b1 + b2 * b2 + blur
    # Determinant as a sum of terms that are never negative (see reference.project).
    k0, k1, k2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
    sharp = k0 * k0 + k1 * k1 + k2 * k2
    determinant = sharp + blur * (xx + yy - blur)
    visible &= (determinant > 0.0) & (determinant < HUGE)  # infinities and NaN fail such comparisons
    determinant, yy = tl.where(visible, determinant, 1.0), tl.where(visible, yy, 1.0)
    if ANTIALIASED:
        opacity *= tl.sqrt(sharp / determinant)
        visible &= opacity >= ALPHA_MIN
    log2_opacity = tl.log2(tl.where(visible, opacity, 1.0))
    l0 = TO_EXP2 * tl.sqrt(yy / determinant)
    l1 = -l0 * xy / yy
    l2 = tl.rsqrt(yy) * TO_EXP2
    reach = tl.sqrt(tl.maximum(log2_opacity - LOG2_ALPHA_MIN, 0.0)) * (1.0 / TO_EXP2)  # standard deviations
    extent_x, extent_y = reach * tl.sqrt(xx), reach * tl.sqrt(yy)
    visible &= (mean_x + extent_x > 0.0) & (mean_x - extent_x < tl.load(row + WIDTH))
    visible &= (mean_y + extent_y > 0.0) & (mean_y - extent_y < tl.load(row + HEIGHT))
    clip = tl.load(row + RADIUS_CLIP)
    visible &= tl.maximum(extent_x, extent_y) > tl.where(clip > 0.0, clip, -1.0)
    visible &= (l0 > 0.0) & (l0 < HUGE) & (tl.abs(l1) < HUGE) & (extent_x < HUGE) & (extent_y < HUGE)
    return mean_x, mean_y, l0, l1, l2, log2_opacity, extent_x, extent_y, visible


@triton.jit
def project_kernel(
    # scene:
    means, quats, scales, opacities, colors,  # [n, 3] [n, 4] [n, 3] [n] [n, k, 3] or [n, 3] or [v, n, 3]
    # camera:
    rows,  # [v, 40] kernels/views.py
    # out:
    records_out, keys_out,  # [v, n, 12] [g, n]
    n,
    colors_stride,  # floats from one view's RGB to the next; 0 where they share it
    COUNT: tl.constexpr, LENS: tl.constexpr, ANTIALIASED: tl.constexpr, EYES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    group = tl.program_id(1).to(tl.int64)
    rows += group * EYES * ROW
    mask = i < n
    mx = tl.load(means + 3 * i, mask=mask, other=0.0)
    my = tl.load(means + 3 * i + 1, mask=mask, other=0.0)
    mz = tl.load(means + 3 * i + 2, mask=mask, other=0.0)
    opacity = tl.load(opacities + i, mask=mask, other=0.0)
    in_range = i < 0
    for eye in tl.static_range(EYES):
        x, y, z = _to_camera(rows + eye * ROW, mx, my, mz)
        depth = _depth(x, y, z, LENS)
        in_range |= (depth > tl.load(rows + eye * ROW + NEAR)) & (depth < tl.load(rows + eye * ROW + FAR))
    candidate = mask & (opacity >= ALPHA_MIN) & in_range
    m00, m10, m20, m01, m11, m21, m02, m12, m22, candidate = _scaled_axes(quats, scales, i, candidate)

    seen = i < 0
    l2s, logs, depths, extents_x, extents_y, sees = (), (), (), (), (), ()
    for eye in tl.static_range(EYES):
        row = rows + eye * ROW
        x, y, z = _to_camera(row, mx, my, mz)
        depth = _depth(x, y, z, LENS)
        visible = candidate & (depth > tl.load(row + NEAR)) & (depth < tl.load(row + FAR))
        mean_x, mean_y, l0, l1, l2, log2_opacity, extent_x, extent_y, visible = _footprint(
            row, x, y, z, depth, visible, opacity, m00, m10, m20, m01, m11, m21, m02, m12, m22, LENS, ANTIALIASED
        )
        seen |= visible
        _store_four(records_out + RECORD * ((group * EYES + eye) * n + i), mean_x, mean_y, l0, l1, visible)
        l2s, logs, depths, sees = l2s + (l2,), logs + (log2_opacity,), depths + (depth,), sees + (visible,)
        extents_x += (tl.where(visible, extent_x, -1.0),)  # what it is where only another eye sees the splat
        extents_y += (tl.where(visible, extent_y, -1.0),)

    dx, dy, dz, distance = _direction(rows, mx, my, mz)
    red, green, blue = sh_color(colors, i, seen, dx, dy, dz, COUNT, 4 if COUNT % 4 == 0 else 1)
    for eye in tl.static_range(EYES):
        view = group * EYES + eye
        if COUNT == 0:  # and no coefficient was read
            color = colors + view * colors_stride + 3 * i
            red = tl.load(color, mask=sees[eye], other=0.0)
            green = tl.load(color + 1, mask=sees[eye], other=0.0)
            blue = tl.load(color + 2, mask=sees[eye], other=0.0)
        record = records_out + RECORD * (view * n + i)
        _store_four(record + 4, l2s[eye], logs[eye], red, green, sees[eye])
        _store_four(record + 8, blue, depths[eye], extents_x[eye], extents_y[eye], seen)

    if LENS == FISHEYE:
        key = distance
    else:
        key = (
            tl.load(rows + SORT) * mx
            + tl.load(rows + SORT + 1) * my
            + tl.load(rows + SORT + 2) * mz
            + tl.load(rows + SORT + 3)
        )
    bits = tl.maximum(key, 0.0).to(tl.int32, bitcast=True)
    tl.store(keys_out + group * n + i, tl.where(seen, bits, CULLED_KEY), mask=mask)


def color_count(colors: Tensor, views: int, n: int) -> int:
    """SH coefficients a channel in `colors`; 0 where they are RGB."""
    if colors.dim() == 3 and colors.shape[0] == n and colors.shape[1] in SH_COUNTS:
        return colors.shape[1]
    if tuple(colors.shape) in ((n, 3), (views, n, 3)):
        return 0
    raise ValueError(
        f"colors have shape {list(colors.shape)}: give [{n}, k, 3] with k in {SH_COUNTS}, [{n}, 3] or [{views}, {n}, 3]"
    )


def project(
    # scene:
    means: Tensor,  # [n, 3] float32, on the device, contiguous like the rest
    quats: Tensor,  # [n, 4]
    scales: Tensor,  # [n, 3]
    opacities: Tensor,  # [n]
    colors: Tensor,  # [n, k, 3] SH, or RGB: [n, 3] or [v, n, 3]
    # camera:
    rows: Tensor,  # [v, 40] float32 (kernels/views.py); each `eyes` neighbours are a group
    *,
    options: Options,
    eyes: int = 1,
) -> tuple[Tensor, Tensor]:
    """Records [v, n, 12] float32 and depth keys [v / eyes, n] int32, `CULLED` where no eye of the group sees the splat.

    Records of splats that no eye sees stay unwritten. Where only the other eye sees it, a record's extents are -1 and
    the rest of it says nothing. [n, k, 3] is read as SH also where it could be RGB a view.

    Raises:
        ValueError: colors of another shape, views that are no multiple of `eyes`, or 2^31 records or more.
    """
    n, views = len(means), len(rows)
    if views % eyes:
        raise ValueError(f"{views} views are no groups of {eyes} eyes")
    if views * n >= 1 << 31:
        raise ValueError(f"{views} views of {n} splats are 2^31 records or more: render fewer views at a time")
    count = color_count(colors, views, n)
    records = torch.empty(views, n, c.RECORD, dtype=torch.float32, device=means.device)
    keys = torch.empty(views // eyes, n, dtype=torch.int32, device=means.device)
    if keys.numel() == 0:
        return records, keys
    project_kernel[(triton.cdiv(n, BLOCK), views // eyes)](
        means, quats, scales, opacities, colors, rows, records, keys, n,
        3 * n if count == 0 and colors.dim() == 3 else 0,
        COUNT=count, LENS=LENSES[options.lens], ANTIALIASED=options.antialiased, EYES=eyes, BLOCK=BLOCK,
        enable_fp_fusion=True,
    )  # fmt: skip
    return records, keys
