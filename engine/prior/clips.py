"""Clips: a few posed views each of one scene, in batches, as all training data comes."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST_ALPHA = 0.5  # of a pixel whose depth counts


@dataclass(frozen=True, eq=False)
class Clips:
    """b scenes with v views each, float32, on one device; OpenCV axes, pixel centres at +0.5."""

    rgb: Tensor  # [b, v, 3, h, w] display-referred (sRGB), 0 to 1, on black where alpha is below 1
    depth: Tensor  # [b, v, h, w] z in world units, 0 where unknown
    alpha: Tensor  # [b, v, h, w] 0 to 1; what a clip shows may be an object on nothing
    world_to_camera: Tensor  # [b, v, 4, 4]
    K: Tensor  # [b, v, 3, 3] pixels
    times: Tensor  # [b, v] when each view was taken, 0 to 1 of the clip

    def __post_init__(self) -> None:
        b, v, _, h, w = self.rgb.shape
        wanted = {
            "rgb": (b, v, 3, h, w),
            "depth": (b, v, h, w),
            "alpha": (b, v, h, w),
            "world_to_camera": (b, v, 4, 4),
            "K": (b, v, 3, 3),
            "times": (b, v),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {list(getattr(self, name).shape)}, expected {list(shape)}")

    def __len__(self) -> int:
        return len(self.rgb)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.rgb.shape[-1], self.rgb.shape[-2]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def to(self, device: torch.device | str) -> "Clips":
        """The same clips on another device."""
        return Clips(**{name: tensor.to(device, non_blocking=True) for name, tensor in self.tensors().items()})

    def scenes(self, index: Tensor | slice) -> "Clips":
        """Some of the scenes."""
        return Clips(**{name: tensor[index] for name, tensor in self.tensors().items()})

    def views(self, index: Tensor | Sequence[int] | slice) -> "Clips":
        """Some of the views, the same ones of each scene."""
        return Clips(**{name: tensor[:, index] for name, tensor in self.tensors().items()})


def joined(clips: Sequence[Clips]) -> Clips:
    """All scenes of several batches of one size."""
    return Clips(**{name: torch.cat([getattr(c, name) for c in clips]) for name in clips[0].tensors()})


def normalised(clips: Clips, unit: Tensor | None = None) -> Clips:
    """In the axes of view 0, and in units [b] of the world's, by default those of `unit_of`."""
    pose = clips.world_to_camera.double()
    relative = pose @ torch.linalg.inv(pose[:, :1])
    scale = unit_of(clips) if unit is None else unit.double()
    relative = torch.cat((relative[:, :, :3, :3], relative[:, :, :3, 3:] / scale[:, None, None, None]), -1)
    bottom = pose.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*relative.shape[:2], 1, 4)
    return dataclasses.replace(
        clips,
        world_to_camera=torch.cat((relative, bottom), -2).float(),
        depth=clips.depth / scale[:, None, None, None].float(),
    )


def unit_of(clips: Clips) -> Tensor:
    """[b] float64: the median depth of view 0; where it is nowhere known, how far away the views look together."""
    depth = clips.depth[:, 0].flatten(1).double()
    known = (depth > 0) & (clips.alpha[:, 0].flatten(1) >= LEAST_ALPHA)
    medians = torch.where(known, depth, torch.nan).nanmedian(dim=1).values
    return torch.where(medians.isnan(), common_depth(clips.world_to_camera), medians)


def common_depth(world_to_camera: Tensor) -> Tensor:
    """[b] float64: the depth in view 0 of the point nearest to all views' axes, 2 to 10 times the widest baseline.

    A capture whose cameras look past each other has no such point, hence the bounds; one view alone has depth 1.
    """
    pose = world_to_camera.double()
    axes = pose[:, :, 2, :3]  # [b, v, 3]
    eyes = -torch.einsum("bvji,bvj->bvi", pose[..., :3, :3], pose[..., :3, 3])
    across = torch.eye(3, dtype=pose.dtype, device=pose.device) - axes[..., None] * axes[..., None, :]
    wanted = torch.einsum("bvij,bvj->bi", across, eyes)
    point = torch.linalg.lstsq(across.sum(dim=1), wanted[..., None]).solution[..., 0]
    depth = (pose[:, 0, 2, :3] * point).sum(dim=1) + pose[:, 0, 2, 3]
    baseline = (eyes - eyes[:, :1]).norm(dim=2).amax(dim=1)
    bounded = torch.maximum(torch.minimum(depth.nan_to_num(1e30), 10 * baseline), 2 * baseline)
    return torch.where(baseline > 0, bounded, torch.ones_like(bounded))
