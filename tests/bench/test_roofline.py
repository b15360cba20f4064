"""Bounds against numbers worked out by hand."""

import pytest

from lyra.bench.host import host_machine
from lyra.bench.roofline import (
    GPUS,
    LYRA,
    Design,
    Machine,
    Work,
    frame_bounds,
    gpu_machine,
    gradient_bounds,
    radix_bytes,
)
from lyra.kernels.frames import GRADIENT_STAGES, STAGES

# 6.1 million splats at 1080p, 2.5 million of them visible, 1.6 macro tiles a splat, 60 % of what tiles list evaluated.
PIXELS = 1920 * 1080
SCENE = Work(splats=6_100_000, visible=2_500_000, pairs=4_000_000, splat_pixels=0, pixels=PIXELS)


def listed(work: Work, entries: float, tile: int) -> Work:
    """With so many list entries a visible splat, of tiles of so many pixels."""
    return Work(work.splats, work.visible, work.pairs, round(0.6 * work.visible * entries * tile), work.pixels)


def total(machine: Machine, work: Work, design: Design) -> float:
    """Milliseconds of a frame."""
    return 1e3 * sum(bound.seconds for bound in frame_bounds(machine, work, design).values())


def named(name: str) -> Machine:
    return next(machine for machine in GPUS.values() if machine.name == name)


@pytest.mark.parametrize(
    ("gpu", "milliseconds"),
    [("H100 SXM", 0.70), ("H200", 0.61), ("RTX 4090", 1.21), ("RTX 5090", 0.75), ("RTX PRO 6000", 0.71)],
)
def test_a_frame_with_half_float_harmonics(gpu: str, milliseconds: float) -> None:
    """8x16 tiles, 15.6 instructions, SH as halves: 16 B of geometry, 96 B of colour, 48 B of record."""
    design = Design(geometry=16, color=96, instructions=15.6, output=8)
    assert total(named(gpu), listed(SCENE, 4.15, 128), design) == pytest.approx(milliseconds, rel=0.03)


@pytest.mark.parametrize(
    ("gpu", "milliseconds"),
    [("H100 SXM", 0.45), ("H200", 0.37), ("RTX 4090", 1.00), ("RTX 5090", 0.59), ("RTX PRO 6000", 0.57)],
)
def test_a_frame_of_small_tiles_and_ten_instructions(gpu: str, milliseconds: float) -> None:
    design = Design(geometry=16, color=96, record=28, instructions=10.0, tile=64, output=8, loads=3)
    assert total(named(gpu), listed(SCENE, 5.9, 64), design) == pytest.approx(milliseconds, rel=0.04)


@pytest.mark.parametrize(("gpu", "milliseconds"), [("H100 SXM", 1.74), ("H200", 1.51), ("RTX 4090", 3.26)])
def test_a_frame_sorted_once_by_wide_keys(gpu: str, milliseconds: float) -> None:
    """64-bit keys of tile and depth for each pair of splat and 16x16 tile, 45 bits sorted."""
    work = Work(SCENE.splats, SCENE.visible, 7_500_000, SCENE.splat_pixels, PIXELS)
    design = Design(depth_bits=0, pair_bits=45, pair_bytes=8, instructions=25.0, tile=256)
    assert total(named(gpu), listed(work, 3.0, 256), design) == pytest.approx(milliseconds, rel=0.03)


def test_bytes_and_instructions_of_each_stage() -> None:
    machine = Machine("toy", bandwidth=1e9, lanes=1e9)
    bounds = frame_bounds(machine, Work(1000, 100, 200, 5000, 10), LYRA)
    assert tuple(bounds) == STAGES
    assert bounds["project"].bytes == 1000 * 12 + 100 * (32 + 192 + 48)
    assert bounds["sort"].bytes == 100 * (4 + 4 * 16)
    assert bounds["bin"].bytes == 200 * (2 + 2 * 12)
    assert bounds["blend"].bytes == 10 * 20 and bounds["blend"].instructions == 5000 * 21
    assert bounds["project"].seconds == pytest.approx(39200e-9)
    assert bounds["sort"].seconds == pytest.approx(6800e-9 / 0.65)
    assert bounds["blend"].seconds == pytest.approx(105000e-9)


def test_bytes_and_instructions_of_the_way_back() -> None:
    machine = Machine("toy", bandwidth=1e9, lanes=1e9)
    bounds = gradient_bounds(machine, Work(1000, 100, 200, 5000, 10, reached=60), LYRA)
    assert tuple(bounds) == GRADIENT_STAGES
    blend, project = bounds.values()
    assert blend.bytes == 10 * 28 + 1000 * 48 and blend.instructions == 5000 * 55
    assert blend.seconds == pytest.approx(275000e-9)
    means, quats, scales, opacities, colors = 12, 16, 12, 4, 16 * 12
    scene = means + quats + scales + opacities + colors
    assert project.bytes == 1000 * 48 + 60 * (48 + scene) + 1000 * scene and project.instructions == 0
    assert project.seconds == pytest.approx(project.bytes * 1e-9)


def test_the_way_back_takes_two_special_functions_a_splat_and_pixel() -> None:
    machine = Machine("few exponentials", 1e9, 1e9, exponentials=50.0)
    assert gradient_bounds(machine, Work(0, 0, 0, 5000, 10), LYRA)["blend backward"].seconds == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("machine", "seconds"),
    [
        (Machine("slow memory", 1.0, 1e9), 200.0),
        (Machine("few exponentials", 1e9, 1e9, exponentials=50.0), 100.0),
        (Machine("few loads", 1e9, 1e9, loads=5000 / 128 * 4 / 7), 7.0),
    ],
)
def test_the_tightest_limit_of_blending_counts(machine: Machine, seconds: float) -> None:
    assert frame_bounds(machine, Work(0, 0, 0, 5000, 10), LYRA)["blend"].seconds == pytest.approx(seconds)


def test_a_sort_of_nothing_is_free() -> None:
    assert radix_bytes(10, 8, 45) == 10 * (8 + 6 * 2 * 12)
    assert radix_bytes(10, 0, 0) == 0


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("NVIDIA H100 PCIe", None),
        ("Tesla T4", None),
    ],
)
def test_gpus_are_known_by_the_names_that_torch_reports(reported: str, name: str | None) -> None:
    machine = gpu_machine(reported)
    assert (machine.name if machine else None) == name


def test_an_h200_issues_nearly_a_trillion_warps_a_second() -> None:
    assert GPUS["H200"].lanes / 32 == pytest.approx(0.93e12, rel=0.01)
    assert GPUS["RTX PRO 6000"].lanes / 32 == pytest.approx(1.96e12, rel=0.01)


def test_this_machine_is_between_a_toy_and_a_dream() -> None:
    host = host_machine()
    assert 1e8 < host.bandwidth < 1e13
    assert 1e8 < host.lanes < 1e14
