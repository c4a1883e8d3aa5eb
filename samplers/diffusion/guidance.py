"""How many denoiser rows one candidate needs per step: two under classifier-free guidance."""

from __future__ import annotations

from typing import Any

from gensift.denoising.bound import BoundPipeline
from gensift.protocols import CallArguments, Pipeline

# Families whose `guidance_scale` is distilled into the model: a second pass needs a true scale
# above 1 and a negative prompt.
_TRUE_CFG = ("flux", "qwen-image")


def guidance_rows(pipe: Pipeline, arguments: CallArguments) -> int:
    """1 or 2, by the rule that the pipeline itself applies to the arguments of its call.

    Args:
        pipe: a diffusers pipeline whose denoiser is declared.
        arguments: of the pipeline call, defaults included.
    """
    return guidance_rows_of(BoundPipeline.of(pipe), arguments)


def guidance_rows_of(bound: BoundPipeline, arguments: CallArguments) -> int:
    """The same of a pipeline that is resolved already."""
    family = bound.family.name
    if family in _TRUE_CFG:
        negative = arguments.get("negative_prompt"), arguments.get("negative_prompt_embeds")
        has_negative = any(value is not None for value in negative)
        return 2 if has_negative and arguments.get("true_cfg_scale", 1.0) > 1 else 1
    scale = arguments.get("guidance_scale") or 0.0
    if family == "z-image":
        return 2 if scale > 0 else 1
    if family == "stable-diffusion":
        # Consistency models take the scale as an embedding instead.
        is_distilled = _denoiser_config(bound).get("time_cond_proj_dim") is not None
        return 2 if scale > 1 and not is_distilled else 1
    return 2 if scale > 1 else 1


def call_groups(bound: BoundPipeline, arguments: CallArguments) -> int:
    """Rows of a candidate in one forward pass: its guidance rows, where they run together."""
    return min(guidance_rows_of(bound, arguments), max(bound.family.groups))


def guidance_argument(pipe: Pipeline) -> str:
    """The keyword of the pipeline call that sets the strength of guidance."""
    bound = BoundPipeline.of(pipe)
    if bound.family.name in _TRUE_CFG:
        has_embedding = _denoiser_config(bound).get("guidance_embeds", False)
        return "guidance_scale" if has_embedding else "true_cfg_scale"
    return "guidance_scale"


def _denoiser_config(bound: BoundPipeline) -> CallArguments:
    denoiser: Any = bound.denoisers[0]
    config: CallArguments = denoiser.config
    return config
