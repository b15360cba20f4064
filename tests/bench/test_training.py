"""A step of training: its gradients are the reference's, its spans are all there, and its figures follow from them."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest
import torch

from lyra.bench.cases import Case
from lyra.bench.clock import STEP, Clock
from lyra.bench.roofline import Work
from lyra.bench.training import measure_training, step, trainable
from lyra.engine.renderer import backend_device, render
from lyra.engine.scene.camera import Camera, look_at
from lyra.engine.scene.gaussians import Gaussians
from lyra.kernels.backends import why_unavailable
from lyra.kernels.frames import GRADIENT_STAGES, STAGES

BACKENDS = [
    pytest.param(name, marks=pytest.mark.skipif(why_unavailable(name) is not None, reason=f"{name} is not for here"))
    for name in ("cpu", "triton")
]

UP = 0.0, -1.0, 0.0


def camera() -> Camera:
    return look_at((0, 0, -4), (0, 0, 0), width=40, height=24)


def scene(count: int = 30) -> Gaussians:
    random = torch.Generator().manual_seed(3)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=random)

    return Gaussians(
        2 * uniform(count, 3) - 1, uniform(count, 4) - 0.5, 0.05 + 0.2 * uniform(count, 3),
        0.2 + 0.7 * uniform(count), uniform(count, 4, 3),
    )  # fmt: skip


def column() -> Gaussians:
    """Six wide splats that follow one another, 0.95 opaque, and one beside the picture."""
    means = torch.tensor([[0.0, 0, z] for z in range(6)] + [[1000.0, 0, 0]])
    quats, scales = torch.tensor([[1.0, 0, 0, 0]]).repeat(7, 1), torch.full((7, 3), 0.5)
    scales[:6, :2] = 500.0
    return Gaussians(means, quats, scales, torch.full((7,), 0.95), torch.full((7, 1, 3), 0.3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_those_of_the_reference(backend: str) -> None:
    found = step(trainable(scene().to(backend_device(backend))), camera(), backend=backend)
    truth = trainable(scene().to(dtype=torch.float64))
    render(truth, camera(), backend="reference").rgb.sum().backward()
    assert set(found.gradients) == set(truth.tensors())
    for name, tensor in truth.tensors().items():
        assert tensor.grad is not None and tensor.grad.abs().max() > 0
        error = (found.gradients[name].cpu().double() - tensor.grad).abs().max()
        assert error < 1e-3 * tensor.grad.abs().max(), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_stage_has_its_span_in_order(backend: str) -> None:
    said = []

    @contextmanager
    def span(name: str) -> Iterator[None]:
        said.append(name)
        yield
        said.append(f"/{name}")

    step(trainable(scene().to(backend_device(backend))), camera(), backend=backend, span=span)
    stages = [word for stage in (*STAGES, *GRADIENT_STAGES) for word in (stage, f"/{stage}")]
    assert said == [STEP, *stages, f"/{STEP}"]


def test_a_backward_pass_in_another_thread_is_timed_too() -> None:
    clock, leaves = Clock(torch.device("cpu")), trainable(scene())
    with clock.span(STEP):
        frame = render(leaves, camera(), backend="cpu", span=clock.span)
        thread = Thread(target=lambda: frame.rgb.sum().backward())
        thread.start()
        thread.join()
    times = clock.milliseconds()
    assert leaves.means.grad is not None
    assert [len(times[stage]) for stage in (*STAGES, *GRADIENT_STAGES)] == [1] * 6
    parts = [float(times[stage][0]) for stage in (*STAGES, *GRADIENT_STAGES)]
    assert min(parts) > 0 and sum(parts) < times[STEP][0]


def test_what_lies_behind_a_wall_is_visible_but_not_reached() -> None:
    work = step(trainable(column()), camera(), backend="cpu").work
    assert (work.splats, work.visible, work.reached) == (7, 6, 3)  # 0.05^4 is less than a pixel stops at
    assert work.pixels == 40 * 24 and work.splat_pixels >= 3 * work.pixels


def test_a_case_is_measured_as_frames_and_steps() -> None:
    told = measure_training(Case("c", scene(), [camera(), camera()], 2, UP), backend="cpu", warmup=1)
    times = told["milliseconds"]
    assert isinstance(times, dict) and list(times) == [*STAGES, *GRADIENT_STAGES, STEP]
    assert told["ratio"] == times[STEP] / told["frame_milliseconds"]  # type: ignore[operator]
    bounds = told["bounds"]
    assert isinstance(bounds, dict) and list(bounds) == [*STAGES, *GRADIENT_STAGES]
    share = bounds["blend backward"]
    assert share["share"] == pytest.approx(share["milliseconds"] / times["blend backward"])
    assert told["splats"] == 30 and 0 < told["reached"] <= 30  # type: ignore[operator]


def test_the_reference_has_no_stages_on_the_way_back() -> None:
    told = measure_training(Case("c", scene(), [camera()], 1, UP), backend="reference", warmup=0)
    assert list(told["milliseconds"]) == [*STAGES, STEP]  # type: ignore[call-overload]


def test_a_step_that_draws_nothing_reaches_nothing() -> None:
    away = look_at((0, 0, -4), (0, 0, -8), width=40, height=24)
    assert step(trainable(scene()), away, backend="cpu").work == Work(30, 0, 0, 0, 40 * 24, 0)
