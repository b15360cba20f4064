"""What a family of video models is to the rest of the teachers, and the options that all of them take.

A module of this folder describes one family and ends in `FAMILY`; `teacher.py` lists them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from ...files import cause

EXTRA = "pip install 'lyra-gs[teachers]'"


@dataclass(frozen=True)
class TeacherOptions:
    """How a video model is asked for frames.

    Raises:
        InputError: a value is out of range.
    """

    prompt: str = ""
    """What the scene is, in words; real models do much better with some."""
    negative_prompt: str = ""
    """What it is not; only with guidance above 1."""
    strength: float = 0.85
    """The share of noise to which warped frames are brought before the model cleans them: near 0 they stay as they
    are, at 1 nothing is left of them. A share s is s noise and 1 - s picture, in the latents of any family."""
    steps: int = 35
    """Of the whole schedule; those above `strength` are left out."""
    guidance: float | None = None
    """Weight of the prompt (classifier-free guidance); 1 for none, which halves the time. None: the family's own."""
    working: tuple[int, int] | None = None
    """Width and height at which the model works, best those it was trained for. None: the size asked for, rounded up
    to what the family can."""
    composite: bool = True
    """Whether pixels that the warp knows replace those of the model."""
    device: str = "auto"
    """Where the model runs: cuda, cpu, or auto, cuda where there is one. In bfloat16 on cuda, in float32 elsewhere."""
    offload: bool = False
    """Whether parts of the model wait in main memory for their turn; for cuda, slower."""
    safety_checker: Any = None
    """Cosmos only: an object like CosmosSafetyChecker of the package cosmos_guardrail, to use in place of that."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise InputError(f"strength is {self.strength}, expected above 0, to 1")
        if self.steps < 2:
            raise InputError(f"steps is {self.steps}, expected 2 or more")
        if self.guidance is not None and self.guidance < 1:
            raise InputError(f"guidance is {self.guidance}, expected 1 or more")
        if self.working is not None and min(self.working) < 1:
            raise InputError(f"working is {self.working}, expected a width and a height in pixels")

    @property
    def place(self) -> str:
        """The device by name."""
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device

    @property
    def kind(self) -> torch.dtype:
        """The float type of the model."""
        return torch.bfloat16 if self.place.startswith("cuda") else torch.float32


Generate = Callable[[Any, Tensor, TeacherOptions, torch.Generator], Tensor]


@dataclass(frozen=True)
class Family:
    """One kind of video model. Its functions are given clips that fit `frames` and `pixels`."""

    name: str
    classes: tuple[str, ...]  # `_class_name` in model_index.json
    frames: int  # a clip has one more than a multiple
    pixels: int  # sides are multiples
    open: Callable[[Path, TeacherOptions], Any]  # a folder's pipeline; raises InputError
    generate: Generate  # pipeline, clip [f, 3, h, w] 0..1 whose first frame is clean, to a clip of the same shape
    checked: Callable[[Any, Tensor], Tensor] = lambda pipeline, clip: clip  # the last word on what is given out


def open_pipeline(folder: Path, name: str, options: TeacherOptions, wide: tuple[str, ...], **components: Any) -> Any:
    """A pipeline of diffusers from a local folder, ready on its device; nothing is fetched, no pickle is opened.

    Args:
        folder: as diffusers saves it.
        name: of the pipeline's class.
        options: device and offloading.
        wide: components that stay in float32.
        components: given in place of those of the folder.

    Raises:
        InputError: a package is missing, or a part of the model is damaged or does not fit.
    """
    try:
        import accelerate  # noqa: F401  (diffusers loads in lower precision and offloads with it)
        import diffusers
        import transformers  # noqa: F401  (diffusers puts a dummy in place of pipelines that lack it)
    except ImportError as error:
        raise InputError(f"{folder}: a video model needs {error.name}, install it: {EXTRA}") from None
    if options.place.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device is {options.device}, but torch finds no GPU: give cpu, or install torch for CUDA")
    try:
        pipeline = getattr(diffusers, name).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype={"default": options.kind} | dict.fromkeys(wide, torch.float32),
            **components,
        )
        if options.offload:
            pipeline.enable_model_cpu_offload(device=options.place)
        else:
            pipeline.to(options.place)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: cannot be loaded ({cause(error)}): fetch what is missing") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def encoded(pipeline: Any, clip: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """[1, c, k, h, w] float32 normalised latents of a clip [f, 3, h, w] 0..1: (z - mean) / deviation a channel."""
    vae = pipeline.vae
    video = (clip * 2 - 1).movedim(0, 1)[None].to(pipeline._execution_device, vae.dtype)
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode().float()
    mean, deviation = (values.view(1, -1, 1, 1, 1).to(latents) for values in (mean, deviation))
    return (latents - mean) / deviation


def skipped(shares: Tensor, strength: float) -> int:
    """How many steps of a schedule, given by its falling shares of noise [steps], are left out; never the last."""
    return min(int((shares > strength + 1e-6).sum()), len(shares) - 1)


def part(options: TeacherOptions, shares: Tensor) -> float:
    """The part of a schedule that is run, as pipelines take it, that round it down to whole steps."""
    return min(1.0, (options.steps - skipped(shares, options.strength) + 0.5) / options.steps)
