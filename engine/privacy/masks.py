"""Which splats images with masks want hidden."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...kernels.constants import NEAR
from ...kernels.options import Options
from ..errors import InputError
from ..files import cause, file_size
from ..renderer import render
from ..scene.camera import Camera
from ..scene.gaussians import Gaussians

SHARE = 0.5  # of what a splat draws: if as much falls into masks, it is hidden
VIEWS = 2  # whose masks must hold a centre before what nobody sees is hidden too
WHITE = 128  # of 255, from which a pixel of a mask says: hide
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

GIVEN = Options(contribution=True, depth=False)


def hidden_by_masks(scene: Gaussians, views: Sequence[tuple[Camera, Tensor]], *, backend: str = "auto") -> Tensor:
    """[n] bool: splats that draw mostly into masks, and those inside what the masks outline.

    A splat is hidden when at least SHARE of its blending weights over all views falls into masks; or, seen or not, when
    its centre lies in the mask of every view that has it in the picture, of VIEWS or more (the visual hull: Laurentini,
    1994). A view with an empty mask says nothing, neither for nor against.

    Args:
        views: cameras and their masks [h, w] bool, True where something is to be hidden.
    """
    inside, everywhere = (scene.means.new_zeros(len(scene), dtype=torch.float64) for _ in range(2))
    seen, masked = (torch.zeros(len(scene), dtype=torch.long, device=scene.means.device) for _ in range(2))
    for camera, mask in views:
        if not mask.any():
            continue
        inside += weights(scene, camera, mask, backend)
        everywhere += weights(scene, camera, None, backend)
        pixels, visible = project(scene.means, camera)
        seen += visible
        masked[visible] += mask.to(pixels.device)[pixels[visible, 1], pixels[visible, 0]].long()
    drawn = (everywhere > 0) & (inside >= SHARE * everywhere)
    return drawn | ((seen >= VIEWS) & (masked == seen))


def left_in_masks(
    scene: Gaussians, hidden: Tensor, views: Sequence[tuple[Camera, Tensor]], *, backend: str = "auto"
) -> float:
    """How much of what the scene draws into masks comes from splats that are not hidden, 0 to 1; 0 if it draws none."""
    total = kept = 0.0
    for camera, mask in views:
        given = weights(scene, camera, mask, backend)
        total += float(given.sum())
        kept += float(given[~hidden].sum())
    return kept / total if total else 0.0


def weights(scene: Gaussians, camera: Camera, mask: Tensor | None, backend: str) -> Tensor:
    """[n] float64, the blending weights of every splat in a picture, summed over the pixels of a mask or over all."""
    inside = None if mask is None else mask.to(scene.means.device)
    frame = render(scene, camera, mask=inside, options=GIVEN, backend=backend)
    assert frame.contribution is not None
    return frame.contribution.double()


def project(points: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Pixels [n, 2] x y that points fall on, and [n] bool which of them are in the picture; the others are at 0 0."""
    pose, lens = camera.world_to_camera.to(points.device), camera.K.to(points.device)
    eye = points.double() @ pose[:3, :3].T + pose[:3, 3]
    flat = (eye @ lens.T)[:, :2] / eye[:, 2:].clamp(min=NEAR)
    size = flat.new_tensor((camera.width, camera.height))
    visible = (eye[:, 2] > NEAR) & (flat >= 0).all(dim=1) & (flat < size).all(dim=1)
    return torch.where(visible[:, None], flat, 0.0).long(), visible


def load_masks(folder: Path, cameras: Sequence[Camera]) -> list[tuple[Camera, Tensor]]:
    """Pairs cameras, in their order, with the images in a folder, in the order of their names; white is to be hidden.
    Numbers within names count as numbers: 2.png comes before 10.png.

    Raises:
        InputError: there are not as many images as cameras, one cannot be read or has another size than its camera, or
            all are black.
    """
    try:
        files = sorted((entry for entry in folder.iterdir() if entry.suffix.lower() in ENDINGS), key=_natural)
    except OSError as error:
        raise InputError(f"{folder}: {cause(error)}, give a folder of masks") from error
    if len(files) != len(cameras):
        raise InputError(f"{folder}: holds {len(files)} masks for {len(cameras)} cameras: give one each, by name")
    views = [(camera, _mask(file, camera)) for file, camera in zip(files, cameras, strict=True)]
    if not any(bool(mask.any()) for _, mask in views):
        raise InputError(f"{folder}: all masks are black, so nothing is to be hidden: white is what goes")
    return views


def _natural(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _mask(file: Path, camera: Camera) -> Tensor:
    file_size(file)
    try:
        with Image.open(file) as image:
            if image.size != (camera.width, camera.height):
                raise InputError(
                    f"{file}: has {image.width}x{image.height} pixels, its camera {camera.width}x{camera.height}: give "
                    "both the same"
                )
            return torch.from_numpy(np.asarray(image.convert("L")) >= WHITE)
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{file}: no image ({cause(error)}), give a mask as PNG") from None
