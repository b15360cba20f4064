"""Training: optimiser, checkpoints that change nothing, losses against their formulas, stages from end to end."""

import copy
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from lyra.engine.cli import main
from lyra.engine.errors import InputError
from lyra.engine.formats.registry import save
from lyra.engine.prior.clips import Clips, normalised
from lyra.engine.prior.decoder import DecoderNetwork
from lyra.engine.prior.denoiser import DenoiserNetwork, denoise
from lyra.engine.prior.inference import decode
from lyra.engine.prior.training import sheets
from lyra.engine.prior.training.ablations import ABLATIONS, shortened
from lyra.engine.prior.training.checkpoint import SHARD, load_checkpoint, save_checkpoint
from lyra.engine.prior.training.denoising import as_batch, draw_batch, regression_loss
from lyra.engine.prior.training.distillation import consistency_loss, ode_loss
from lyra.engine.prior.training.feed import BLOCK, Feed
from lyra.engine.prior.training.loop import Log, RunOptions, Task, train
from lyra.engine.prior.training.losses import pseudo_huber, velocity_loss
from lyra.engine.prior.training.optimiser import follow, make_optimiser, rate_at, round_moments
from lyra.engine.prior.training.options import PriorOptions, Schedule, read_options
from lyra.engine.prior.training.sources import Prepared, make_source
from lyra.engine.prior.training.splatting import Frames, decoder_loss, normal_error
from lyra.engine.prior.weights import TENSORS, open_prior
from lyra.engine.prior.worlds.scenes import WorldOptions
from lyra.engine.prior.worlds.source import WorldSource
from lyra.engine.scene.gaussians import Gaussians
from lyra.kernels.frames import Rendering

ROOT = Path(__file__).resolve().parents[3]
QUIET, CPU = Console(quiet=True), torch.device("cpu")

TOY = """
name: toy
seed: 3
size: [16, 16]
views: [3, 3]
clean: [1, 2]
network: {width: 64, depth: 2, stem: 16}
planes: {count: 12}
data: {moving: 0.0, reuse: 4}
teacher: {steps: 4, batch: 4, warmup: 1}
regression: {steps: 4, batch: 4, warmup: 1}
distill:
  ode: {steps: 2, batch: 2}
  consistency: {steps: 2, batch: 2}
  teacher_steps: 4
decoder:
  schedule: {steps: 3, batch: 2}
  network: {width: 64, depth: 1, stem: 16}
  views: 2
  held_out: 1
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.yaml"
    path.write_text(TOY)
    return path


def line(steps: int = 6) -> Task:
    """A task so small that its arithmetic is the same however it is cut."""
    torch.manual_seed(5)
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    schedule = Schedule(steps, warmup=2, rate=1e-2)

    def loss(network: nn.Module, mean: nn.Module, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        shift = torch.randn((), generator=generator)
        return (network(batch)[:, 0] - batch.sum(dim=1) - 0.01 * shift).square().mean()

    return Task("line", network, schedule, lambda step, generator: torch.randn(16, 8, generator=generator), loss)


def test_a_run_cut_in_two_gives_the_bits_of_one(tmp_path: Path) -> None:
    whole = line()
    assert train(whole, 1, RunOptions(tmp_path / "whole", save_every=2, report_every=2), QUIET)
    cut = line()
    first = Task(cut.name, cut.network, cut.schedule, cut.draw, _stops_after(cut.loss, 3))
    with pytest.raises(KeyboardInterrupt):
        train(first, 1, RunOptions(tmp_path / "cut", save_every=2, report_every=2), QUIET)
    assert json.loads((tmp_path / "cut/line/checkpoint/state.json").read_text())["step"] == 3
    second = line()
    assert train(second, 1, RunOptions(tmp_path / "cut", save_every=2, report_every=2), QUIET)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name])
    rows = [json.loads(row) for row in (tmp_path / "cut/line/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6]
    with pytest.raises(InputError, match="seed 1 at step 6: remove it"):
        train(line(), 2, RunOptions(tmp_path / "cut"), QUIET)


def _stops_after(loss, steps: int):
    calls = []

    def stopping(*arguments):
        if len(calls) == steps:
            raise KeyboardInterrupt
        calls.append(1)
        return loss(*arguments)

    return stopping


def test_a_limit_of_time_leaves_a_checkpoint(tmp_path: Path) -> None:
    assert not train(line(), 1, RunOptions(tmp_path, minutes=0.0), QUIET)
    task = line(100_000)
    assert not train(task, 1, RunOptions(tmp_path, minutes=0.01), QUIET)
    assert 0 < json.loads((tmp_path / "line/checkpoint/state.json").read_text())["step"] < 100_000


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    task = line()
    broken = Task("broken", task.network, task.schedule, task.draw, lambda *given: task.loss(*given) * math.nan)
    with pytest.raises(RuntimeError, match="broken: the loss of step 0 is nan"):
        train(broken, 1, RunOptions(tmp_path), QUIET)


def test_checkpoints_come_in_small_shards(tmp_path: Path) -> None:
    """The largest network that is planned, 4.8 million weights, in files of 15 MiB and 56 MiB in all."""
    network = nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(4)), nn.Linear(1000, 800))
    mean = copy.deepcopy(network)
    optimiser = make_optimiser(network, Schedule(1))
    network(torch.randn(2, 1000)).square().mean().backward()
    optimiser.step()
    round_moments(optimiser)
    save_checkpoint(tmp_path / "c", network, mean, optimiser, {"step": 7})
    sizes = [path.stat().st_size for path in (tmp_path / "c").iterdir()]
    assert max(sizes) <= SHARD and sum(sizes) <= 56 << 20 and len(sizes) > 4
    fresh = copy.deepcopy(mean)
    again = make_optimiser(fresh, Schedule(1))
    assert load_checkpoint(tmp_path / "c", fresh, copy.deepcopy(mean), again)["step"] == 7
    for one, other in zip(network.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other)
        for name in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(
                optimiser.state[one][name] if name != "step" else torch.tensor(7.0), again.state[other][name]
            )
    (tmp_path / "c").rename(tmp_path / "c.old")  # as a crash between two renames leaves it
    assert load_checkpoint(tmp_path / "c", fresh, mean, again)["step"] == 7
    with pytest.raises(InputError, match="is no checkpoint of this network"):
        load_checkpoint(tmp_path / "c", nn.Linear(3, 3), nn.Linear(3, 3), make_optimiser(nn.Linear(3, 3), Schedule(1)))
    assert load_checkpoint(tmp_path / "none", network, mean, optimiser) is None


def test_rates_warm_up_and_fall_as_a_cosine() -> None:
    schedule = Schedule(110, warmup=10, rate=1.0, final_rate=0.1)
    assert [rate_at(schedule, step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert rate_at(schedule, 60) == pytest.approx(0.55)
    assert rate_at(schedule, 110) == rate_at(schedule, 500) == pytest.approx(0.1)


def test_the_running_mean_keeps_its_share() -> None:
    mean, weights = [torch.zeros(3)], [torch.ones(3)]
    follow(mean, weights, 0.9)
    follow(mean, weights, 0.9)
    assert torch.allclose(mean[0], torch.full((3,), 0.19))


def test_velocity_losses_are_those_of_velocities() -> None:
    clean, noise = torch.randn(2, 3, 3, 4, 4), torch.randn(2, 3, 3, 4, 4)
    found = clean + 0.1 * torch.randn_like(clean)
    levels, targets = torch.tensor([0.3, 0.9]), torch.tensor([[0.0, 1, 1], [0, 0, 1]])
    at = levels.view(2, 1, 1, 1, 1)
    noisy = (1 - at) * clean + at * noise
    errors = ((noisy - found) / at - (noise - clean)).square().mean(dim=(2, 3, 4))
    wanted = (errors * targets).sum(dim=1) / targets.sum(dim=1)
    assert torch.allclose(velocity_loss(found, clean, levels, targets), wanted.mean(), rtol=1e-3)


def test_pseudo_huber_is_a_square_near_and_a_length_far() -> None:
    zero = torch.zeros(1, 1, 3, 2, 2, dtype=torch.float64)
    one = torch.ones(1, 1)
    assert float(pseudo_huber(zero + 1e-4, zero, one, 0.1)) == pytest.approx(1e-8 / 0.2, rel=1e-2)
    assert float(pseudo_huber(zero + 10, zero, one, 0.1)) == pytest.approx(9.9, rel=1e-3)


def test_a_feed_gives_the_same_clips_wherever_a_run_begins(toy: Path) -> None:
    options = read_options(toy)
    drawn = []

    def draw(count: int, views: int, generator: torch.Generator) -> Clips:
        drawn.append(count)
        return WorldSource().clips(count, views, (4, 4), generator)

    feed, late = Feed(draw, options, "x"), Feed(draw, options, "x")
    step = BLOCK * options.data.reuse
    found = [feed(s, 2, 3, torch.Generator().manual_seed(s)) for s in (0, 1, step)]
    assert len(drawn) == 2 * BLOCK
    assert torch.equal(late(step, 2, 3, torch.Generator().manual_seed(step)).rgb, found[2].rgb)
    assert not torch.equal(found[0].rgb, found[1].rgb)


def test_clips_come_from_all_that_a_configuration_names(toy: Path, tmp_path: Path) -> None:
    """Worlds have depth everywhere, the splat on nothing has alpha 0 round it: each clip is known by its source."""
    ball = Gaussians(
        torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.5), torch.ones(1), torch.ones(1, 1, 3)
    )
    (tmp_path / "scenes").mkdir()
    save(ball, tmp_path / "scenes/ball.ply")
    options = read_options(toy)
    both = replace(options, data=replace(options.data, scenes=tmp_path / "scenes", scenes_weight=1.0))
    drawn = Prepared(make_source(both, CPU), both, CPU).clips(12, 3, torch.Generator().manual_seed(0))
    on_nothing = drawn.alpha.flatten(1).amin(dim=1) < 0.5
    assert 0 < int(on_nothing.sum()) < 12
    assert torch.allclose(drawn.world_to_camera[:, 0], torch.eye(4).expand(12, 4, 4), atol=1e-5)
    alone = replace(both, data=replace(both.data, worlds=0.0))
    drawn = Prepared(make_source(alone, CPU), alone, CPU).clips(3, 2, torch.Generator().manual_seed(0))
    assert (drawn.alpha.flatten(1).amin(dim=1) < 0.5).all()
    with pytest.raises(InputError, match="give finite ones from 0, at least one of them above"):
        make_source(replace(options, data=replace(options.data, worlds=0.0)), CPU)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_where_it_is_right(toy: Path) -> None:
    """Both losses are 0 for a network that always says the same, for its trajectories end there."""
    options = read_options(toy)
    source = Prepared(make_source(options, CPU), options, CPU)
    batch = draw_batch(source.clips, options, 2, torch.Generator().manual_seed(0))

    class Constant(nn.Module):
        def forward(self, noisy, levels, clean, known, rays, colors, evidence, times):
            return torch.full_like(noisy, self.value)

        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

    generator = torch.Generator().manual_seed(1)
    right, wrong = Constant(0.25), Constant(0.5)
    assert float(ode_loss(right, right, batch, 4, generator)) == pytest.approx(0.0, abs=1e-10)
    assert float(ode_loss(wrong, right, batch, 4, generator)) == pytest.approx(0.0625, rel=1e-4)
    assert float(consistency_loss(right, right, right, batch, options.distill, generator)) == pytest.approx(0, abs=1e-6)
    assert float(consistency_loss(wrong, right, right, batch, options.distill, generator)) > 0.2


def test_the_toy_learns_and_beats_the_nearest_view(toy: Path) -> None:
    """The regression net, which is the same network as the denoiser, on fresh little worlds for some seconds."""
    from lyra.engine.prior.models import Denoiser, config_of

    options = read_options(toy)
    source, held_out = Prepared(make_source(options, CPU), options, CPU), WorldSource(WorldOptions(split="validation"))
    clips = normalised(held_out.clips(48, 3, options.size, torch.Generator().manual_seed(9)))
    seen = as_batch(clips, 1, options)
    torch.manual_seed(0)
    network = Denoiser(**config_of(options.network, options.planes))

    def held_out_psnr() -> float:
        with torch.no_grad():
            found = denoise(network, torch.zeros_like(seen.clean), torch.ones(48), seen.condition)
        return _psnr(0.5 * found[:, 1:] + 0.5, clips.rgb[:, 1:])

    fresh, losses = held_out_psnr(), []
    feed = Feed(source.clips, options, "toy")
    optimiser = make_optimiser(network, Schedule(1))
    for step in range(200):
        generator = torch.Generator().manual_seed(step)
        clean = draw_batch(lambda n, v, g, step=step: feed(step, n, v, g), options, 8, generator)
        loss = regression_loss(network, clean)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))
    assert sum(losses[-60:]) < 0.95 * sum(losses[:60])
    nearest = _psnr(clips.rgb[:, :1].expand_as(clips.rgb[:, 1:]), clips.rgb[:, 1:])
    trained = held_out_psnr()
    print(f"nearest {nearest:.2f} dB, fresh {fresh:.2f} dB, trained {trained:.2f} dB")
    assert trained > max(fresh + 0.5, nearest + 3.0)


def _psnr(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((-10 * (found - truth).square().flatten(2).mean(dim=2).log10()).mean())


def test_decoder_losses_have_gradients_everywhere(toy: Path) -> None:
    from lyra.engine.prior.models import GaussianDecoder, config_of

    options = read_options(toy)
    clips = normalised(
        make_source(options, torch.device("cpu")).clips(2, 3, (16, 16), torch.Generator().manual_seed(0))
    )
    torch.manual_seed(0)
    decoder = GaussianDecoder(**config_of(options.decoder.network, options.planes))
    decoder_loss(decoder, Frames(clips.views(slice(2)), clips), options, True).backward()
    assert all(torch.isfinite(p.grad).all() for p in decoder.parameters())
    rows = decoder.core.head.weight.grad.view(options.planes.count + 12, -1).norm(dim=1)
    assert (rows > 0).all()
    found = decode(decoder, clips.views(slice(2)), clips.times[:, 0], options.planes)
    assert found["means"].shape == (2, 2 * 256, 3)


def test_normals_of_a_plane_agree_with_its_depth() -> None:
    """A tilted plane, drawn by formula: no error with its own normals, 2 with opposite ones."""
    size, normal = (12, 10), torch.tensor([0.3, -0.2, -1.0])
    normal = normal / normal.norm()
    K = torch.tensor([[12.0, 0, 6], [0, 12, 5], [0, 0, 1]]).expand(1, 1, 3, 3)
    from lyra.engine.prior.rays import pixel_directions

    rays = pixel_directions(K, size)
    depth = float(normal[2]) * 2.0 / torch.einsum("i,bvihw->bvhw", normal, rays)
    poses = torch.eye(4).expand(1, 1, 4, 4)
    ones = torch.ones_like(depth)
    clips = Clips(torch.rand(1, 1, 3, 10, 12), depth, ones, poses, K, torch.zeros(1, 1))
    for sign, error in ((1.0, 0.0), (-1.0, 2.0)):
        normals = (sign * normal).expand(1, 1, 10, 12, 3)
        drawn = Rendering(rgb=torch.zeros(1), alpha=ones, depth=depth, normals=normals, counts=None)
        assert float(normal_error(drawn, clips, ones > 0)) == pytest.approx(error, abs=1e-4)


def test_all_stages_from_the_command_line(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "SCENES", 2)
    out = tmp_path / "run"
    common = ["--config", str(toy), "--out", str(out), "--report-every", "2"]
    assert main(["prior", "train", "decoder", *common]) == 2
    assert "student is not there yet: run the stage consistency first" in capsys.readouterr().err
    for words in (["train", "teacher"], ["distill"], ["train", "regression"], ["train", "decoder"]):
        assert main(["prior", *words, *common]) == 0
    assert "decoder: done" in capsys.readouterr().out
    made = sorted(path.name for path in (out / "prior").iterdir())
    assert made == ["decoder", "prior.json", "regression", "student", "student-ode", "teacher"]
    rows = [json.loads(row) for row in (out / "teacher/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4] and all(math.isfinite(row["psnr_1"]) for row in rows)
    assert (out / "decoder/pictures/0000003.png").read_bytes().startswith(b"\x89PNG")
    prior = open_prior(str(out / "prior"))
    assert (prior.name, prior.size, prior.rays, prior.fused) == ("toy", (16, 16), True, True)


def test_ablations_differ_in_one_thing_and_share_a_student(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheets, "SCENES", 2)
    text = TOY.replace("schedule: {steps: 3, batch: 2}", "schedule: {steps: 8, batch: 2}\n  sparse_from: 0.5")
    toy.write_text(text)
    options = read_options(toy)
    changed = {name: ablation.change(options) for name, ablation in ABLATIONS.items()}
    assert changed.pop("reference") == options
    for made in changed.values():
        flat, plain = (_flat(asdict(o)) for o in (made, options))
        assert sum(flat[name] != plain[name] for name in plain) == 1
    half = shortened(options, 0.5)
    assert (half.teacher.steps, half.distill.ode.steps, half.decoder.schedule.steps) == (2, 1, 4)
    with pytest.raises(InputError, match="--share 0 of the steps"):
        shortened(options, 0)
    out = tmp_path / "runs"
    common = ["prior", "ablate", "--config", str(toy), "--out", str(out), "--share", "0.5"]
    assert main([*common, "--only", "no-fusion"]) == 2
    assert "train the ablation reference first" in capsys.readouterr().err
    assert main([*common, "--only", "none"]) == 2
    assert "ablation 'none' is unknown: give reference, no-fusion" in capsys.readouterr().err
    assert main(common) == 0
    assert capsys.readouterr().out.splitlines() == [f"{name}: done" for name in ABLATIONS]
    priors = {name: open_prior(str(out / name / "prior")) for name in ABLATIONS}
    assert [name for name, prior in priors.items() if not prior.fused] == ["no-fusion"]
    assert [name for name, prior in priors.items() if not prior.rays] == ["no-rays"]
    student = (out / "reference/prior/student" / TENSORS).read_bytes()
    same = [name for name in ABLATIONS if (out / name / "prior/student" / TENSORS).read_bytes() == student]
    assert same == [name for name in ABLATIONS if name != "no-rays"]
    decoders = {(out / name / "prior/decoder" / TENSORS).read_bytes() for name in ABLATIONS}
    assert len(decoders) == len(ABLATIONS)


def _flat(tree: dict, path: str = "") -> dict[str, object]:
    """The leaves of nested records by their paths."""
    leaves: dict[str, object] = {}
    for name, value in tree.items():
        leaves |= _flat(value, f"{path}{name}.") if isinstance(value, dict) else {path + name: value}
    return leaves


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: [", "not YAML"),
        ("name: x\nsteps: 3", "'steps' is no option, give some of name, network"),
        (TOY.replace("width: 64, depth: 2", "width: 65"), "network: width is 65, expected a multiple of 64"),
        (TOY.replace("size: [16, 16]", "size: [16]"), "size: .* expected a list of 2"),
        (TOY.replace("seed: 3", "seed: many"), "seed: 'many' given, expected a whole number"),
        ("- 1", "expected a mapping"),
    ],
)
def test_configurations_that_cannot_be_are_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        read_options(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


@pytest.mark.parametrize(("name", "most"), [("tiny", 1_500_000), ("small", 8_000_000)])
def test_shipped_configurations_keep_to_their_sizes(name: str, most: int) -> None:
    """Student and decoder fit 16 MB in half precision; a checkpoint of the larger fits 56 MiB, at 12 bytes a weight."""
    options = read_options(ROOT / f"configs/prior/{name}.yaml")
    assert isinstance(options, PriorOptions) and options.name == f"lyra-{name}"
    parts = (
        DenoiserNetwork(options.network, options.planes),
        DecoderNetwork(options.decoder.network, options.planes),
    )
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    assert sum(counts) <= most and 12 * max(counts) < 55 << 20


def test_metrics_of_steps_that_are_done_again_go(tmp_path: Path) -> None:
    log = Log(tmp_path / "m.jsonl", 0)
    for step in (2, 4, 6):
        log.add({"step": step})
    Log(tmp_path / "m.jsonl", 4).add({"step": 5})
    assert [json.loads(row)["step"] for row in (tmp_path / "m.jsonl").read_text().splitlines()] == [2, 4, 5]
