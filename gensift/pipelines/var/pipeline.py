"""The pipeline of VAR: a class to pictures, scale by scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import ImagePipelineOutput
from torch import Tensor

from gensift.errors import ConfigError, nearest_hint
from gensift.pipelines.next_scale.arguments import (
    check_output_type,
    number_within,
    per_scale,
    rows_of_prompts,
)
from gensift.pipelines.next_scale.pipeline import (
    NextScalePipeline,
    NextScaleState,
    Pictures,
    SamplingOptions,
)
from gensift.pipelines.next_scale.sampling import Generators, RowStreams, draw_entries, filtered
from gensift.pipelines.next_scale.scales import ScaleSchedule
from gensift.pipelines.var.tokenizer import VARTokenizer
from gensift.pipelines.var.transformer import VARTransformer

Labels = int | str | Sequence[int | str]
SMOOTH_TEMPERATURE = 0.27
SMOOTH_COOLING = 0.95
LEAST_SMOOTH_TEMPERATURE = 0.005


class VARPipeline(NextScalePipeline):
    """Class to picture with VAR (arXiv 2404.02905).

    Args:
        transformer: predicts codebook indices.
        vae: the tokenizer with the codebook.
        id2label: names of the classes by index, those of one class separated by commas.
    """

    # `add` runs the tokenizer's convolutions at every scale, between two passes of the
    # transformer: moving it back and forth would take longer than both.
    model_cpu_offload_seq = "transformer"
    _exclude_from_cpu_offload: ClassVar[list[str]] = ["vae"]

    transformer: VARTransformer
    vae: VARTokenizer

    def __init__(
        self,
        transformer: VARTransformer,
        vae: VARTokenizer,
        id2label: Mapping[int, str] | Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae)
        self.register_to_config(id2label=id2label)
        self.labels = {
            name.strip(): int(index)
            for index, names in (id2label or {}).items()
            for name in (names, *names.split(","))
        }

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels,
        *,
        guidance_scale: float = 1.5,
        top_k: int = 900,
        top_p: float = 0.96,
        smooth: bool = False,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        max_rows: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Pictures]:
        """Draw pictures.

        Defaults are those of the published evaluation.

        Args:
            class_labels: one or several, each an index or a name.
            guidance_scale: 0 is without guidance; it sets in after the first scale and has this
                strength at the last.
            top_k: how many entries of the codebook a token is drawn from; 0 for all.
            top_p: of those, the least likely ones whose probabilities sum to at most 1 - top_p are
                left out; 0 leaves out none.
            smooth: mix entries instead of taking one, for smoother pictures.
            num_images_per_prompt: pictures of each label, which follow each other.
            generator: one per picture, or one for all.
            max_rows: most pictures that go through the transformer together; bounds memory.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: whether to return an `ImagePipelineOutput`, or else a tuple.

        Raises:
            ConfigError: an argument is out of range.
        """
        check_output_type(output_type)
        state = self.start(
            class_labels,
            guidance_scale=guidance_scale,
            top_k=top_k,
            top_p=top_p,
            smooth=smooth,
            num_images_per_prompt=num_images_per_prompt,
            generator=generator,
        )
        return self._finish(state, output_type, max_rows, return_dict)

    @torch.no_grad()
    def start(
        self,
        prompts: Labels,
        *,
        num_images_per_prompt: int | Sequence[int] = 1,
        generator: Generators = None,
        capacity: int | None = None,
        **settings: Any,
    ) -> NextScaleState:
        """Rows of which nothing is drawn yet, those of a label together.

        `prompts` are class labels, `capacity` is the positions that the cache needs room for until
        rows are gathered; by default all. `settings` are those of `settings`; the other arguments
        are those of the call.

        Raises:
            ConfigError: an argument is out of range.
        """
        schedule, options = self.settings(**settings)
        classes = self.classes(prompts)
        label_of_row = rows_of_prompts(len(classes), num_images_per_prompt)
        if options.is_guided_from(0):
            classes = classes + [self.transformer.null_class] * len(classes)
        return self._begin(
            schedule=schedule,
            conditions=self.transformer.conditions(torch.tensor(classes)),
            prompt_of_row=label_of_row,
            streams=RowStreams.of(generator, len(label_of_row)),
            options=options,
            capacity=capacity,
        )

    def settings(
        self,
        *,
        guidance_scale: float = 1.5,
        top_k: int = 900,
        top_p: float = 0.96,
        smooth: bool = False,
    ) -> tuple[ScaleSchedule, SamplingOptions]:
        """What a call with these arguments draws, scale by scale, and how.

        Raises:
            ConfigError: an argument is out of range.
        """
        schedule = self.schedule()
        guidance = number_within("guidance_scale", guidance_scale, 0)
        return schedule, SamplingOptions(
            guidance=guidance_weights(guidance, len(schedule)),
            temperature=per_scale("temperature", 1.0, len(schedule)),
            top_k=int(number_within("top_k", top_k, 0)),
            top_p=number_within("top_p", top_p, 0, 1),
            smooth=smooth,
        )

    def schedule(self) -> ScaleSchedule:
        """The scales of a picture; the model draws one size."""
        found: ScaleSchedule = self.transformer.schedule
        return found

    def classes(self, labels: Labels) -> list[int]:
        """The class index of each label.

        Raises:
            ConfigError: there is none, or one that the model does not know.
        """
        given = [labels] if isinstance(labels, int | str) else list(labels)
        if not given:
            raise ConfigError("No class label was given; give each picture one.")
        return [self._class(label) for label in given]

    def _class(self, label: int | str) -> int:
        count = self.transformer.null_class
        index = self.labels.get(label.strip()) if isinstance(label, str) else int(label)
        if index is None and str(label).strip().isdecimal():
            index = int(label)
        if index is None:
            known = f"or one of {len(self.labels)} names" if self.labels else "as it knows no names"
            raise ConfigError(
                f"Class {label!r} is unknown to this model; give an index from 0 to {count - 1}, "
                f"{known}.{nearest_hint(str(label), self.labels)}"
            )
        if not 0 <= index < count:
            raise ConfigError(
                f"Class {index} is out of range; this model has {count} classes, give an index "
                f"from 0 to {count - 1}."
            )
        return index

    def _draw(self, logits: Tensor, state: NextScaleState, part: slice) -> Tensor:
        options, streams = state.options, state.streams
        grid = state.schedule.scales[state.scale]
        kept = filtered(logits, options.top_k, options.top_p)
        if not options.smooth:
            uniform = streams.uniform(logits.shape[1:2], part, logits.device)
            codes: Tensor = self.vae.codes(torch.unflatten(draw_entries(kept, uniform), 1, grid))
            return codes
        noise = streams.gumbel(logits.shape[1:], part, logits.device)
        codebook = self.vae.codebook.weight
        weights = smooth_weights(kept, noise, _progress(state.scale, len(state.schedule)))
        return torch.unflatten((weights.to(codebook.dtype) @ codebook).transpose(1, 2), 2, grid)


def _progress(scale: int, num_scales: int) -> float:
    """0 at the first scale, 1 at the last."""
    return scale / max(num_scales - 1, 1)


def guidance_weights(guidance_scale: float, num_scales: int) -> tuple[float, ...]:
    """How far the conditional logits are followed at each scale: from 1 up to 1 + guidance."""
    return tuple(1 + guidance_scale * _progress(scale, num_scales) for scale in range(num_scales))


def smooth_weights(logits: Tensor, noise: Tensor, progress: float) -> Tensor:
    """Shares of the entries, `(..., entries)`: Gumbel-softmax, sharper with `progress`.

    Source: the released code (`more_smooth`), which takes the temperatures from MaskGIT.
    """
    temperature = max(
        SMOOTH_TEMPERATURE * (1 - SMOOTH_COOLING * progress), LEAST_SMOOTH_TEMPERATURE
    )
    return ((logits * (1 + progress) + noise) / temperature).softmax(-1)
