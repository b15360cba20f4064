"""Depth by any monocular model in ONNX, such as MiDaS, Depth Anything or Metric3D, through onnxruntime."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ...errors import InputError
from ...files import cause, file_size

Kind = Literal["inverse", "metric"]
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
SIDE, PATCH = 518, 14  # of the shorter side where a model takes any, in the whole patches of DINOv2


def model_depth(path: Path, rgb: Tensor) -> Tensor:
    """What a model says of a picture [3, H, W] 0 to 1: [h, w] of its own size and meaning.

    Args:
        path: an ONNX file, or a folder with one.

    Raises:
        InputError: onnxruntime is absent, there is not one model, or it is none of one picture to one map.
    """
    file = _file(path)
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{path}: a depth model needs onnxruntime: pip install 'lyra-gs[export]'") from None
    onnxruntime.set_default_logger_severity(4)
    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has its own, without a common one
        raise InputError(f"{file}: is no ONNX model that runs here ({cause(error)}): export it again") from None
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or shape[1] != 3 or inputs[0].type not in ("tensor(float)", "tensor(float16)"):
        told = ", ".join(f"{i.name} {i.shape} {i.type}" for i in inputs)
        raise InputError(f"{file}: takes {told}: give a model of one picture, [1, 3, height, width] of floats")
    size = _size(shape, rgb)
    small = interpolate(rgb[None], size, mode="bilinear", antialias=True)
    given = (small - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    given = given.half() if inputs[0].type == "tensor(float16)" else given
    try:
        found = session.run([session.get_outputs()[0].name], {inputs[0].name: given.numpy()})[0]
        told = torch.as_tensor(np.asarray(found, np.float32)).squeeze()
    except Exception as error:
        raise InputError(f"{file}: does not run ({cause(error)}): export it for pictures of one size") from None
    if told.dim() != 2 or min(told.shape) < 2 or not bool(told.isfinite().all()):
        raise InputError(f"{file}: gives {list(told.shape)}: give a model of one map of finite depth, [1, 1, h, w]")
    return told


def _size(shape: list[int | str | None], rgb: Tensor) -> tuple[int, int]:
    """Height and width that a model wants; of one that takes any, whole patches near the picture's shape."""
    ratio = SIDE / min(rgb.shape[1:])
    free = [max(PATCH, round(side * ratio / PATCH) * PATCH) for side in rgb.shape[1:]]
    height, width = (
        given if isinstance(given, int) and given > 0 else side for given, side in zip(shape[2:], free, strict=True)
    )
    return height, width


def _file(path: Path) -> Path:
    if not path.is_dir():
        file_size(path)
        return path
    found = sorted(path.rglob("*.onnx"))
    if len(found) != 1:
        raise InputError(f"{path}: holds {len(found)} .onnx files: name the one that is meant")
    return found[0]
