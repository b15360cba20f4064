"""Lists of posed frames in JSON: transforms.json of NeRF-Synthetic and nerfstudio, and opencv_cameras.json."""

import glob
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...scene.camera import Camera
from ...strict_yaml import Reader, Rows, fields, list_of, number, positive, rows, shown, text, within
from .pictures import ENDINGS, picture_size

DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV")  # the last is a pinhole where no distortion is told
LENS: dict[str, Reader[Any]] = {
    **dict.fromkeys(("camera_angle_x", "w", "h", "fl_x", "fl_y", "fx", "fy"), positive),
    **dict.fromkeys(("cx", "cy", *DISTORTION), number),
    "camera_model": text,
}


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a capture."""

    picture: Path
    camera: Camera
    time: float | None = None  # 0 to 1
    depth: Path | None = None


def read_frames(folder: Path, raw: Any) -> list[Frame]:
    """Frames with `transform_matrix`, camera-to-world in OpenGL axes, or `w2c`, world-to-camera in OpenCV axes.

    The lens stands beside the frames or in each: `camera_angle_x` (horizontal field of view, radians), or `fl_x`,
    `fl_y`, `cx`, `cy`, `w`, `h` (`fx`, `fy` in OpenCV lists); what is absent follows from the picture's size. A
    `file_path` may lack its ending. Depth is that of NeRF-Synthetic, NAME_depth_*.png beside the picture.

    Raises:
        InputError: something is missing or of another kind, a lens has distortion, or a pose is none.
    """
    whole = _known(raw, {"frames": list_of(lambda frame: frame)}, LENS)
    entries = enumerate(whole.pop("frames"), 1)
    return [within(f"frame {i}", lambda entry: _frame(folder, entry, whole), entry) for i, entry in entries]


def _frame(folder: Path, raw: Any, shared: dict[str, Any]) -> Frame:
    opencv = isinstance(raw, dict) and "w2c" in raw
    pose = "w2c" if opencv else "transform_matrix"
    found = _known(raw, {"file_path": text, pose: rows(4)}, {**LENS, "time": _moment})
    picture = _picture(folder, found["file_path"])
    world_to_camera = torch.tensor(found[pose], dtype=torch.float64) if opencv else _from_opengl(found[pose])
    camera = _camera(world_to_camera, {**shared, **found}, picture)
    depth = next(iter(sorted(picture.parent.glob(f"{glob.escape(picture.stem)}_depth_*.png"))), None)
    return Frame(picture, camera, found.get("time"), depth)


def _moment(raw: Any) -> float:
    if not 0 <= (value := number(raw)) <= 1:
        raise InputError(f"{shown(raw)} given, expected 0 to 1 of the whole")
    return value


def _known(raw: Any, needed: dict[str, Reader[Any]], optional: dict[str, Reader[Any]]) -> dict[str, Any]:
    """As `fields`, but other keys are ignored: these files carry all kinds of notes."""
    readers = needed | optional
    return fields({key: raw[key] for key in raw if key in readers} if isinstance(raw, dict) else raw, needed, optional)


def _picture(folder: Path, name: str) -> Path:
    path = folder / name
    if path.suffix.lower() in ENDINGS:
        return path
    return next((there for ending in ENDINGS if (there := folder / f"{name}{ending}").exists()), folder / f"{name}.png")


def _from_opengl(matrix: Rows) -> Tensor:
    """World-to-camera in OpenCV axes, of camera-to-world in OpenGL's (y up, looking along -z)."""
    pose = torch.tensor(matrix, dtype=torch.float64) * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    rotation, position = pose[:3, :3].T, pose[:3, 3:]
    return torch.cat((torch.cat((rotation, -rotation @ position), 1), pose[3:]))


def _camera(world_to_camera: Tensor, lens: dict[str, Any], picture: Path) -> Camera:
    for name in DISTORTION:
        if lens.get(name, 0.0) != 0.0:
            raise InputError(f"{name} is {lens[name]:.4g}, only pinholes are read: undistort the pictures first")
    if (model := lens.get("camera_model", MODELS[0])) not in MODELS:
        raise InputError(f"camera_model {model!r} is not read: undistort the pictures, or give {', '.join(MODELS)}")
    width, height = (lens["w"], lens["h"]) if "w" in lens and "h" in lens else picture_size(picture)
    fx = lens.get("fl_x", lens.get("fx"))
    if fx is None and "camera_angle_x" in lens:
        fx = width / 2 / math.tan(lens["camera_angle_x"] / 2)
    if fx is None:
        raise InputError("tells no focal length: give fl_x, fx or camera_angle_x")
    fy = lens.get("fl_y", lens.get("fy", fx))
    cx, cy = lens.get("cx", width / 2), lens.get("cy", height / 2)
    if float(torch.linalg.det(world_to_camera[:3, :3])) < 0:
        raise InputError("its pose mirrors the world: give a rotation, of right-handed axes")
    sides = (int(side) if side == int(side) else side for side in (width, height))
    return Camera(world_to_camera, fx, fy, cx, cy, *sides)
