"""A sheet of renderings of a scene: from the picture's own camera, and along the path."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import avg_pool2d

from ....kernels.options import Options
from ...files import replacing
from ...renderer import render
from ...scene.camera import Camera
from ...scene.gaussians import Gaussians

LONGEST = 400  # pixels of a side of one rendering
SHOWN = 4


def draw_preview(splats: Gaussians, cameras: Sequence[Camera], path: Path) -> None:
    """Writes a PNG with two renderings in a row: of the first camera, and of others evenly spread over the rest."""
    steps = max(1, min(SHOWN - 1, len(cameras) - 1))
    chosen = [cameras[0], *(cameras[1 + (i + 1) * (len(cameras) - 1) // steps - 1] for i in range(steps))]
    first = cameras[0]
    ratio = min(1.0, LONGEST / max(first.width, first.height))
    size = max(1, round(first.width * ratio)), max(1, round(first.height * ratio))
    twice = 2 * size[0], 2 * size[1]  # splats of a pixel of the picture are finer than these
    drawn = [render(splats, camera.resized(*twice), options=Options(depth=False)).rgb for camera in chosen[:SHOWN]]
    tiles = [avg_pool2d(frame.permute(2, 0, 1), 2).permute(1, 2, 0) for frame in drawn]
    tiles += [torch.zeros_like(tiles[0])] * (-len(tiles) % 2)
    sheet = torch.cat([torch.cat(tiles[i : i + 2], 1) for i in range(0, len(tiles), 2)], 0)
    with replacing(path) as stream:
        Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().numpy()).save(stream, "PNG", compress_level=2)
