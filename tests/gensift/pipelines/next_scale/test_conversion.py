"""Checkpoints of the published sizes fit, and give the configs that our defaults are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import official_layouts as official

from gensift.errors import ConfigError
from gensift.pipelines.infinity import convert as infinity
from gensift.pipelines.infinity.tokenizer import InfinityTokenizer
from gensift.pipelines.infinity.transformer import InfinityTransformer
from gensift.pipelines.next_scale.autoencoder_keys import autoencoder_config
from gensift.pipelines.next_scale.checkpoints import Checkpoint
from gensift.pipelines.next_scale.conversion import fill
from gensift.pipelines.var import convert as var
from gensift.pipelines.var.tokenizer import VARTokenizer
from gensift.pipelines.var.transformer import VARTransformer

VAR = {"classes": 1000, "entries": 4096, "channels": 32}
SMALL, LARGE = var.PUBLISHED_SCALES


def checkpoint(state: official.State) -> Checkpoint:
    return Checkpoint(Path("published"), frozenset(state), lambda: state)


@pytest.mark.parametrize("depth", [16, 20, 24, 30, 36])
def test_published_var(depth: int) -> None:
    shared, sides = depth == 36, LARGE if depth == 36 else SMALL
    with torch.device("meta"):
        state = official.var_transformer(
            depth=depth, heads=depth, sides=sides, shared=shared, **VAR
        )
    config = var.transformer_config(state, checkpoint(state), None)
    make = partial(VARTransformer, **config)
    model, report = fill(make, state, var.TRANSFORMER, checkpoint(state))
    with torch.device("meta"):
        defaults = dict(VARTransformer().config)
    own = {"num_layers": depth, "num_attention_heads": depth, "has_shared_modulation": shared}
    assert config == {key: defaults[key] for key in config} | own | {"scales": list(sides)}
    assert sum(p.numel() for p in model.parameters()) == report.parameters
    assert len(report.dropped) == depth + 2


@pytest.mark.parametrize(("depth", "heads", "bits"), [(32, 16, 32), (40, 28, 56)])
def test_published_infinity(depth: int, heads: int, bits: int) -> None:
    with torch.device("meta"):
        state = official.infinity_transformer(
            depth=depth,
            heads=heads,
            head_dim=128,
            bits=bits,
            text_channels=2048,
            text_length=512,
            pooling_heads=16,
            chunks=8,
        )
    config = infinity.transformer_config(state, checkpoint(state))
    assert (config["num_layers"], config["num_attention_heads"]) == (depth, heads)
    with torch.device("meta"):
        ours = InfinityTransformer(num_layers=depth, num_attention_heads=heads, token_channels=bits)
    make = partial(InfinityTransformer, **config)
    model, _ = fill(make, state, infinity.TRANSFORMER, checkpoint(state))
    shapes, wanted = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, ours))
    assert shapes == wanted


@pytest.mark.parametrize(
    ("family", "widths", "channels"),
    [
        ("var", (160, 160, 320, 320, 640), 32),
        ("infinity", (128, 256, 512, 512, 512), 16),
        ("infinity", (128, 256, 512, 512, 512), 32),
        ("infinity", (128, 256, 512, 512), 14),
    ],
)
def test_published_tokenizers(family: str, widths: tuple[int, ...], channels: int) -> None:
    with torch.device("meta"):
        state = official.tokenizer(
            widths=widths, channels=channels, family=family, wrapped=family != "var", entries=4096
        )
    config: dict[str, Any] = dict(autoencoder_config(state, checkpoint(state)))
    assert config == {
        "latent_channels": channels, "block_out_channels": list(widths), "layers_per_block": 2
    }  # fmt: skip
    model: Any = VARTokenizer if family == "var" else InfinityTokenizer
    part = var.TOKENIZER if family == "var" else infinity.TOKENIZER
    fill(partial(model, **config), state, part, checkpoint(state))


def test_names_that_mean_the_same_tensor_are_refused() -> None:
    state = official.infinity_transformer()
    state["blocks.0.sa.to_qkv.weight"] = state["blocks.0.sa.mat_qkv.weight"].clone()
    config = infinity.transformer_config(state, checkpoint(state))
    make = partial(InfinityTransformer, **config)
    with pytest.raises(ConfigError, match=r"several names: blocks\.0\.sa\.mat_qkv\.weight and "):
        fill(make, state, infinity.TRANSFORMER, checkpoint(state))
