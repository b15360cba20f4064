"""LTX-Video from 0.9.5: the clean first frame is a condition, the warped ones are noised and cleaned."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .family import Family, TeacherOptions, encoded, open_pipeline, part

GUIDANCE = 3.0
DECODING = {"decode_timestep": 0.05, "decode_noise_scale": 0.025}  # as its makers run it; some autoencoders denoise too


def open_folder(folder: Path, options: TeacherOptions) -> Any:
    """The pipeline of a folder.

    Raises:
        InputError: as `open_pipeline`.
    """
    return open_pipeline(folder, "LTXConditionPipeline", options, ())


def generate(pipeline: Any, clip: Tensor, options: TeacherOptions, generator: torch.Generator) -> Tensor:
    """A clip like `clip` [f, 3, h, w]."""
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition, linear_quadratic_schedule

    return pipeline(
        conditions=LTXVideoCondition(image=clip[:1]),  # type: ignore[arg-type]  (a tensor is taken too)
        latents=encoded(pipeline, clip, pipeline.vae.latents_mean, pipeline.vae.latents_std),
        denoise_strength=part(options, linear_quadratic_schedule(options.steps)),
        image_cond_noise_scale=0.0,
        prompt=options.prompt,
        negative_prompt=options.negative_prompt,
        height=clip.shape[-2],
        width=clip.shape[-1],
        num_frames=len(clip),
        num_inference_steps=options.steps,
        guidance_scale=GUIDANCE if options.guidance is None else options.guidance,
        generator=generator,
        output_type="pt",
        **DECODING,
    ).frames[0]


FAMILY = Family("LTX-Video", ("LTXConditionPipeline",), 8, 32, open_folder, generate)
