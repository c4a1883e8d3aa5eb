"""All samplers by name; other packages add theirs through the entry-point group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gensift.registry import Registry

if TYPE_CHECKING:
    from samplers.base import SamplerBase

# What listings say without importing a sampler; a test holds it to what the classes say.
_DIFFUSION = {
    "modality": "image",
    "pipelines": "diffusers pipelines whose denoiser is declared",
    "default_model": "shapes-flux",
}

_NEXT_SCALE = {
    "modality": "image",
    "pipelines": "VAR, Infinity and other next-scale models",
    "default_model": "shapes-infinity",
}

SAMPLERS: Registry[type[SamplerBase[Any, Any]]] = Registry("sampler", "gensift.samplers")
SAMPLERS.register(
    "best-of-n",
    "samplers.diffusion.best_of_n:BestOfN",
    summary="The baseline of every search: N independent samples, the best one wins.",
    config="samplers.diffusion.config:SearchConfig",
    **_DIFFUSION,
)
SAMPLERS.register(
    "ttsnap",
    "samplers.diffusion.ttsnap:TTSnap",
    summary="Draws many candidates, scores their clean-picture estimates early, drops the worst.",
    config="samplers.diffusion.config:TTSnapConfig",
    **_DIFFUSION,
)
SAMPLERS.register(
    "fk-steering",
    "samplers.diffusion.fk_steering:FKSteering",
    summary="Weighs particles by their rewards on the way and lets the heavy ones take over.",
    config="samplers.diffusion.config:FKSteeringConfig",
    **_DIFFUSION,
)
SAMPLERS.register(
    "svdd",
    "samplers.diffusion.svdd:SVDD",
    summary="Each chain chooses among its children's clean-picture estimates, again and again.",
    config="samplers.diffusion.config:SVDDConfig",
    **_DIFFUSION,
)
SAMPLERS.register(
    "zero-order",
    "samplers.diffusion.zero_order:ZeroOrder",
    summary="Climbs the reward from noise to better noise, among neighbours on the noise's sphere.",
    config="samplers.diffusion.config:ZeroOrderConfig",
    **_DIFFUSION,
)
SAMPLERS.register(
    "search-over-paths",
    "samplers.diffusion.search_over_paths:SearchOverPaths",
    summary="Branches candidates on the way down, at noise levels where much can still change.",
    config="samplers.diffusion.config:SearchOverPathsConfig",
    **_DIFFUSION,
)
SAMPLERS.register(
    "tts-var",
    "samplers.autoregressive.tts_var:TTSVAR",
    summary="Draws coarse scales with 8 N candidates and sifts them down to N.",
    config="samplers.autoregressive.config:TTSVARConfig",
    **_NEXT_SCALE,
)
SAMPLERS.register(
    "var-best-of-n",
    "samplers.autoregressive.var_best_of_n:VARBestOfN",
    summary="The baseline of every search: N independent samples, the best one wins.",
    config="samplers.autoregressive.config:NextScaleSearchConfig",
    **_NEXT_SCALE,
)
SAMPLERS.register(
    "var-importance",
    "samplers.autoregressive.var_importance:VARImportance",
    summary="Resamples a population of N by rewards; the best finished one wins.",
    config="samplers.autoregressive.config:ImportanceConfig",
    **_NEXT_SCALE,
)
SAMPLERS.register(
    "local-refine",
    "samplers.diffusion.local_refine:LocalRefine",
    summary="Prunes many candidates down to a few by TTSnap, then refines the noises of those.",
    config="samplers.diffusion.config:LocalRefineConfig",
    **_DIFFUSION,
)
SAMPLERS.register(
    "bfm",
    "samplers.diffusion.bfm:BFM",
    summary="Draws candidates by a blockwise flow model and keeps the best one.",
    config="samplers.diffusion.config:BFMConfig",
    modality="image",
    pipelines="BFMPipeline",
    default_model="shapes-bfm",
)
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
SAMPLERS.register(
    "policy",
    "samplers.policy.rollout:PolicyRollout",
    summary="Evaluates a robot's policy by rollouts, one per held-out goal; it searches nothing.",
    modality="action",
    pipelines="diffusion policies for Meta-World",
    default_model="metaworld-policy",
    config="samplers.policy.config:PolicyConfig",
)
