"""Arguments of gsplat's `rasterization` in the terms of Lyra, and a word on those that Lyra has no terms for."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ..options import Lens

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
LENSES: dict[str, Lens] = {"pinhole": "pinhole", "ortho": "orthographic", "fisheye": "fisheye"}
TILE_SIZE = 16  # of the grid of `meta` and `masks`, pixels

_NO_UNSCENTED = "splats are projected by their Jacobian: leave it out, or keep gsplat for 3DGUT"
_UNDISTORT = "only a fisheye takes radial_coeffs: undistort the pictures first"
_CURES = {
    "distributed": "give every process its own cameras and all splats, and average the gradients",
    "with_ut": _NO_UNSCENTED,
    "with_eval3d": _NO_UNSCENTED,
    "ut_params": _NO_UNSCENTED,
    "renderer_config": _NO_UNSCENTED,
    "tangential_coeffs": _UNDISTORT,
    "thin_prism_coeffs": _UNDISTORT,
    "ftheta_coeffs": "fit radial_coeffs of a fisheye to it, or undistort the pictures first",
    "external_distortion_coeffs": _UNDISTORT,
    "rolling_shutter": "render one pose a frame, with a global shutter",
    "viewmats_rs": "render one pose a frame, with a global shutter",
    "rays": "pixels see along the rays of their camera: give viewmats and Ks",
    "lidar_coeffs": "keep gsplat for lidars",
}


def distortion(radial_coeffs: Tensor | None, camera_model: str) -> tuple[float, float, float, float]:
    """k1 to k4 of all cameras, from [*B, C, 4].

    Raises:
        ValueError: the lens takes none, or the cameras differ.
    """
    if radial_coeffs is None:
        return 0.0, 0.0, 0.0, 0.0
    if camera_model != "fisheye":
        raise ValueError(f"radial_coeffs with camera_model={camera_model!r} is not supported: {_UNDISTORT}")
    sets = {tuple(row) for row in radial_coeffs.reshape(-1, radial_coeffs.shape[-1]).tolist()}
    if len(sets) != 1 or radial_coeffs.shape[-1] != 4:
        raise ValueError(
            f"radial_coeffs holds {len(sets)} sets of {radial_coeffs.shape[-1]}: give all cameras one of 4"
        )
    k1, k2, k3, k4 = sets.pop()
    return k1, k2, k3, k4


def quats_and_scales(covars: Tensor) -> tuple[Tensor, Tensor]:
    """Quaternions [*B, N, 4] and scales [*B, N, 3] of covariances [*B, N, 3, 3]; what is not finite gets NaN scales."""
    if covars.requires_grad and torch.is_grad_enabled():
        raise ValueError("covars with gradients is not supported: learn quats and scales, or detach covars")
    if covars.dim() < 3 or covars.shape[-2:] != (3, 3):
        raise ValueError(f"covars has shape {list(covars.shape)}, expected [..., N, 3, 3]")
    fine = torch.isfinite(covars).flatten(-2).all(dim=-1)
    values, axes = torch.linalg.eigh(torch.where(fine[..., None, None], covars, 0.0))
    axes = axes * torch.linalg.det(axes)[..., None, None].sign()  # no reflection
    # The quaternion of a rotation is the top eigenvector of this (Bar-Itzhack, 2000): no cases, no division.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(dim=-1) for row in axes.unbind(dim=-2))
    rows = (
        (xx + yy + zz, zy - yz, xz - zx, yx - xy),
        (zy - yz, xx - yy - zz, xy + yx, xz + zx),
        (xz - zx, xy + yx, yy - xx - zz, yz + zy),
        (yx - xy, xz + zx, yz + zy, zz - xx - yy),
    )
    symmetric = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    scales = torch.where(fine[..., None], values.clamp(min=0.0).sqrt(), math.nan)
    return torch.linalg.eigh(symmetric).eigenvectors[..., -1], scales


def mask_pixels(masks: Tensor, tile_size: int, width: int, height: int) -> Tensor:
    """A mask of pixels [*B, C, h, w] from one of tiles."""
    wide = masks.repeat_interleave(tile_size, dim=-2).repeat_interleave(tile_size, dim=-1)
    return wide[..., :height, :width]


def refuse(asked: dict[str, object]) -> None:
    """Say no to what Lyra does not do, if it is asked for.

    Raises:
        ValueError: it is; the message says what to do instead.
    """
    for name, value in asked.items():
        if value is not None and value is not False:
            said = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise ValueError(f"{name}={said} is not supported: {_CURES[name]}")


def check_modes(render_mode: str, rasterize_mode: str, camera_model: str, global_z_order: bool) -> None:
    """Look whether Lyra knows the words.

    Raises:
        ValueError: not all; the message lists those that it knows.
    """
    known = {
        "render_mode": (render_mode, get_args(RenderMode)),
        "rasterize_mode": (rasterize_mode, ("classic", "antialiased")),
        "camera_model": (camera_model, tuple(LENSES)),
    }
    for name, (value, choices) in known.items():
        if value not in choices:
            raise ValueError(f"{name}={value!r} is not supported: give {', '.join(choices)}")
    if not global_z_order and camera_model != "fisheye":
        raise ValueError(f"global_z_order=False with camera_model={camera_model!r} is not supported: leave it True")


def check_tensors(given: dict[str, object]) -> None:
    """Look whether what is there are tensors.

    Raises:
        ValueError: not all.
    """
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise ValueError(f"{name} is a {type(value).__name__}, expected a torch tensor")


def check_shapes(means: Tensor, viewmats: Tensor, masks: Tensor | None, grid: tuple[int, int]) -> None:
    """Look whether cameras and masks belong to the scenes; `grid` is columns and rows of tiles.

    Raises:
        ValueError: they do not.
    """
    batch = means.shape[:-2]
    if means.dim() < 2 or means.shape[-1] != 3:
        raise ValueError(f"means has shape {list(means.shape)}, expected [..., N, 3]")
    if viewmats.dim() != len(batch) + 3 or viewmats.shape[:-3] != batch or viewmats.shape[-2:] != (4, 4):
        raise ValueError(f"viewmats has shape {list(viewmats.shape)}, expected {[*batch, 'C', 4, 4]}")
    expected = (*viewmats.shape[:-2], grid[1], grid[0])
    if masks is not None and (masks.shape != expected or masks.dtype != torch.bool):
        raise ValueError(f"masks is {masks.dtype} {list(masks.shape)}, expected bool {list(expected)}, one a tile")
