"""What a renderer hands back, and the names of its stages."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from torch import Tensor

STAGES = ("project", "sort", "bin", "blend")  # the spans of every backend, in order
GRADIENT_STAGES = ("blend backward", "project backward")  # those of a backward pass by triton or cpu, in order

Span = Callable[[str], AbstractContextManager[object]]


def no_span(name: str) -> AbstractContextManager[None]:
    """The span that measures nothing."""
    return nullcontext()


class Counts(NamedTuple):
    """How much work a call was, in the backend's own tiles: docs/conventions.md. With `triton` they stay on the GPU."""

    visible: int | Tensor  # splats that reach a picture
    pairs: int | Tensor  # entries in all tile lists
    splat_pixels: int | Tensor  # times a splat was evaluated at a pixel


class Projected(NamedTuple):
    """Splats in the picture plane; zeros for those that are not visible."""

    means2d: Tensor  # [..., n, 2] pixels; its gradient can be retained, and has `absgrad` after a backward that asked
    conics: Tensor  # [..., n, 3] inverse 2D covariance xx, xy, yy, px^-2
    depths: Tensor  # [..., n]
    opacities: Tensor  # [..., n] compensated where antialiased; with exponents, o' of profile.py
    radii: Tensor  # [..., n, 2] int32, pixels, rounded up; 0 where not visible


class Rendering(NamedTuple):
    """Frames in the float type of the scene (float32 unless the backend is `reference`), on its device.

    The leading axes are those of `world_to_camera` before its 4x4: none for one view of one scene. None where nobody
    asked for it.
    """

    rgb: Tensor  # [..., h, w, 3] display-referred, background included
    alpha: Tensor  # [..., h, w]
    depth: Tensor | None  # [..., h, w] expected, world units; 0 where alpha is 0
    counts: Counts
    median: Tensor | None = None  # [..., h, w] depth where the transmittance falls to a half; 0 where it does not
    features: Tensor | None = None  # [..., h, w, N] blended like colour, over zeros
    normals: Tensor | None = None  # [..., h, w, 3] blended like colour, so as long as alpha where all splats agree
    contribution: Tensor | None = None  # [..., n] blending weights of each splat, summed over the pixels
    projected: Projected | None = None
