"""Splats of a picture: flat discs on the surface that its depth tells, coloured by the picture itself.

Where colours and depth are flat, blocks of 2, 4 and 8 pixels share a disc, so that a limited number is where detail is.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, pad

from ....kernels.constants import SH_C0
from ....kernels.options import Options
from ...renderer import render
from ...scene.gaussians import Gaussians, base_colors, merge
from ..rays import pixel_directions
from .inputs import View

# Standard deviation of a disc in sides of its block, 1 to 8 pixels: neighbours leave no gaps, also from nearer. The
# smallest are blurred by the renderer as well.
WIDTHS = (0.5, 0.65, 0.65, 0.65)
SHARPENED = 2  # times that what discs blur is given back to their colours
OPACITY = 0.98
OVERLAP = 3.0  # discs that lie on each other at a place
THIN = 0.02  # of a disc's shorter side, its thickness
JUMP = 0.06  # relative step of depth between pixels that is an edge of something, not a slope
STEEPEST = 4.0  # times that a slope stretches a disc at most
DEPTH_WEIGHT = 4.0  # of relative steps of depth beside steps of colour, when blocks are merged
LEAST_ALPHA = 0.05  # of a pixel that becomes a splat


def picture_splats(view: View, depth: Tensor, limit: int) -> Gaussians:
    """Splats in the camera's axes, whose rendering there is as sharp as the picture.

    Args:
        view: of which only the intrinsics of the camera count.
        depth: [h, w] z, above 0.
        limit: splats at most, as far as blocks of 8 x 8 pixels allow.

    Returns:
        Harmonics of degree 0, those of the smallest blocks first.
    """
    places = _places_of(view, depth, limit)
    splats = _laid(view, depth, places)
    indices = [place.flatten().nonzero()[:, 0] for place in places]
    for _ in range(SHARPENED if len(splats) else 0):
        splats = _sharpened(splats, view, indices)
    return splats


def discs(view: View, depth: Tensor, limit: int) -> Gaussians:
    """The same without sharpening, for a view that shows parts only or is blurred itself."""
    return _laid(view, depth, _places_of(view, depth, limit))


def _planes(view: View, depth: Tensor) -> Tensor:
    """[5, h, w] in whole blocks of the largest side: colours, inverse depth, alpha."""
    solid = view.alpha.clamp(min=LEAST_ALPHA)
    planes = torch.cat((view.rgb.permute(2, 0, 1) / solid, 1 / depth[None], view.alpha[None]))
    return _padded(planes, "replicate")


def _places_of(view: View, depth: Tensor, limit: int) -> list[Tensor]:
    """Where the discs of each side of blocks stand."""
    wanted = _padded((view.alpha >= LEAST_ALPHA).float()[None], "constant")[0] > 0
    return _places(_planes(view, depth)[:4], wanted, limit)


def _laid(view: View, depth: Tensor, places: list[Tensor]) -> Gaussians:
    """Discs at some places, those of the smallest blocks first."""
    planes = _planes(view, depth)
    weighted = _pyramid(torch.cat((planes[:4] * planes[4], planes[4:])))
    found = []
    for i, (level, place) in enumerate(zip(weighted, places, strict=True)):
        means = torch.where(level[4] > 0, level[:4] / level[4].clamp(min=1e-6), planes[3].mean())
        found.append(_discs(means, level[4], view.camera.K, i, place))
    return merge(found)


def _sharpened(splats: Gaussians, view: View, indices: list[Tensor]) -> Gaussians:
    """With colours moved by what a rendering lacks (van Cittert 1931): neighbours blur each other."""
    camera = replace(view.camera, world_to_camera=torch.eye(4, dtype=torch.float64))
    lacks = view.rgb - render(splats, camera, options=Options(depth=False)).rgb
    levels = _pyramid(_padded(lacks.permute(2, 0, 1), "constant"))
    moved = torch.cat([level.flatten(1)[:, index].T for level, index in zip(levels, indices, strict=True)])
    colors = (base_colors(splats) + moved).clamp(0, 1)
    return replace(splats, sh=((colors - 0.5) / SH_C0)[:, None])


def _padded(planes: Tensor, mode: str) -> Tensor:
    """[c, h, w] made whole blocks of the largest side."""
    side = 1 << (len(WIDTHS) - 1)
    down, right = -planes.shape[1] % side, -planes.shape[2] % side
    return pad(planes[None], (0, right, 0, down), mode=mode)[0]


def _pyramid(planes: Tensor) -> list[Tensor]:
    """[c, h, w] in all sizes, by area means."""
    levels = [planes]
    for _ in range(len(WIDTHS) - 1):
        levels.append(avg_pool2d(levels[-1][None], 2)[0])
    return levels


def _places(planes: Tensor, wanted: Tensor, limit: int) -> list[Tensor]:
    """For each side of blocks, where they stand in the picture scaled down, [h, w] bool.

    A merge of four blocks costs the range of their colours and depths. The cheapest come first, never before those
    below them, until few enough blocks are left.

    Args:
        planes: [4, h, w] colours and inverse depth.
        wanted: [h, w] bool.
        limit: blocks.
    """
    low, high = torch.where(wanted, planes, torch.inf), torch.where(wanted, planes, -torch.inf)
    stands, costs, saved = [wanted], [], []
    for _ in range(len(WIDTHS) - 1):
        low, high = -max_pool2d(-low[None], 2)[0], max_pool2d(high[None], 2)[0]
        children = avg_pool2d(stands[-1][None].float(), 2)[0] * 4
        there = children > 0
        cost = (high[:3] - low[:3]).amax(dim=0) + DEPTH_WEIGHT * (high[3] / low[3] - 1)
        if costs:
            below = torch.where(stands[-1], costs[-1], -torch.inf)
            cost = torch.maximum(cost, max_pool2d(below[None], 2)[0])
        costs.append(torch.where(there, cost, torch.inf))
        saved.append(torch.where(there, children - 1, 0))
        stands.append(there)
    order = torch.cat([cost.flatten() for cost in costs]).sort(stable=True).indices
    gains = torch.cat([gain.flatten() for gain in saved])[order].double().cumsum(0)
    merges = int(torch.searchsorted(gains, max(0, int(wanted.sum()) - limit)))
    merges = min(merges + 1, len(order)) if int(wanted.sum()) > limit else 0
    merged = torch.zeros(len(order), dtype=torch.bool)
    merged[order[:merges]] = True
    parts = merged.split([cost.numel() for cost in costs])
    whole = [part.view_as(cost) & there for part, cost, there in zip(parts, costs, stands[1:], strict=True)]
    covered = [above.repeat_interleave(2, 0).repeat_interleave(2, 1) for above in whole]
    return [here & ~above for here, above in zip([wanted, *whole[:-1]], covered, strict=True)] + [whole[-1]]


def _discs(planes: Tensor, alpha: Tensor, K: Tensor, level: int, place: Tensor) -> Gaussians:
    """A disc for some pixels of a picture scaled down: each one's footprint on the tangent plane, as far as not steep.

    The covariance of the footprint is J J^T of the two steps along the surface; turning these until they are orthogonal
    (one-sided Jacobi) gives the axes of the disc without any eigenvalue solver.
    """
    lens = K.float() / torch.tensor([[1 << level], [1 << level], [1.0]])
    inverse = planes[3]
    ray, z = pixel_directions(lens, (place.shape[1], place.shape[0]))[:, place].T, 1 / inverse[place]
    steps = []
    for axis in (0, 1):  # right, down
        footprint = z / lens[axis, axis]
        slope = -_slope(inverse, 1 - axis)[place] * z * z  # of z, in units a pixel
        step = ray * slope.clamp(-STEEPEST * footprint, STEEPEST * footprint)[:, None]
        step[:, axis] += footprint
        steps.append(step)
    u, v = steps
    angle = 0.5 * torch.atan2(2 * (u * v).sum(1), (u * u).sum(1) - (v * v).sum(1))[:, None]
    a, b = angle.cos() * u + angle.sin() * v, angle.cos() * v - angle.sin() * u
    lengths = torch.stack((a.norm(dim=1), b.norm(dim=1)), 1)
    x, y = a / lengths[:, :1], b / lengths[:, 1:]
    lengths = torch.cat((lengths, THIN * lengths.amin(dim=1, keepdim=True)), 1)
    return Gaussians(
        means=ray * z[:, None],
        quats=_quats(torch.stack((x, y, torch.linalg.cross(x, y)), -1)),
        scales=lengths * WIDTHS[level],
        opacities=OPACITY * (1 - (1 - alpha[place].clamp(max=1)) ** (1 / OVERLAP)),
        sh=((planes[:3, place].T - 0.5) / SH_C0)[:, None],
    )


def _slope(inverse: Tensor, axis: int) -> Tensor:
    """Of inverse depth, in which planes are linear: the smaller of the two one-sided steps; 0 beside jumps."""
    step = inverse.diff(dim=axis)
    least = torch.minimum(inverse.narrow(axis, 0, step.shape[axis]), inverse.narrow(axis, 1, step.shape[axis]))
    jump = step.abs() > JUMP * least
    step = torch.where(jump, torch.inf, step)
    edge = torch.full_like(inverse.narrow(axis, 0, 1), torch.inf)
    before, after = torch.cat((edge, step), axis), torch.cat((step, edge), axis)
    smaller = torch.where(before.abs() <= after.abs(), before, after)
    return torch.where(smaller.isinf(), 0.0, smaller)


def _quats(frame: Tensor) -> Tensor:
    """Unit quaternions wxyz of many rotations [n, 3, 3] (Shepperd 1978, the best of four forms for each)."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in frame.unbind(-2))
    forms = torch.stack(
        (
            torch.stack((1 + a + e + i, h - f, c - g, d - b), -1),
            torch.stack((h - f, 1 + a - e - i, b + d, c + g), -1),
            torch.stack((c - g, b + d, 1 - a + e - i, f + h), -1),
            torch.stack((d - b, c + g, f + h, 1 - a - e + i), -1),
        ),
        1,
    )
    best = torch.stack((a + e + i, a - e - i, e - a - i, i - a - e), 1).argmax(dim=1)
    found = forms.gather(1, best[:, None, None].expand(-1, 1, 4))[:, 0]
    return found / found.norm(dim=1, keepdim=True)
