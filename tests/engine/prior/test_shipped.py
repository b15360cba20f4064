"""The prior that comes with Lyra, on worlds that it never saw."""

import pytest
import torch

from lyra.engine.prior.clips import normalised
from lyra.engine.prior.inference import generated
from lyra.engine.prior.weights import SHIPPED, load_network, open_prior
from lyra.engine.prior.worlds.scenes import WorldOptions
from lyra.engine.prior.worlds.source import WorldSource

SIXTEEN_MB = 16_000_000


@pytest.mark.parametrize("split", ["validation", "generators"])
def test_its_views_beat_the_nearest_view(split: str) -> None:
    """One view known of three, four steps: one sample, without the mean that would add some decibels."""
    prior = open_prior("lyra-tiny")
    source = WorldSource(WorldOptions(split=split, moving=0.0))
    clips = normalised(source.clips(24, 3, prior.size, torch.Generator().manual_seed(77)))
    found = generated(prior.student, clips, 1, prior.student.planes, 4, torch.Generator().manual_seed(0))
    truth, nearest = clips.rgb[:, 1:], clips.rgb[:, :1].expand_as(clips.rgb[:, 1:])
    assert _psnr(found[:, 1:], truth) > _psnr(nearest, truth) + 1.0


def test_it_is_small_and_whole() -> None:
    for folder in SHIPPED.iterdir():
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert (folder / "README.md").is_file()
        assert sum(path.stat().st_size for path in files) < SIXTEEN_MB
        for network in folder.iterdir():
            if network.is_dir():
                load_network(network)


def _psnr(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((-10 * (found - truth).square().flatten(2).mean(dim=2).log10()).mean())
