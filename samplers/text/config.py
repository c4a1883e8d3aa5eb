"""Options of the text samplers, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from gensift.config import check, option
from samplers.text.kv.elastic import ElasticConfig

Confidence = Literal["probability", "margin", "entropy", "random"]


@dataclass(frozen=True, kw_only=True)
class AdaBlockConfig:
    """Options of `window=adablock`; defaults are those published for LLaDA."""

    delimiters: tuple[int, ...] = option(
        (),
        minimum=0,
        help="token ids that may end a block; those that hold a newline when left out",
    )
    threshold: float = option(0.3, minimum=0, help="least probability of a delimiter that counts")
    share: float = option(
        0.25, minimum=0, maximum=1, help="part of the response in which delimiters are looked for"
    )
    shortest: int = option(4, minimum=1, help="least tokens of a block")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class TextDecodeConfig:
    """Options of every text sampler; those of the plain call (temperature, ...) come with it."""

    num_candidates: int | None = option(None, minimum=1, help="texts per prompt; default 16")
    num_outputs: int | None = option(
        None, minimum=1, help="texts returned per prompt, best first; all when left out"
    )
    max_rows: int | None = option(
        None, minimum=1, help="most texts decoded at a time; bounds memory"
    )
    window: Literal["blocks", "adablock", "sliding"] = option(
        "blocks",
        choices=("blocks", "adablock", "sliding"),
        help="where a step may commit tokens: blocks of the call's block_length (one block without "
        "it), blocks that end at delimiters, or the leftmost masked positions",
    )
    adablock: AdaBlockConfig = field(default_factory=AdaBlockConfig)
    sliding_length: int = option(16, minimum=1, help="positions of window=sliding")
    kv: Literal["none", "prefix", "dual", "elastic"] = option(
        "none",
        choices=("none", "prefix", "dual", "elastic"),
        help="what is kept between steps: nothing, keys and values before the block, on both sides "
        "of it, or all that has not drifted",
    )
    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    commit: Literal["auto", "quota", "threshold", "factor", "threshold-or-quota"] = option(
        "auto",
        choices=("auto", "quota", "threshold", "factor", "threshold-or-quota"),
        help="how many tokens a step commits: an even number, all above the call's threshold, as "
        "many as factor lets pass, or the threshold and at least the even number; auto is "
        "threshold where the call gives one, else quota",
    )
    factor: float = option(1.0, minimum=0, help="of commit=factor; more commits more per step")
    confidence: Confidence = option(
        "probability",
        choices=("probability", "margin", "entropy", "random"),
        help="which tokens are committed first",
    )
    attention: Literal["full", "block-causal", "context-causal"] = option(
        "full",
        choices=("full", "block-causal", "context-causal"),
        help="who looks at whom: everyone at everyone, or as a model trained on blocks wants it",
    )
    end_of_text: Literal["allow", "late", "ban"] = option(
        "allow",
        choices=("allow", "late", "ban"),
        help="tokens that end a text: like any other, committed only after all others, or never",
    )

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Combinations that mean nothing, one phrase each."""
        if self.kv in ("prefix", "dual") and self.window == "sliding":
            yield (
                f"`kv` {self.kv} begins anew with every block, and window=sliding has none; take "
                "window=blocks, or kv=elastic"
            )
        if self.attention != "full" and self.window != "blocks":
            yield f"`attention` {self.attention} needs window=blocks"
        if self.attention != "full" and self.kv == "elastic":
            yield f"`attention` {self.attention} goes with kv none, prefix or dual, not elastic"
        # A subclass may leave confidence open until it knows better, and checks again then.
        is_share = self.confidence in ("probability", "margin", None)
        if self.window == "adablock" and not is_share:
            yield (
                "`window` adablock compares probabilities of delimiters; take "
                f"confidence=probability or margin, not {self.confidence}"
            )
        if self.commit in ("threshold", "factor", "threshold-or-quota") and not is_share:
            yield (
                f"`commit` {self.commit} compares probabilities; take confidence=probability or "
                f"margin, not {self.confidence}"
            )
        if (
            None not in (self.num_outputs, self.num_candidates)
            and self.num_outputs > self.num_candidates  # type: ignore[operator]
        ):
            yield f"`num_outputs` {self.num_outputs} exceeds `num_candidates` {self.num_candidates}"
