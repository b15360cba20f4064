"""What a scene is made of: one picture, a few pictures of a posed folder, or frames of a video."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InputError
from ...scene.camera import Camera, load_cameras
from ..data.folders import Capture, read_capture
from ..data.pictures import read_picture
from ..data.resampling import area, lens_of

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv")
FOV = 50.0  # degrees, of pictures that tell none
MOST_VIEWS = 4
SOLID = 0.5  # alpha of a pixel that hides what is behind it
LONGEST = 1920  # pixels, of frames of a video


@dataclass(frozen=True, eq=False)
class View:
    """A picture and where it was taken from."""

    rgb: Tensor  # [h, w, 3] 0 to 1, on black where alpha is below 1
    alpha: Tensor  # [h, w] 0 to 1
    camera: Camera  # of these pixels
    time: float = 0.0  # when it was taken, seconds; the same in all views of a scene in which nothing moves


@dataclass(frozen=True, eq=False)
class Sources:
    """The views that are known, the one from which the scene is looked at first."""

    views: tuple[View, ...]
    posed: bool  # whether the cameras were given, so that their world and its units are to be kept
    files: tuple[Path, ...]  # that were read


def read_sources(
    path: Path,
    *,
    views: int = 3,
    fov: float | None = None,
    cameras: Path | None = None,
    still: bool = False,
    time: float | None = None,
) -> Sources:
    """The views in a picture, a video, a folder of posed pictures, or a list of them (.json).

    Args:
        views: how many of a folder or a video.
        fov: vertical, degrees, of a picture; by default what its EXIF tells, else 50.
        cameras: Lyra's camera list of a video, each a frame, evenly spread from the first to the last.
        still: of a video, the first frame is taken as a picture.
        time: of a video in which things move, seconds from its first frame: the frame nearest to it comes first, and
            every view keeps its time. With `still`, that frame is taken as a picture.

    Raises:
        InputError: nothing readable there, an option does not go with it, or it is out of range.
    """
    sources = _read(path, views, fov, cameras, still, time)
    if not any(bool((view.alpha >= SOLID).any()) for view in sources.views):
        raise InputError(f"{path}: shows nothing, all of it is clear: give a picture with something solid")
    return sources


def _read(path: Path, views: int, fov: float | None, cameras: Path | None, still: bool, time: float | None) -> Sources:
    if not 1 <= views <= MOST_VIEWS:
        raise InputError(f"--views {views} is out of range: give 1 to {MOST_VIEWS}")
    if fov is not None and not 1 <= fov <= 170:
        raise InputError(f"--fov {fov:g} is out of range: give 1 to 170 degrees")
    video = path.suffix.lower() in VIDEOS
    if not video and (cameras is not None or still or time is not None):
        raise InputError(f"{path}: --cameras, --still and --time are for videos: leave them out")
    if time is not None and not 0 <= time < math.inf:
        raise InputError(f"--time {time:g} is out of range: give seconds from the first frame on")
    if still and cameras is not None:
        raise InputError("--still takes a frame as a picture and knows no --cameras: give one of them")
    if path.is_dir() or path.suffix.lower() == ".json" or (video and not still):
        if fov is not None:
            raise InputError(f"{path}: --fov {fov:g} is for a picture, these have cameras: leave it out")
        return _frames(path, cameras, views, time) if video else _from_capture(read_capture(path), views)
    if video:
        from ..data.video import read_video

        rgb, _ = read_video(path, 1, start=time or 0.0, end=None if time else 1e-6, longest=LONGEST)
        return Sources((_picture(rgb[0], torch.ones(rgb.shape[1:3]), None, fov),), False, (path,))
    picture = read_picture(path)
    return Sources((_picture(picture.rgb, picture.alpha, picture.focal, fov),), False, (path,))


def scaled(view: View, pixels: float) -> View:
    """The view with about so many pixels by area means, if it has more."""
    width, height = view.camera.width, view.camera.height
    ratio = math.sqrt(pixels / (width * height))
    if ratio >= 1:
        return view
    size = max(1, int(width * ratio)), max(1, int(height * ratio))
    planes, K = resampled(view, size)
    rgb, alpha = planes.split([3, 1])
    camera = Camera(view.camera.world_to_camera, *lens(K), *size)
    return replace(view, rgb=rgb.permute(1, 2, 0).contiguous(), alpha=alpha[0], camera=camera)


def resampled(view: View, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Colours and alpha of the whole view in other pixels, [4, h, w], and its intrinsics there, [3, 3] float64."""
    box = (0.0, 0.0, float(view.camera.width), float(view.camera.height))
    planes = torch.cat((view.rgb.permute(2, 0, 1), view.alpha[None]))
    return area(planes, box, size).clamp(0, 1), lens_of(view.camera.K, box, size)


def lens(K: Tensor) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy of intrinsics [3, 3]."""
    return float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])


def spread(cameras: Sequence[Camera], count: int, first: int | None = None) -> list[int]:
    """So many of the cameras: the first, then each as far as can be from those before.

    By default the first is the one nearest to the middle of all. Of those in one place, places in the list decide.
    """
    eyes = torch.stack([camera.position for camera in cameras])
    apart = torch.cat((eyes, 1e-6 * eyes.abs().amax().clamp(min=1) * torch.arange(len(eyes))[:, None]), 1)
    if first is None:
        first = int((eyes - eyes.median(dim=0).values).norm(dim=1).argmin())
    chosen = [first]
    looks = torch.stack([camera.world_to_camera[2, :3] for camera in cameras])
    facing = looks @ looks[first] > 0.5  # within 60 degrees, so that the views share what they show
    while len(chosen) < min(count, int(facing.sum())):
        gaps = torch.cdist(apart, apart[chosen]).amin(dim=1)
        gaps = torch.where(facing, gaps, -1.0)
        gaps[chosen] = -1.0
        chosen.append(int(gaps.argmax()))
    return chosen


def _picture(rgb: Tensor, alpha: Tensor, focal: float | None, fov: float | None) -> View:
    height, width = alpha.shape
    if focal is None or fov is not None:
        focal = height / 2 / math.tan(math.radians(FOV if fov is None else fov) / 2)
    pose = torch.eye(4, dtype=torch.float64)
    return View(rgb, alpha, Camera(pose, focal, focal, width / 2, height / 2, width, height))


def _from_capture(capture: Capture, count: int) -> Sources:
    chosen = spread(capture.cameras, count)
    views = []
    for i in chosen:
        picture = read_picture(capture.pictures[i])
        views.append(View(picture.rgb, picture.alpha, capture.cameras[i]))
    return Sources(tuple(views), True, tuple(capture.pictures[i] for i in chosen))


def _frames(path: Path, listed: Path | None, count: int, time: float | None) -> Sources:
    """Frames of a video, with the cameras of a list, else with estimated ones."""
    if listed is None:
        from .poses import estimated

        return _chosen(path, *estimated(path, LONGEST), count, time)
    from ..data.video import read_video

    cameras = load_cameras(listed)
    rgb, seconds = read_video(path, len(cameras), longest=LONGEST)
    height, width = rgb.shape[1:3]
    for camera in cameras:
        if abs(camera.width * height - camera.height * width) > max(width, height):
            told = f"are {camera.width}x{camera.height} pixels, its frames {width}x{height}"
            raise InputError(f"{path}: the cameras of {listed} {told}: give one shape")
    fitting = [_fitted(camera, width, height) for camera in cameras]
    return _chosen(path, rgb, seconds, fitting, count, time, (listed,))


def _chosen(
    path: Path,
    rgb: Tensor,
    seconds: Tensor,
    cameras: Sequence[Camera],
    count: int,
    time: float | None,
    files: tuple[Path, ...] = (),
) -> Sources:
    alpha, first = torch.ones(rgb.shape[1:3]), None
    if time is not None:
        if time > float(seconds[-1]) + (float(seconds[-1]) - float(seconds[0])) / max(1, len(seconds) - 1):
            raise InputError(
                f"{path}: --time {time:g} is after its last frame at {float(seconds[-1]):.3g} s: give less"
            )
        first = int((seconds - time).abs().argmin())
    chosen = spread(cameras, count, first)
    views = tuple(View(rgb[i], alpha, cameras[i], 0.0 if time is None else float(seconds[i])) for i in chosen)
    return Sources(views, True, (path, *files))


def _fitted(camera: Camera, width: int, height: int) -> Camera:
    K = lens_of(camera.K, (0.0, 0.0, float(camera.width), float(camera.height)), (width, height))
    return Camera(camera.world_to_camera, *lens(K), width, height)
