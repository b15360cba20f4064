"""Large video models as a source of frames: known views of a scene in, what they look like from other cameras out.

A model stands in a local folder as diffusers saves it. `load_teacher` reads what it is; nothing is ever fetched.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError
from ...files import cause, read_bytes
from ..clips import Clips
from . import cosmos, ltx, wan
from .family import Family, TeacherOptions
from .warp import Targets, filled, warp

FAMILIES: tuple[Family, ...] = (wan.FAMILY, ltx.FAMILY, cosmos.FAMILY)
INDEX = "model_index.json"
WEIGHTS = (".safetensors", ".safetensors.index.json")
LIBRARIES = ("diffusers", "transformers", "cosmos_guardrail")  # a part from elsewhere would be code of the folder
GUARDS = ("safety_checker",)  # come from the options or their own package, not from the folder
PLAIN = TeacherOptions()


class Teacher(Protocol):
    """Anything that invents frames for cameras."""

    def frames(self, source: Clips, targets: Targets, *, size: tuple[int, int], generator: torch.Generator) -> Clips:
        """What b scenes look like from the targets.

        Args:
            source: 1 to 4 clean views a scene.
            targets: cameras, K for pictures of `size`.
            size: width and height in pixels.
            generator: on the CPU; all randomness, so that the same seed gives the same frames on one machine.

        Returns:
            The views of the targets, on the device of `source`: depth 0 (unknown), alpha 1.

        Raises:
            InputError: the source does not hold what the teacher needs.
        """
        ...


@dataclass(frozen=True, eq=False)
class VideoTeacher:
    """A `Teacher` of warped views that a video model cleans and completes."""

    family: Family
    pipeline: Any
    options: TeacherOptions

    def frames(self, source: Clips, targets: Targets, *, size: tuple[int, int], generator: torch.Generator) -> Clips:
        """As `Teacher.frames`. The views need depth; the first one leads the clip that the model sees."""
        if not 1 <= source.rgb.shape[1] <= 4:
            raise InputError(f"{source.rgb.shape[1]} clean views given, expected 1 to 4")
        working = tuple(-(-side // self.family.pixels) * self.family.pixels for side in self.options.working or size)
        width, height = working
        factors = targets.K.new_tensor([width / size[0], height / size[1], 1.0])
        warped = warp(source, replace(targets, K=targets.K * factors[:, None]), (width, height))
        start, lead = filled(warped), _resized(source.rgb[:, :1], (width, height))
        seeds = torch.randint(2**62, (len(source),), generator=generator)
        clips = []
        for scene, seed in enumerate(seeds.tolist()):
            clip = torch.cat((lead[scene], start[scene]))
            made = self._generate(clip, torch.Generator().manual_seed(seed)).to(start)[1 : len(clip)]
            if self.options.composite:
                made = torch.where(warped.known[scene, :, None], warped.rgb[scene], made)
            clips.append(self.family.checked(self.pipeline, made))
        rgb = _resized(torch.stack(clips), size)
        return Clips(
            rgb=rgb,
            depth=torch.zeros_like(rgb[:, :, 0]),
            alpha=torch.ones_like(rgb[:, :, 0]),
            world_to_camera=targets.world_to_camera,
            K=targets.K,
            times=targets.times,
        )

    def _generate(self, clip: Tensor, generator: torch.Generator) -> Tensor:
        """A clip [f, 3, h, w] with at least as many frames; the last is repeated up to a number that the model can."""
        padding = -(len(clip) - 1) % self.family.frames
        padded = torch.cat((clip, clip[-1:].expand(padding, -1, -1, -1)))
        return self.family.generate(self.pipeline, padded, self.options, generator)


def load_teacher(folder: str | os.PathLike[str], options: TeacherOptions = PLAIN) -> VideoTeacher:
    """The video model in a local folder, as diffusers saves it.

    Raises:
        InputError: no such folder, not a model of a known family, a part or its weights are missing, a part that would
            bring its own code, or a package that the family needs is not installed.
    """
    folder = Path(folder)
    index = _read_json(folder / INDEX)
    kind = index.get("_class_name")
    family = next((family for family in FAMILIES if kind in family.classes), None)
    if family is None:
        known = ", ".join(f"{family.name} ({', '.join(family.classes)})" for family in FAMILIES)
        raise InputError(f"{folder}: a {kind} is no video model known here, give {known}")
    for name, part in index.items():
        if isinstance(part, list) and any(part) and name not in GUARDS:
            _check_part(folder, name, part)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # for what the libraries might ask the hub on their own
    return VideoTeacher(family, family.open(folder, options), options)


def _check_part(folder: Path, name: str, part: list[Any]) -> None:
    """Refuses a part of a model [library, class] that is not there whole, before minutes go into loading the others."""
    if part[0] not in LIBRARIES:
        told = f"{name} is of {part[0]}, expected one of {', '.join(LIBRARIES)}"
        raise InputError(f"{folder / INDEX}: {told}: a model with code of its own is not opened")
    place = folder / name
    files = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    if not files:
        raise InputError(f"{place}: no such part of the model, fetch the whole folder")
    if "config.json" not in files:  # a tokenizer or a scheduler
        return
    if not any(file.endswith(WEIGHTS) for file in files):
        raise InputError(f"{place}: no weights in .safetensors, fetch the whole folder")
    for file in files:
        if file.endswith(WEIGHTS[1]):
            shards = set(_read_json(place / file).get("weight_map", {}).values())
            if missing := sorted(shards - set(files)):
                raise InputError(f"{place / missing[0]}: no such file, {len(missing)} of {len(shards)} are missing")


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_bytes(path))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON ({cause(error)}), fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object, fetch it again")
    return content


def _resized(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """[b, v, 3, h, w] at another size, antialiased; the same tensor where it has that size."""
    if (rgb.shape[-1], rgb.shape[-2]) == size:
        return rgb
    planes = F.interpolate(rgb.flatten(0, 1), size=(size[1], size[0]), mode="bilinear", antialias=True)
    return planes.unflatten(0, rgb.shape[:2])
