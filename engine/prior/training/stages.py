"""The stages of a prior, in order, and where each finds what the one before it made."""

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState
from rich.console import Console
from torch import nn

from ...errors import InputError
from ...files import replacing
from ..decoder import DecoderNetwork
from ..denoiser import DenoiserNetwork
from ..models import Denoiser, GaussianDecoder, config_of
from ..weights import load_network
from ..worlds.scenes import WorldOptions
from ..worlds.source import WorldSource
from .denoising import Batch, draw_batch, regression_loss, teacher_loss
from .distillation import consistency_loss, ode_loss
from .feed import Feed
from .loop import RunOptions, Task, train
from .options import PriorOptions, Schedule
from .sheets import decoder_sheet, denoiser_sheet
from .sources import Prepared, make_source
from .splatting import Frames, decoder_loss, draw_frames, draw_moving

TRAINED = ("teacher", "regression", "decoder")
DISTILLED = ("ode", "consistency")
ALL = ("teacher", *DISTILLED, "decoder", "regression")
PRIOR = "prior"  # the folder of finished networks


@dataclass(frozen=True)
class Ground:
    """What all stages stand on."""

    options: PriorOptions
    run: RunOptions
    process: PartialState  # which of how many, and on which device

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        device = self.process.device
        assert device is not None
        return device

    def share(self, schedule: Schedule) -> int:
        """Scenes a step of this process."""
        return max(1, schedule.batch // self.process.num_processes)

    @property
    def prior(self) -> Path:
        """Where finished networks go."""
        return self.run.out / PRIOR


def run_stage(stage: str, options: PriorOptions, run: RunOptions, notes: Console) -> bool:
    """Train one stage, or go on with it; whether it is done. Its network is then in the folder `prior`.

    Raises:
        InputError: there is no such stage, or what it needs is not there yet.
    """
    if stage not in MAKERS:
        raise InputError(f"stage {stage!r} is unknown: give {', '.join(MAKERS)}")
    ground = Ground(options, run, PartialState())
    torch.manual_seed(options.seed)  # of fresh weights
    task = MAKERS[stage](ground)
    done = train(task, options.seed, run, notes)
    if done and ground.process.is_main_process:
        save_network(task.network, ground.prior / RESULTS[stage])
        note = {"name": options.name, "size": list(options.size), "rays": options.rays, "fused": options.decoder.fused}
        with replacing(ground.prior / "prior.json") as stream:
            stream.write(json.dumps(note).encode())
    ground.process.wait_for_everyone()
    return done


def save_network(network: nn.Module, folder: Path) -> None:
    """Write a network as diffusers does, in half precision."""
    assert isinstance(network, Denoiser | GaussianDecoder)
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(network).cpu().half().save_pretrained(folder)


def _denoiser(options: PriorOptions) -> Denoiser:
    return Denoiser(**config_of(options.network, options.planes))  # type: ignore[arg-type]


def _feed(ground: Ground, stage: str, schedule: Schedule):
    """The batches of a stage of the denoiser."""
    options = ground.options
    source = Prepared(make_source(options, ground.device), options, ground.device)
    feed = Feed(source.clips, options, stage, ground.process.process_index)

    def draw(step: int, generator: torch.Generator) -> Batch:
        def clips(count: int, views: int, generator: torch.Generator):
            return feed(step, count, views, generator)

        return draw_batch(clips, options, ground.share(schedule), generator)

    return draw


def _teacher(ground: Ground) -> Task:
    options = ground.options
    return Task(
        "teacher",
        _denoiser(options),
        options.teacher,
        _feed(ground, "teacher", options.teacher),
        lambda network, _, batch, generator: teacher_loss(network, batch, generator),
        denoiser_sheet(options, ground.device, few=False),
    )


def _regression(ground: Ground) -> Task:
    options = ground.options
    return Task(
        "regression",
        _denoiser(options),
        options.regression,
        _feed(ground, "teacher", options.regression),  # the teacher's own clips, in the same order
        lambda network, _, batch, __: regression_loss(network, batch),
        None,
    )


def _ode(ground: Ground) -> Task:
    options, teacher = ground.options, _finished(ground, "teacher")
    student = _denoiser(options)
    student.load_state_dict(teacher.state_dict())
    distill = options.distill
    return Task(
        "ode",
        student,
        distill.ode,
        _feed(ground, "ode", distill.ode),
        lambda network, _, batch, generator: ode_loss(network, teacher, batch, distill.teacher_steps, generator),
        denoiser_sheet(options, ground.device, few=True),
    )


def _consistency(ground: Ground) -> Task:
    options, teacher = ground.options, _finished(ground, "teacher")
    student = _denoiser(options)
    student.load_state_dict(_finished(ground, "student-ode").state_dict())
    distill = options.distill
    return Task(
        "consistency",
        student,
        distill.consistency,
        _feed(ground, "consistency", distill.consistency),
        lambda network, mean, batch, generator: consistency_loss(network, mean, teacher, batch, distill, generator),
        denoiser_sheet(options, ground.device, few=True),
    )


def _decoder(ground: Ground) -> Task:
    options, student = ground.options, _finished(ground, "student")
    decoder = options.decoder
    schedule, count = decoder.schedule, ground.share(decoder.schedule)
    still = replace(options, data=replace(options.data, moving=0.0))
    source = Prepared(make_source(still, ground.device), options, ground.device)
    feed = Feed(source.clips, options, "decoder", ground.process.process_index)
    moving = WorldSource(WorldOptions(moving=1.0), ground.device)
    views = decoder.views + decoder.held_out

    def draw(step: int, generator: torch.Generator) -> tuple[Frames, bool]:
        sparse = step >= decoder.sparse_from * schedule.steps
        if float(torch.rand((), generator=generator)) < decoder.moving:
            return draw_moving(moving, count, options, generator), sparse
        clips = feed(step, count, views, generator)
        share = decoder.truth if decoder.truth == 1.0 else decoder.truth * max(0.0, 1 - 2 * step / schedule.steps)
        truth = float(torch.rand((), generator=generator)) < share
        return draw_frames(clips, student, options, truth, generator), sparse

    return Task(
        "decoder",
        GaussianDecoder(**config_of(decoder.network, options.planes)),  # type: ignore[arg-type]
        schedule,
        draw,
        lambda network, _, batch, __: decoder_loss(network, batch[0], options, batch[1]),
        decoder_sheet(options, student, ground.device),
    )


def _finished(ground: Ground, name: str) -> DenoiserNetwork | DecoderNetwork:
    """A network of an earlier stage."""
    folder = ground.prior / name
    if not folder.exists():
        maker = next(stage for stage, made in RESULTS.items() if made == name)
        raise InputError(f"{folder} is not there yet: run the stage {maker} first, to its end")
    network = load_network(folder, ground.device)
    assert isinstance(network, DenoiserNetwork | DecoderNetwork)
    return network


MAKERS = {"teacher": _teacher, "regression": _regression, "ode": _ode, "consistency": _consistency, "decoder": _decoder}
RESULTS = {  # where each stage's network goes
    "teacher": "teacher",
    "regression": "regression",
    "ode": "student-ode",
    "consistency": "student",
    "decoder": "decoder",
}
