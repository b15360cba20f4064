"""The unit in which the prior thinks: the median depth of the first view, found where nobody tells it."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..clips import Clips
from ..rays import sweep

NEAREST, FARTHEST = 0.5, 200.0  # depths that are tried, times the largest distance between the cameras
TRIED = 192
WINDOW = 5  # pixels a side, over which colours are compared
SURE = 0.5  # share of the pixels that count: those with the clearest match


def swept_depth(clips: Clips) -> float:
    """The median depth of view 0 of one scene with several posed views, in their units, by a plane sweep.

    The depth at which each window of view 0 looks most like the others (Collins 1996), where one is clearly best.
    1 where the cameras all stand in one place, which tells no unit.
    """
    poses, K = clips.world_to_camera.double(), clips.K
    eyes = -torch.einsum("bvji,bvj->bvi", poses[..., :3, :3], poses[..., :3, 3])
    base = float((eyes[:, 1:] - eyes[:, :1]).norm(dim=-1).amax()) if eyes.shape[1] > 1 else 0.0
    if base < 1e-9:
        return 1.0
    inverse = torch.linspace(1 / FARTHEST, 1 / NEAREST, TRIED) / base
    poses = poses.float()
    sources, target = (poses[:, 1:], K[:, 1:]), (poses[:, :1], K[:, :1])
    colors, evidence = sweep(clips.rgb[:, 1:], sources, target, inverse, clips.size)
    differs = (colors - clips.rgb[:, :1, None]).abs().mean(dim=3)[0, 0]  # [d, h, w]
    seen = evidence[0, 0, :, 0]
    pad = WINDOW // 2
    cost = avg_pool2d((differs * seen)[:, None], WINDOW, 1, pad)[:, 0]
    share = avg_pool2d(seen[:, None], WINDOW, 1, pad)[:, 0]
    cost = torch.where(share > 0.5 / (WINDOW * WINDOW), cost / share.clamp(min=1e-6), torch.inf)
    best, index = cost.min(dim=0)
    typical = torch.where(cost.isinf(), torch.nan, cost).nanmedian(dim=0).values
    clear = torch.where(best.isfinite(), typical - best, -1.0)
    counted = (clips.alpha[0, 0] > 0.5) & (clear >= 0)
    if not bool(counted.any()):
        return 1.0
    counted &= clear >= clear[counted].quantile(SURE)
    return float(1 / inverse[index[counted].float().median().long()])


def joined_poses(first: Tensor, others: Tensor, unit: float) -> Tensor:
    """World poses [..., 4, 4] as seen from the axes of the camera `first` [4, 4], in units of `unit`; float64."""
    relative = others.double() @ torch.linalg.inv(first.double())
    relative[..., :3, 3] /= unit
    return relative
