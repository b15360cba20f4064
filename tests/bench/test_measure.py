import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from lyra.bench.calibration import splat_pixels_per_second
from lyra.bench.clock import FRAME, STEP, Clock
from lyra.bench.measure import Measurement
from lyra.engine.machine import describe, line, peak_memory
from lyra.kernels.frames import STAGES


def test_clock_keeps_every_span_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 1.5, 2.0, 10.0, 11.0, 14.0, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    clock = Clock(torch.device("cpu"))
    for _ in range(2):
        with clock.span(FRAME), clock.span("blend"):
            pass
    times = clock.milliseconds()
    np.testing.assert_allclose(times["blend"], [500, 3000])
    np.testing.assert_allclose(times[FRAME], [2000, 10000])


def test_spans_on_a_gpu_come_from_any_thread_and_wait_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[int] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            said.append(threading.get_ident())
            self.place = len(said)

        def elapsed_time(self, other: "Event") -> float:
            return float(other.place - self.place)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: said.append(-1))
    clock = Clock(torch.device("cuda"))

    def back() -> None:
        with clock.span("blend backward"):
            pass

    with clock.span(STEP):
        thread = threading.Thread(target=back)
        thread.start()
        thread.join()
    assert len(said) == 4 and -1 not in said and said[1] == said[2] != said[0] == said[3]
    times = clock.milliseconds()
    assert said[4:] == [-1] and times["blend backward"].tolist() == [1.0] and times[STEP].tolist() == [3.0]


def test_figures_follow_from_the_frames() -> None:
    frames = np.arange(1.0, 101.0)
    m = Measurement("s", "cpu", 7, 0, 3, 2, 1, {**dict.fromkeys(STAGES, frames / 4), FRAME: frames}, 5, 6, 1000, 9)
    assert m.percentiles(FRAME) == pytest.approx({"p50": 50.5, "p95": 95.05, "p99": 99.01})
    assert m.fps == pytest.approx(1000 / 50.5)
    assert m.splat_pixels_per_second == pytest.approx(1000 / (50.5e-3 / 4))
    assert m.to_json()["milliseconds"]["bin"]["p50"] == pytest.approx(50.5 / 4)  # type: ignore[index]


def test_machine_line_holds_what_a_figure_needs() -> None:
    about = describe()
    said = line(about)
    assert str(about["torch"]) in said
    assert str(about["commit"]) in said
    assert about["cores"] >= 1  # type: ignore[operator]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="nobody tells what is resident")
def test_peak_memory_is_that_of_this_process() -> None:
    before = peak_memory(torch.device("cpu"))
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    more = np.ones((before - resident + 400_000_000) // 8)  # other tests may have had a higher peak
    assert 200_000_000 < peak_memory(torch.device("cpu")) - before < 800_000_000
    assert len(more) > 0


def test_calibration_gives_a_steady_rate() -> None:
    rates = [splat_pixels_per_second(repeats=3) for _ in range(3)]
    assert min(rates) > 1e6
    assert max(rates) < 20 * min(rates)
