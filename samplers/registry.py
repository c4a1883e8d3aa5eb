"""All samplers by name; other packages add theirs through the entry-point group."""

from __future__ import annotations

from gensift.registry import Registry
from samplers.output import Sampler

SAMPLERS: Registry[type[Sampler]] = Registry("sampler", "gensift.samplers")
SAMPLERS.register("best-of-n", "samplers.diffusion.best_of_n:BestOfN")
SAMPLERS.register("ttsnap", "samplers.diffusion.ttsnap:TTSnap")
SAMPLERS.register("fk-steering", "samplers.diffusion.fk_steering:FKSteering")
SAMPLERS.register("svdd", "samplers.diffusion.svdd:SVDD")
SAMPLERS.register("zero-order", "samplers.diffusion.zero_order:ZeroOrder")
SAMPLERS.register("search-over-paths", "samplers.diffusion.search_over_paths:SearchOverPaths")
SAMPLERS.register("tts-var", "samplers.autoregressive.tts_var:TTSVAR")
SAMPLERS.register("var-best-of-n", "samplers.autoregressive.var_best_of_n:VARBestOfN")
SAMPLERS.register("var-importance", "samplers.autoregressive.var_importance:VARImportance")
SAMPLERS.register("local-refine", "samplers.diffusion.local_refine:LocalRefine")
SAMPLERS.register("bfm", "samplers.diffusion.bfm:BFM")
SAMPLERS.register(
    "decode",
    "samplers.text.decode:TextDecode",
    summary="Texts from a masked diffusion language model, each drawn on its own.",
    modality="text",
    pipelines="LLaDA, Dream and other masked diffusion language models",
    default_model="countdown-llada",
    config="samplers.text.config:TextDecodeConfig",
)
SAMPLERS.register(
    "odd",
    "samplers.text.odd:ODD",
    summary="Texts of a prompt that are kept apart as they form, all in one batch.",
    modality="text",
    pipelines="LLaDA, Dream and other masked diffusion language models",
    default_model="countdown-llada",
    config="samplers.text.config:ODDConfig",
)
SAMPLERS.register("policy", "samplers.policy.rollout:PolicyRollout")
