"""What every backend may count on: the checks at the door of `rasterize`. Kernels index memory without looking."""

import math
import operator

from torch import Tensor

from .constants import MAX_SIDE

SH_COUNTS = (1, 4, 9, 16)  # coefficients a channel of degree 0, 1, 2, 3


def check_scene(tensors: dict[str, Tensor]) -> None:
    """Shapes, one float type, one device.

    Args:
        tensors: means, quats, scales and opacities by name, and any of exponents [..., n], sh [..., n, k, 3]
            (spherical harmonics), colors (those, or RGB [..., n, 3]) and features [..., n, N] or, a view each,
            [..., v, n, N].

    Raises:
        ValueError: something does not fit; the message names it, what it is and what it should be.
    """
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} is a {type(tensor).__name__}, expected a torch tensor")
    means = tensors["means"]
    if means.dim() < 2 or means.shape[-1] != 3:
        raise ValueError(f"means has shape {list(means.shape)}, expected [..., n, 3]")
    lead, n = list(means.shape[:-2]), means.shape[-2]
    if 0 in lead:
        raise ValueError(f"means has shape {list(means.shape)}, expected at least one scene")
    shapes = {"quats": [*lead, n, 4], "scales": [*lead, n, 3], "opacities": [*lead, n]}
    if "exponents" in tensors:
        shapes["exponents"] = [*lead, n]
    for name, shape in shapes.items():
        if list(tensors[name].shape) != shape:
            raise ValueError(f"{name} has shape {list(tensors[name].shape)}, expected {shape}")
    for name in ("sh", "colors"):
        if name in tensors:
            _check_colors(name, list(tensors[name].shape), [*lead, n])
    if "features" in tensors:
        shape = list(tensors["features"].shape)
        shared = shape[:-1] == [*lead, n]
        if not (shared or (shape[:-3] == lead and shape[-2:-1] == [n])) or not shape[-1]:
            raise ValueError(f"features has shape {shape}, expected {[*lead, n]} and a number of channels")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.dtype != means.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, expected one float type, {means.dtype}")
        if tensor.device != means.device:
            raise ValueError(f"{name} is on {tensor.device}, expected one device, {means.device}")


def _check_colors(name: str, shape: list[int], splats: list[int]) -> None:
    if shape[:-2] == splats and shape[-1] == 3 and shape[-2] in SH_COUNTS:
        return
    if name == "colors" and shape == [*splats, 3]:
        return
    wanted = f"[{', '.join(map(str, splats))}, k, 3] with k in {SH_COUNTS}"
    if name == "colors":
        wanted += f", or RGB {[*splats, 3]}"
    raise ValueError(f"{name} has shape {shape}, expected {wanted}")


def color_count(shape: tuple[int, ...], views: int, n: int) -> int:
    """Coefficients a channel of spherical harmonics in colours of this shape; 0 where they are RGB.

    [n, k, 3] is read as harmonics also where it could be RGB a view.

    Raises:
        ValueError: they are neither.
    """
    if len(shape) == 3 and shape[0] == n and shape[1] in SH_COUNTS and shape[2] == 3:
        return shape[1]
    if shape in ((n, 3), (views, n, 3)):
        return 0
    raise ValueError(
        f"colors have shape {list(shape)}: give [{n}, k, 3] with k in {SH_COUNTS}, [{n}, 3] or [{views}, {n}, 3]"
    )


def check_view(world_to_camera: Tensor, K: Tensor, width: int, height: int) -> tuple[int, int]:
    """Shapes [..., 4, 4] and [..., 3, 3] and sizes; on the CPU values too, since looking at a GPU's would wait for it.

    Returns:
        Width and height as plain integers.

    Raises:
        ValueError: something does not fit; the message names it, what it is and what it should be.
    """
    for name, tensor, side in (("world_to_camera", world_to_camera, 4), ("K", K, 3)):
        if not isinstance(tensor, Tensor) or tuple(tensor.shape[-2:]) != (side, side):
            raise ValueError(f"{name} is {_told(tensor)}, expected a tensor of shape [..., {side}, {side}]")
        if not tensor.numel():
            raise ValueError(f"{name} has shape {list(tensor.shape)}, expected at least one camera")
        check_finite(name, tensor)
    if K.device.type == "cpu":
        for fx, fy in K.diagonal(dim1=-2, dim2=-1)[..., :2].reshape(-1, 2).tolist():
            if fx <= 0 or fy <= 0:
                raise ValueError(f"K has focal lengths {fx}, {fy}, expected positive ones, in pixels")
    return _side("width", width), _side("height", height)


def _side(name: str, value: object) -> int:
    try:
        side = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        side = None
    if side is None or isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}, expected an integer number of pixels")
    if not 1 <= side <= MAX_SIDE:
        raise ValueError(f"{name} is {side}, expected 1 to {MAX_SIDE} pixels")
    return side


def expand(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`tensor` spread over the leading axes that it lacks.

    Raises:
        ValueError: it does not spread to `shape`, or is no tensor.
    """
    if isinstance(tensor, Tensor) and tensor.dim() <= len(shape):
        wanted = shape[len(shape) - tensor.dim() :]
        if all(have in (1, want) for have, want in zip(tensor.shape, wanted, strict=True)) and tensor.shape[-1:] == (
            shape[-1],
        ):
            return tensor.expand(shape)
    raise ValueError(f"{name} is {_told(tensor)}, expected a tensor of shape {list(shape)}, leading axes optional")


def check_finite(name: str, tensor: Tensor) -> None:
    """Look for NaN and infinity, unless that would mean to wait for a GPU.

    Raises:
        ValueError: there is some.
    """
    # In Python, for it happens every frame and torch takes longer over so few numbers.
    if tensor.device.type == "cpu" and not all(map(math.isfinite, tensor.flatten().tolist())):
        raise ValueError(f"{name} holds NaN or infinity, expected finite numbers: {tensor.tolist()}")


def check_exponents(exponents: Tensor) -> None:
    """Look for values outside (0, 1] and NaN, unless that would mean to wait for a GPU.

    Raises:
        ValueError: there is one.
    """
    if exponents.device.type == "cpu":
        wrong = ~((exponents > 0) & (exponents <= 1))
        if wrong.any():
            raise ValueError(f"exponents holds {exponents[wrong][0].item():g}, expected numbers above 0, to 1")


def _told(value: object) -> object:
    return list(value.shape) if isinstance(value, Tensor) else type(value).__name__
