"""ODD: many different answers to one prompt, at no extra forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from gensift.config import option
from gensift.errors import UnsupportedPipelineError
from gensift.pipelines.llada.settings import DecodingSettings
from samplers.text.call import Batch, BatchProcessor, ProcessorsOfBatch
from samplers.text.config import TextDecodeConfig
from samplers.text.decode import TextDecode
from samplers.text.diverse import DiversityProcessor, History
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.diversify import Diversifier


@dataclass(frozen=True, kw_only=True)
class ODDConfig(TextDecodeConfig, DiversityConfig):
    """Options of `odd`: those of diversity, and those of decoding."""

    confidence_source: Literal["pushed", "clean"] = option(
        "pushed",
        choices=("pushed", "clean"),
        help="whether confidence is that after the push, as published, or before it, so that a "
        "push does not settle more tokens above a threshold",
    )
    history: Literal["steps", "final"] = option(
        "steps",
        choices=("steps", "final"),
        help="what later batches are kept apart from, with more candidates than max_rows: earlier "
        "texts as they were at the same step, which is as if all were one batch, or as they ended, "
        "which takes less memory",
    )

    def problems(self) -> Iterator[str]:
        """Combinations that mean nothing."""
        yield from TextDecodeConfig.problems(self)
        yield from DiversityConfig.problems(self)


class ODD(TextDecode):
    """Texts that are decoded together and pushed apart as they form.

    Source: Lamont et al., "Free Lunch for Pass@k? Low Cost Diverse Sampling for Diffusion Language
    Models" (arXiv 2603.04893). The first text of a prompt is that of plain decoding.
    """

    name: ClassVar[str] = "odd"
    config_class: ClassVar[type[TextDecodeConfig]] = ODDConfig
    config: ODDConfig

    @property
    def is_clean(self) -> bool:
        """Whether the push has no say in what is settled first."""
        return self.config.confidence_source == "clean"

    def prepare(self, pipeline: Any, settings: DecodingSettings) -> ProcessorsOfBatch:
        """One diversity processor per batch, all with one history.

        Raises:
            UnsupportedPipelineError: embeddings are to be compared and the model shows none.
        """
        config = self.config
        table = _embeddings(pipeline.transformer) if config.features == "embeddings" else None
        diversifier = Diversifier(config, protected=pipeline.special_ids, embeddings=table)
        history = History(is_final=config.history == "final")
        mask = pipeline.mask_token_id

        def processors(batch: Batch) -> list[BatchProcessor]:
            if config.strategy == "none" or config.alpha == 0:
                return []
            return [DiversityProcessor(diversifier, config.alpha, batch, history, mask)]

        return processors


def _embeddings(model: Any) -> Tensor:
    found = getattr(model, "get_input_embeddings", lambda: None)()
    if found is None:
        raise UnsupportedPipelineError(
            f"{type(model).__name__} shows no table of embeddings; take features=probabilities."
        )
    table: Tensor = found.weight
    return table
