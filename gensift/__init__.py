"""gensift: sift among generations. Better samples from generative models for the same compute."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gensift._shadows import refuse_shadows

refuse_shadows()

__version__ = "0.1.0"

# Public name -> module that defines it. Resolved on first use, so that `import gensift` is quick
# and the packages below may import gensift's own modules without a cycle.
_PUBLIC = {
    "BestOfN": "samplers.diffusion.best_of_n",
    "BFM": "samplers.diffusion.bfm",
    "BFMConfig": "samplers.diffusion.config",
    "TTSnap": "samplers.diffusion.ttsnap",
    "TTSnapConfig": "samplers.diffusion.config",
    "FKSteering": "samplers.diffusion.fk_steering",
    "FKSteeringConfig": "samplers.diffusion.config",
    "SVDD": "samplers.diffusion.svdd",
    "SVDDConfig": "samplers.diffusion.config",
    "ZeroOrder": "samplers.diffusion.zero_order",
    "SearchOverPaths": "samplers.diffusion.search_over_paths",
    "LocalRefine": "samplers.diffusion.local_refine",
    "TTSVAR": "samplers.autoregressive.tts_var",
    "TTSVARConfig": "samplers.autoregressive.tts_var",
    "VARBestOfN": "samplers.autoregressive.var_best_of_n",
    "VARImportance": "samplers.autoregressive.var_importance",
    "NextScaleModel": "samplers.autoregressive.protocol",
    "ODD": "samplers.text.odd",
    "ODDConfig": "samplers.text.odd",
    "DiverseBlockScheduler": "samplers.text.scheduler",
    "TextDecode": "samplers.text.decode",
    "TextDecodeConfig": "samplers.text.config",
    "PolicyRollout": "samplers.policy.rollout",
    "SearchConfig": "samplers.diffusion.config",
    "Plan": "samplers.base",
    "SamplerOutput": "samplers.output",
    "PromptResult": "samplers.output",
    "AcrossProcesses": "samplers.exchange",
    "attach": "samplers.diffusion.attach",
    "observe_steps": "samplers.diffusion.callback",
    "StepEvent": "gensift.denoising.observer",
    "DenoiserFamily": "gensift.denoising.families",
    "declare_denoiser": "gensift.denoising.families",
    "SAMPLERS": "samplers.registry",
    "Reward": "rewards.protocol",
    "REWARDS": "rewards.registry",
    "load_reward": "rewards.registry",
    "offload_reward": "rewards.offload",
    "CompositeReward": "rewards.combine",
    "CACHES": "caches.registry",
    "enable_cache": "caches.enable",
    "disable_cache": "caches.enable",
    "BACConfig": "caches.bac.config",
    "ERTACacheConfig": "caches.ertacache.config",
    "load_pipeline": "gensift.pipelines.loading",
    "BFMPipeline": "gensift.pipelines.bfm.pipeline",
    "DiffusionPolicyPipeline": "gensift.pipelines.policy.pipeline",
    "RecedingHorizon": "gensift.pipelines.policy.control",
    "InfinityPipeline": "gensift.pipelines.infinity.pipeline",
    "LLaDAPipeline": "gensift.pipelines.llada.pipeline",
    "VARPipeline": "gensift.pipelines.var.pipeline",
    "call_defaults": "gensift.pipelines.loading",
    "candidate_seed": "gensift.randomness",
    "Cost": "gensift.cost",
    "Trace": "gensift.trace",
    "GensiftError": "gensift.errors",
}

__all__ = [*sorted(_PUBLIC), "__version__"]

if TYPE_CHECKING:
    from gensift.cost import Cost as Cost
    from gensift.errors import GensiftError as GensiftError
    from gensift.pipelines.loading import call_defaults as call_defaults
    from gensift.pipelines.loading import load_pipeline as load_pipeline
    from gensift.randomness import candidate_seed as candidate_seed
    from gensift.trace import Trace as Trace


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gensift' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
