"""Folders of posed pictures: NeRF-Synthetic, nerfstudio, COLMAP, OpenCV poses, and Lyra's own camera list.

A capture's cameras speak of the pictures as they are stored: where a file tells another size of the same shape, as
after scaling the pictures down, the intrinsics follow.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...files import cause, read_bytes
from ...scene.camera import Camera, load_cameras
from .colmap import read_views
from .frame_lists import Frame, read_frames
from .pictures import ENDINGS, picture_size

LISTS = ("transforms.json", "transforms_train.json", "opencv_cameras.json", "cameras.json")  # the first there counts


@dataclass(frozen=True, eq=False)
class Capture:
    """Pictures of one scene and where they were taken from."""

    name: str
    pictures: tuple[Path, ...]
    cameras: tuple[Camera, ...]  # of the pictures as they are stored
    times: tuple[float, ...]  # 0 to 1; evenly spread in the order of the pictures where the files tell none
    depths: tuple[Path | None, ...] | None = None  # of NeRF-Synthetic: 8 bits, z = 8 (1 - v / 255), 0 is background

    def __len__(self) -> int:
        return len(self.pictures)


def read_capture(path: Path) -> Capture:
    """A folder with one of LISTS or with sparse/0 of COLMAP and images/; or one of these lists itself.

    Raises:
        InputError: there is none, it does not fit the format or its pictures, a picture is missing, or a lens is not a
            pinhole without distortion.
    """
    path = Path(path)
    if path.is_dir():
        found = next((path / name for name in LISTS if (path / name).exists()), None)
        if found is None and (path / "sparse" / "0").is_dir():
            return _from_colmap(path)
        if found is None:
            raise InputError(f"{path}: holds no posed pictures: give a folder with {', '.join(LISTS)} or sparse/0")
        path = found
    try:
        raw = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: is no JSON ({cause(error)}): give one of {', '.join(LISTS)}") from None
    try:
        frames = _listed(path) if isinstance(raw, dict) and "cameras" in raw else read_frames(path.parent, raw)
        return _capture(path.parent.name, frames)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'camera file {path}: ')}") from None


def _from_colmap(folder: Path) -> Capture:
    try:
        views = read_views(folder / "sparse" / "0")
        return _capture(folder.name, [Frame(folder / "images" / name, camera) for name, camera in views])
    except InputError as error:
        raise InputError(f"{folder}: {error}") from None


def _listed(path: Path) -> list[Frame]:
    """Lyra's list, and the pictures beside it or in images/, in the order of their names."""
    cameras = load_cameras(path)
    folder = path.parent / "images" if (path.parent / "images").is_dir() else path.parent
    pictures = sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS)
    if len(pictures) != len(cameras):
        told = f"lists {len(cameras)} cameras, and {folder} holds {len(pictures)} pictures"
        raise InputError(f"{told}: give one picture a camera, in the order of their names")
    return [Frame(picture, camera) for picture, camera in zip(pictures, cameras, strict=True)]


def _capture(name: str, frames: list[Frame]) -> Capture:
    if not frames:
        raise InputError("lists no picture: give at least one")
    times = [frame.time for frame in frames if frame.time is not None]
    if len(times) < len(frames):
        times = [i / max(1, len(frames) - 1) for i in range(len(frames))]
    depths = tuple(frame.depth for frame in frames)
    return Capture(
        name,
        tuple(frame.picture for frame in frames),
        tuple(_of_size(frame.camera, frame.picture) for frame in frames),
        tuple(times),
        depths if any(depths) else None,
    )


def _of_size(camera: Camera, picture: Path) -> Camera:
    """The camera in the pixels of its picture."""
    width, height = picture_size(picture)
    if (width, height) == (camera.width, camera.height):
        return camera
    x, y = width / camera.width, height / camera.height
    if abs(camera.width * y - width) > 1 and abs(camera.height * x - height) > 1:
        told = f"{width}x{height} pixels, its camera {camera.width}x{camera.height}"
        raise InputError(f"{picture}: has {told}: give pictures of one shape with their cameras")
    return dataclasses.replace(
        camera, fx=camera.fx * x, fy=camera.fy * y, cx=camera.cx * x, cy=camera.cy * y, width=width, height=height
    )
