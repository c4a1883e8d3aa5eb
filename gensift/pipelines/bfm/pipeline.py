"""Class to picture, by blockwise flow matching or a dense flow model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ImagePipelineOutput
from torch import Tensor

from gensift.errors import ConfigError
from gensift.pipelines.bfm.guided import GuidedVelocity
from gensift.pipelines.bfm.labels import checked_labels, labels_of_prompts
from gensift.pipelines.bfm.latents import decode_pictures, first_latents, vae_factor
from gensift.pipelines.bfm.residency import AHEAD, SegmentResidency
from gensift.pipelines.bfm.schedule import SegmentSchedule, spread_steps
from gensift.pipelines.bfm.settings import FeatureMode, SamplingSettings, Solver
from gensift.pipelines.bfm.sit import SiTTransformer2DModel
from gensift.pipelines.bfm.solvers import SOLVERS
from gensift.pipelines.bfm.split import SplitTransformer2DModel
from gensift.pipelines.bfm.timetable import Timetable
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel
from gensift.pipelines.next_scale.arguments import check_output_type, rows_of_prompts

# A folder names one of these classes, and diffusers loads none whose module was not imported.
_TRANSFORMERS = (BFMTransformer2DModel, SplitTransformer2DModel, SiTTransformer2DModel)

StepEnd = Callable[[Any, int, Any, dict[str, Tensor]], Mapping[str, Tensor] | None]


@dataclass
class BFMPipelineOutput(ImagePipelineOutput):
    """What a call returns.

    Attributes:
        images: as `output_type` says.
        evaluations: rows, guidance included, that went through "trunk", "frn" and "stack".
    """

    evaluations: dict[str, int]


class BFMPipeline(DiffusionPipeline):
    """Pictures of a class, sigma going from 1 to 0.

    Args:
        vae: turns latents into pictures.
        transformer: `BFMTransformer2DModel`, or a dense `SiTTransformer2DModel`.
        scheduler: `FlowMatchEulerDiscreteScheduler(shift=1)`; it makes the steps, but the pipeline
            says which, so that none goes across a boundary of segments.
        classes: name of each class, in the order of the labels; None for models without names.

    Source: Blockwise Flow Matching, arXiv 2510.21167.
    """

    model_cpu_offload_seq = "transformer->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        vae: Any,
        transformer: Any,
        scheduler: FlowMatchEulerDiscreteScheduler,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, transformer=transformer, scheduler=scheduler)
        self.register_to_config(classes=None if classes is None else list(classes))

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent."""
        return vae_factor(self.vae)

    @property
    def default_sample_size(self) -> int:
        """Side of the latents."""
        return int(self.transformer.config.sample_size)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        *,
        class_labels: int | Sequence[int] | None = None,
        num_inference_steps: int = 48,
        steps_per_segment: int | Sequence[int] | None = None,
        feature_mode: FeatureMode = "full",
        refresh_every: int | None = None,
        refresh_threshold: float | None = None,
        guidance_scale: float = 1.5,
        guidance_interval: Sequence[float] | None = None,
        solver: Solver = "euler",
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> BFMPipelineOutput | tuple[Any]:
        """Draw pictures.

        Args:
            prompt: names of classes, one or several.
            class_labels: the classes by number instead.
            num_inference_steps: over all segments, spread evenly. Default: 8 for each of the 6
                segments of the released model.
            steps_per_segment: one number for all segments or one for each, instead of that.
            feature_mode, refresh_every, refresh_threshold, guidance_interval, solver: see
                `gensift.pipelines.bfm.settings.SamplingSettings`.
            guidance_scale: 1 is off. Default: that of the released evaluation.
            num_images_per_prompt: pictures of each prompt or label, which follow each other.
            generator: one per picture, or one for all.
            latents: to start from, noise `(pictures, channels, height, width)`.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: whether to return a `BFMPipelineOutput`, or else a tuple.
            callback_on_step_end: called as `(pipeline, step_index, timestep, tensors)` after each
                step; what it returns under "latents" takes their place.
            callback_on_step_end_tensor_inputs: "latents", or nothing.

        Raises:
            ConfigError: an argument is out of range, or the scheduler moves sigmas.
        """
        check_output_type(output_type)
        settings = SamplingSettings(
            feature_mode=feature_mode,
            refresh_every=refresh_every,
            refresh_threshold=refresh_threshold,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            solver=solver,
        )
        self._check_model(settings)
        labels = self._labels(prompt, class_labels, num_images_per_prompt)
        schedule = self.schedule(num_inference_steps, steps_per_segment)
        flow = GuidedVelocity(self.transformer, labels, schedule, settings)
        side, channels = self.default_sample_size, self.transformer.config.in_channels
        shape = (len(labels), channels, side, side)
        latents = first_latents(shape, generator, latents, self._execution_device)
        timetable = Timetable(self.scheduler, self._solved(schedule, settings))
        latents = self._run(flow, timetable, latents, settings, generator, callback_on_step_end)
        images = decode_pictures(self.vae, latents, output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return (images,)
        return BFMPipelineOutput(images=images, evaluations=flow.evaluations)

    def schedule(
        self,
        num_inference_steps: int = 48,
        steps_per_segment: int | Sequence[int] | None = None,
    ) -> SegmentSchedule:
        """The steps of a call with these arguments.

        Raises:
            ConfigError: an argument is out of range.
        """
        boundaries = self.transformer.boundaries
        if steps_per_segment is None:
            steps_per_segment = spread_steps(num_inference_steps, len(boundaries) - 1)
        return SegmentSchedule.of(boundaries, steps_per_segment)

    def count_steps(self, arguments: Mapping[str, Any]) -> int:
        """How often a call with these arguments steps its scheduler, for who plans a search."""
        names = ("num_inference_steps", "steps_per_segment")
        return len(self.schedule(**{n: arguments[n] for n in names if n in arguments}).steps)

    def count_rows(self, arguments: Mapping[str, Any]) -> int:
        """Rows, guidance included, that such a call puts through the transformer per picture."""
        settings = SamplingSettings.of_call(arguments)
        counts = ("num_inference_steps", "steps_per_segment")
        schedule = self.schedule(**{n: arguments[n] for n in counts if n in arguments})
        ends = 2 if settings.solver == "heun" else 1
        return sum(
            ends * (1 + settings.is_guided_at(step.sigma))
            for step in self._solved(schedule, settings).steps
        )

    def enable_segment_residency(
        self, device: torch.device | str | None = None, ahead: float = AHEAD
    ) -> SegmentResidency:
        """Keep one segment on the device at a time; see `SegmentResidency`.

        Raises:
            ConfigError: the model has no segments, or `ahead` is out of range.
        """
        if not hasattr(self.transformer, "residency"):
            raise ConfigError(
                f"{type(self.transformer).__name__} has no segments; residency is for blockwise "
                "models."
            )
        self.disable_segment_residency()
        target = torch.device(device or self.device)
        self.vae.to(target)
        self.transformer.residency = SegmentResidency(self.transformer, target, ahead)
        result: SegmentResidency = self.transformer.residency
        return result

    def disable_segment_residency(self) -> None:
        """Leave all segments in host memory; `to` brings the whole model to a device again."""
        residency = getattr(self.transformer, "residency", None)
        if residency is not None:
            residency.remove()
            self.transformer.residency = None

    def _run(
        self,
        flow: GuidedVelocity,
        timetable: Timetable,
        latents: Tensor,
        settings: SamplingSettings,
        generator: Any,
        callback: StepEnd | None,
    ) -> Tensor:
        velocity_of = SOLVERS[settings.solver]
        with self.progress_bar(total=len(timetable)) as bar:
            for index, (timestep, step) in enumerate(timetable):
                velocity = velocity_of(flow, latents, step, generator)
                expected = latents + (step.sigma_next - step.sigma) * velocity
                latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
                if callback is not None:
                    changed = callback(self, index, timestep, {"latents": latents}) or {}
                    latents = changed.get("latents", latents)
                if settings.feature_mode != "full" and not step.is_last:
                    flow.features.lose_moved(expected, latents)
                bar.update()
        return latents

    @staticmethod
    def _solved(schedule: SegmentSchedule, settings: SamplingSettings) -> SegmentSchedule:
        return schedule.ending_early() if settings.solver == "sde" else schedule

    def _check_model(self, settings: SamplingSettings) -> None:
        mode, model = settings.feature_mode, self.transformer
        if mode != "full" and not hasattr(model, "segments"):
            raise ConfigError(
                f"`feature_mode` is {mode!r}, but {type(model).__name__} is dense and has no "
                "trunk; give 'full'."
            )
        if mode == "frn" and not model.has_approximation:
            raise ConfigError(
                "`feature_mode` is 'frn', but this model has no FRN (its `frn_depth` is 0); give "
                "'full' or 'hold'."
            )

    def _labels(
        self,
        prompt: str | Sequence[str] | None,
        class_labels: int | Sequence[int] | None,
        per_prompt: int,
    ) -> Tensor:
        if (prompt is None) == (class_labels is None):
            raise ConfigError("Give one of `prompt` and `class_labels`.")
        if class_labels is not None:
            labels = checked_labels(class_labels, self.transformer.config.num_classes)
        else:
            prompts = [prompt] if isinstance(prompt, str) else list(prompt or ())
            labels = labels_of_prompts(prompts, self.config.classes)
        rows = [labels[index] for index in rows_of_prompts(len(labels), per_prompt)]
        return torch.tensor(rows, device=self._execution_device)
