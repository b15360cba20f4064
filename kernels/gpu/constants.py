"""The numbers of kernels/constants.py and kernels/views.py as Triton reads them: constexprs."""

import triton.language as tl

from .. import constants as c
from .. import profile as p
from .. import views as v

ALPHA_MAX, ALPHA_MIN, STOP = tl.constexpr(c.ALPHA_MAX), tl.constexpr(c.ALPHA_MIN), tl.constexpr(c.STOP)
LOG2_ALPHA_MIN, TO_EXP2 = tl.constexpr(c.LOG2_ALPHA_MIN), tl.constexpr(c.SQRT_HALF_LOG2E)

# Places in a record.
RECORD, LOG2_OPACITY = tl.constexpr(c.RECORD), tl.constexpr(c.LOG2_OPACITY)
RED, DEPTH = tl.constexpr(c.RED), tl.constexpr(c.DEPTH)

PROFILE = tl.constexpr(p.PROFILE)  # floats of a splat's profile

ORTHOGRAPHIC, FISHEYE = tl.constexpr(v.LENSES["orthographic"]), tl.constexpr(v.LENSES["fisheye"])

# Places in a view's row.
ROW, EYE, SORT = tl.constexpr(v.ROW), tl.constexpr(v.EYE), tl.constexpr(v.SORT)
FX, FY, CX, CY = tl.constexpr(v.FX), tl.constexpr(v.FY), tl.constexpr(v.CX), tl.constexpr(v.CY)
WIDTH, HEIGHT, MAX_ANGLE = tl.constexpr(v.WIDTH), tl.constexpr(v.HEIGHT), tl.constexpr(v.MAX_ANGLE)
LOW_X, HIGH_X = tl.constexpr(v.LOW_X), tl.constexpr(v.HIGH_X)
LOW_Y, HIGH_Y = tl.constexpr(v.LOW_Y), tl.constexpr(v.HIGH_Y)
K1, K2, K3, K4 = tl.constexpr(v.K1), tl.constexpr(v.K2), tl.constexpr(v.K3), tl.constexpr(v.K4)
NEAR, FAR = tl.constexpr(v.NEAR), tl.constexpr(v.FAR)
BLUR, RADIUS_CLIP = tl.constexpr(v.BLUR), tl.constexpr(v.RADIUS_CLIP)
