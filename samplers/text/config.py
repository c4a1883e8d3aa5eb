"""Options of the text samplers: plain data that is read without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from gensift.config import check, option
from samplers.text.diversity.config import DiversityOptions

DEFAULT_CANDIDATES = 16
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
class ElasticConfig:
    """Options of the elastic cache; defaults are the published ones but for `drift_axis`."""

    gamma: float = option(
        0.9, help="similarity of attention below which deeper layers are recomputed; more is safer"
    )
    track: int = option(1, minimum=1, help="tokens per layer whose attention is watched")
    drift_axis: Literal["keys", "heads"] = option(
        "keys",
        choices=("keys", "heads"),
        help="what a row of attention is compared along: keys as the paper says, heads as its code "
        "does",
    )
    all_masks: bool = option(
        False, help="compute all masked positions in every step, not just the window"
    )
    refresh_every: int | None = option(
        None, minimum=1, help="full pass after so many steps; never when left out, 1 is no cache"
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
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
    confidence: Confidence | None = option(
        None,
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

    @property
    def commit_order(self) -> Confidence:
        """Which tokens are committed first, also where `confidence` is left out."""
        return self.confidence or "probability"

    @property
    def texts_per_prompt(self) -> int:
        """`num_candidates`, also where it is left out."""
        return self.num_candidates or max(DEFAULT_CANDIDATES, self.num_outputs or 0)

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
        is_share = self.commit_order in ("probability", "margin")
        if self.window == "adablock" and not is_share:
            yield (
                "`window` adablock compares probabilities of delimiters; take "
                f"confidence=probability or margin, not {self.commit_order}"
            )
        if self.commit in ("threshold", "factor", "threshold-or-quota") and not is_share:
            yield (
                f"`commit` {self.commit} compares probabilities; take confidence=probability or "
                f"margin, not {self.commit_order}"
            )
        texts, outputs = self.num_candidates, self.num_outputs
        if texts is not None and outputs is not None and outputs > texts:
            yield f"`num_outputs` {outputs} exceeds `num_candidates` {texts}"


@dataclass(frozen=True, kw_only=True)
class TextDecodeConfig(DecodeOptions):
    """Options of `decode`."""

    confidence: Confidence = option(
        "probability",
        choices=("probability", "margin", "entropy", "random"),
        help="which tokens are committed first",
    )


@dataclass(frozen=True)
class Setting:
    """What options are that are left out.

    Attributes:
        alpha: strength at the start of decoding.
        confidence: which tokens are committed first.
    """

    alpha: float
    confidence: Confidence


SETTINGS: Mapping[str, Setting] = {
    "tuned": Setting(alpha=8.0, confidence="probability"),
    "published": Setting(alpha=16.0, confidence="probability"),
}
"""What options are that are left out; tuned on the validation problems of `benchmarks.odd`."""


@dataclass(frozen=True, kw_only=True)
class ODDConfig(DecodeOptions, DiversityOptions):
    """Options of `odd`: those of diversity, and those of decoding."""

    setting: Literal["tuned", "published"] = option(
        "tuned",
        choices=("tuned", "published"),
        help="what alpha and confidence are when left out: the best on held-out problems of "
        "countdown-llada, or those of the paper",
    )
    alpha: float | None = option(
        None,
        minimum=0,
        help="strength at the start of decoding: L2 norm of a sample's largest change of the "
        "logits of one position; it falls to 0 as decoding goes on; by default that of setting",
    )
    confidence: Confidence | None = option(
        None,
        choices=("probability", "margin", "entropy", "random"),
        help="which tokens are committed first; by default that of setting",
    )
    confidence_source: Literal["pushed", "clean"] = option(
        "pushed",
        choices=("pushed", "clean"),
        help="whether confidence is that of the logits after the repulsion, as published, or "
        "before it, so that repulsion does not commit more tokens above a threshold",
    )
    history: Literal["steps", "final"] = option(
        "steps",
        choices=("steps", "final"),
        help="what later batches are kept apart from, with more candidates than max_rows: earlier "
        "texts as they were at the same step, which is as if all were one batch, or as they ended, "
        "which takes less memory",
    )

    @property
    def strength(self) -> float:
        """`alpha`, also where it is left out."""
        return SETTINGS[self.setting].alpha if self.alpha is None else self.alpha

    @property
    def commit_order(self) -> Confidence:
        """Which tokens are committed first, also where `confidence` is left out."""
        return self.confidence or SETTINGS[self.setting].confidence

    def problems(self) -> Iterator[str]:
        """Combinations that mean nothing."""
        yield from DecodeOptions.problems(self)
        yield from DiversityOptions.problems(self)
        texts = self.num_candidates or DEFAULT_CANDIDATES
        if self.strategy == "dpp" and (self.max_rows or texts) < texts:
            yield (
                f"`strategy` dpp needs all {texts} texts of a prompt in one batch, and `max_rows` "
                f"is {self.max_rows}; raise it, or take strategy=odd"
            )
