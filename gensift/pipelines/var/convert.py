"""Published VAR checkpoints as a pipeline: `var_d16.pth` to `var_d36.pth` and their tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from gensift.errors import ConfigError
from gensift.pipelines.next_scale.autoencoder_keys import (
    autoencoder_config,
    autoencoder_rules,
    num_levels_of,
)
from gensift.pipelines.next_scale.checkpoints import Checkpoint, State
from gensift.pipelines.next_scale.conversion import (
    Part,
    Report,
    WeightDtype,
    check_destination,
    count,
    fill,
    find_parts,
    save,
    shape_of,
)
from gensift.pipelines.next_scale.scales import square_schedule
from gensift.pipelines.next_scale.transformer_keys import TRANSFORMER_BUFFERS, TRANSFORMER_RULES
from gensift.pipelines.var.pipeline import VARPipeline
from gensift.pipelines.var.tokenizer import VARTokenizer
from gensift.pipelines.var.transformer import VARTransformer
from gensift.protocols import JsonObject

PUBLISHED_SCALES = ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), (1, 2, 3, 4, 6, 9, 13, 18, 24, 32))
"""Of pictures of 256 and of 512 pixels; checkpoints tell no more than how many tokens there are."""
HEAD_DIM = 64

TRANSFORMER = Part(
    name="transformer",
    is_mine=lambda keys: any(key.startswith("class_emb.") for key in keys),
    rules=lambda state: (
        (r"^pos_1LC$", "token_positions"),
        (r"^class_emb\.", "class_embedding."),
        (r"^blocks\.(\d+)\.ada_lin\.1\.", r"modulations.\1."),
        (r"^(blocks\.\d+)\.attn\.", r"\1.attention."),
        *TRANSFORMER_RULES,
    ),
    dropped=TRANSFORMER_BUFFERS,
)
TOKENIZER = Part(
    name="tokenizer",
    is_mine=lambda keys: any(key.startswith("quantize.embedding.") for key in keys),
    rules=lambda state: (
        (r"^quantize\.embedding\.", "codebook."),
        (r"^quantize\.quant_resi\.qresi_ls\.", "phi."),
        *autoencoder_rules(num_levels_of(state)),
    ),
    # How often each entry was used in training.
    dropped=(r"quantize\.ema_vocab_hit_SV",),
)


def convert(
    sources: Sequence[Path],
    destination: Path,
    *,
    scales: Sequence[int] | None = None,
    allow_pickle: bool = False,
    dtype: WeightDtype | None = None,
) -> list[Report]:
    """Write a published transformer and tokenizer as a folder that `VARPipeline` loads.

    Args:
        sources: files, or a folder that holds them; what a file is, its keys say.
        destination: a new folder.
        scales: sides of the token grids; by default the published ones.
        allow_pickle: whether to read pickles.
        dtype: of the weights; by default as they are.

    Raises:
        ConfigError: a checkpoint is not found, cannot be read, or differs from the layout; the
            destination holds something.
    """
    check_destination(destination)
    found = find_parts(sources, (TRANSFORMER, TOKENIZER), allow_pickle=allow_pickle)
    transformer, first = _transformer(found[0], scales, dtype)
    vae, second = _tokenizer(found[1], dtype)
    save(VARPipeline(transformer, vae), destination)
    return [first, second]


def _transformer(
    checkpoint: Checkpoint, scales: Sequence[int] | None, dtype: WeightDtype | None
) -> tuple[VARTransformer, Report]:
    state = checkpoint.read()
    config = transformer_config(state, checkpoint, scales)
    return fill(partial(VARTransformer, **config), state, TRANSFORMER, checkpoint, dtype)


def transformer_config(
    state: State, checkpoint: Checkpoint, scales: Sequence[int] | None
) -> JsonObject:
    """The model's config, as far as it can be, read off the shapes.

    Raises:
        ConfigError: a tensor is missing, or the scales are unknown or do not fit.
    """
    width, latent_channels = shape_of(state, "word_embed.weight", checkpoint, 2)
    sharpness = state.get("blocks.0.attn.scale_mul_1H11")
    heads = max(width // HEAD_DIM, 1) if sharpness is None else sharpness.numel()
    length = shape_of(state, "pos_1LC", checkpoint, 3).numel() // width
    levels = shape_of(state, "lvl_embed.weight", checkpoint, 2)[0]
    num_layers = count(state, r"blocks\.(\d+)\.")
    _check_depth(num_layers, width, heads, checkpoint)
    return {
        "num_layers": num_layers,
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "num_classes": shape_of(state, "class_emb.weight", checkpoint, 2)[0] - 1,
        "codebook_size": shape_of(state, "head.weight", checkpoint, 2)[0],
        "latent_channels": latent_channels,
        "scales": _scales(scales, length, levels),
        "has_shared_modulation": "shared_ada_lin.1.weight" in state,
        "cosine": sharpness is not None,
    }


def _check_depth(num_layers: int, width: int, heads: int, checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint without its last blocks, which no other tensor would miss.

    VAR builds every model with as many blocks as heads, and heads of 64 channels.
    """
    if width == heads * HEAD_DIM and num_layers < heads:
        raise ConfigError(
            f"{checkpoint.path}: missing: blocks.{num_layers}.attn.proj.weight and all else of "
            f"blocks {num_layers} to {heads - 1}; a VAR of width {width} has {heads} blocks. Fetch "
            "the whole file."
        )


def _scales(given: Sequence[int] | None, length: int, levels: int) -> list[int]:
    """The schedule of `levels` scales with `length` tokens in all."""
    for sides in PUBLISHED_SCALES if given is None else (given,):
        if (square_schedule(sides).ends[-1], len(sides)) == (length, levels):
            return list(sides)
    what = "no published schedule has" if given is None else "the given scales do not have"
    raise ConfigError(
        f"The transformer has {length} positions on {levels} scales, which {what}; give the sides "
        "of its grids with --scales, such as 1,2,3,4."
    )


def _tokenizer(checkpoint: Checkpoint, dtype: WeightDtype | None) -> tuple[VARTokenizer, Report]:
    state = checkpoint.read()
    config = autoencoder_config(state, checkpoint) | {
        "codebook_size": shape_of(state, "quantize.embedding.weight", checkpoint, 2)[0],
        "num_phi": count(state, r"quantize\.quant_resi\.qresi_ls\.(\d+)\."),
    }
    return fill(partial(VARTokenizer, **config), state, TOKENIZER, checkpoint, dtype)
