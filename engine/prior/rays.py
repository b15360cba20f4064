"""What cameras tell a network, pixel by pixel: the ray of each pixel, and what known views show along it."""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

LEAST_Z = 1e-4  # of a point that projects


def pixel_directions(K: Tensor, size: tuple[int, int]) -> Tensor:
    """The point at z = 1 that each pixel's centre sees, in the camera's axes: [..., 3, h, w] of K [..., 3, 3].

    No matrix is inverted, since exported graphs cannot; skew is none.
    """
    width, height = size
    x = torch.arange(width, device=K.device, dtype=K.dtype) + 0.5
    y = torch.arange(height, device=K.device, dtype=K.dtype) + 0.5
    fx, fy, cx, cy = (K[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    across = ((x - cx) / fx).expand(*K.shape[:-2], height, width)
    down = ((y[:, None] - cy) / fy).expand(*K.shape[:-2], height, width)
    return torch.stack((across, down, torch.ones_like(across)), -3)


def plucker(world_to_camera: Tensor, K: Tensor, size: tuple[int, int]) -> Tensor:
    """Unit direction and moment (eye x direction) of each pixel's ray in the world, [..., 6, h, w].

    After Pluecker; in the order of Lyra (arXiv 2509.19296) with the direction first.
    """
    rotation, translation = world_to_camera[..., :3, :3], world_to_camera[..., :3, 3]
    local = pixel_directions(K, size)
    directions = torch.einsum("...ji,...jhw->...ihw", rotation, local / local.norm(dim=-3, keepdim=True))
    eye = -torch.einsum("...ji,...j->...i", rotation, translation)[..., None, None].expand_as(directions)
    return torch.cat((directions, torch.linalg.cross(eye, directions, dim=-3)), -3)


def plane_depths(count: int, near: float, far: float, like: Tensor) -> Tensor:
    """[count] inverse depths from far to near, evenly spaced, so that steps are even in pixels of parallax."""
    return torch.linspace(1 / far, 1 / near, count, device=like.device, dtype=like.dtype)


@torch.no_grad()
def sweep(
    pictures: Tensor,
    sources: tuple[Tensor, Tensor],
    targets: tuple[Tensor, Tensor],
    inverse_depths: Tensor,
    size: tuple[int, int],
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A plane sweep: for each pixel of the targets and each depth, what the sources show at that point.

    Args:
        pictures: [b, s, 3, H, W] of the sources.
        sources: their world_to_camera [b, s, 4, 4] and K [b, s, 3, 3].
        targets: theirs, [b, t, 4, 4] and [b, t, 3, 3].
        inverse_depths: [d] of planes of constant z before each target.
        size: width and height of the targets, pixels.
        allowed: [t, s] 1 where a target may look at a source, else 0; everywhere when None.

    Returns:
        colors [b, t, d, 3, h, w], the mean over the sources that see the point, 0 where none does; and evidence
        [b, t, d, 2, h, w]: the share of the sources that see it, and the standard deviation of their colours. Without
        gradients.
    """
    (to_source, source_K), (to_target, target_K) = sources, targets
    b, s, _, high, wide = pictures.shape
    t, d, (width, height) = to_target.shape[1], len(inverse_depths), size
    rotation = torch.einsum("bsij,btkj->bstik", to_source[..., :3, :3], to_target[..., :3, :3])
    offset = to_source[:, :, None, :3, 3] - torch.einsum("bstik,btk->bsti", rotation, to_target[..., :3, 3])
    # A point at inverse depth r is in proportion to R p + r t: no division, and no far point is lost.
    turned = torch.einsum("bstij,btjhw->bstihw", rotation, pixel_directions(target_K, size))
    moved = inverse_depths[:, None] * offset[:, :, :, None]  # [b, s, t, d, 3]
    fx, fy, cx, cy = (source_K[:, :, i, j].view(b, s, 1, 1, 1, 1) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    turned, moved = turned.unsqueeze(3), moved[..., None, None]  # [b, s, t, 1, 3, h, w] and [b, s, t, d, 3, 1, 1]
    z = turned[..., 2, :, :] + moved[..., 2, :, :]
    front = z > LEAST_Z
    inverse = z.clamp_(min=LEAST_Z).reciprocal_()
    grid = pictures.new_empty(b, s, t, d, height, width, 2)
    for axis, focal, center, side in ((0, fx, cx, wide), (1, fy, cy, high)):
        place = (turned[..., axis, :, :] + moved[..., axis, :, :]).mul_(inverse)
        grid[..., axis] = place.mul_(focal * (2 / side)).add_(center * (2 / side) - 1).clamp_(-2, 2)
    seen = (front & (grid.abs().amax(dim=-1) <= 1)).to(pictures.dtype)
    if allowed is not None:
        seen = seen * allowed.T.view(1, s, t, 1, 1, 1)
    grid = grid.view(b * s, t * d * height, width, 2)
    found = grid_sample(pictures.flatten(0, 1), grid, "bilinear", "border", False)
    found = found.view(b, s, 3, t, d, height, width)
    total = seen.sum(dim=1)
    shares = (seen / total.clamp(min=1)[:, None]).unsqueeze(2)
    colors = (found * shares).sum(dim=1)  # [b, 3, t, d, h, w]
    variance = (found.square() * shares).sum(dim=1).sub_(colors.square()).mean(dim=1).clamp_(min=0)
    looking = s if allowed is None else allowed.sum(dim=1).clamp(min=1).view(1, t, 1, 1, 1)
    return colors.permute(0, 2, 3, 1, 4, 5), torch.stack((total / looking, variance.sqrt()), 3)
