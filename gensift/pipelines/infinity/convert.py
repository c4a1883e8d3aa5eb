"""Published Infinity checkpoints as a pipeline: transformer, tokenizer, and a text encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gensift.errors import ConfigError
from gensift.hub import foreign_errors, is_offline
from gensift.pipelines.infinity.pipeline import InfinityPipeline
from gensift.pipelines.infinity.tokenizer import InfinityTokenizer
from gensift.pipelines.infinity.transformer import InfinityTransformer
from gensift.pipelines.next_scale.autoencoder_keys import (
    autoencoder_config,
    autoencoder_rules,
    num_levels_of,
)
from gensift.pipelines.next_scale.checkpoints import Checkpoint, State
from gensift.pipelines.next_scale.conversion import (
    Part,
    Report,
    Rules,
    WeightDtype,
    check_destination,
    count,
    fill,
    find_parts,
    renamed_key,
    save,
    shape_of,
)
from gensift.pipelines.next_scale.transformer_keys import TRANSFORMER_BUFFERS, TRANSFORMER_RULES
from gensift.protocols import JsonObject

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, T5EncoderModel


def _transformer_rules(state: State) -> Rules:
    return (
        *_unchunking(state),
        (r"^cfg_uncond$", "unconditional_text"),
        (r"^text_proj_for_sos\.ca\.mat_q$", "text_pooling.query"),
        (r"^text_proj_for_sos\.ca\.", "text_pooling."),
        (r"^text_proj_for_ca\.0\.", "text_in."),
        (r"^text_proj_for_ca\.2\.", "text_out."),
        (r"^(blocks\.\d+)\.sa\.", r"\1.attention."),
        (r"^(blocks\.\d+)\.ca\.", r"\1.cross_attention."),
        (r"^(blocks\.\d+)\.ca_norm\.", r"\1.cross_norm."),
        (r"\.mat_q\.", ".to_query."),
        *TRANSFORMER_RULES,
    )


def _unchunking(state: State) -> Rules:
    """Rules that number blocks through, which some checkpoints keep in chunks of one size."""
    chunks, size = _chunks(state)
    return [
        (rf"^block_chunks\.{chunk}\.module\.{at}\.", f"blocks.{chunk * size + at}.")
        for chunk in range(chunks)
        for at in range(size)
    ]


def _chunks(state: State) -> tuple[int, int]:
    """Chunks, and blocks in each; 0 where there are none."""
    return (
        count(state, r"block_chunks\.(\d+)\."),
        count(state, r"block_chunks\.\d+\.module\.(\d+)\."),
    )


TRANSFORMER = Part(
    name="transformer",
    is_mine=lambda keys: any(key.startswith("text_proj_for_sos.") for key in keys),
    rules=_transformer_rules,
    dropped=TRANSFORMER_BUFFERS,
)
TOKENIZER = Part(
    name="tokenizer",
    # VAR's has the same decoder, and a codebook.
    is_mine=lambda keys: (
        any(key.startswith("decoder.conv_in.") for key in keys)
        and "quantize.embedding.weight" not in keys
    ),
    rules=lambda state: autoencoder_rules(num_levels_of(state)),
    # Powers of two, under two names.
    dropped=(r"quantizer?\.lfq\.mask",),
)


def convert(
    sources: Sequence[Path],
    destination: Path,
    *,
    text_encoder: str | None = None,
    allow_pickle: bool = False,
    dtype: WeightDtype | None = None,
) -> list[Report]:
    """Write a published transformer and tokenizer as a folder that `InfinityPipeline` loads.

    Args:
        sources: files (of shards the index), or a folder that holds them; what a file is, its
            keys say.
        destination: a new folder.
        text_encoder: folder or hub id of the T5 model that goes with it; without one the pipeline
            has none until its loader is given one.
        allow_pickle: whether to read pickles.
        dtype: of the weights; by default as they are.

    Raises:
        ConfigError: a checkpoint is not found, cannot be read, or differs from the layout; the
            destination holds something.
    """
    check_destination(destination)
    found = find_parts(sources, (TRANSFORMER, TOKENIZER), allow_pickle=allow_pickle)
    encoder = tokenizer = None
    if text_encoder is not None:
        encoder, tokenizer = _text_encoder(text_encoder, allow_pickle, dtype)
    transformer, first = _transformer(found[0], dtype)
    vae, second = _tokenizer(found[1], transformer.config.token_channels, dtype)
    _check_text(transformer, encoder)
    save(InfinityPipeline(transformer, vae, encoder, tokenizer), destination)
    return [first, second]


def _transformer(
    checkpoint: Checkpoint, dtype: WeightDtype | None
) -> tuple[InfinityTransformer, Report]:
    state = checkpoint.read()
    config = transformer_config(state, checkpoint)
    return fill(partial(InfinityTransformer, **config), state, TRANSFORMER, checkpoint, dtype)


def transformer_config(state: State, checkpoint: Checkpoint) -> JsonObject:
    """The model's config, read off the shapes.

    Raises:
        ConfigError: a tensor is missing.
    """
    rules = _unchunking(state)
    plain = {renamed_key(key, rules): tensor for key, tensor in state.items()}
    width, token_channels = shape_of(plain, "word_embed.weight", checkpoint, 2)
    heads = shape_of(plain, "blocks.0.sa.scale_mul_1H11", checkpoint, 4).numel()
    text_length, text_channels = shape_of(plain, "cfg_uncond", checkpoint, 2)
    return {
        # Of chunks the product, so that a block that is missing at the end is missed.
        "num_layers": math.prod(_chunks(state)) or count(plain, r"blocks\.(\d+)\."),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "token_channels": token_channels,
        "text_channels": text_channels,
        "text_max_length": text_length,
        "pooling_heads": shape_of(plain, "text_proj_for_sos.ca.mat_q", checkpoint, 3)[-2],
        "feed_forward_width": shape_of(plain, "blocks.0.ffn.fc1.weight", checkpoint, 2)[0],
    }


def _tokenizer(
    checkpoint: Checkpoint, token_channels: int, dtype: WeightDtype | None
) -> tuple[InfinityTokenizer, Report]:
    state = checkpoint.read()
    config: JsonObject = dict(autoencoder_config(state, checkpoint))
    latent_channels = config["latent_channels"]
    # The tokenizer alone does not tell how many of its places make a token.
    patch_size = math.isqrt(token_channels // latent_channels)
    if latent_channels * patch_size**2 != token_channels:
        raise ConfigError(
            f"The transformer's tokens have {token_channels} bits, the tokenizer's latents "
            f"{latent_channels} channels; give the tokenizer that the transformer was trained with."
        )
    config["patch_size"] = patch_size
    return fill(partial(InfinityTokenizer, **config), state, TOKENIZER, checkpoint, dtype)


def _text_encoder(
    name: str, allow_pickle: bool, dtype: WeightDtype | None
) -> tuple[T5EncoderModel, PreTrainedTokenizerBase]:
    from transformers import AutoTokenizer, T5EncoderModel

    advice = "Give a folder or hub id of a T5 model with its tokenizer, such as google/flan-t5-xl"
    with foreign_errors(f"Text encoder {name!r}", advice, name):
        local = {"local_files_only": is_offline(name)}
        is_safe = None if allow_pickle else True
        encoder = T5EncoderModel.from_pretrained(
            name, dtype=dtype or "auto", use_safetensors=is_safe, **local
        )
        return encoder, AutoTokenizer.from_pretrained(name, **local)


def _check_text(transformer: InfinityTransformer, encoder: T5EncoderModel | None) -> None:
    wanted = transformer.config.text_channels
    if encoder is not None and encoder.config.d_model != wanted:
        raise ConfigError(
            f"The text encoder has {encoder.config.d_model} channels, the transformer reads "
            f"{wanted}; give the one that it was trained with (google/flan-t5-xl has 2048)."
        )
