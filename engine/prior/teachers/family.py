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
    strength: float = 0.7
    """How much of the noise schedule the warped frames are sent back: near 0 they stay, at 1 they are forgotten."""
    steps: int = 35
    """Of the whole schedule; about strength times as many are run."""
    guidance: float | None = None
    """Weight of the prompt (classifier-free guidance); 1 for none, which halves the time. None: the family's own."""
    working: tuple[int, int] | None = None
    """Width and height at which the model works, best those it was trained for. None: the size asked for, rounded up
    to what the family can."""
    composite: bool = True
    """Whether pixels that the warp knows replace those of the model."""
    device: str = "auto"
    """Where the model runs: cuda, cpu, or auto, cuda where there is one. bfloat16 on cuda, float32 elsewhere; the
    autoencoder always in float32."""
    offload: bool = False
    """Whether parts of the model wait in main memory for their turn; for cuda, slower."""
    safety_checker: Any = None
    """Cosmos only: an object like CosmosSafetyChecker of the package cosmos_guardrail, to use in place of that."""

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise InputError(f"strength is {self.strength}, expected above 0, to 1")
        if self.steps < 2:
            raise InputError(f"steps is {self.steps}, expected 2 or more")
        if self.run < 1:
            cure = f"give {-int(-1 // self.strength)} steps, or more strength"
            raise InputError(f"strength {self.strength} of {self.steps} steps runs none: {cure}")
        if self.guidance is not None and self.guidance < 1:
            raise InputError(f"guidance is {self.guidance}, expected 1 or more")
        if self.working is not None and min(self.working) < 1:
            raise InputError(f"working is {self.working}, expected a width and a height in pixels")

    @property
    def run(self) -> int:
        """Steps that are run."""
        return int(self.steps * self.strength)

    @property
    def place(self) -> str:
        """The device by name."""
        return ("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device


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


def open_pipeline(folder: Path, name: str, options: TeacherOptions, **components: Any) -> Any:
    """A pipeline of diffusers from a local folder, ready on its device; nothing is fetched, no pickle is opened.

    Raises:
        InputError: a package is missing, or a part of the model is damaged or does not fit.
    """
    try:
        import diffusers
        import transformers  # noqa: F401  (diffusers puts a dummy in place of pipelines that lack it)
    except ImportError as error:
        raise InputError(f"{folder}: a video model needs {error.name}, install it: {EXTRA}") from None
    kind = torch.bfloat16 if options.place.startswith("cuda") else torch.float32
    try:
        pipeline = getattr(diffusers, name).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype={"default": kind, "vae": torch.float32},
            **components,
        )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: cannot be loaded ({cause(error)}), fetch it again whole") from error
    pipeline.set_progress_bar_config(disable=True)
    if options.offload:
        pipeline.enable_model_cpu_offload(device=options.place)
    else:
        pipeline.to(options.place)
    return pipeline


def encoded(pipeline: Any, clip: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """[1, c, k, h, w] float32 normalised latents of a clip [f, 3, h, w] 0..1: (z - mean) / deviation a channel."""
    vae = pipeline.vae
    video = (clip * 2 - 1).movedim(0, 1)[None].to(pipeline._execution_device, vae.dtype)
    with torch.no_grad():
        latents = vae.encode(video).latent_dist.mode().float()
    mean, deviation = (values.view(1, -1, 1, 1, 1).to(latents) for values in (mean, deviation))
    return (latents - mean) / deviation
