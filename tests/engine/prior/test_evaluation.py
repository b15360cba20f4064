"""Evaluation: figures against brute force, baselines against what they must do, the command from end to end."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from lyra.engine.cli import main
from lyra.engine.errors import InputError
from lyra.engine.formats.registry import load, save
from lyra.engine.prior.clips import Clips, normalised
from lyra.engine.prior.evaluation import bars, geometry
from lyra.engine.prior.evaluation import scenes as batches
from lyra.engine.prior.evaluation.baselines import averaged, copied, warped
from lyra.engine.prior.evaluation.metrics import (
    LEAST_PIXELS,
    laplacian_energy,
    masked_psnr,
    mean_of,
    picture_scores,
    psnr,
    ratio_of,
    seen_mask,
    unprojected,
)
from lyra.engine.prior.evaluation.novel_views import COPY, FEW, MANY, SAMPLES, condition_of, moved, student_views
from lyra.engine.prior.evaluation.outside import real_scenes
from lyra.engine.prior.evaluation.run import EvaluateOptions
from lyra.engine.prior.evaluation.run import _opened as opened_bench
from lyra.engine.prior.evaluation.run import _outside as real_scores
from lyra.engine.prior.evaluation.scenes import trials
from lyra.engine.prior.evaluation.summary import outside_table
from lyra.engine.prior.models import Denoiser, GaussianDecoder, config_of
from lyra.engine.prior.pruning import prune
from lyra.engine.prior.training.options import PriorOptions, read_options
from lyra.engine.prior.training.stages import save_network
from lyra.engine.prior.weights import open_prior
from lyra.engine.prior.worlds.scenes import WorldOptions
from lyra.engine.prior.worlds.source import WorldSource
from lyra.engine.prior.worlds.trace import trace
from lyra.engine.scene.gaussians import Gaussians
from lyra.kernels.options import Options
from lyra.kernels.rasterize import rasterize

TOY = """
name: toy
size: [12, 12]
views: [3, 3]
clean: [1, 2]
network: {width: 64, depth: 1, stem: 8}
planes: {count: 4}
teacher: {steps: 4}
regression: {steps: 4}
distill:
  ode: {steps: 2}
  consistency: {steps: 2}
decoder:
  schedule: {steps: 3}
  network: {width: 64, depth: 1, stem: 8}
  views: 3
  held_out: 1
"""


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def worlds(count: int = 4, views: int = 4, size: tuple[int, int] = (24, 24)) -> Clips:
    source = WorldSource(WorldOptions(split="validation", moving=0.0))
    return normalised(source.clips(count, views, size, dice(5)))


def save_random(options: PriorOptions, folder: Path, names: tuple[str, ...]) -> None:
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        network = Denoiser(**config_of(options.network, options.planes))
        for parameter in network.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        save_network(network, folder / name)
    torch.manual_seed(9)
    save_network(GaussianDecoder(**config_of(options.decoder.network, options.planes)), folder / "decoder")
    (folder / "prior.json").write_text(json.dumps({"name": "toy", "size": [12, 12], "rays": True, "fused": True}))


def test_energy_of_a_picture_is_its_laplacian_and_falls_with_blur() -> None:
    picture = torch.rand(2, 3, 3, 20, 20, generator=dice())
    wanted = 0.0
    for y in range(1, 19):
        for x in range(1, 19):
            p = picture[1, ..., y - 1 : y + 2, x - 1 : x + 2]
            wanted += float(
                (4 * p[..., 1, 1] - p[..., 0, 1] - p[..., 2, 1] - p[..., 1, 0] - p[..., 1, 2]).square().sum()
            )
    assert float(laplacian_energy(picture)[1]) == pytest.approx(wanted / (3 * 3 * 18 * 18), rel=1e-5)
    blurred = torch.nn.functional.avg_pool2d(picture.flatten(0, 1), 3, 1, 1).view_as(picture)
    assert ratio_of(laplacian_energy(picture), laplacian_energy(picture)).mean == 1.0
    assert ratio_of(laplacian_energy(blurred), laplacian_energy(picture)).mean < 0.2
    left = torch.zeros(2, 3, 20, 20, dtype=torch.bool)
    left[..., :10] = True
    changed = picture.clone()
    changed[..., 11:] = 0
    assert torch.equal(laplacian_energy(changed, left), laplacian_energy(picture, left))


def test_psnr_of_all_and_of_some_pixels() -> None:
    truth = torch.zeros(1, 2, 3, 12, 12)
    found = truth.clone()
    found[0, 0] += 0.1
    found[0, 1] += 0.01
    assert float(psnr(found, truth)) == pytest.approx((20 + 40) / 2, abs=1e-4)
    mask = torch.zeros(1, 2, 12, 12, dtype=torch.bool)
    mask[0, 0] = True
    assert float(masked_psnr(found, truth, mask)) == pytest.approx(20, abs=1e-4)
    mask[:] = False
    mask.view(-1)[: LEAST_PIXELS - 1] = True
    assert masked_psnr(found, truth, mask).isnan().all()
    with_all = picture_scores(found.clone(), found, mask)
    assert float(with_all["psnr"]) == 100.0
    assert float(with_all["ssim"]) == pytest.approx(1.0)
    assert "ms-ssim" not in with_all


def test_ms_ssim_where_the_size_allows() -> None:
    picture = torch.rand(1, 1, 3, 176, 176, generator=dice())
    scores = picture_scores(picture, picture, torch.ones(1, 1, 176, 176, dtype=torch.bool))
    assert float(scores["ms-ssim"]) == pytest.approx(1.0, abs=1e-5)


def test_intervals_of_means_and_ratios() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 6.0, math.nan])
    found = mean_of(values)
    assert (found.mean, found.count) == (3.0, 4)
    assert found.half == pytest.approx(1.96 * math.sqrt(14 / 3) / 2)
    assert math.isnan(mean_of(values[:1]).half)
    a, b = 2 + torch.randn(4000, generator=dice()).double(), 4 + torch.randn(4000, generator=dice(1)).double()
    told = ratio_of(a, b)
    drawn = torch.randint(4000, (400, 4000), generator=dice(2))  # the bootstrap
    spread = 1.96 * float((a[drawn].mean(dim=1) / b[drawn].mean(dim=1)).std())
    assert told.mean == pytest.approx(float(a.mean() / b.mean()))
    assert told.half == pytest.approx(spread, rel=0.12)


def test_seen_is_what_rays_from_the_known_views_reach() -> None:
    size, known = (24, 24), 2
    source = WorldSource(WorldOptions(split="validation", moving=0.0))
    scenes = source.worlds(4, dice(3))
    poses, K, times = source.cameras(scenes, 3, size, dice(4))
    clips = Clips(*trace(scenes, poses, K, times, size, 1), poses, K, times)
    points = unprojected(clips)[0][:, known].flatten(2)  # [b, 3, pixels]
    wanted = torch.zeros(4, points.shape[2], dtype=torch.bool)
    for view in range(known):
        local = poses[:, view, :3, :3] @ points + poses[:, view, :3, 3:]
        at = K[:, view] @ local
        x, y, z = at[:, 0] / at[:, 2], at[:, 1] / at[:, 2], local[:, 2]
        one = K[:, view, None].repeat(1, points.shape[2], 1, 1)  # a camera of one pixel for each point
        one[..., 0, 2] += 0.5 - x
        one[..., 1, 2] += 0.5 - y
        same = poses[:, view, None].expand(-1, points.shape[2], -1, -1).contiguous()
        reached = trace(scenes, same, one, torch.zeros(4, points.shape[2]), (1, 1), 1)[1][..., 0, 0]
        inside = (z > 0) & (x > 0) & (x < size[0]) & (y > 0) & (y < size[1])
        wanted |= inside & ((reached - z).abs() < 2e-3 * z)
    found = seen_mask(clips, known)[:, 0].flatten(1)
    assert 0.3 < float(wanted.float().mean()) < 0.97
    assert float((found == wanted).float().mean()) > 0.96
    assert float(found[~wanted].float().mean()) < 0.2


def test_baselines_copy_average_and_warp() -> None:
    clips = worlds()
    twice = replace(clips, world_to_camera=clips.world_to_camera[:, [0, 1, 1, 0]])
    copies = copied(twice, 2)
    assert torch.equal(copies, clips.rgb[:, [1, 0]])
    assert torch.equal(averaged(clips, 2)[:, 1], clips.rgb[:, :2].mean(dim=1))
    truth, seen = clips.rgb[:, 2:], seen_mask(clips, 2)
    warp, copy = (masked_psnr(way(clips, 2), truth, seen) for way in (warped, copied))
    assert bool((warp > copy).all())
    assert float((warp - copy).mean()) > 4


def test_moved_poses_turn_and_shift_by_the_amount() -> None:
    pose = worlds(2).world_to_camera
    found = moved(pose, 0.1, dice())
    step = found @ torch.linalg.inv(pose)
    cosine = (step[..., :3, :3].diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    torch.testing.assert_close(cosine.arccos(), torch.full_like(cosine, 0.1), atol=2e-3, rtol=0)
    torch.testing.assert_close(step[..., :3, 3].norm(dim=-1), torch.full_like(cosine, 0.1), atol=1e-4, rtol=0)
    torch.testing.assert_close(moved(pose, 0.0, dice()), pose)


def test_points_apart() -> None:
    line = torch.stack((torch.linspace(0, 1, 11), torch.zeros(11), torch.zeros(11)), -1)
    shifted = line + torch.tensor([0.0, 0.03, 0.0])
    far = torch.cat((shifted, torch.tensor([[0.0, 0.0, 4.0]])))
    found = geometry.point_scores([line, shifted, far, line[:0]], [line, line, line, line])
    assert found["chamfer"][:2].tolist() == pytest.approx([0.0, 0.03])
    assert float(found["chamfer"][2]) == pytest.approx(0.5 * ((11 * 0.03 + 4.0) / 12 + 0.03))
    assert found["chamfer"][3].isnan()
    precision = 11 / 12
    assert found["fscore"].tolist() == pytest.approx([1.0, 1.0, 2 * precision / (precision + 1), 0.0])


def test_true_surfaces_lie_on_themselves_and_their_depth_is_right() -> None:
    clips = worlds()
    exact = geometry.depth_scores(clips.depth, clips.alpha, clips)
    assert exact["absrel"].tolist() == [0.0] * 4 and exact["delta"].tolist() == [1.0] * 4
    off = geometry.depth_scores(1.3 * clips.depth, clips.alpha, clips)
    assert off["absrel"].tolist() == pytest.approx([0.3] * 4, rel=1e-4) and off["delta"].tolist() == [0.0] * 4
    half = clips.alpha.clone()
    half[:, :2] = 0.4
    assert 0 < float(geometry.depth_scores(clips.depth, half, clips)["covered"][0]) < 1
    points = geometry.surface_points(clips, dice())
    assert all(
        0 < len(scene) <= geometry.POINTS and float(scene.norm(dim=1).max()) < geometry.REACH for scene in points
    )
    again = geometry.surface_points(clips, dice(1))
    assert float(geometry.point_scores(points, again)["fscore"].min()) > 0.8


def splats(count: int = 60) -> tuple[dict[str, Tensor], Clips]:
    clips = worlds(2, 2, (16, 16))
    n = dice(7)
    means = torch.randn(2, count, 3, generator=n) * 0.3 + torch.tensor([0.0, 0.0, 1.0])
    return {
        "means": means,
        "quats": torch.randn(2, count, 4, generator=n),
        "scales": 0.02 + 0.05 * torch.rand(2, count, 3, generator=n),
        "opacities": torch.rand(2, count, generator=n),
        "colors": torch.rand(2, count, 3, generator=n),
        "depths": torch.ones(2, 2, 16, 16),
    }, clips


def test_prune_keeps_the_count_and_the_highest_contributions() -> None:
    found, clips = splats()
    kept = prune(found, clips.world_to_camera, clips.K, clips.size, 20)
    assert {name: values.shape[1] for name, values in kept.items()} == dict.fromkeys(kept, 20)
    for scene in range(2):
        columns = [found[name][scene] for name in ("means", "quats", "scales", "opacities", "colors")]
        worth = torch.zeros(60)
        for view in range(2):
            camera = clips.world_to_camera[scene, view], clips.K[scene, view], 16, 16
            shares = rasterize(*columns, *camera, options=Options(contribution=True)).contribution
            worth += shares * columns[3]
        wanted = worth.topk(20).indices.sort().values
        assert torch.equal(kept["means"][scene], columns[0][wanted])
    assert torch.equal(prune(found, clips.world_to_camera, clips.K, clips.size, 99)["colors"], found["colors"])
    with pytest.raises(InputError, match="0 Gaussians asked for: give 1 or more"):
        prune(found, clips.world_to_camera, clips.K, clips.size, 0)


def test_bars_are_met_or_missed() -> None:
    def scores(level: float, energy: float) -> dict[str, Tensor]:
        ones = torch.ones(4)
        return {"psnr": level + torch.arange(4.0), "energy": energy * ones, "true energy": ones}

    rows = {COPY: scores(20, 1), FEW: scores(20.5, 0.9), MANY: scores(20.9, 1), SAMPLES: scores(21.2, 0.4)}
    assert [bar.met for bar in bars.view_bars(rows)] == [True] * 5
    rows = {COPY: scores(20, 1), FEW: scores(17, 0.4), MANY: scores(20.9, 1), SAMPLES: scores(20.9, 0.4)}
    assert [bar.met for bar in bars.view_bars(rows)] == [False] * 5
    assert bars.control_bar(rows[COPY], {"permuted": scores(19, 1)["psnr"]}).met
    assert not bars.control_bar(rows[COPY], {"permuted": scores(20.1, 1)["psnr"]}).met
    del rows[SAMPLES]
    assert len(bars.view_bars(rows)) == 3


def test_the_command_makes_all_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 3)  # so that there are two
    config, prior = tmp_path / "toy.yaml", tmp_path / "prior"
    config.write_text(TOY)
    options = read_options(config)
    save_random(options, prior, ("teacher", "regression", "student"))
    for name in ("reference", "no-rays"):
        save_random(options, tmp_path / "runs" / name / "prior", ("student",))
    given = ["prior", "evaluate", "--config", str(config), "--prior", str(prior), "--scenes", "4", "--quick"]
    assert main([*given, "--out", str(tmp_path / "a"), "--ablations", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    source = WorldSource(WorldOptions(split="validation", moving=0.0))
    nets, digest = open_prior(str(prior), torch.device("cpu")), hashlib.sha256()
    for trial in trials(source, "validation", 4, 3, options.size, options.seed, torch.device("cpu")):
        condition = condition_of(nets, trial.clips, 2)
        made = student_views(nets, condition, 2, 4, trial.dice.of("student 2 4 0"))
        digest.update((made * 255).round().byte().numpy().tobytes())
    assert f"sha256 of the student's frames (validation, 2 of 3 known): {digest.hexdigest()}" in said
    assert said.count("sha256") == 4
    assert said.count(": met") + said.count(": MISSED") == 20
    page = (tmp_path / "a" / "tables.md").read_text()
    told = json.loads((tmp_path / "a" / "tables.json").read_text())
    for bar in (bar for listed in told["bars"].values() for bar in listed):
        assert f"| {bar['name']} | {bar['wanted']} |" in page
    titles = [table["title"] for table in told["tables"]]
    assert [title.split(",")[0] for title in titles] == [*["New views"] * 4, titles[4], *["Gaussians"] * 2, "Ablations"]
    assert "nan" not in page and "PSNR alone rewards blur" in page and "MS-SSIM needs 176 pixels" in page
    ablations = {row[0]: dict(zip(told["tables"][7]["columns"], row, strict=True)) for row in told["tables"][7]["rows"]}
    assert list(ablations) == ["toy", "reference", "no-rays"]
    assert ablations["no-rays"]["over reference"] == {"mean": 0.0, "half": 0.0, "count": 4}  # the same weights
    splats = {row[0]: dict(zip(told["tables"][5]["columns"], row, strict=True)) for row in told["tables"][5]["rows"]}
    dense = splats["true views, dense"]
    assert dense["splats"] == len(load(tmp_path / "a" / "true-views-dense.ply")) == 3 * 12 * 12
    assert dense["bytes of .ply"] == (tmp_path / "a" / "true-views-dense.ply").stat().st_size
    stages = "making of scenes", "new views, 1 known", "new views, 2 known", "Gaussians", "ablations"
    assert tuple(told["seconds"]) == stages and min(told["peak"].values()) > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--prior", "nowhere"], "prior 'nowhere' is neither shipped nor a folder"),
        (["--scenes", "1"], "--scenes 1 is too few for an interval: give 2 or more"),
        (["--config", "none.yaml"], "none.yaml: no such file"),
        (["--ablations", "nowhere"], "nowhere holds no finished ablation: give a folder that lyra prior ablate wrote"),
        (["--shared", "nowhere"], "nowhere: holds no posed pictures in `data`, no scene in `scenes`"),
    ],
)
def test_what_cannot_be_used_is_told_in_a_line(
    changed: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, prior = tmp_path / "toy.yaml", tmp_path / "prior"
    config.write_text(TOY)
    save_random(read_options(config), prior, ("teacher", "regression", "student"))
    given = {"--config": str(config), "--prior": str(prior), "--out": str(tmp_path / "out")}
    given |= dict([changed])  # type: ignore[list-item]
    assert main(["prior", "evaluate", *(text for pair in given.items() for text in pair)]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_real_scenes_are_measured_and_bad_ones_named(tmp_path: Path) -> None:
    config, prior, scenes = tmp_path / "toy.yaml", tmp_path / "prior", tmp_path / "real" / "scenes"
    config.write_text(TOY)
    save_random(read_options(config), prior, ("teacher", "regression", "student"))
    scenes.mkdir(parents=True)
    n = dice(3)
    ball = torch.nn.functional.normalize(torch.randn(600, 3, generator=n), dim=1)
    turned = torch.tensor([1.0, 0, 0, 0]).expand(600, 4)
    ball_scene = Gaussians(ball, turned, torch.full((600, 3), 0.06), torch.full((600,), 0.95), ball[:, None])
    save(ball_scene, scenes / "ball.ply")
    save(replace(ball_scene, opacities=torch.full((600,), 0.001)), scenes / "thin.ply")
    (scenes / "notes.txt").write_text("no scene")
    asked = EvaluateOptions(str(prior), tmp_path / "out", 2, 1, tmp_path / "real")
    with torch.no_grad():
        bench = opened_bench(read_options(config), asked)
        rows, left_out = real_scores(bench, real_scenes(tmp_path / "real", torch.device("cpu")), Console(quiet=True))
    assert len(rows) == 2 * 4 and all(name.startswith("ball.ply") for name in rows)
    assert all(scores["psnr"].isfinite().all() for scores in rows.values())
    assert len(left_out) == 1 and "thin.ply" in left_out[0] and "shows nothing" in left_out[0]
    assert left_out[0] in outside_table(rows, left_out).notes


def test_a_prior_without_a_teacher_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, prior = tmp_path / "toy.yaml", tmp_path / "prior"
    config.write_text(TOY)
    save_random(read_options(config), prior, ("student",))
    assert main(["prior", "evaluate", "--config", str(config), "--prior", str(prior), "--out", str(tmp_path)]) == 2
    assert "teacher" in capsys.readouterr().err
