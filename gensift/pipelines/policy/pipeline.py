"""Diffusion Policy as a diffusers pipeline: from the last observations to a chunk of actions."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from gensift.errors import ConfigError
from gensift.pipelines.policy.normalizer import LinearNormalizer
from gensift.pipelines.policy.transformer import DiffusionPolicyTransformer

OutputType = Literal["actions", "latent"]
Generators = torch.Generator | list[torch.Generator] | None


@dataclass
class DiffusionPolicyOutput(BaseOutput):
    """What a call returns.

    Attributes:
        actions: float32; the chunk to execute, `(batch, n_action_steps, action_dim)`, or with
            `output_type="latent"` the whole horizon before it is scaled back.
        horizon: float32 `(batch, horizon, action_dim)`, actions for all of it.
    """

    actions: Tensor
    horizon: Tensor


class DiffusionPolicyPipeline(DiffusionPipeline):
    """Actions of a robot, denoised from noise in view of its last observations.

    A call plans `horizon` actions, of which the first belongs to the earliest observation, and
    returns the `n_action_steps` that are to be executed before the next call.

    Args:
        transformer: the denoiser.
        scheduler: of diffusers: `DDPMScheduler`, `DDIMScheduler`, `DPMSolverMultistepScheduler`.
        normalizer: scales of observations and actions.
        n_action_steps: actions executed per call.
        oa_step_convention: whether the first executed action is the one planned for the latest
            observation, as in all published configurations, or the one after it.

    Source: Chi et al., "Diffusion Policy" (arXiv 2303.04137).
    """

    def __init__(
        self,
        transformer: DiffusionPolicyTransformer,
        scheduler: Any,
        normalizer: LinearNormalizer,
        n_action_steps: int = 8,
        oa_step_convention: bool = True,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, normalizer=normalizer)
        self.register_to_config(
            n_action_steps=n_action_steps, oa_step_convention=oa_step_convention
        )
        if not 1 <= n_action_steps <= self.horizon - self._first_action:
            raise ConfigError(
                f"`n_action_steps` is {n_action_steps}; of {self.horizon} planned actions, 1 to "
                f"{self.horizon - self._first_action} lie ahead."
            )

    @property
    def n_obs_steps(self) -> int:
        """Observations that a call looks at."""
        return int(self.transformer.config.n_obs_steps)

    @property
    def obs_dim(self) -> int:
        """Numbers per observation."""
        return int(self.transformer.config.cond_dim)

    @property
    def n_action_steps(self) -> int:
        """Actions executed per call."""
        return int(self.config.n_action_steps)

    @property
    def horizon(self) -> int:
        """Actions planned per call."""
        return int(self.transformer.config.horizon)

    @property
    def _first_action(self) -> int:
        return self.n_obs_steps - (1 if self.config.oa_step_convention else 0)

    @torch.no_grad()
    def __call__(
        self,
        observations: Tensor | np.ndarray[Any, Any] | Sequence[Any],
        *,
        num_inference_steps: int = 100,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: OutputType = "actions",
        return_dict: bool = True,
    ) -> DiffusionPolicyOutput | tuple[Tensor, Tensor]:
        """Plan actions for a batch of robots.

        Args:
            observations: `(batch, n_obs_steps, obs_dim)`, the latest last, as the robot gives them.
            num_inference_steps: denoising steps.
            generator: one for all, or one per robot, so that each plan is that of the robot alone.
            latents: starting noise, `(batch, horizon, action_dim)`.
            output_type: "actions", or "latent" for those before they are scaled back.
            return_dict: whether to return a `DiffusionPolicyOutput` instead of a tuple.

        Raises:
            ConfigError: an argument does not fit the policy.
        """
        if output_type not in get_args(OutputType):
            raise ConfigError(f"`output_type` is {output_type!r}; allowed: actions, latent.")
        device, dtype = self._execution_device, self.transformer.dtype
        seen = self._checked(observations, generator).to(device)
        cond = self.normalizer.obs.normalize(seen).to(dtype)
        sample = self._noise(cond, generator, latents)
        planned = self._denoise(sample, cond, num_inference_steps, generator).float()
        horizon = self.normalizer.action.unnormalize(planned)
        chunk = horizon[:, self._first_action : self._first_action + self.n_action_steps]
        actions = planned if output_type == "latent" else chunk
        self.maybe_free_model_hooks()
        return DiffusionPolicyOutput(actions, horizon) if return_dict else (actions, horizon)

    def _checked(self, observations: Any, generator: Generators) -> Tensor:
        """float32 `(batch, n_obs_steps, obs_dim)`."""
        if isinstance(observations, (list, tuple)):
            observations = torch.stack([torch.as_tensor(np.asarray(one)) for one in observations])
        seen = torch.as_tensor(observations).float()
        wanted = (self.n_obs_steps, self.obs_dim)
        if seen.ndim != 3 or tuple(seen.shape[1:]) != wanted or not len(seen):
            raise ConfigError(
                f"`observations` have shape {tuple(seen.shape)}; give (batch, {wanted[0]} latest "
                f"observations, {wanted[1]} numbers)."
            )
        if isinstance(generator, list) and len(generator) != len(seen):
            raise ConfigError(
                f"{len(generator)} generators were given for {len(seen)} observations; give one "
                "for each, or one for all."
            )
        return seen

    def _noise(self, cond: Tensor, generator: Generators, latents: Tensor | None) -> Tensor:
        shape = (len(cond), self.horizon, int(self.transformer.config.input_dim))
        if latents is None:
            noise: Tensor = randn_tensor(
                shape, generator=generator, device=cond.device, dtype=cond.dtype
            )
            return noise
        if tuple(latents.shape) != shape:
            raise ConfigError(f"`latents` have shape {tuple(latents.shape)}; give {shape}.")
        return latents.to(cond)

    def _denoise(
        self, sample: Tensor, cond: Tensor, num_inference_steps: int, generator: Generators
    ) -> Tensor:
        scheduler = self.scheduler
        scheduler.set_timesteps(num_inference_steps, device=sample.device)
        sample = sample * scheduler.init_noise_sigma
        takes = inspect.signature(scheduler.step).parameters
        options = {"generator": generator} if "generator" in takes else {}
        # Schedulers look up numbers faster than tensors, and on a GPU without waiting for it.
        for timestep in self.progress_bar(scheduler.timesteps.tolist()):
            scaled = scheduler.scale_model_input(sample, timestep)
            output = self.transformer(scaled, timestep, cond)
            sample = scheduler.step(output, timestep, sample, return_dict=False, **options)[0]
        return sample
