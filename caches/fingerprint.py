"""What a cache was calibrated on, and whether a pipeline or a run is of that kind.

Imports nothing heavy: configs hold a fingerprint, and command lines read configs.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from gensift import __version__
from gensift.errors import ConfigError
from gensift.protocols import Pipeline, Scheduler

if TYPE_CHECKING:
    from torch import nn

# Keys of a model's config that do not change what it computes.
_BOOKKEEPING = ("_name_or_path", "_diffusers_version", "_class_name")
_SIGMA_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a cache was calibrated on.

    Attributes:
        denoiser: class name.
        denoiser_config: hash of its config.
        scheduler: class name.
        num_steps: length of the schedule.
        sigmas: noise levels of the schedule before any adjustment; empty where it has none.
        guidance_scale: of the pipeline call; None where the pipeline does not tell.
        latents: shape of one row of the denoiser's input.
        gensift: version of this library.
        diffusers: version of diffusers.
    """

    denoiser: str
    denoiser_config: str
    scheduler: str
    num_steps: int
    sigmas: tuple[float, ...] = ()
    guidance_scale: float | None = None
    latents: tuple[int, ...] = ()
    gensift: str = __version__
    diffusers: str = ""

    def check_pipeline(self, pipe: Pipeline) -> None:
        """Refuse another model or scheduler than the one calibrated on.

        Raises:
            ConfigError: they differ.
        """
        from gensift.denoising.modules import denoisers_of

        denoiser = denoisers_of(pipe)[0]
        there = {
            "the denoiser": (self.denoiser, type(denoiser).__name__),
            "the denoiser's config": (self.denoiser_config, config_hash(denoiser)),
            "the scheduler": (self.scheduler, type(pipe.scheduler).__name__),
        }
        for what, (calibrated, found) in there.items():
            if calibrated != found:
                raise ConfigError(
                    f"This cache was calibrated on another model: {what} is {found}, was "
                    f"{calibrated}. Calibrate it for this pipeline (`gensift calibrate`)."
                )
        if self.diffusers != version("diffusers"):
            warnings.warn(
                f"This cache was calibrated with diffusers {self.diffusers}, here is "
                f"{version('diffusers')}; calibrate again if pictures look worse.",
                stacklevel=2,
            )

    def warn_of_run(
        self,
        sigmas: tuple[float, ...],
        guidance_scale: float | None,
        latents: tuple[int, ...] | None,
    ) -> None:
        """Warn where a run differs from those calibrated on, at equal numbers of steps."""
        differences = []
        if len(sigmas) == len(self.sigmas) and any(
            abs(here - there) > _SIGMA_TOLERANCE
            for here, there in zip(sigmas, self.sigmas, strict=True)
        ):
            differences.append("the noise levels of the schedule")
        if None not in (guidance_scale, self.guidance_scale) and (
            guidance_scale != self.guidance_scale
        ):
            differences.append(f"guidance_scale ({guidance_scale}, was {self.guidance_scale})")
        if latents is not None and self.latents and latents != self.latents:
            differences.append(f"the size of the latents ({latents}, was {self.latents})")
        if differences:
            warnings.warn(
                f"This cache was calibrated with other {', '.join(differences)}; its error is not "
                "known here. Calibrate it for this setting.",
                stacklevel=2,
            )


def fingerprint_of(
    pipe: Pipeline,
    *,
    num_steps: int,
    sigmas: tuple[float, ...],
    guidance_scale: float | None,
    latents: tuple[int, ...],
) -> Fingerprint:
    """The fingerprint of a pipeline and a kind of run."""
    from gensift.denoising.modules import denoisers_of

    denoiser = denoisers_of(pipe)[0]
    return Fingerprint(
        denoiser=type(denoiser).__name__,
        denoiser_config=config_hash(denoiser),
        scheduler=type(pipe.scheduler).__name__,
        num_steps=num_steps,
        sigmas=sigmas,
        guidance_scale=guidance_scale,
        latents=latents,
        diffusers=version("diffusers"),
    )


def scheduled_sigmas(scheduler: Scheduler) -> tuple[float, ...]:
    """Noise levels of a scheduler's schedule, the last one included; empty where it has none."""
    sigmas = getattr(scheduler, "sigmas", None)
    return () if sigmas is None else tuple(float(sigma) for sigma in sigmas)


def guidance_scale_of(pipe: Pipeline) -> float | None:
    """Strength of guidance of the pipeline's latest call; None where it does not tell."""
    try:
        scale = getattr(pipe, "guidance_scale", None)
    except AttributeError:  # a property of some pipelines, unset before the first call
        return None
    return None if scale is None else float(scale)


def config_hash(model: nn.Module) -> str:
    """Hash of a diffusers model's config, whatever folder it came from.

    Of a model of another kind, the names and shapes of its parameters stand for a config.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, Mapping):
        config = {name: tuple(value.shape) for name, value in model.named_parameters()}
    kept = {k: v for k, v in config.items() if k not in _BOOKKEEPING}
    text = json.dumps(kept, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
