"""Calibrating a cache for a pipeline: one entry for all methods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from caches.cache import Cache
from caches.config import CacheConfig
from caches.evaluation import Denoising
from caches.method import AnyCacheMethod, Calibrated, OnStage
from caches.options import CalibrationOptions, Prompts
from caches.profile import Profile
from caches.registry import CACHES, DEFAULT_METHOD, method_of
from gensift.config import from_dict, to_dict
from gensift.errors import ConfigError
from gensift.protocols import Pipeline


@dataclass(frozen=True)
class Calibration:
    """A calibrated cache and what was measured of it.

    Attributes:
        cache: ready to be attached.
        profile: to be written to a file.
        schedule: for each part of the denoiser, in order, the steps at which it is computed.
        num_steps: of the loop.
        predicted_speedup: of the denoiser, from its parts.
        measured_speedup: of the whole denoising, by wall time, on held-out prompts.
        error: mean relative distance of the last latents, on held-out prompts.
        variants: errors of what else was tried, on the prompts it was fitted to, by name.
    """

    cache: Cache
    profile: Profile
    schedule: Mapping[str, tuple[int, ...]]
    num_steps: int
    predicted_speedup: float
    measured_speedup: float
    error: float
    variants: Mapping[str, float] = field(default_factory=dict)


def calibrate(
    pipe: Pipeline,
    prompts: Prompts,
    options: CalibrationOptions,
    *,
    on_stage: OnStage = lambda name: None,
    **pipeline_kwargs: object,
) -> Calibration:
    """Record uncached runs, choose a schedule for what is asked, and measure it.

    Every other prompt is held out: nothing is fitted to it, and the figures are measured on it.

    Args:
        pipe: a diffusers pipeline whose denoiser is declared, without a cache.
        prompts: at least 4; 20 do. Of a policy, observations.
        options: what to aim at. Their class says by which method; `CalibrationOptions`
            themselves, which belong to none, are those of ERTACache.
        on_stage: told what is being done.
        pipeline_kwargs: of the pipeline's call, such as `num_inference_steps`.

    Raises:
        ConfigError: too few prompts, or the aim cannot be reached.
        UnsupportedPipelineError: the pipeline cannot be recorded.
    """
    if len(prompts) < 4:
        raise ConfigError(
            f"{len(prompts)} prompts were given; half of them are held out, so give at least 4 (20 "
            "do as well as 1,000 in the paper)."
        )
    method, options = _method_for(options)
    denoising = Denoising(pipe, pipeline_kwargs, options.batch_prompts, options.seed)
    fitted, held_out = prompts[::2], prompts[1::2]
    on_stage("recording")
    found: Calibrated[CacheConfig] = method.calibrate(denoising, fitted, options, on_stage)
    cache, config = method(found.config), found.config
    on_stage("measuring on held-out prompts")
    error, speedup = denoising.compare(held_out, cache)
    figures = {
        "predicted_speedup": found.predicted_speedup,
        "measured_speedup": speedup,
        "error": error,
    }
    report = {
        **figures,
        "variants": dict(found.variants),
        "prompts": len(fitted),
        "held_out_prompts": len(held_out),
        "options": {"cache": method.name, **to_dict(options)},
    }
    profile = Profile.of(method.name, config, report)
    return Calibration(
        cache, profile, config.schedule, config.num_steps, variants=dict(found.variants), **figures
    )


def _method_for(options: CalibrationOptions) -> tuple[AnyCacheMethod, CalibrationOptions]:
    """The method that options are of, and the options in its own class."""
    if type(options) is not CalibrationOptions:
        return method_of(options), options
    method = CACHES.get(DEFAULT_METHOD)
    own: CalibrationOptions = from_dict(method.options_class, to_dict(options))
    return method, own
