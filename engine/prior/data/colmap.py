"""COLMAP's sparse models, binary or text: the pictures that were placed, and their cameras.

Poses are world-to-camera in OpenCV axes, pixel centres at +0.5, as in Lyra. The layouts are those of COLMAP's
documentation, "Output Format".
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import torch

from ....kernels.reference import quats_to_rotations
from ...errors import InputError
from ...files import cause, read_bytes
from ...scene.camera import Camera

PARAMETERS = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4}  # f cx cy, or fx fy cx cy
MODELS = (  # by their numbers
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
    "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE",
)  # fmt: skip
UNDISTORT = "run colmap image_undistorter and give its output"

Lens = tuple[int, int, float, float, float, float]  # width, height, fx, fy, cx, cy
Placed = tuple[str, int, tuple[float, ...]]  # name, id of the camera, qw qx qy qz tx ty tz


def read_views(model: Path) -> list[tuple[str, Camera]]:
    """Names of the pictures, below images/, and their cameras, in the order of the names.

    Raises:
        InputError: a file is missing, cut short or no such model; or a camera is not a pinhole without distortion.
    """
    binary = (model / "images.bin").exists()
    ending = "bin" if binary else "txt"
    lens_file, image_file = model / f"cameras.{ending}", model / f"images.{ending}"
    file = lens_file
    try:
        data = read_bytes(lens_file)
        lenses = dict(_binary_lenses(data) if binary else _text_lenses(data))
        file = image_file
        data = read_bytes(image_file)
        views = []
        for name, camera, (*quaternion, x, y, z) in sorted(_binary_images(data) if binary else _text_images(data)):
            if camera not in lenses:
                raise InputError(f"picture {name!r} has camera {camera}, which {lens_file.name} lacks: export it again")
            width, height, fx, fy, cx, cy = lenses[camera]
            views.append((name, Camera(_pose(quaternion, (x, y, z)), fx, fy, cx, cy, width, height)))
    except InputError as error:
        raise InputError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise InputError(f"{file}: is damaged or no such model ({cause(error)}): export it again") from None
    return views


def _pose(quaternion: list[float], translation: tuple[float, float, float]) -> torch.Tensor:
    rotation = torch.tensor(quaternion, dtype=torch.float64)
    if not 1e-6 < float(rotation.norm()) < 1e6:
        raise InputError(f"a rotation is {quaternion}: export it again")
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = quats_to_rotations(rotation)
    pose[:3, 3] = torch.tensor(translation, dtype=torch.float64)
    return pose


def _lens(model: str, width: int, height: int, parameters: tuple[float, ...]) -> Lens:
    fx, *rest = parameters
    fy, cx, cy = rest if model == "PINHOLE" else (fx, *rest)
    return width, height, fx, fy, cx, cy


def _check_pinhole(model: str) -> None:
    if model not in PARAMETERS:
        raise InputError(f"a camera is {model}, only {' and '.join(PARAMETERS)} are read: {UNDISTORT}")


def _binary_lenses(data: bytes) -> Iterator[tuple[int, Lens]]:
    (count,), place = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        key, number, width, height = struct.unpack_from("<iiQQ", data, place)
        model = MODELS[number] if 0 <= number < len(MODELS) else f"model {number}"
        _check_pinhole(model)
        yield key, _lens(model, width, height, struct.unpack_from(f"<{PARAMETERS[model]}d", data, place + 24))
        place += 24 + 8 * PARAMETERS[model]


def _binary_images(data: bytes) -> Iterator[Placed]:
    (count,), place = struct.unpack_from("<Q", data), 8
    for _ in range(count):
        _, *pose, camera = struct.unpack_from("<i7di", data, place)
        end = data.index(b"\0", place + 64)
        name = data[place + 64 : end].decode()
        (points,) = struct.unpack_from("<Q", data, end + 1)
        place = end + 9 + 24 * points
        if place > len(data):
            raise ValueError("ends too early")
        yield name, camera, tuple(pose)


def _text_lenses(data: bytes) -> Iterator[tuple[int, Lens]]:
    for line in filter(None, _lines(data)):
        key, model, width, height, *parameters = line.split()
        _check_pinhole(model)
        yield int(key), _lens(model, int(width), int(height), tuple(map(float, parameters)))


def _text_images(data: bytes) -> Iterator[Placed]:
    """Two lines a picture, of which the second lists its points and may be empty."""
    for line in filter(None, _lines(data)[::2]):
        _, *pose, camera, name = line.split(maxsplit=9)
        yield name, int(camera), tuple(map(float, pose))


def _lines(data: bytes) -> list[str]:
    return [line.strip() for line in data.decode().splitlines() if not line.startswith("#")]
