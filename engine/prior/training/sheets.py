"""Contact sheets and quick figures of a run, on a few validation clips that stay the same."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ...files import replacing
from ..clips import Clips, normalised
from ..denoiser import denoise
from ..evaluation.metrics import psnr
from ..inference import decode
from ..sampling import integrate, sample
from ..worlds.scenes import WorldOptions
from ..worlds.source import WorldSource
from .denoising import as_batch
from .loop import Report
from .options import PriorOptions
from .splatting import Frames, draw_frames, draw_gaussians, draw_moving

SCENES, SHOWN = 16, 6  # measured and pictured
SEED = 1
ENLARGED = 4


def denoiser_sheet(options: PriorOptions, device: torch.device, *, few: bool) -> Report:
    """Writes rows of clean views, true targets and found ones; measures PSNR at 1 and 4 (or 8) steps.

    Args:
        few: whether the network is a student, sampled as a consistency model.
    """

    def report(network: nn.Module, path: Path) -> dict[str, float]:
        clips = _validation(options, options.views[1], device, options.data.moving)
        known = options.clean[0]
        batch = as_batch(clips, known, options)
        way = sample if few else integrate
        found = {}
        for steps in (1, 4) if few else (1, 8):
            generator = torch.Generator().manual_seed(SEED)
            views = way(lambda x, t: denoise(network, x, t, batch.condition), batch.condition, steps, generator)
            found[steps] = (0.5 * views + 0.5).clamp(0, 1)
        rows = [clips.rgb, *found.values()]
        write_sheet(path, torch.stack([row[:SHOWN] for row in rows], 1).flatten(0, 1))
        truth = clips.rgb[:, known:]
        return {f"psnr_{steps}": _mean_psnr(views[:, known:], truth) for steps, views in found.items()}

    return report


def decoder_sheet(options: PriorOptions, student: nn.Module, device: torch.device) -> Report:
    """Writes rows of frames and of renderings of their Gaussians; measures PSNR at views that the decoder never saw."""

    def report(network: nn.Module, path: Path) -> dict[str, float]:
        decoder = options.decoder
        clips = _validation(options, decoder.views + decoder.held_out, device, 0.0)
        generator = torch.Generator().manual_seed(SEED)
        mover = WorldSource(WorldOptions(split="validation", moving=1.0), device)
        cases = {
            "true": Frames(clips.views(slice(decoder.views)), clips),
            "generated": draw_frames(clips, student, options, False, generator),
            "moving": draw_moving(mover, SCENES, options, generator),
        }
        told: dict[str, float] = {}
        rows = []
        with torch.no_grad():
            for name, frames in cases.items():
                given = options.decoder.fused, options.rays
                found = decode(
                    network, frames.seen, frames.wanted.times[:, 0], options.planes, fused=given[0], use_rays=given[1]
                )
                drawn = draw_gaussians(found, frames.wanted).rgb.permute(0, 1, 4, 2, 3).clamp(0, 1)
                truth = clips if name == "generated" else frames.wanted
                told[f"psnr_unseen_{name}"] = _mean_psnr(drawn[:, decoder.views :], truth.rgb[:, decoder.views :])
                rows += [frames.wanted.rgb, drawn]
        write_sheet(path, torch.stack([row[:SHOWN] for row in rows], 1).flatten(0, 1))
        return told

    return report


def write_sheet(path: Path, rows: Tensor) -> None:
    """A PNG of pictures [rows, columns, 3, h, w], 0 to 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    big = rows.repeat_interleave(ENLARGED, -1).repeat_interleave(ENLARGED, -2)
    joined = big.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    with replacing(path) as stream:
        Image.fromarray((joined.clamp(0, 1) * 255).round().byte().cpu().numpy()).save(stream, "PNG")


def _validation(options: PriorOptions, views: int, device: torch.device, moving: float) -> Clips:
    source = WorldSource(WorldOptions(split="validation", moving=moving), device)
    return normalised(source.clips(SCENES, views, options.size, torch.Generator().manual_seed(SEED)))


def _mean_psnr(found: Tensor, truth: Tensor) -> float:
    return float(psnr(found, truth).mean())
