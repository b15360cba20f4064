"""Cameras of a video without any, by structure from motion with COLMAP (the package pycolmap)."""

import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...errors import InputError
from ...files import cause
from ...scene.camera import Camera
from ..data.folders import read_capture
from ..data.video import read_video

FRAMES = 24  # of a video, that are matched
LEAST_POSED = 2


def estimated(path: Path, longest: int) -> tuple[Tensor, Tensor, list[Camera]]:
    """Evenly spread frames [n, h, w, 3] whose cameras were found, their seconds [n], and the cameras, of unknown scale.

    Raises:
        InputError: the video cannot be read, pycolmap is absent, or cameras are found for fewer than two frames.
    """
    rgb, seconds = read_video(path, FRAMES, longest=longest)
    try:
        import pycolmap  # pyright: ignore[reportMissingImports]
    except ImportError:
        cure = "pip install 'lyra-gs[poses]', give --cameras FILE, or --still for its first frame alone"
        raise InputError(f"{path}: cameras of a video are found by pycolmap, which is absent: {cure}") from None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        images, sparse = folder / "images", folder / "sparse"
        images.mkdir()
        sparse.mkdir()
        for i, frame in enumerate(rgb):
            Image.fromarray((frame * 255).round().byte().numpy()).save(images / f"{i:04}.png")
        try:
            pycolmap.logging.minloglevel = 3
            reader = pycolmap.ImageReaderOptions(camera_model="SIMPLE_PINHOLE")
            mode = pycolmap.CameraMode.SINGLE
            pycolmap.extract_features(folder / "database.db", images, camera_mode=mode, reader_options=reader)
            pycolmap.match_exhaustive(folder / "database.db")
            found = pycolmap.incremental_mapping(folder / "database.db", images, sparse)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"{path}: its cameras cannot be found ({cause(error)}): give --cameras or --still"
            ) from None
        best = max(found.values(), key=lambda model: model.num_reg_images(), default=None)
        if best is None or best.num_reg_images() < LEAST_POSED:
            told = "its frames do not match, as where the camera stands still"
            raise InputError(f"{path}: its cameras cannot be found, {told}: give --cameras or --still")
        (sparse / "0").mkdir(exist_ok=True)
        best.write_binary(sparse / "0")
        capture = read_capture(folder)
    kept = torch.tensor([int(picture.stem) for picture in capture.pictures])
    return rgb[kept], seconds[kept], list(capture.cameras)
