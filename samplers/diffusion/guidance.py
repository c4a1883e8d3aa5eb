"""How many denoiser rows one candidate needs per step: two under classifier-free guidance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gensift.denoising.modules import denoisers_of, family_of_pipeline

# Families whose `guidance_scale` is distilled into the model: a second pass needs a true scale
# above 1 and a negative prompt.
_TRUE_CFG = ("flux", "qwen-image")


def guidance_rows(pipe: Any, arguments: Mapping[str, Any]) -> int:
    """1 or 2, by the rule that the pipeline itself applies to the arguments of its call.

    Args:
        pipe: a diffusers pipeline whose denoiser is declared.
        arguments: of the pipeline call, defaults included.
    """
    family = family_of_pipeline(pipe).name
    if family in _TRUE_CFG:
        negative = arguments.get("negative_prompt"), arguments.get("negative_prompt_embeds")
        has_negative = any(value is not None for value in negative)
        return 2 if has_negative and arguments.get("true_cfg_scale", 1.0) > 1 else 1
    scale = arguments.get("guidance_scale") or 0.0
    if family == "z-image":
        return 2 if scale > 0 else 1
    if family == "stable-diffusion":
        # Consistency models take the scale as an embedding instead.
        is_distilled = _denoiser_config(pipe).get("time_cond_proj_dim") is not None
        return 2 if scale > 1 and not is_distilled else 1
    return 2 if scale > 1 else 1


def guidance_argument(pipe: Any) -> str:
    """The keyword of the pipeline call that sets the strength of guidance."""
    if family_of_pipeline(pipe).name in _TRUE_CFG:
        has_embedding = _denoiser_config(pipe).get("guidance_embeds", False)
        return "guidance_scale" if has_embedding else "true_cfg_scale"
    return "guidance_scale"


def _denoiser_config(pipe: Any) -> Mapping[str, Any]:
    denoiser: Any = denoisers_of(pipe)[0]
    config: Mapping[str, Any] = denoiser.config
    return config
