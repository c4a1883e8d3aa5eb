"""ODD: many different answers to one prompt, at no extra forward pass."""

from __future__ import annotations

from typing import ClassVar, cast

from torch import Tensor, nn

from gensift.errors import UnsupportedPipelineError
from gensift.pipelines.llada.pipeline import LLaDAPipeline
from gensift.pipelines.llada.settings import DecodingSettings
from gensift.protocols import CallArguments, Pipeline
from samplers.text.call import Batch, BatchProcessor, ProcessorsOfBatch
from samplers.text.config import ODDConfig as ODDConfig  # public here, too
from samplers.text.decode import TextSampler
from samplers.text.diverse import DiversityProcessor, History
from samplers.text.diversity.diversify import Diversifier


class ODD(TextSampler[ODDConfig]):
    """Texts of a prompt that are kept apart as they form, all in one batch.

    Source: Lamont et al., "Free Lunch for Pass@k? Low Cost Diverse Sampling for Diffusion Language
    Models" (arXiv 2603.04893). The first text of a prompt is that of plain decoding.
    """

    name: ClassVar[str] = "odd"
    config_class: ClassVar[type[ODDConfig]] = ODDConfig

    def settings(self, pipeline: Pipeline, arguments: CallArguments) -> DecodingSettings:
        """Options of the plain call; without a temperature texts are sampled at 1."""
        return super().settings(pipeline, {"temperature": 1.0, **arguments})

    @property
    def is_clean(self) -> bool:
        """Whether the repulsion has no say in what is committed first."""
        return self.config.confidence_source == "clean"

    def prepare(self, pipeline: LLaDAPipeline, settings: DecodingSettings) -> ProcessorsOfBatch:
        """One diversity processor per batch, all with one history.

        Raises:
            UnsupportedPipelineError: embeddings are to be compared and the model shows none.
        """
        config, alpha = self.config, self.config.strength
        table = _embeddings(pipeline.transformer) if config.features == "embeddings" else None
        diversifier = Diversifier(config, protected=pipeline.special_ids, embeddings=table)
        history = History(is_final=config.history == "final")
        mask = pipeline.mask_token_id

        def processors(batch: Batch) -> list[BatchProcessor]:
            if config.strategy == "none" or not alpha:
                return []
            return [DiversityProcessor(diversifier, alpha, batch, history, mask)]

        return processors


def _embeddings(model: nn.Module) -> Tensor:
    """The table of token vectors, `(vocab, channels)`."""
    table = getattr(model, "get_input_embeddings", lambda: None)()
    if table is None:
        raise UnsupportedPipelineError(
            f"{type(model).__name__} shows no table of embeddings; take features=probabilities."
        )
    return cast(nn.Embedding, table).weight
