"""The Gaussian decoder: posed views in, a Gaussian for each of their pixels out."""

import torch
from torch import Tensor, nn

from ..scene.transform import multiply_quats, rotation_quat
from .denoiser import Planes
from .network import MultiViewTransformer, NetworkOptions
from .rays import pixel_directions, plane_depths, plucker, sweep

NUMBERS = 12  # a Gaussian beside its depth: offset 1, scales 3, quaternion 4, opacity 1, colour 3
WIDEST = 16.0  # pixels, of a standard deviation
START = (-3.4, -3.4, -5.0)  # logits of scales: discs of half a pixel
OPAQUE = 1.0  # logit of opacities at the start


class DecoderNetwork(nn.Module):
    """Sees all views at once; what a view's neighbours show at each depth comes in beside its own colours."""

    def __init__(self, options: NetworkOptions, planes: Planes) -> None:
        super().__init__()
        self.planes = planes
        self.core = MultiViewTransformer(3 + 6 + 5 * planes.count, planes.count + NUMBERS, 2, options)

    def forward(
        self, rgb: Tensor, rays: Tensor, colors: Tensor, evidence: Tensor, times: Tensor, target_times: Tensor
    ) -> Tensor:
        """Raw numbers of Gaussians, [b, v, planes + 12, h, w].

        Args:
            rgb: [b, v, 3, h, w] -1 to 1.
            rays: [b, v, 6, h, w].
            colors, evidence: [b, v, d, 3, h, w] and [b, v, d, 2, h, w], of a sweep of each view over the others.
            times: [b, v] when each view was taken.
            target_times: [b, v] the time of the scene that is wanted, the same in all views of a clip.
        """
        inputs = torch.cat((rgb, rays, colors.flatten(2, 3), evidence.flatten(2, 3)), 2)
        return self.core(inputs, torch.stack((times, target_times), -1)).to(rgb.dtype)  # autocast gives bfloat16


def look(
    rgb: Tensor, world_to_camera: Tensor, K: Tensor, planes: Planes, *, fused: bool = True, use_rays: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first four inputs of the network, of views in normalised units.

    Args:
        rgb: [b, v, 3, h, w] 0 to 1.
        world_to_camera, K: [b, v, 4, 4] and [b, v, 3, 3].
        planes: of the sweep.
        fused: False leaves out what views say of each other, for the ablation.
        use_rays: False leaves the rays at 0, for the ablation.
    """
    v, size = rgb.shape[1], (rgb.shape[-1], rgb.shape[-2])
    shown = 2 * rgb - 1
    others = 1 - torch.eye(v, device=rgb.device)
    cameras = (world_to_camera, K)
    colors, evidence = sweep(
        shown, cameras, cameras, plane_depths(planes.count, planes.near, planes.far, rgb), size, others * float(fused)
    )
    rays = plucker(world_to_camera, K, size)
    return shown, rays if use_rays else torch.zeros_like(rays), colors, evidence


def as_gaussians(raw: Tensor, rgb: Tensor, world_to_camera: Tensor, K: Tensor, planes: Planes) -> dict[str, Tensor]:
    """What the network's numbers mean: tensors as `Gaussians` names them, with colours in place of harmonics.

    Args:
        raw: [b, v, planes + 12, h, w].
        rgb: [b, v, 3, h, w] 0 to 1.
        world_to_camera, K: of the views.
        planes: those of the network.

    Returns:
        means [b, n, 3], quats [b, n, 4], scales [b, n, 3], opacities [b, n], colors [b, n, 3], and depths [b, v, h, w],
        z in each view; n = v * h * w, views one after the other, pixels in rows.
    """
    b, v, _, h, w = raw.shape
    count = planes.count
    chance, offset, spread, turn, opacity, residual = raw.split([count, 1, 3, 4, 1, 3], dim=2)
    depths = plane_depths(count, planes.near, planes.far, raw)
    step = (1 / planes.near - 1 / planes.far) / (count - 1)
    inverse = (chance.softmax(dim=2) * depths.view(1, 1, -1, 1, 1)).sum(dim=2) + 0.5 * step * offset[:, :, 0].tanh()
    z = 1 / inverse.clamp(min=0.5 / planes.far)
    rotation, translation = world_to_camera[..., :3, :3], world_to_camera[..., :3, 3]
    local = pixel_directions(K, (w, h)) * z[:, :, None] - translation[..., None, None]
    means = torch.einsum("bvji,bvjhw->bvhwi", rotation, local)
    start = raw.new_tensor(START).view(1, 1, 3, 1, 1)
    footprint = z[:, :, None] / K[..., 0, 0].view(b, v, 1, 1, 1)
    scales = (WIDEST * (spread + start).sigmoid() * footprint).permute(0, 1, 3, 4, 2)
    unit = torch.cat((turn[:, :, :1] + 1, turn[:, :, 1:]), 2).permute(0, 1, 3, 4, 2)
    to_world = rotation_quat(rotation.transpose(-1, -2)).to(unit)[:, :, None, None].expand_as(unit)
    quats = multiply_quats(to_world, unit)
    colors = (rgb + 0.5 * residual.tanh()).permute(0, 1, 3, 4, 2)
    return {
        "means": means.reshape(b, -1, 3),
        "quats": quats.reshape(b, -1, 4),
        "scales": scales.reshape(b, -1, 3),
        "opacities": (opacity + OPAQUE).sigmoid().reshape(b, -1),
        "colors": colors.reshape(b, -1, 3),
        "depths": z,
    }
