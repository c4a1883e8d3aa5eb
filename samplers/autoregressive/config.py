"""Options of the next-scale searches; imports nothing heavy, as listings and forms read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gensift.config import check, option

Feature: TypeAlias = Literal["pca", "shared-pca", "pool"]
"""How an embedding becomes one point per picture; see `clustering.features`."""
Potential: TypeAlias = Literal["value", "max", "sum", "diff"]
"""What a history of rewards says of a candidate; see `potentials.log_weights`."""
Draw: TypeAlias = Literal[
    "multinomial", "systematic", "top-k", "without-replacement", "beam", "adaptive"
]
"""How parents are drawn by weight; see `parents.draw_parents`."""


@dataclass(frozen=True, kw_only=True)
class NextScaleSearchConfig:
    """Options that every next-scale search has."""

    num_candidates: int | None = option(
        None,
        minimum=1,
        help="candidates per prompt that are drawn to the end, the N of best-of-N; default 4",
    )
    num_outputs: int = option(1, minimum=1, help="samples returned per prompt, best first")
    max_rows: int | None = option(
        None, minimum=1, help="most candidates drawn, and pictures decoded, at a time"
    )

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        if self.num_candidates is not None and self.num_outputs > self.num_candidates:
            yield f"`num_outputs` {self.num_outputs} exceeds `num_candidates` {self.num_candidates}"


@dataclass(frozen=True, kw_only=True)
class ImportanceConfig(NextScaleSearchConfig):
    """Options of the searches that resample by rewards."""

    resample_scales: tuple[int, ...] | None = option(
        None,
        help="scales, counted from 0, after which rewards choose; default: where the published "
        "ones lie among 13",
    )
    potential: Potential = option(
        "value",
        choices=("value", "max", "sum", "diff"),
        help="what a candidate is weighed by: its newest reward, the highest or the sum of those "
        "so far, or how much the newest is above the one before",
    )
    strength: float | None = option(
        None,
        minimum=0,
        help="what rewards are multiplied by before they are exponents; default 10 for "
        "imagereward, as published, else 2 in units of their spread",
    )
    strengths: dict[str, float] = option(
        {}, help="the same per reward, whose weighted sum then decides"
    )
    standardize: bool | None = option(
        None,
        help="measure rewards in units of their spread among the candidates; default yes, but not "
        "for imagereward",
    )
    draw: Draw = option(
        "multinomial",
        choices=(
            *("multinomial", "systematic", "top-k"),
            *("without-replacement", "beam", "adaptive"),
        ),
        help="how parents are drawn by weight; adaptive is systematic where weights are uneven and "
        "without replacement elsewhere",
    )
    ess_threshold: float = option(
        0.5,
        minimum=0,
        maximum=1,
        help="adaptive: weights are uneven where their effective size is below this share",
    )
    score_every_scale: bool = option(
        False, help="score after every scale, so that potentials know the whole history"
    )
    decode_side: int | None = option(
        None,
        minimum=1,
        help="longer side, in tokens, that half-drawn candidates are decoded at; default the full "
        "one",
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.strengths and self.strength is not None:
            yield "`strength` and `strengths` are both given; give one"


@dataclass(frozen=True, kw_only=True)
class TTSVARConfig(ImportanceConfig):
    """Options of TTS-VAR."""

    widths: tuple[int, ...] | None = option(
        None,
        help="candidates left after each scale, per finished one; default 8 at first, and 6, 4, 2, "
        "1 after the four selections",
    )
    cluster_scales: tuple[int, ...] | None = option(
        None,
        help="scales, counted from 0, after which clusters are formed; default: where the "
        "published ones lie among 13",
    )
    feature: Feature = option(
        "pca",
        choices=("pca", "shared-pca", "pool"),
        help="what clusters are formed by: where the first principal component of a picture's own "
        "tokens is strong, the same with one component for all pictures, or their mean token",
    )
    embedding: str = option(
        "auto",
        help="what makes the tokens: dinov2, shapes-clip, or a folder or hub id of a DINOv2; auto "
        "takes shapes-clip for zoo models",
    )
