"""How much a picture pops while the camera moves slowly, with transitions between levels and with a hard switch.

Two changes are scored from frame to frame, over all pixels and channels, by their mean and their root mean square:
    moving   of what tells a frame from full detail: |(f' - f) - (F' - F)|. Detail that is missing counts as well, for
             what takes its place moves with the camera, whatever the cut does.
    cut      of the frame when the last frame's cut is put in place of its own: what the cut alone does.
A mean is what all changes come to: it does not tell one large step from many small ones that lead to the same place.
The root mean square does.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..engine.lod.detail import NEAR
from ..engine.lod.tree import Tree, as_nodes
from ..engine.lod.view import eye_of, gaze_of
from ..engine.renderer import Renderer, backend_device, render
from ..engine.scene.camera import Camera
from ..engine.scene.gaussians import Gaussians
from ..kernels.lod import Cut, Nodes, cut, gather

KINDS = ("transitions", "switch")
SCORES = ("moving_mean", "moving_rms", "cut_mean", "cut_rms")

Choose = Callable[[Camera, Tensor | None], Cut]  # given the threshold of the last cut


class Seen(NamedTuple):
    """A frame, for the next one to be compared with."""

    cut: Cut
    rest: Tensor  # [h, w, 3] the frame less full detail


def forward(camera: Camera, step: float, count: int) -> list[Camera]:
    """A dolly straight ahead.

    Args:
        step: world units from camera to camera.
    """
    poses = [camera.world_to_camera.clone() for _ in range(count)]
    for i, pose in enumerate(poses):
        pose[2, 3] -= i * step
    return [replace(camera, world_to_camera=pose) for pose in poses]


def popping(
    gaussians: Gaussians, tree: Tree, budgets: Sequence[int], cameras: Sequence[Camera], *, backend: str
) -> list[dict[str, Any]]:
    """The scores of each budget for either kind, and the ratios of transitions to the switch.

    Scores are of display-referred values from 0 to 1, and 0 for fewer than two cameras. A ratio is None where nothing
    changes with a hard switch.
    """
    full = Renderer(gaussians, backend=backend)
    nodes = Nodes(*(tensor.to(backend_device(backend)) for tensor in as_nodes(tree)))
    choose = {budget: _chooser(nodes, budget, backend) for budget in budgets}
    sums = {(budget, kind): torch.zeros(len(SCORES), dtype=torch.float64) for budget in budgets for kind in KINDS}
    last: dict[Any, Seen] = {}
    for camera in cameras:
        whole = full.render(camera).rgb.cpu()
        for budget in budgets:
            before = last.get((budget, KINDS[0]))
            found = choose[budget](camera, before.cut.threshold if before else None)
            for kind in KINDS:
                chosen = found if kind == "transitions" else _switched(nodes, found)
                frame = draw(nodes, chosen, camera, backend)
                rest = frame - whole
                if before := last.get((budget, kind)):
                    held = draw(nodes, before.cut, camera, backend)
                    sums[budget, kind] += torch.stack((*_change(rest - before.rest), *_change(frame - held)))
                last[budget, kind] = Seen(chosen, rest)
    steps = max(1, len(cameras) - 1)
    return [_row(budget, {kind: sums[budget, kind] / steps for kind in KINDS}) for budget in budgets]


def draw(nodes: Nodes, chosen: Cut, camera: Camera, backend: str) -> Tensor:
    """RGB [h, w, 3] of a cut, on the CPU."""
    *columns, exponents = gather(nodes, chosen.ids, chosen.exponents, backend=backend)
    return render(Gaussians(*columns), camera, backend=backend, exponents=exponents).rgb.cpu()


def _switched(nodes: Nodes, found: Cut) -> Cut:
    """The same cut without transitions: parents that fade are gone, their children are there."""
    ids = found.ids[found.ids >= 0]
    ids = ids[~torch.isin(ids, nodes.parents[ids.long()])]
    return found._replace(ids=ids, exponents=torch.ones(len(ids), device=ids.device))


def _chooser(nodes: Nodes, budget: int, backend: str) -> Choose:
    """Cuts as those of a `Renderer`."""
    device, near = nodes.means.device, max(NEAR * float(nodes.radii[0]), 1e-12)
    roots = torch.zeros(1, dtype=torch.int32, device=device)

    def choose(camera: Camera, previous: Tensor | None) -> Cut:
        eye, gaze = eye_of([camera]).to(device).float(), gaze_of([camera])
        return cut(nodes, roots, eye, budget=budget, near=near, gaze=gaze, previous=previous, backend=backend)

    return choose


def _change(values: Tensor) -> tuple[Tensor, Tensor]:
    values = values.double()
    return values.abs().mean(), values.square().mean()


def _row(budget: int, means: dict[str, Tensor]) -> dict[str, Any]:
    told: dict[str, Any] = {"budget": budget}
    for kind, values in means.items():
        values[1::2].sqrt_()
        told[kind] = dict(zip(SCORES, values.tolist(), strict=True))
    soft, hard = (told[kind] for kind in KINDS)
    told["ratio"] = {name: soft[name] / hard[name] if hard[name] else None for name in SCORES}
    return told
