"""The denoiser: noisy target views and clean ones, with their cameras, to what the targets show."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .network import MultiViewTransformer, NetworkOptions
from .rays import plane_depths, plucker, sweep

HIDDEN = 10.0  # logits by which a colour that no view sees falls behind


@dataclass(frozen=True)
class Planes:
    """The depths of a plane sweep, in units of the median depth of view 0."""

    count: int = 24
    near: float = 0.35
    far: float = 30.0


@dataclass(frozen=True, eq=False)
class Condition:
    """All that a denoiser knows of clips but noise: computed once, used at every step. Clean views come first."""

    clean: Tensor  # [b, v, 3, h, w] -1 to 1, 0 in target views
    known: Tensor  # [b, v] 1 for clean views, else 0
    rays: Tensor  # [b, v, 6, h, w]
    colors: Tensor  # [b, v, d, 3, h, w] of the sweep, -1 to 1; 0 in clean views
    evidence: Tensor  # [b, v, d, 2, h, w] of the sweep; 0 in clean views
    times: Tensor  # [b, v] 0 to 1


def make_condition(
    clean: Tensor, world_to_camera: Tensor, K: Tensor, times: Tensor, planes: Planes, *, use_rays: bool = True
) -> Condition:
    """The condition of clips in normalised units (`clips.normalised`).

    Args:
        clean: [b, k, 3, h, w] 0 to 1, the first k views.
        world_to_camera: [b, v, 4, 4] of all views.
        K: [b, v, 3, 3].
        times: [b, v].
        planes: of the sweep.
        use_rays: False leaves the rays at 0, for the ablation.
    """
    b, k, _, h, w = clean.shape
    unknown = world_to_camera.shape[1] - k
    clean = 2 * clean - 1
    sources, targets = (world_to_camera[:, :k], K[:, :k]), (world_to_camera[:, k:], K[:, k:])
    depths = plane_depths(planes.count, planes.near, planes.far, clean)
    colors, evidence = sweep(clean, sources, targets, depths, (w, h))
    rays = plucker(world_to_camera, K, (w, h))

    def after(x: Tensor, count: int) -> Tensor:
        return torch.cat((x.new_zeros(b, count, *x.shape[2:]), x), 1)

    return Condition(
        torch.cat((clean, clean.new_zeros(b, unknown, 3, h, w)), 1),
        torch.cat((clean.new_ones(b, k), clean.new_zeros(b, unknown)), 1),
        rays if use_rays else torch.zeros_like(rays),
        after(colors, k),
        after(evidence, k),
        times,
    )


class DenoiserNetwork(nn.Module):
    """Predicts the clean targets; what clean views show at some depth is blended with colours of its own.

    The blend gives crisp copies of what is seen at the price of a choice of depth, and leaves the rest to the network.
    """

    def __init__(self, options: NetworkOptions, planes: Planes) -> None:
        super().__init__()
        self.planes = planes
        self.core = MultiViewTransformer(3 + 1 + 6 + 5 * planes.count, planes.count + 4, 2, options, noisy=3)

    def forward(
        self,
        noisy: Tensor,
        levels: Tensor,
        clean: Tensor,
        known: Tensor,
        rays: Tensor,
        colors: Tensor,
        evidence: Tensor,
        times: Tensor,
    ) -> Tensor:
        """The clean views, [b, v, 3, h, w] -1 to 1; those that are known come back as they are.

        Args:
            noisy: [b, v, 3, h, w] (1 - level) * clean + level * noise; not looked at where a view is known.
            levels: [b, v] 0 to 1 of noise, 0 in known views.
            clean, known, rays, colors, evidence, times: as in `Condition`.
        """
        is_known = known[..., None, None, None]
        shown = noisy * (1 - is_known)
        flags = is_known.expand_as(shown[:, :, :1])
        inputs = torch.cat((clean, flags, rays, colors.flatten(2, 3), evidence.flatten(2, 3)), 2)
        out = self.core(inputs, torch.stack((levels, times), -1), shown).to(clean.dtype)  # autocast gives bfloat16
        count = self.planes.count
        hidden = (evidence[:, :, :, 0] > 0).to(out.dtype) * HIDDEN - HIDDEN
        logits = torch.cat((out[:, :, :count] + hidden, out[:, :, count : count + 1]), 2)
        weights = logits.softmax(dim=2)[:, :, :, None]
        own = out[:, :, count + 1 :]
        found = (weights[:, :, :count] * colors).sum(dim=2) + weights[:, :, count] * own
        return clean * is_known + found * (1 - is_known)


def denoise(network: nn.Module, noisy: Tensor, levels: Tensor, condition: Condition) -> Tensor:
    """The network's clean views for noise levels [b] of the targets."""
    by_view = levels[:, None] * (1 - condition.known)
    c = condition
    return network(noisy, by_view, c.clean, c.known, c.rays, c.colors, c.evidence, c.times)
