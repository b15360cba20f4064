"""Worlds: random analytic scenes in batches, and the room in which their cameras may move."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

FLOOR, WALL, FAR = 0, 1, 2  # the surfaces round the objects; FAR is a room's ceiling or the sky's dome


@dataclass(frozen=True, eq=False)
class Batch:
    """Tensors, and records of tensors, whose first axis is the scene."""

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return type(self)(**{k: v._each(change) if isinstance(v, Batch) else change(v) for k, v in fields.items()})

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def scenes(self, index: Tensor | slice) -> Self:
        """Some of the scenes."""
        return self._each(lambda tensor: tensor[index])


@dataclass(frozen=True, eq=False)
class Objects(Batch):
    """o convex things a scene: unit shapes (shapes.py), scaled, turned, moved."""

    kind: Tensor  # [b, o] int64 into shapes.KINDS, -1 where there is none
    centre: Tensor  # [b, o, 3] at time 0.5
    rotation: Tensor  # [b, o, 3, 3] object to world at time 0.5
    scale: Tensor  # [b, o, 3] half the extent along the object's axes
    velocity: Tensor  # [b, o, 3] world units in the clip's time
    axis: Tensor  # [b, o, 3] unit, in the world
    spin: Tensor  # [b, o] radians in the clip's time


@dataclass(frozen=True, eq=False)
class Finishes(Batch):
    """How o + 3 surfaces look: the objects, then FLOOR, WALL and FAR."""

    family: Tensor  # [b, s] int64 into textures.FAMILIES
    feature: Tensor  # [b, s] size of the pattern in world units (on the sky, of direction)
    turn: Tensor  # [b, s] radians
    shift: Tensor  # [b, s, 2] in features
    first: Tensor  # [b, s, 3] linear colour
    second: Tensor  # [b, s, 3] linear colour
    vary: Tensor  # [b, s] how much a pattern's cells differ in brightness, 0 to 1
    shine: Tensor  # [b, s] strength of the highlight


@dataclass(frozen=True, eq=False)
class Surround(Batch):
    """A room, or open ground under a sky, and the light. Colours are linear."""

    open: Tensor  # [b] bool
    low: Tensor  # [b, 3] corner of the room; in the open, of a box that reaches beyond the dome
    high: Tensor  # [b, 3] the other corner; the floor is at y = 0
    dome: Tensor  # [b] radius of the sky round the origin
    zenith: Tensor  # [b, 3] colour of the sky overhead
    horizon: Tensor  # [b, 3] colour of the haze
    lamp: Tensor  # [b, 3] place of the light that casts shadows
    key: Tensor  # [b, 3] its colour
    fill_from: Tensor  # [b, 3] unit, towards the light that casts none
    fill: Tensor  # [b, 3] its colour
    ambient: Tensor  # [b, 3] from above; half as much from below


@dataclass(frozen=True, eq=False)
class Rig(Batch):
    """The path of the camera, and the ball of free space that it keeps to."""

    path: Tensor  # [b] int64 into paths.PATHS
    base: Tensor  # [b, 3] the ball's centre
    focus: Tensor  # [b, 3] what most paths look at
    distance: Tensor  # [b] from base to focus
    reach: Tensor  # [b] length of the path in world units
    heading: Tensor  # [b] radians, the direction in which a path goes
    roll: Tensor  # [b] radians
    fov: Tensor  # [b] vertical, radians


@dataclass(frozen=True, eq=False)
class Worlds(Batch):
    """b scenes, float32; OpenCV axes with y down, the floor at y = 0."""

    objects: Objects
    finishes: Finishes
    surround: Surround
    rig: Rig

    def __len__(self) -> int:
        return len(self.rig.path)
