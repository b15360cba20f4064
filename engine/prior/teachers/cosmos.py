"""Cosmos-Predict2 video to world: the clean first frame is a condition, the warped ones are noised and cleaned.

The licence of its weights asks for a guardrail, and nothing here goes round it: without the package cosmos_guardrail,
or a checker of the user's own, the model is not opened, and the checker has the last word on every clip.
"""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...files import cause
from .family import Family, TeacherOptions, encoded, open_pipeline, skipped

GUIDANCE = 7.0


def open_folder(folder: Path, options: TeacherOptions) -> Any:
    """The pipeline of a folder.

    Raises:
        InputError: as `open_pipeline`, no torchvision, or there is no guardrail.
    """
    given = options.safety_checker
    if given is None and importlib.util.find_spec("cosmos_guardrail") is None:
        cure = "install cosmos_guardrail with its weights, or give TeacherOptions(safety_checker=...)"
        raise InputError(f"{folder}: the licence of Cosmos asks for a guardrail: {cure}")
    components = {} if given is None else {"safety_checker": given}
    pipeline = open_pipeline(folder, "Cosmos2VideoToWorldPipeline", options, ("vae",), **components)
    if pipeline.transformer.config.concat_padding_mask and importlib.util.find_spec("torchvision") is None:
        raise InputError(f"{folder}: Cosmos needs torchvision, install the one of your torch {torch.__version__}")
    return pipeline


def generate(pipeline: Any, clip: Tensor, options: TeacherOptions, generator: torch.Generator) -> Tensor:
    """A clip like `clip` [f, 3, h, w].

    Raises:
        InputError: the guardrail refuses the prompt or the clip.
    """
    scheduler, device = pipeline.scheduler, pipeline._execution_device
    statistics = (torch.tensor(pipeline.vae.config[name]) for name in ("latents_mean", "latents_std"))
    clean = encoded(pipeline, clip, *statistics) * scheduler.config.sigma_data
    whole = scheduler.set_timesteps
    whole(sigmas=torch.linspace(0, 1, options.steps, dtype=torch.float64), device=device)  # as the pipeline does
    start = skipped(scheduler.sigmas[:-1] / (1 + scheduler.sigmas[:-1]), options.strength)
    sigma = float(scheduler.sigmas[start])

    @functools.wraps(whole)
    def late(*arguments: Any, **named: Any) -> None:
        """The pipeline would begin at pure noise: its schedule begins where the noised clip belongs."""
        whole(*arguments, **named)
        scheduler.timesteps, scheduler.sigmas = scheduler.timesteps[start:], scheduler.sigmas[start:]

    noise = torch.randn(clean.shape, generator=generator).to(clean)
    scheduler.set_timesteps = late
    try:
        return pipeline(
            video=clip[None, :1],
            latents=(clean + sigma * noise) / scheduler.config.sigma_max,
            prompt=options.prompt,
            negative_prompt=options.negative_prompt or None,  # None: that of its makers
            height=clip.shape[-2],
            width=clip.shape[-1],
            num_frames=len(clip),
            num_inference_steps=options.steps,
            guidance_scale=GUIDANCE if options.guidance is None else options.guidance,
            generator=generator,
            output_type="pt",
        ).frames[0]
    except ValueError as error:
        if "Guardrail" not in str(error):
            raise
        raise InputError(f"prompt {options.prompt!r}: {cause(error)}") from None
    finally:
        del scheduler.set_timesteps


def checked(pipeline: Any, clip: Tensor) -> Tensor:
    """A clip [f, 3, h, w] as the guardrail lets it pass, in 8 bits.

    Raises:
        InputError: it does not.
    """
    frames = (clip.movedim(1, -1) * 255).round().byte().cpu().numpy()
    passed = pipeline.safety_checker.check_video_safety(frames)
    if passed is None:
        raise InputError("the guardrail of Cosmos lets no frame pass, give other views or another prompt")
    return torch.from_numpy(np.asarray(passed)).movedim(-1, 1).to(clip) / 255


FAMILY = Family("Cosmos-Predict2", ("Cosmos2VideoToWorldPipeline",), 4, 16, open_folder, generate, checked)
