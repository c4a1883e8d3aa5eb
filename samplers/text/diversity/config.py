"""Options of diverse decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gensift.config import check, option

Strategy = Literal["odd", "dpp", "orthogonal-projection", "random-probe", "none"]
Pooling = Literal["max", "mean", "positional"]
Features = Literal["probabilities", "embeddings"]
Gate = Literal["none", "confidence", "threshold"]
OnDuplicate = Literal["random", "skip", "official"]


@dataclass(frozen=True, kw_only=True)
class DiversityOptions:
    """How samples of one prompt are kept apart; the defaults are those of ODD.

    Source: arXiv 2603.04893 and its code (defaults), but for `on_duplicate`: the published code
    lets rounding decide whether equal samples part, so its outcome depends on the hardware.
    """

    strategy: Strategy = option(
        "odd",
        choices=("odd", "dpp", "orthogonal-projection", "random-probe", "none"),
        help="what keeps samples apart: odd (away from the span of earlier samples), dpp (all "
        "jointly, by a determinantal point process), orthogonal-projection (odd, but away from "
        "where earlier samples were moved to), random-probe (towards a random direction that "
        "earlier samples lack), or none",
    )
    alpha: float | None = option(
        None,
        minimum=0,
        help="strength at the start of decoding: L2 norm of a sample's largest change of the "
        "logits of one position; it falls to 0 as decoding goes on",
    )
    pooling: Pooling = option(
        "max",
        choices=("max", "mean", "positional"),
        help="how the positions of a sample become one vector: max (which tokens occur), mean "
        "(how often), or positional (how often, and early or late)",
    )
    features: Features = option(
        "probabilities",
        choices=("probabilities", "embeddings"),
        help="what is pooled: token probabilities, or the embeddings they expect (close words "
        "count as alike)",
    )
    top_k: int = option(
        0, minimum=0, help="probabilities kept per position when samples are compared; 0 keeps all"
    )
    quality: bool = option(
        True, help="weigh a sample by its mean top-1 probability over open positions"
    )
    quality_gradient: bool = option(
        True, help="let the repulsion raise that probability too, which sharpens, as published"
    )
    gate: Gate = option(
        "none",
        choices=("none", "confidence", "threshold"),
        help="what the strength is multiplied by: none (1), confidence (the quality), or "
        "threshold (1 where the quality reaches gate_threshold, else 0)",
    )
    gate_threshold: float = option(
        0.5,
        minimum=0,
        maximum=1,
        help="quality from which a sample is repelled, with gate threshold",
    )
    on_duplicate: OnDuplicate = option(
        "random",
        choices=("random", "skip", "official"),
        help="for a sample that earlier ones span: random (a seeded direction among its own "
        "likely tokens), skip (no repulsion), or official (let rounding errors decide, as "
        "published)",
    )
    drop_committed_special: bool = option(
        False, help="leave special tokens that are already written out of the comparison"
    )

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Combinations that mean nothing, one phrase each."""
        if self.gate != "none" and not self.quality:
            yield f"`gate` is {self.gate!r} but `quality` is off; turn it on or set gate to 'none'"


@dataclass(frozen=True, kw_only=True)
class DiversityConfig(DiversityOptions):
    """The same on its own, with the published strength."""

    alpha: float = option(
        16.0,
        minimum=0,
        help="strength at the start of decoding: L2 norm of a sample's largest change of the "
        "logits of one position; it falls to 0 as decoding goes on",
    )
