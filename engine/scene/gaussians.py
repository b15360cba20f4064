"""A scene of 3D Gaussians held as five tensors, and the checks that it passes on its way in."""

import dataclasses
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...kernels.arguments import SH_COUNTS, check_scene
from ...kernels.constants import SH_C0
from ..errors import InputError


@dataclass(frozen=True, eq=False)
class Gaussians:
    """n Gaussians, in world units, all tensors of one float type on one device.

    Shapes are checked on construction; values are not (see `drop_invalid`).

    Raises:
        InputError: a shape, the number of SH coefficients, a type or a device does not fit.
    """

    means: Tensor  # [n, 3] centres
    quats: Tensor  # [n, 4] rotations, wxyz, normalised on use; any length from 1e-15 to 1e15
    scales: Tensor  # [n, 3] standard deviations along the rotated axes, linear
    opacities: Tensor  # [n] in 0..1 (above 1 only on inner nodes of a level-of-detail tree)
    sh: Tensor  # [n, k, 3] spherical harmonics, k in 1, 4, 9, 16, basis signs of 3DGS

    def __post_init__(self) -> None:
        try:
            check_scene(self.tensors())
            if self.means.dim() != 2:
                raise ValueError(f"means has shape {list(self.means.shape)}, expected [n, 3]: one scene at a time")
        except ValueError as error:
            raise InputError(str(error)) from None

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """0 to 3."""
        return SH_COUNTS.index(self.sh.shape[1])

    def tensors(self) -> dict[str, Tensor]:
        """The five tensors by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Gaussians":
        """The same scene on another device or in another float type."""
        return Gaussians(**{name: tensor.to(device=device, dtype=dtype) for name, tensor in self.tensors().items()})

    def select(self, index: Tensor | slice) -> "Gaussians":
        """The splats that a boolean mask, an index tensor or a slice names."""
        if isinstance(index, Tensor) and index.dtype == torch.bool:
            index = index.nonzero()[:, 0]
        if isinstance(index, Tensor):  # several times as fast as brackets
            return Gaussians(**{name: tensor.index_select(0, index) for name, tensor in self.tensors().items()})
        return Gaussians(**{name: tensor[index] for name, tensor in self.tensors().items()})


def empty_scene(count: int, sh_count: int) -> Gaussians:
    """A scene to write into, float32 on the CPU; its SH [count, sh_count, 3] are 0, the rest is what was in memory."""
    widths = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": ()}  # NumPy asks for large pages of memory
    plain = {name: torch.from_numpy(np.empty((count, *width), np.float32)) for name, width in widths.items()}
    return Gaussians(**plain, sh=torch.from_numpy(np.zeros((count, sh_count, 3), np.float32)))


def base_colors(gaussians: Gaussians) -> Tensor:
    """[n, 3] RGB without the view-dependent parts; 0..1 is what a screen shows, but values may lie outside."""
    return gaussians.sh[:, 0] * SH_C0 + 0.5


def merge(scenes: list[Gaussians]) -> Gaussians:
    """All splats of several scenes, in order; those of a lower SH degree get zeros."""
    if len(scenes) == 1:
        return scenes[0]
    k = max(scene.sh.shape[1] for scene in scenes)
    count = sum(map(len, scenes))
    merged = {name: tensor.new_zeros(count, *tensor.shape[1:]) for name, tensor in scenes[0].tensors().items()}
    merged["sh"] = scenes[0].sh.new_zeros(count, k, 3)
    start = 0
    for scene in scenes:
        for name, tensor in scene.tensors().items():
            rows = merged[name][start : start + len(scene)]
            (rows[:, : tensor.shape[1]] if name == "sh" else rows).copy_(tensor)
        start += len(scene)
    return Gaussians(**merged)


def limit_sh(gaussians: Gaussians, degree: int) -> Gaussians:
    """The scene with spherical harmonics up to a degree, 0 to 3; a lower one stays as it is."""
    if gaussians.sh_degree <= degree:
        return gaussians
    return dataclasses.replace(gaussians, sh=gaussians.sh[:, : SH_COUNTS[degree]].contiguous())


def drop_invalid(gaussians: Gaussians) -> Gaussians:
    """Without the splats that hold a NaN or an infinity, a negative scale or opacity, or a zero quaternion.

    Warns with their number when there are any; the rest is returned unchanged.

    Raises:
        InputError: nothing is left.
    """
    valid = valid_splats(gaussians)
    dropped = len(gaussians) - int(valid.sum())
    if dropped == len(gaussians):
        raise InputError(f"no valid splats among {len(gaussians)}: the scene is empty, give one with finite values")
    if dropped:
        warnings.warn(f"dropped {dropped} of {len(gaussians)} splats: NaN, Inf or out of range", stacklevel=2)
        return gaussians.select(valid)
    return gaussians


def valid_splats(gaussians: Gaussians) -> Tensor:
    """[n] bool, False for splats with a NaN or an infinity, a negative scale or opacity, or a zero quaternion."""
    if _surely_valid(gaussians):
        return torch.ones(len(gaussians), dtype=torch.bool, device=gaussians.means.device)
    valid = (gaussians.scales >= 0).all(dim=1) & (gaussians.opacities >= 0) & (gaussians.quats != 0).any(dim=1)
    for tensor in gaussians.tensors().values():
        valid &= torch.isfinite(tensor.flatten(1) if tensor.dim() > 1 else tensor[:, None]).all(dim=1)
    return valid


def _surely_valid(gaussians: Gaussians) -> bool:
    """A quick look: sums carry every NaN and infinity. False proves nothing, for a sum may also overflow."""
    sums = torch.stack([tensor.sum() for tensor in gaussians.tensors().values()])
    return bool(
        len(gaussians)
        and torch.isfinite(sums).all()
        and gaussians.scales.min() >= 0
        and gaussians.opacities.min() >= 0
        and (gaussians.quats.square().sum(dim=1) > 0).all()
    )
