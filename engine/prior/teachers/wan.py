"""Wan 2.1 text to video, used from video to video: noise is added to the warped clip, and taken away again."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import InputError
from .family import EXTRA, Family, TeacherOptions, open_pipeline, part

GUIDANCE = 5.0


def open_folder(folder: Path, options: TeacherOptions) -> Any:
    """The pipeline of a folder.

    Raises:
        InputError: as `open_pipeline`, no ftfy, or a model of Wan 2.2.
    """
    try:
        import ftfy  # noqa: F401  (diffusers cleans Wan's prompts with it)
    except ImportError:
        raise InputError(f"{folder}: Wan needs ftfy, install it: {EXTRA}") from None
    if (folder / "transformer_2").exists():
        raise InputError(f"{folder}: a model of two denoisers (Wan 2.2 14B), give one of Wan 2.1")
    pipeline = open_pipeline(folder, "WanVideoToVideoPipeline", options, ("vae",))
    if pipeline.vae.config.scale_factor_spatial != pipeline.vae_scale_factor_spatial:
        raise InputError(f"{folder}: its autoencoder is that of Wan 2.2, give a model of Wan 2.1")
    return pipeline


def generate(pipeline: Any, clip: Tensor, options: TeacherOptions, generator: torch.Generator) -> Tensor:
    """A clip like `clip` [f, 3, h, w]."""
    pipeline.scheduler.set_timesteps(options.steps)
    return pipeline(
        video=clip[None],
        prompt=options.prompt,
        negative_prompt=options.negative_prompt,
        height=clip.shape[-2],
        width=clip.shape[-1],
        num_inference_steps=options.steps,
        strength=part(options, pipeline.scheduler.sigmas[:-1]),
        guidance_scale=GUIDANCE if options.guidance is None else options.guidance,
        generator=generator,
        output_type="pt",
    ).frames[0]


FAMILY = Family("Wan 2.1", ("WanPipeline", "WanVideoToVideoPipeline"), 4, 16, open_folder, generate)
