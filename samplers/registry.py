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
SAMPLERS.register(
    "tts-var",
    "samplers.autoregressive.tts_var:TTSVAR",
    summary="Draws coarse scales with 8 N candidates and sifts them down to N.",
    modality="image",
    pipelines="VAR, Infinity and other next-scale models",
    default_model="shapes-infinity",
    config="samplers.autoregressive.config:TTSVARConfig",
)
SAMPLERS.register(
    "var-best-of-n",
    "samplers.autoregressive.var_best_of_n:VARBestOfN",
    summary="The baseline of every search: N independent samples, the best one wins.",
    modality="image",
    pipelines="VAR, Infinity and other next-scale models",
    default_model="shapes-infinity",
    config="samplers.autoregressive.config:NextScaleSearchConfig",
)
SAMPLERS.register(
    "var-importance",
    "samplers.autoregressive.var_importance:VARImportance",
    summary="Resamples a population of N by rewards; the best finished one wins.",
    modality="image",
    pipelines="VAR, Infinity and other next-scale models",
    default_model="shapes-infinity",
    config="samplers.autoregressive.config:ImportanceConfig",
)
SAMPLERS.register("local-refine", "samplers.diffusion.local_refine:LocalRefine")
SAMPLERS.register("bfm", "samplers.diffusion.bfm:BFM")
SAMPLERS.register("decode", "samplers.text.decode:TextDecode")
SAMPLERS.register("odd", "samplers.text.odd:ODD")
SAMPLERS.register(
    "policy",
    "samplers.policy.rollout:PolicyRollout",
    summary="Evaluates a robot's policy by rollouts, one per held-out goal; it searches nothing.",
    modality="action",
    pipelines="diffusion policies for Meta-World",
    default_model="metaworld-policy",
    config="samplers.policy.config:PolicyConfig",
)
