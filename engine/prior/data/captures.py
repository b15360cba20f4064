"""Training clips from posed folders: near views that look the same way, cut out and scaled down."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InputError
from ..clips import Clips, joined
from .folders import Capture
from .pictures import read_channel, read_picture
from .resampling import Box, area, lens_of, nearest

KEPT = 256  # views that stay decoded
SOLID = 254  # of 255: of pixels whose depth no background is mixed into
CROWD = 3  # as many near views as are wanted to choose from


@dataclass(frozen=True, eq=False)
class Captures:
    """A source of clips from captures, all as likely.

    Raises:
        InputError: there is no capture.
    """

    captures: tuple[Capture, ...]
    longest: int = 512
    """Pixels of the longer side to which pictures are scaled down before they are kept in memory."""
    turn: float = math.radians(40.0)
    """Radians between looking directions of a clip's views and one of them, where enough views allow it."""
    tightest: float = 0.6
    """The least share of a picture's side that a crop keeps."""

    def __post_init__(self) -> None:
        if not self.captures:
            raise InputError("no capture given: give at least one folder of posed pictures")

    def clips(self, count: int, views: int, size: tuple[int, int], generator: torch.Generator) -> Clips:
        """Fresh clips on the CPU, in each capture's own world units; the same seed gives the same clips.

        The views of a clip share one crop. Depth is known where the capture has it and nothing is mixed into it.

        Raises:
            InputError: a capture has fewer views, or a picture cannot be read.
        """
        return joined([self._clip(views, size, generator) for _ in range(count)])

    def _clip(self, views: int, size: tuple[int, int], generator: torch.Generator) -> Clips:
        capture = self.captures[int(torch.randint(len(self.captures), (), generator=generator))]
        chosen = neighbours(capture, views, self.turn, generator)
        zoom, x, y = torch.rand(3, generator=generator).tolist()
        frames = []
        for i in chosen:
            depth = None if capture.depths is None else capture.depths[i]
            stored, z = _stored(capture.pictures[i], depth, self.longest)
            box = _box(stored.shape[-1], stored.shape[-2], size, self.tightest + (1 - self.tightest) * zoom, x, y)
            camera = capture.cameras[i]
            whole = (0.0, 0.0, float(camera.width), float(camera.height))
            K = lens_of(lens_of(camera.K, whole, (stored.shape[-1], stored.shape[-2])), box, size)
            frames.append((area(stored.float() / 255, box, size), nearest(z, box, size), camera.world_to_camera, K))
        coloured, depth, pose, K = (torch.stack(part)[None].float() for part in zip(*frames, strict=True))
        times = torch.tensor([capture.times[i] for i in chosen])[None]
        span = (times[:, -1:] - times[:, :1]).clamp(min=1e-9)
        return Clips(
            rgb=coloured[:, :, :3].clamp(0, 1),
            depth=depth,
            alpha=coloured[:, :, 3].clamp(0, 1),
            world_to_camera=pose,
            K=K,
            times=((times - times[:, :1]) / span).clamp(0, 1),
        )


def neighbours(capture: Capture, views: int, turn: float, generator: torch.Generator) -> list[int]:
    """A random view and near ones that look the same way, in the order in which they were taken.

    Raises:
        InputError: the capture has fewer views.
    """
    if len(capture) < views:
        told = f"has {len(capture)} views, {views} asked for"
        raise InputError(f"capture {capture.name}: {told}: ask for fewer, or leave it out")
    poses = torch.stack([camera.world_to_camera for camera in capture.cameras])
    eyes = torch.stack([camera.position for camera in capture.cameras])
    first = int(torch.randint(len(capture), (), generator=generator))
    angles = (poses[:, 2, :3] @ poses[first, 2, :3]).clamp(-1, 1).arccos()
    # Within the turn the nearest come first, beyond it those that turn least.
    distances = (eyes - eyes[first]).norm(dim=1)
    rank = torch.where(angles <= turn, distances / (1 + distances), 1 + angles)
    rank[first] = -1
    within = int((angles <= turn).sum()) - 1
    crowd = max(views - 1, min(within, CROWD * (views - 1)))
    near = rank.argsort(stable=True)[1 : 1 + crowd]
    picked = near[torch.randperm(len(near), generator=generator)[: views - 1]].tolist()
    return sorted((first, *picked), key=lambda i: (capture.times[i], i))


def _box(width: int, height: int, size: tuple[int, int], share: float, x: float, y: float) -> Box:
    """A crop of the shape of `size`, at the place x, y (0 to 1) of those where it fits; without enlarging if it can."""
    largest = min(width / size[0], height / size[1])  # pixels that one new pixel may cover
    scale = min(largest, max(1.0, share * largest))
    wide, high = scale * size[0], scale * size[1]
    left, top = x * (width - wide), y * (height - high)
    return left, top, left + wide, top + high


@functools.lru_cache(KEPT)
def _stored(path: Path, depth: Path | None, longest: int) -> tuple[Tensor, Tensor]:
    """A picture scaled down, [4, h, w] uint8 with alpha last and multiplied in, and its depth [h, w], 0 if unknown."""
    picture = read_picture(path)
    height, width = picture.alpha.shape
    ratio = min(1.0, longest / max(width, height))
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    whole = (0.0, 0.0, float(width), float(height))
    coloured = torch.cat((picture.rgb.permute(2, 0, 1), picture.alpha[None]))
    z = torch.zeros(height, width)
    if depth is not None:
        level = read_channel(depth)
        if level.shape != z.shape:
            told = f"has {level.shape[1]}x{level.shape[0]} pixels, its picture {width}x{height}"
            raise InputError(f"{depth}: {told}: give depth of the same size, or none")
        known = (level > 0) & (picture.alpha >= SOLID / 255)
        z = torch.where(known, 8 * (1 - level.float() / 255), 0.0)
    return (area(coloured, whole, size) * 255).round().byte(), nearest(z, whole, size)
