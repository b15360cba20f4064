"""Project splats to records, in Triton: one lane a splat, spherical harmonics in the same pass.

Reads 44 + 12 k bytes a splat (only 12 for those behind the camera) and writes a 48-byte record (kernels/constants.py)
and a 4-byte depth key. Same formulas as kernels/reference.py, in float32. Constexpr: COUNT, SH coefficients a channel.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import constants as c

CULLED = 0x7FFFFFFF  # depth key of a splat that is not seen; larger than any depth's bits
BLOCK = 128

BLUR, NEAR, ALPHA_MIN = tl.constexpr(c.BLUR), tl.constexpr(c.NEAR), tl.constexpr(c.ALPHA_MIN)
LOG2_ALPHA_MIN, TO_EXP2 = tl.constexpr(c.LOG2_ALPHA_MIN), tl.constexpr(c.SQRT_HALF_LOG2E)
RECORD, CULLED_KEY = tl.constexpr(c.RECORD), tl.constexpr(CULLED)
C0, C1 = tl.constexpr(c.SH_C0), tl.constexpr(c.SH_C1)
C20, C21, C22, C23, C24 = (tl.constexpr(value) for value in c.SH_C2)
C30, C31, C32, C33, C34, C35, C36 = (tl.constexpr(value) for value in c.SH_C3)


@triton.jit
def _sh_color(sh, mask, x, y, z, COUNT: tl.constexpr):
    """One channel; `sh` points at its first coefficient, coefficients lie 3 floats apart."""
    color = 0.5 + C0 * tl.load(sh, mask=mask, other=0.0)
    if COUNT > 1:
        color -= C1 * y * tl.load(sh + 3, mask=mask, other=0.0)
        color += C1 * z * tl.load(sh + 6, mask=mask, other=0.0)
        color -= C1 * x * tl.load(sh + 9, mask=mask, other=0.0)
    if COUNT > 4:
        xx, yy, zz = x * x, y * y, z * z
        color += C20 * x * y * tl.load(sh + 12, mask=mask, other=0.0)
        color += C21 * y * z * tl.load(sh + 15, mask=mask, other=0.0)
        color += C22 * (2 * zz - xx - yy) * tl.load(sh + 18, mask=mask, other=0.0)
        color += C23 * x * z * tl.load(sh + 21, mask=mask, other=0.0)
        color += C24 * (xx - yy) * tl.load(sh + 24, mask=mask, other=0.0)
        if COUNT > 9:
            color += C30 * y * (3 * xx - yy) * tl.load(sh + 27, mask=mask, other=0.0)
            color += C31 * x * y * z * tl.load(sh + 30, mask=mask, other=0.0)
            color += C32 * y * (4 * zz - xx - yy) * tl.load(sh + 33, mask=mask, other=0.0)
            color += C33 * z * (2 * zz - 3 * (xx + yy)) * tl.load(sh + 36, mask=mask, other=0.0)
            color += C34 * x * (4 * zz - xx - yy) * tl.load(sh + 39, mask=mask, other=0.0)
            color += C35 * z * (xx - yy) * tl.load(sh + 42, mask=mask, other=0.0)
            color += C36 * x * (xx - 3 * yy) * tl.load(sh + 45, mask=mask, other=0.0)
    return tl.maximum(color, 0.0)


@triton.jit
def project_kernel(
    # scene:
    means, quats, scales, opacities, sh,  # [n, 3] [n, 4] [n, 3] [n] [n, k, 3]
    # camera:
    camera,  # [25]: pose 3x4, eye 3, fx fy cx cy width height, slope limits low_x high_x low_y high_y
    # out:
    records_out, keys_out,  # [n, 12] [n]
    n,
    COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    mx = tl.load(means + 3 * i, mask=mask, other=0.0)
    my = tl.load(means + 3 * i + 1, mask=mask, other=0.0)
    mz = tl.load(means + 3 * i + 2, mask=mask, other=0.0)
    w00, w01, w02, w03 = tl.load(camera), tl.load(camera + 1), tl.load(camera + 2), tl.load(camera + 3)
    w10, w11, w12, w13 = tl.load(camera + 4), tl.load(camera + 5), tl.load(camera + 6), tl.load(camera + 7)
    w20, w21, w22, w23 = tl.load(camera + 8), tl.load(camera + 9), tl.load(camera + 10), tl.load(camera + 11)
    z = w20 * mx + w21 * my + w22 * mz + w23
    opacity = tl.load(opacities + i, mask=mask, other=0.0)
    visible = mask & (z > NEAR) & (opacity >= ALPHA_MIN)

    x = w00 * mx + w01 * my + w02 * mz + w03
    y = w10 * mx + w11 * my + w12 * mz + w13
    fx, fy, cx, cy = tl.load(camera + 15), tl.load(camera + 16), tl.load(camera + 17), tl.load(camera + 18)
    width, height = tl.load(camera + 19), tl.load(camera + 20)
    inverse_z = 1.0 / tl.where(visible, z, 1.0)
    slope_x, slope_y = x * inverse_z, y * inverse_z
    screen_x, screen_y = fx * slope_x + cx, fy * slope_y + cy
    slope_x = tl.minimum(tl.maximum(slope_x, tl.load(camera + 21)), tl.load(camera + 22))
    slope_y = tl.minimum(tl.maximum(slope_y, tl.load(camera + 23)), tl.load(camera + 24))

    # Rows of the Jacobian times the world-to-camera rotation: [2, 3].
    jx, jy = fx * inverse_z, fy * inverse_z
    ax, ay, az = jx * (w00 - slope_x * w20), jx * (w01 - slope_x * w21), jx * (w02 - slope_x * w22)
    bx, by, bz = jy * (w10 - slope_y * w20), jy * (w11 - slope_y * w21), jy * (w12 - slope_y * w22)

    qw = tl.load(quats + 4 * i, mask=visible, other=1.0)
    qx = tl.load(quats + 4 * i + 1, mask=visible, other=0.0)
    qy = tl.load(quats + 4 * i + 2, mask=visible, other=0.0)
    qz = tl.load(quats + 4 * i + 3, mask=visible, other=0.0)
    two = 2.0 / (qw * qw + qx * qx + qy * qy + qz * qz)
    r00, r10, r20 = 1.0 - two * (qy * qy + qz * qz), two * (qx * qy + qw * qz), two * (qx * qz - qw * qy)
    r01, r11, r21 = two * (qx * qy - qw * qz), 1.0 - two * (qx * qx + qz * qz), two * (qy * qz + qw * qx)
    r02, r12, r22 = two * (qx * qz + qw * qy), two * (qy * qz - qw * qx), 1.0 - two * (qx * qx + qy * qy)
    s0 = tl.load(scales + 3 * i, mask=visible, other=0.0)
    s1 = tl.load(scales + 3 * i + 1, mask=visible, other=0.0)
    s2 = tl.load(scales + 3 * i + 2, mask=visible, other=0.0)
    # The two rows whose products are the 2D covariance.
    a0, b0 = s0 * (ax * r00 + ay * r10 + az * r20), s0 * (bx * r00 + by * r10 + bz * r20)
    a1, b1 = s1 * (ax * r01 + ay * r11 + az * r21), s1 * (bx * r01 + by * r11 + bz * r21)
    a2, b2 = s2 * (ax * r02 + ay * r12 + az * r22), s2 * (bx * r02 + by * r12 + bz * r22)
    xx = a0 * a0 + a1 * a1 + a2 * a2 + BLUR
    xy = a0 * b0 + a1 * b1 + a2 * b2
    yy = b0 * b0 + b1 * b1 + b2 * b2 + BLUR
    # Determinant as a sum of terms that are never negative (see reference.project).
    k0, k1, k2 = a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0
    determinant = k0 * k0 + k1 * k1 + k2 * k2 + BLUR * (xx + yy - BLUR)
    l0 = TO_EXP2 * tl.sqrt(yy / determinant)
    l1 = -l0 * xy / yy
    log2_opacity = tl.log2(tl.where(visible, opacity, 1.0))
    reach = tl.sqrt(tl.maximum(log2_opacity - LOG2_ALPHA_MIN, 0.0)) * (1.0 / TO_EXP2)  # standard deviations
    extent_x, extent_y = reach * tl.sqrt(xx), reach * tl.sqrt(yy)
    visible &= (screen_x + extent_x > 0.0) & (screen_x - extent_x < width)
    visible &= (screen_y + extent_y > 0.0) & (screen_y - extent_y < height)
    huge = 3.0e38  # infinities and NaN fail these comparisons
    visible &= (l0 > 0.0) & (l0 < huge) & (tl.abs(l1) < huge) & (extent_x < huge) & (extent_y < huge)

    dx, dy, dz = mx - tl.load(camera + 12), my - tl.load(camera + 13), mz - tl.load(camera + 14)
    inverse = 1.0 / tl.sqrt(tl.maximum(dx * dx + dy * dy + dz * dz, 1e-30))
    dx, dy, dz = dx * inverse, dy * inverse, dz * inverse
    record = records_out + RECORD * i
    tl.store(record, screen_x, mask=visible)
    tl.store(record + 1, screen_y, mask=visible)
    tl.store(record + 2, l0, mask=visible)
    tl.store(record + 3, l1, mask=visible)
    tl.store(record + 4, tl.rsqrt(yy) * TO_EXP2, mask=visible)
    tl.store(record + 5, log2_opacity, mask=visible)
    for channel in tl.static_range(3):
        color = _sh_color(sh + 3 * COUNT * i + channel, visible, dx, dy, dz, COUNT)
        tl.store(record + 6 + channel, color, mask=visible)
    tl.store(record + 9, z, mask=visible)
    tl.store(record + 10, extent_x, mask=visible)
    tl.store(record + 11, extent_y, mask=visible)
    tl.store(keys_out + i, tl.where(visible, z.to(tl.int32, bitcast=True), CULLED_KEY), mask=mask)


def _pack_camera(world_to_camera: Tensor, K: Tensor, width: int, height: int) -> Tensor:
    pose, fx, fy, cx, cy = world_to_camera[:3], K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    eye = -pose[:, :3].T @ pose[:, 3]
    margin_x, margin_y = c.FRUSTUM_MARGIN * 0.5 * width / fx, c.FRUSTUM_MARGIN * 0.5 * height / fy
    limits = (-cx / fx - margin_x, (width - cx) / fx + margin_x, -cy / fy - margin_y, (height - cy) / fy + margin_y)
    lens = torch.stack((fx, fy, cx, cy, fx.new_tensor(width), fx.new_tensor(height), *limits))
    return torch.cat((pose.flatten(), eye, lens)).float()


def project(
    # scene:
    means: Tensor,  # [n, 3] float32, on the device, contiguous like the rest
    quats: Tensor,  # [n, 4]
    scales: Tensor,  # [n, 3]
    opacities: Tensor,  # [n]
    sh: Tensor,  # [n, k, 3]
    # camera:
    world_to_camera: Tensor,  # [4, 4]
    K: Tensor,  # [3, 3]
    width: int,
    height: int,
) -> tuple[Tensor, Tensor]:
    """Records [n, 12] float32, filled for visible splats only, and depth keys [n] int32 (`CULLED` where not seen)."""
    n = len(means)
    camera = _pack_camera(world_to_camera, K.to(world_to_camera), width, height).to(means.device)
    records = torch.empty(n, c.RECORD, dtype=torch.float32, device=means.device)
    keys = torch.empty(n, dtype=torch.int32, device=means.device)
    grid = (triton.cdiv(n, BLOCK),)
    project_kernel[grid](
        means, quats, scales, opacities, sh, camera, records, keys, n,
        COUNT=sh.shape[1], BLOCK=BLOCK, enable_fp_fusion=True,
    )  # fmt: skip
    return records, keys
