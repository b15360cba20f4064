"""What every backend may count on: the checks at the door of `rasterize`. Kernels index memory without looking."""

import math
import operator

from torch import Tensor

from .constants import MAX_SIDE

SH_COUNTS = (1, 4, 9, 16)  # coefficients a channel of degree 0, 1, 2, 3


def check_scene(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, sh: Tensor) -> None:
    """Shapes, one float type, one device.

    Raises:
        ValueError: something does not fit; the message names it, what it is and what it should be.
    """
    tensors = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "sh": sh}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}, expected a torch tensor")
    n = len(means) if means.dim() else 0
    shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,)}
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} has shape {list(tensors[name].shape)}, expected {list(shape)}")
    if sh.dim() != 3 or sh.shape[0] != n or sh.shape[1] not in SH_COUNTS or sh.shape[2] != 3:
        raise ValueError(f"sh has shape {list(sh.shape)}, expected [{n}, k, 3] with k in {SH_COUNTS}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.dtype != means.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, expected one float type, {means.dtype}")
        if tensor.device != means.device:
            raise ValueError(f"{name} is on {tensor.device}, expected one device, {means.device}")


def check_view(world_to_camera: Tensor, K: Tensor, width: int, height: int, background: Tensor | None) -> None:
    """Shapes and sizes; values too where they lie on the CPU, since looking at a GPU's would wait for it.

    Raises:
        ValueError: something does not fit; the message names it, what it is and what it should be.
    """
    views = {"world_to_camera": (world_to_camera, (4, 4)), "K": (K, (3, 3)), "background": (background, (3,))}
    for name, (tensor, shape) in views.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            said = list(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(f"{name} is {said}, expected a tensor of shape {list(shape)}")
        # In Python, for it happens every frame and torch takes longer over so few numbers.
        if tensor.device.type == "cpu" and not all(map(math.isfinite, tensor.flatten().tolist())):
            raise ValueError(f"{name} holds NaN or infinity, expected finite numbers: {tensor.tolist()}")
    if K.device.type == "cpu":
        (fx, _, _), (_, fy, _), _ = K.tolist()
        if fx <= 0 or fy <= 0:
            raise ValueError(f"K has focal lengths {fx}, {fy}, expected positive ones, in pixels")
    for name, value in (("width", width), ("height", height)):
        try:
            inside = 1 <= operator.index(value) <= MAX_SIDE
        except TypeError:
            raise ValueError(f"{name} is {value!r}, expected an integer number of pixels") from None
        if not inside:
            raise ValueError(f"{name} is {value}, expected 1 to {MAX_SIDE} pixels")
