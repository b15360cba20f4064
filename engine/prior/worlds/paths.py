"""The ways along which cameras go: each stays within REACH of a path's length, and ROOM, round the rig's base."""

import math

import torch
from torch import Tensor

from .record import Rig
from .shapes import applied

PATHS = ("orbit", "dolly", "truck", "walk", "turn", "circle", "crane")
HELD_OUT = "crane"  # never in training
CRANE = PATHS.index(HELD_OUT)

REACH, ROOM = 0.56, 0.05  # of the path's length, of the distance to the focus
TURN = math.radians(32)  # of the camera, from end to end, where it looks round


def ball(distance: Tensor, reach: Tensor) -> Tensor:
    """The radius of the free ball round the base."""
    return REACH * reach + ROOM * distance


def poses(rig: Rig, along: Tensor, sway: Tensor) -> Tensor:
    """World to camera [b, v, 4, 4] at places along the path [b, v], 0 to 1, turned a little by sway [b, v, 2] (radians)

    to the right and down.
    """
    eye, target = _eyes(rig, along)
    forward = target - eye
    forward = forward / forward.norm(dim=-1, keepdim=True)
    down = torch.tensor([0.0, 1.0, 0.0]).expand_as(forward)
    right = torch.linalg.cross(down, forward)
    right = right / right.norm(dim=-1, keepdim=True)
    forward = forward + sway[..., :1] * right + sway[..., 1:] * down
    forward = forward / forward.norm(dim=-1, keepdim=True)
    right = torch.linalg.cross(down, forward)
    right = right / right.norm(dim=-1, keepdim=True)
    down = torch.linalg.cross(forward, right)
    cos, sin = rig.roll.cos()[:, None, None], rig.roll.sin()[:, None, None]
    rotation = torch.stack((cos * right + sin * down, cos * down - sin * right, forward), -2)
    pose = torch.eye(4).repeat(*along.shape, 1, 1)
    pose[..., :3, :3] = rotation
    pose[..., :3, 3] = -applied(rotation, eye[..., None])[..., 0]
    return pose


def _eyes(rig: Rig, along: Tensor) -> tuple[Tensor, Tensor]:
    """Where the camera is and what it looks at, [b, v, 3] each."""
    base, focus, distance = rig.base[:, None], rig.focus[:, None], rig.distance[:, None, None]
    reach, c = rig.reach[:, None, None], along[..., None] - 0.5
    cos, sin = rig.heading.cos()[:, None, None], rig.heading.sin()[:, None, None]
    forward = (focus - base) / distance
    up = torch.tensor([0.0, -1.0, 0.0])
    right = torch.linalg.cross(-up.expand_as(forward), forward)
    right = right / right.norm(dim=-1, keepdim=True)
    level = torch.linalg.cross(right, -up.expand_as(forward))  # forward without its slope
    side = torch.where(cos < 0, -1.0, 1.0)

    def ahead(eye: Tensor) -> tuple[Tensor, Tensor]:
        return eye, eye + forward * distance

    angle = side * c * reach / distance
    arm = base - focus
    arm = arm * torch.tensor([1.0, 0.0, 1.0])
    swung = focus + (base - focus - arm) + arm * angle.cos() + right * arm.norm(dim=-1, keepdim=True) * angle.sin()
    tilt = side * c * TURN
    looked = (level * tilt.cos() + right * tilt.sin()) * distance + (forward - level) * distance
    step = base + (right * 0.5 * sin + level * (1 - 0.25 * sin * sin).sqrt()) * reach * c
    bob = up * (0.02 * distance * torch.sin(along[..., None] * 4 * math.pi))
    turn = side * along[..., None] * 2 * math.pi
    ring = base + (right * turn.cos() + up * turn.sin()) * reach / 2
    strolled = base + (right * cos + up * 0.4 * sin) * reach * c * 0.7
    lifted = base + (up * c + level * (c * c - 0.125) * 0.8) * reach
    ways = (
        (swung, focus.expand_as(swung)),
        ahead(base + forward * side * reach * c),
        ahead(base + (right * cos + up * 0.6 * sin) * reach * c),
        (step + bob, focus + right * side * 0.3 * distance * c),
        (strolled, strolled + looked),
        (ring, focus.expand_as(ring)),
        (lifted, focus.expand_as(lifted)),
    )
    choice = rig.path[None, :, None, None].expand(1, *along.shape, 3)
    eyes, targets = (torch.stack([way[i] for way in ways]).gather(0, choice)[0] for i in (0, 1))
    return eyes, targets
