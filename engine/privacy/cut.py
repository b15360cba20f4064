"""Splats that reach into a region, and what is left of them when they may not.

A splat draws where its alpha is 1/255 or more: in the ellipsoid of r = sqrt(2 ln(255 opacity)) standard deviations
round its centre. Whether that meets a convex region is told by planes: a plane with the region on its far side, g
standard deviations from the centre, shows that the region is at least g away, and the best plane shows exactly how far
it is (strong duality). Since every plane proves its own bound, rounding makes a splat seem nearer, never farther.
"""

import dataclasses
import itertools

import torch
from torch import Tensor

from ...kernels.constants import ALPHA_MIN
from ...kernels.gsplat.translate import quats_and_scales
from ...kernels.reference import quats_to_rotations
from ..scene.gaussians import Gaussians
from ..scene.regions import Region, Sphere, distance, inside

THINNEST = 1e-6  # a splat is taken to be no flatter than this share of its length
CLEARANCE = 0.01  # of r that stays free between a splat that was cut and the region, for rounding
ROUNDS = 3  # of cutting; what rounding still leaves in the region is removed
HALVINGS = 80


def radii(scene: Gaussians) -> Tensor:
    """[n] float64, how many standard deviations from its centre a splat is drawn; 0 where it is drawn nowhere."""
    return (2 * (scene.opacities.double() / ALPHA_MIN).clamp(min=1).log()).sqrt()


def spread(scene: Gaussians) -> Tensor:
    """[n, 3, 3] float64, takes a ball to a splat: rotation times scales, none of them nearly zero."""
    scales = scene.scales.double()
    floor = (THINNEST * scales.amax(dim=1, keepdim=True)).clamp(min=1e-12)
    return quats_to_rotations(scene.quats.double()) * torch.maximum(scales, floor)[:, None, :]


def near(scene: Gaussians, region: Region) -> Tensor:
    """[c] indices of the splats that might reach into a region: all that do, and some that do not."""
    return torch.nonzero(distance(region, scene.means.double()) <= radii(scene) * scene.scales.amax(dim=1) * 1.01)[:, 0]


def reaching(scene: Gaussians, region: Region) -> Tensor:
    """[n] bool, which splats have their centre in a region or are drawn in it."""
    found = inside(region, scene.means.double())
    found[_straddlers(scene, region)[0]] = True
    return found


def cut(scene: Gaussians, region: Region) -> tuple[Gaussians, Tensor]:
    """Keeps splats whose centre lies outside a region from reaching into it.

    A splat that reaches in becomes a smaller one within its own ellipsoid, on the near side of the best plane, with its
    colour and opacity. In units of r along the plane's normal the ellipsoid is the ball [-1, 1], the plane stands at
    d = g / r, and what takes its place has its centre at a = (d - 1) / 4, a half length of b = d - a along the normal
    and across it the largest c that stays within the ball: c^4 - (1 + b^2 - a^2) c^2 + b^2 = 0. Of a = 0 (only the
    length shrinks) to (d - 1) / 2 (the far end stays), this changed the rest of real scenes least: docs/privacy.md.

    Returns:
        The scene, splats in order, and [n] bool, which of them were cut or, for rounding, have to be removed: those
        that `reaching` still names.
    """
    touched = torch.zeros(len(scene), dtype=torch.bool, device=scene.means.device)
    for _ in range(ROUNDS):
        index, normals, gaps = _straddlers(scene, region)
        if not len(index):
            break
        touched[index] = True
        scene = _squeezed(scene, index, normals, gaps)
    return scene, touched


def _straddlers(scene: Gaussians, region: Region) -> tuple[Tensor, Tensor, Tensor]:
    """Of the splats that reach in from outside: indices [c], whitened normals [c, 3] to the region, and g / r [c]."""
    index = near(scene, region)
    index = index[~inside(region, scene.means[index].double())]
    part = scene.select(index)
    axes = spread(part)
    normals, gaps = (_sphere_planes if isinstance(region, Sphere) else _box_planes)(region, part.means.double(), axes)
    ratio = gaps / radii(part).clamp(min=1e-9)
    reach = ratio < 1
    whitened = torch.nn.functional.normalize((axes[reach].mT @ normals[reach, :, None])[..., 0], dim=1)
    return index[reach], whitened, ratio[reach].clamp(min=0)


def _box_planes(box: Region, means: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """The best plane [c, 3] and its distance [c] in standard deviations: through a face, an edge or a corner.

    The nearest point of the box, by the splat's own measure, has one, two or three coordinates at their bounds, and the
    normal there is S^-1 (x - m) in these coordinates, S their covariance, and 0 in the others.
    """
    bounds = torch.tensor((box.low, box.high), dtype=means.dtype, device=means.device)  # type: ignore[union-attr]
    covariance = axes @ axes.mT
    best, found = torch.zeros_like(means), means.new_full((len(means),), -torch.inf)
    for sides in itertools.product((None, 0, 1), repeat=3):
        fixed = [axis for axis in range(3) if sides[axis] is not None]
        if not fixed:
            continue
        offsets = torch.stack([bounds[sides[axis], axis] - means[:, axis] for axis in fixed], dim=1)  # type: ignore
        solved, failed = torch.linalg.solve_ex(covariance[:, fixed][:, :, fixed], offsets)
        normals = torch.zeros_like(means)
        normals[:, fixed] = torch.where((failed == 0)[:, None], solved, 0.0).nan_to_num(0.0, 0.0, 0.0)
        start = torch.minimum(normals * bounds[0], normals * bounds[1]).sum(dim=1) - (normals * means).sum(dim=1)
        gaps = _per_deviation(start, normals, axes)
        better = gaps > found
        best, found = torch.where(better[:, None], normals, best), torch.where(better, gaps, found)
    return best, found


def _sphere_planes(sphere: Region, means: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """As `_box_planes`: the plane that touches the sphere at the point nearest by the splat's own measure.

    In the splat's axes that point is v / (1 + t s^2) from the sphere's centre, with v the splat's and s its standard
    deviations; t is where this has the length of the radius.
    """
    assert isinstance(sphere, Sphere)
    center = means.new_tensor(sphere.center)
    scales = axes.norm(dim=1)
    turned = axes / scales[:, None, :]
    offsets = (turned.mT @ (means - center)[..., None])[..., 0]
    excess = (offsets.norm(dim=1) / sphere.radius - 1).clamp(min=0)
    low, high = excess / scales.amax(dim=1) ** 2, excess / scales.amin(dim=1) ** 2
    for _ in range(HALVINGS):
        middle = (low * high).sqrt()
        far = (offsets / (1 + middle[:, None] * scales**2)).norm(dim=1) > sphere.radius
        low, high = torch.where(far, middle, low), torch.where(far, high, middle)
    touch = offsets / (1 + low[:, None] * scales**2)
    normals = -torch.nn.functional.normalize((turned @ touch[..., None])[..., 0], dim=1)
    return normals, _per_deviation((normals * (center - means)).sum(dim=1) - sphere.radius, normals, axes)


def _per_deviation(lengths: Tensor, normals: Tensor, axes: Tensor) -> Tensor:
    """Distances [c] along normals [c, 3], both of any one length, in standard deviations; -inf where there is none."""
    deviations = (axes.mT @ normals[..., None])[..., 0].norm(dim=1)
    return torch.where(deviations > 0, lengths / deviations, -torch.inf)


def _squeezed(scene: Gaussians, index: Tensor, normals: Tensor, ratio: Tensor) -> Gaussians:
    """Cut at planes, given by whitened normals [c, 3] and distances [c] in units of r."""
    part = scene.select(index)
    axes = spread(part)
    plane = ratio - CLEARANCE
    center = (plane - 1) / 4
    half = plane - center
    total = 1 + half**2 - center**2
    width = (total + (total**2 - 4 * half**2).clamp(min=0).sqrt()) / 2
    along = normals[:, :, None] * normals[:, None, :]
    square = width[:, None, None] * (torch.eye(3).to(along) - along) + (half**2)[:, None, None] * along
    quats, scales = quats_and_scales(axes @ square @ axes.mT)
    shift = (axes @ (radii(part) * center)[:, None, None].mul(normals[:, :, None]))[..., 0]
    changed = {"means": part.means.double() + shift, "quats": quats, "scales": scales}
    tensors = {name: getattr(scene, name).clone() for name in changed}
    for name, values in changed.items():
        tensors[name][index] = values.to(tensors[name])
    return dataclasses.replace(scene, **tensors)
