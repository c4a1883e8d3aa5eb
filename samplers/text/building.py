"""From options to the policies that they stand for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gensift.errors import ConfigError, UnsupportedPipelineError
from gensift.pipelines.llada.prompts import Tokenizer
from gensift.pipelines.llada.settings import DecodingSettings
from samplers.text.adablock import AdaBlock
from samplers.text.attention import AttentionRule, BlockCausal, ContextCausal, Full
from samplers.text.commit import CommitRule, Factor, Quota, Threshold, ThresholdOrQuota
from samplers.text.config import DecodeOptions
from samplers.text.kv.blocks import BlockCache
from samplers.text.kv.elastic import ElasticCache
from samplers.text.kv.protocol import KVPolicy, LayeredModel
from samplers.text.kv.uncached import Uncached
from samplers.text.windows import Blocks, Sliding, WindowPolicy

DEFAULT_BLOCK = 32
"""Block length of AdaBlock where the call gives none."""


def build_window(
    config: DecodeOptions, settings: DecodingSettings, tokenizer: Tokenizer
) -> WindowPolicy:
    """Where a step may commit tokens.

    Raises:
        ConfigError: AdaBlock without delimiters, and the tokenizer has no token with a newline.
    """
    if config.window == "sliding":
        return Sliding(config.sliding_length)
    if config.window == "blocks":
        with_prompt = config.attention == "block-causal"
        return Blocks(settings.block_length, with_prompt=with_prompt)
    adablock = config.adablock
    delimiters = adablock.delimiters or newline_ids(tokenizer)
    if not delimiters:
        raise ConfigError(
            "window=adablock ends blocks at delimiters, and the tokenizer has no token with a "
            "newline; give their ids: -o adablock.delimiters=11,13."
        )
    return AdaBlock(
        settings.block_length or DEFAULT_BLOCK,
        delimiters,
        adablock.threshold,
        adablock.share,
        adablock.shortest,
    )


def newline_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens that hold a newline and nothing but blanks."""
    found = []
    for token_id in sorted(tokenizer.get_vocab().values()):
        text = tokenizer.decode([token_id])
        if "\n" in text and not text.strip():
            found.append(token_id)
    return tuple(found)


def build_commit(config: DecodeOptions, settings: DecodingSettings) -> CommitRule:
    """How many tokens a step commits.

    Raises:
        ConfigError: the rule needs a threshold and the call gives none, or the other way round.
    """
    name, threshold = config.commit, settings.threshold
    if name == "auto":
        name = "quota" if threshold is None else "threshold"
    if name in ("threshold", "threshold-or-quota") and threshold is None:
        raise ConfigError(
            f"commit={name} needs a threshold; give it with the call, such as threshold=0.9."
        )
    if name == "threshold" and config.commit_order in ("entropy", "random"):
        raise ConfigError(
            f"`threshold` is compared with probabilities; take confidence=probability or margin, "
            f"not {config.commit_order}."
        )
    if name in ("quota", "factor") and threshold is not None:
        raise ConfigError(f"commit={name} takes no threshold; leave {threshold} out.")
    if name == "factor":
        return Factor(config.factor)
    if name == "quota" or threshold is None:
        return Quota()
    return Threshold(threshold) if name == "threshold" else ThresholdOrQuota(threshold)


def build_attention(config: DecodeOptions, settings: DecodingSettings) -> AttentionRule:
    """Who looks at whom.

    Raises:
        ConfigError: blocks are meant, and the call gives no block length.
    """
    if config.attention == "full":
        return Full()
    if settings.block_length is None:
        raise ConfigError(
            f"attention={config.attention} goes by blocks; give block_length with the call."
        )
    is_causal = config.attention == "context-causal"
    return ContextCausal() if is_causal else BlockCausal(settings.block_length)


def build_kv(
    config: DecodeOptions, model: nn.Module, attention: AttentionRule, lead: int
) -> KVPolicy:
    """What is kept between steps.

    Raises:
        UnsupportedPipelineError: the model cannot be taken apart.
    """
    if config.kv == "none":
        return Uncached(model, attention)
    if not isinstance(model, LayeredModel):
        raise UnsupportedPipelineError(
            f"kv={config.kv} runs single layers, which {type(model).__name__} does not offer; use "
            "a LLaDATransformer, or kv=none."
        )
    if config.kv == "elastic":
        return ElasticCache(model, config.elastic, lead)
    return BlockCache(model, attention, is_dual=config.kv == "dual", lead=lead)


def end_of_text_ids(
    config: DecodeOptions, stop_ids: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens that are never proposed, and tokens that are committed last."""
    stops = tuple(stop_ids)
    return (stops if config.end_of_text == "ban" else ()), (
        stops if config.end_of_text == "late" else ()
    )
