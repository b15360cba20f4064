"""The bounds of what was measured here: `roofline` applied to this machine and to Lyra's own backends."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from .host import host_machine
from .roofline import LYRA, LYRA_SIMD, Bound, Work, frame_bounds, gpu_machine, gradient_bounds


def stage_bounds(backend: str, work: Work, sh_degree: int) -> dict[str, Bound] | None:
    """The bound of each stage, forth and back, on the machine that a backend uses; None on a GPU not in the table."""
    machine = gpu_machine(torch.cuda.get_device_name()) if backend == "triton" else host_machine()
    if machine is None:
        return None
    design = replace(LYRA if backend == "triton" else LYRA_SIMD, color=12 * (sh_degree + 1) ** 2)
    return frame_bounds(machine, work, design) | gradient_bounds(machine, work, design)


def shares(
    backend: str, work: Work, sh_degree: int, medians: Mapping[str, float]
) -> dict[str, dict[str, float]] | None:
    """Milliseconds that each stage needs at least, and their share of what it took; None on an unknown machine.

    Args:
        medians: what each stage took, milliseconds; stages that are not in it are left out.
    """
    bounds = stage_bounds(backend, work, sh_degree)
    if bounds is None:
        return None
    least = {stage: 1e3 * bound.seconds for stage, bound in bounds.items() if stage in medians}
    return {stage: {"milliseconds": value, "share": value / medians[stage]} for stage, value in least.items()}
