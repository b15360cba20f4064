"""What a scene would lose in another format: written, read back and compared, splat by splat."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.constants import SH_C0
from ..scene.gaussians import Gaussians
from ..scene.morton import morton_order
from .format import PLAIN_READING, PLAIN_WRITING, Format, Writing

RUN = 256  # neighbouring splats that stay together in a sample: compressed PLY shares bounds between as many


def sample(scene: Gaussians, most: int) -> Gaussians:
    """At most about `most` splats in runs of neighbours, those at the bounds among them; a smaller scene is itself."""
    if len(scene) <= most:
        return scene
    runs = -(-len(scene) // RUN)
    taken = torch.linspace(0, runs - 1, max(1, most // RUN), dtype=torch.float64).long()
    places = (taken[:, None] * RUN + torch.arange(RUN)).flatten()
    inner = morton_order(scene.means)[places[places < len(scene)]]
    outer = torch.cat((scene.means.argmin(dim=0), scene.means.argmax(dim=0)))
    return scene.select(torch.cat((inner, outer)).unique())


def conversion_loss(scene: Gaussians, format: Format, writing: Writing = PLAIN_WRITING) -> dict[str, dict[str, float]]:
    """Largest and root-mean-square error of every part of a splat after a trip through a format.

    Returns:
        `position` in world units, `scale` in parts of itself, `rotation` in degrees, `opacity` and `color` (without
        view-dependent parts) of 1, `sh` in units of the coefficients.

    Raises:
        InputError: the format cannot hold the scene.
    """
    assert format.save is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"scene{format.endings[0]}"
        format.save(scene, path, writing)
        back = format.load(path, PLAIN_READING)
    return errors(scene if format.order is None else scene.select(format.order(scene)), back)


def errors(scene: Gaussians, other: Gaussians) -> dict[str, dict[str, float]]:
    """As `conversion_loss`, of two scenes whose splats correspond."""
    k = scene.sh.shape[1] - 1
    rest = torch.zeros_like(scene.sh[:, 1:])
    rest[:, : other.sh.shape[1] - 1] = other.sh[:, 1 : k + 1]
    tiny = torch.finfo(torch.float32).tiny
    parts = {
        "position": (scene.means.double() - other.means.double()).norm(dim=1),
        "scale": (other.scales.double().clamp(min=tiny) / scene.scales.double().clamp(min=tiny)).log().expm1(),
        "rotation": _angles(scene, other),
        "opacity": scene.opacities.double() - other.opacities.double(),
        "color": SH_C0 * (scene.sh[:, 0].double() - other.sh[:, 0].double()),
        "sh": scene.sh[:, 1:].double() - rest.double(),
    }
    return {name: _summary(values) for name, values in parts.items() if values.numel()}


def _angles(scene: Gaussians, other: Gaussians) -> Tensor:
    """[n] degrees between the rotations."""
    left, right = (torch.nn.functional.normalize(s.quats.double(), dim=1) for s in (scene, other))
    away = torch.minimum((left - right).norm(dim=1), (left + right).norm(dim=1))
    return torch.rad2deg(4 * torch.asin((away / 2).clamp(max=1)))


def _summary(values: Tensor) -> dict[str, float]:
    return {"max": float(values.abs().max()), "rms": float(values.square().mean().sqrt())}
