"""ODD: many different answers to one prompt, at no extra forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from gensift.config import option
from gensift.errors import UnsupportedPipelineError
from gensift.pipelines.llada.settings import DecodingSettings
from samplers.text.call import Batch, BatchProcessor, ProcessorsOfBatch
from samplers.text.config import Confidence, TextDecodeConfig
from samplers.text.decode import DEFAULT_CANDIDATES, TextDecode
from samplers.text.diverse import DiversityProcessor, History
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.diversify import Diversifier

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "tuned": {"alpha": 8.0, "confidence": "probability"},
    "published": {"alpha": 16.0, "confidence": "probability"},
}
"""What options are that are left out; tuned on the validation problems of `benchmarks.odd`."""


@dataclass(frozen=True, kw_only=True)
class ODDConfig(TextDecodeConfig, DiversityConfig):
    """Options of `odd`: those of diversity, and those of decoding."""

    setting: Literal["tuned", "published"] = option(
        "tuned",
        choices=("tuned", "published"),
        help="what alpha and confidence are when left out: the best on held-out problems of "
        "countdown-llada, or those of the paper",
    )
    alpha: float | None = option(  # type: ignore[assignment]
        None,
        minimum=0,
        help="strength at the start of decoding: L2 norm of a sample's largest change of the "
        "logits of one position; it falls to 0 as decoding goes on; by default that of setting",
    )
    confidence: Confidence | None = option(  # type: ignore[assignment]
        None,
        choices=("probability", "margin", "entropy", "random"),
        help="which tokens are committed first; by default that of setting",
    )
    confidence_source: Literal["pushed", "clean"] = option(
        "pushed",
        choices=("pushed", "clean"),
        help="whether confidence is that after the push, as published, or before it, so that a "
        "push does not commit more tokens above a threshold",
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
        texts = self.num_candidates or DEFAULT_CANDIDATES
        if self.strategy == "dpp" and (self.max_rows or texts) < texts:
            yield (
                f"`strategy` dpp needs all {texts} texts of a prompt in one batch, and `max_rows` "
                f"is {self.max_rows}; raise it, or take strategy=odd"
            )

    def resolved(self) -> Self:
        """The same with nothing left out."""
        left = {
            name: value
            for name, value in SETTINGS[self.setting].items()
            if getattr(self, name) is None
        }
        return replace(self, **left)


class ODD(TextDecode):
    """Texts that are decoded together and pushed apart as they form.

    Source: Lamont et al., "Free Lunch for Pass@k? Low Cost Diverse Sampling for Diffusion Language
    Models" (arXiv 2603.04893). The first text of a prompt is that of plain decoding.
    """

    name: ClassVar[str] = "odd"
    config_class: ClassVar[type[TextDecodeConfig]] = ODDConfig
    config: ODDConfig

    def __init__(self, reward: Any = None, config: Any = None, **options: Any) -> None:
        """See `TextDecode`."""
        super().__init__(reward, config, **options)
        self.config = self.config.resolved()

    def settings(self, pipeline: Any, arguments: Mapping[str, Any]) -> DecodingSettings:
        """Options of the plain call; without a temperature texts are sampled at 1."""
        return super().settings(pipeline, {"temperature": 1.0, **arguments})

    @property
    def is_clean(self) -> bool:
        """Whether the push has no say in what is committed first."""
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
            if config.strategy == "none" or not config.alpha:
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
