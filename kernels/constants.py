"""The numbers that decide parity with 3DGS and gsplat; every backend takes them from here."""

import math

BLUR = 0.3  # px^2 added to the diagonal of the 2D covariance
NEAR = 0.01  # world units; a splat whose centre is nearer is culled
ALPHA_MAX = 0.99
ALPHA_MIN = 1.0 / 255.0  # a splat that covers a pixel less is skipped there
STOP = 1e-4  # a pixel stops before the splat that would bring its transmittance to this or below
FRUSTUM_MARGIN = (
    0.3  # x/z and y/z in the Jacobian are clamped to the frustum plus this share of tan(half field of view)
)

LOG2_ALPHA_MIN = math.log2(ALPHA_MIN)
SQRT_HALF_LOG2E = math.sqrt(0.5 * math.log2(math.e))  # exp(-s/2) = exp2(-(SQRT_HALF_LOG2E^2) s)

MAX_SIDE = 16384  # pixels of a picture, either way

CLUSTER = 256  # neighbouring nodes of a hierarchy that share a bound
FADING = 16  # one over the share of a budget that is kept for parents that fade while their children arrive
FAINTEST = 1e-6  # exponent of children that have only begun to arrive

# One record a visible splat, 12 floats. The exponent of alpha at an offset (dx, dy) from the mean is
# log2(opacity) - u^2 - v^2 with u = l0 dx + l1 dy and v = l2 dy: the Cholesky factor of the conic, scaled for exp2.
# Unlike A dx^2 + 2B dx dy + C dy^2 it does not cancel, so that needles stay exact in float32.
RECORD = 12
MEAN_X, MEAN_Y, L0, L1, L2, LOG2_OPACITY, RED, GREEN, BLUE, DEPTH, EXTENT_X, EXTENT_Y = range(RECORD)

# Real spherical harmonics, 3DGS basis signs (Sloan, "Stupid Spherical Harmonics Tricks", 2008, appendix A2).
SH_C0 = 0.28209479177387814
SH_C1 = 0.4886025119029199
SH_C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
SH_C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)
