"""The prior that comes with Lyra, on worlds that it never saw."""

from dataclasses import replace

import pytest
import torch

from lyra.engine.prior.clips import normalised
from lyra.engine.prior.generation.inputs import Sources, View, lens
from lyra.engine.prior.generation.paths import path_poses
from lyra.engine.prior.generation.scenes import GenerationOptions, generate
from lyra.engine.prior.inference import generated
from lyra.engine.prior.weights import SHIPPED, load_network, open_prior
from lyra.engine.prior.worlds.scenes import WorldOptions
from lyra.engine.prior.worlds.source import WorldSource
from lyra.engine.prior.worlds.trace import trace
from lyra.engine.renderer import render
from lyra.engine.scene.camera import Camera

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


def test_a_scene_goes_on_beyond_its_picture() -> None:
    """Other cameras meet no holes, and pictures nearer to the truth than the known one is."""
    prior, found, copied = open_prior("lyra-tiny"), [], []
    source, generator = WorldSource(WorldOptions(split="validation", moving=0.0)), torch.Generator().manual_seed(7)
    for _ in range(3):
        world = source.worlds(1, generator)
        pose, K, times = source.cameras(world, 1, (64, 64), generator)
        first, depth, _ = trace(world, pose, K, times, (64, 64), 2)
        unit = float(depth.median())
        steps = torch.cat([path_poses(name, 0.2, 1) for name in ("left", "up", "zoom_out")]).float()
        steps[:, :3, 3] *= unit
        truth = trace(world, steps @ pose, K.expand(-1, 3, -1, -1), times.expand(-1, 3), (64, 64), 2)[0][0]
        camera = Camera(torch.eye(4, dtype=torch.float64), *lens(K[0, 0]), 64, 64)
        view = View(first[0, 0].permute(1, 2, 0), torch.ones(64, 64), camera)
        paths = [("clockwise", 0.3), ("zoom_out", 0.3)]
        made = generate(Sources((view,), False, ()), prior, paths, GenerationOptions(scale=unit))
        frames = [render(made.splats, replace(camera, world_to_camera=step.double())) for step in steps]
        assert min(float((frame.alpha > 0.5).float().mean()) for frame in frames) > 0.97
        found.append(_psnr(torch.stack([frame.rgb.permute(2, 0, 1) for frame in frames]).unsqueeze(0), truth[None]))
        copied.append(_psnr(first.expand(-1, 3, -1, -1, -1), truth[None]))
    assert sum(found) > sum(copied) + 3 * 1.0
