"""The loop that every stage shares: steps, a running mean, metrics, pictures, checkpoints and a limit of time."""

import copy
import hashlib
import itertools
import json
import math
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from ...command_line import progress_bar
from ...errors import InputError
from .checkpoint import load_checkpoint, save_checkpoint
from .optimiser import follow, make_optimiser, rate_at, round_moments
from .options import Schedule

Draw = Callable[[int, torch.Generator], Any]  # the data of a step, made in a thread ahead of it
Loss = Callable[[nn.Module, nn.Module, Any, torch.Generator], Tensor]  # network, its running mean, data, random numbers
Report = Callable[[nn.Module, Path], dict[str, float]]


@dataclass(frozen=True, eq=False)
class Task:
    """What one stage trains."""

    name: str
    network: nn.Module
    schedule: Schedule
    draw: Draw
    loss: Loss
    report: Report | None = None  # writes pictures to a path and measures the running mean


@dataclass(frozen=True)
class RunOptions:
    """How a run goes, which changes nothing of what it computes."""

    out: Path
    """Folder of checkpoints, metrics and pictures."""
    minutes: float | None = None
    """Stop after so many minutes, with a checkpoint from which the same command goes on."""
    report_every: int = 500
    """Steps between reports."""
    save_every: int = 500
    """Steps between checkpoints."""


def step_generator(seed: int, stage: str, step: int, rank: int) -> torch.Generator:
    """The random numbers of one step of one process: a function of these four, so that nothing of it need be saved."""
    digest = hashlib.sha256(f"{seed} {stage} {step} {rank}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


AHEAD = 12  # steps whose data may wait


def ahead(task: Task, seed: int, step: int, rank: int) -> Generator[tuple[Any, torch.Generator], None, None]:
    """The data of each step from one on, and its random numbers; a thread makes what comes next meanwhile."""

    def made(number: int) -> tuple[Any, torch.Generator]:
        generator = step_generator(seed, task.name, number, rank)
        return task.draw(number, generator), generator

    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(made, number) for number in range(step, step + AHEAD))
        try:
            for number in itertools.count(step + AHEAD):
                yield waiting.popleft().result()
                waiting.append(pool.submit(made, number))
        finally:
            for future in waiting:
                future.cancel()


def train(task: Task, seed: int, run: RunOptions, notes: Console) -> bool:
    """Train until all steps are done or time is up; whether they are done. Goes on where a checkpoint is.

    The running mean of the weights is what a stage is for: it ends up in `task.network`.
    """
    begun = time.monotonic()
    accelerator = Accelerator(mixed_precision="bf16" if torch.cuda.is_available() else "no")
    folder = run.out / task.name
    mean = copy.deepcopy(task.network).requires_grad_(False).to(accelerator.device)
    optimiser = make_optimiser(task.network, task.schedule)
    state = load_checkpoint(folder / "checkpoint", task.network, mean, optimiser) or {"step": 0, "seconds": 0.0}
    if state.setdefault("seed", seed) != seed or state["step"] > task.schedule.steps:
        raise InputError(
            f"{folder} holds a run of seed {state['seed']} at step {state['step']}: remove it to begin anew"
        )
    network, optimiser = accelerator.prepare(task.network, optimiser)
    step, spent = state["step"], state["seconds"]
    log = Log(folder / "metrics.jsonl", step) if accelerator.is_main_process else None

    def save() -> None:
        if accelerator.is_main_process:
            now = {"step": step, "seconds": round(spent + time.monotonic() - begun, 1), "seed": seed}
            save_checkpoint(folder / "checkpoint", accelerator.unwrap_model(network), mean, optimiser.optimizer, now)

    def report(row: dict[str, Any]) -> None:
        if log is not None:
            seen = {} if task.report is None else task.report(mean, folder / "pictures" / f"{step:07d}.png")
            log.add({"step": step, **row, **seen, "seconds": round(spent + time.monotonic() - begun, 1)})

    batches = ahead(task, seed, step, accelerator.process_index)
    with progress_bar(notes, task.name, "steps") as bar:
        saved = step
        try:
            while step < task.schedule.steps:
                if run.minutes is not None and time.monotonic() - begun > 60 * run.minutes:
                    break
                rate = rate_at(task.schedule, step)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                batch, generator = next(batches)
                with accelerator.autocast():
                    loss = task.loss(network, mean, batch, generator)
                accelerator.backward(loss)
                norm = torch.as_tensor(accelerator.clip_grad_norm_(network.parameters(), task.schedule.clip)).item()
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise RuntimeError(f"{task.name}: the loss of step {step} is {value}, after a norm of {norm}")
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
                round_moments(optimiser.optimizer)
                weights = accelerator.unwrap_model(network).parameters()
                follow(mean.parameters(), weights, min(task.schedule.ema, (1 + step) / (10 + step)))
                step += 1
                if log is not None:
                    log.gather({"loss": value, "rate": rate, "norm": norm})
                if step % run.report_every == 0 or step == task.schedule.steps:
                    report(log.means() if log is not None else {})
                if step % run.save_every == 0 and step < task.schedule.steps:
                    save()
                    saved = step
                bar(step, task.schedule.steps)
        finally:
            batches.close()
            if step > saved:
                save()
    task.network.load_state_dict(mean.state_dict())
    return step >= task.schedule.steps


class Log:
    """Metrics as lines of JSON; those of steps that a run will do again are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        path.write_text("".join(f"{line}\n" for line in kept))
        self._path, self._rows = path, []

    def gather(self, row: dict[str, float]) -> None:
        """One step's numbers."""
        self._rows.append(row)

    def means(self) -> dict[str, float]:
        """The mean of each number since the last call."""
        rows, self._rows = self._rows, []
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[-1]} if rows else {}

    def add(self, row: dict[str, Any]) -> None:
        """Write a line."""
        tidy = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in row.items()}
        with self._path.open("a") as stream:
            stream.write(json.dumps(tidy) + "\n")
