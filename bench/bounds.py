"""The bounds of what was measured here: `roofline` applied to this machine and to Lyra's own backends."""

from dataclasses import replace

import torch

from .host import host_machine
from .roofline import LYRA, LYRA_SIMD, Bound, Work, frame_bounds, gpu_machine


def stage_bounds(backend: str, work: Work, sh_degree: int) -> dict[str, Bound] | None:
    """The bound of each stage on the machine that a backend uses; None on a GPU that is not in the table."""
    machine = gpu_machine(torch.cuda.get_device_name()) if backend == "triton" else host_machine()
    if machine is None:
        return None
    design = LYRA if backend == "triton" else LYRA_SIMD
    return frame_bounds(machine, work, replace(design, color=12 * (sh_degree + 1) ** 2))
