"""Pictures as a modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from apps.jobs.options import GenerateOptions
from apps.modalities.base import Modality, Tab
from apps.modalities.call import ResolvedCall, arguments_of, resolve
from apps.modalities.picture.report import show_winners
from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.protocols import JsonObject, Pipeline
from gensift.runs import RunFiles

if TYPE_CHECKING:
    from PIL.Image import Image


class Picture(Modality["Image | None"]):
    """Pictures, one PNG each; the sifting tree is drawn of them."""

    name = "image"
    deed = "draws pictures"
    denial = "makes no pictures"
    samplers = "--sampler ttsnap"
    has_tree = True
    lists_all_samples = False
    tab = Tab("Pictures", "apps.web.tabs.pictures:build", place=0)

    def default_rewards(self, model: str) -> tuple[str, ...]:
        """What a zoo model brings, else the CLIPScore."""
        from gensift.zoo.catalog import ZOO

        own = ZOO[model].reward if model in ZOO else None
        return (own or "clip-score",)

    def resolve_call(self, options: GenerateOptions, pipeline: Pipeline) -> ResolvedCall:
        """See `Modality.resolve_call`; models that draw scale by scale have no steps."""
        from samplers.autoregressive.protocol import NextScaleModel
        from samplers.diffusion.guidance import guidance_argument

        draws_scales = isinstance(pipeline, NextScaleModel)
        if options.steps is not None and draws_scales:
            raise ConfigError(
                f"`--steps` was given, but {type(pipeline).__name__} draws scale by scale and has "
                "no denoising steps; leave it out."
            )
        if "num_videos_per_prompt" in arguments_of(pipeline):
            raise UnsupportedPipelineError(
                f"{type(pipeline).__name__} draws videos, and `generate` writes pictures only; "
                "search it in Python: sampler(pipe, prompts)."
            )
        guidance = "guidance_scale" if draws_scales else guidance_argument(pipeline)

        def implied(call: JsonObject) -> JsonObject:
            # Without any negative prompt such pipelines ignore the scale.
            needs = guidance == "true_cfg_scale" and (options.guidance_scale or 0) > 1
            return {"negative_prompt": " "} if needs and "negative_prompt" not in call else {}

        return resolve(options, pipeline, guidance, implied)

    def write_sample(
        self, files: RunFiles, sample: Image | None, stem: str, about: Mapping[str, str]
    ) -> JsonObject:
        """Write a PNG with what is known of it in its text chunks."""
        name = f"{stem}.png"
        if sample is not None:  # else another process, which drew it, writes it
            files.write_image(name, sample, about)
        return {"file": name}

    def read_sample(self, files: RunFiles, line: JsonObject) -> Image:
        """Read the PNG back."""
        from PIL import Image

        with Image.open(files.path / line["file"]) as picture:
            picture.load()
        return picture

    def show(self, lines: Sequence[JsonObject], *, is_reproducible: bool) -> None:
        """Print the winners, and whether their seeds alone give them again."""
        show_winners(lines, is_reproducible=is_reproducible)


PICTURE = Picture()
