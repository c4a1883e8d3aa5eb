"""The transformer is the published architecture, written here once more from its names."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.llada import MASK, PAD, VOCABULARY, ids_of, padded, transformer
from torch import Tensor

from gensift.errors import ConfigError
from gensift.pipelines.llada.layers import rotary_table, rotate
from gensift.pipelines.llada.transformer import LLaDATransformer

TOKENS = torch.tensor(
    [ids_of("w1 w2 w3 w4 w5") + [MASK] * 4, ids_of("w9 w9 w3 w8 w7") + [MASK] * 4]
)
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "a head of its own each": {"n_kv_heads": None},
    "one head of keys": {"n_kv_heads": 1},
    "tied": {"weight_tying": True},
    "a larger embedding": {"embedding_size": 48},
    "another base": {"rope_theta": 7.0},
    "another epsilon": {"rms_norm_eps": 0.3},
}


def naive(model: LLaDATransformer, tokens: list[int], allowed: Tensor | None = None) -> Tensor:
    """Logits of one row in float64, position by position and head by head.

    `allowed` is bool `(queries, keys)`.
    """
    state = {name: value.double() for name, value in model.state_dict().items()}
    config = model.config
    prefix, heads = "model.transformer.", config.n_heads
    kv_heads, size = config.n_kv_heads or heads, config.d_model // heads
    hidden = [state[prefix + "wte.weight"][token] for token in tokens]

    def norm(vector: Tensor, name: str) -> Tensor:
        return vector / (vector.square().mean() + config.rms_norm_eps).sqrt() * state[prefix + name]

    def turned(vector: Tensor, position: int) -> Tensor:
        """Channel i is paired with channel i + size / 2."""
        result = vector.clone()
        for i in range(size // 2):
            angle = position / config.rope_theta ** (2 * i / size)
            first, second = vector[i], vector[i + size // 2]
            result[i] = first * math.cos(angle) - second * math.sin(angle)
            result[i + size // 2] = second * math.cos(angle) + first * math.sin(angle)
        return result

    for number in range(config.n_layers):
        at = f"blocks.{number}."
        weight = {
            name: state[f"{prefix}{at}{name}.weight"]
            for name in ("q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out")
        }
        normed = [norm(vector, at + "attn_norm.weight") for vector in hidden]
        after = []
        for asking, vector in enumerate(normed):
            found = []
            for head in range(heads):
                own = slice(head * size, (head + 1) * size)
                group = head // (heads // kv_heads)
                shared = slice(group * size, (group + 1) * size)
                query = turned(weight["q_proj"][own] @ vector, asking)
                scores, values = [], []
                for key, other in enumerate(normed):
                    if allowed is None or allowed[asking, key]:
                        turned_key = turned(weight["k_proj"][shared] @ other, key)
                        scores.append(query @ turned_key / math.sqrt(size))
                        values.append(weight["v_proj"][shared] @ other)
                shares = torch.stack(scores).softmax(0)
                found.append((shares[:, None] * torch.stack(values)).sum(0))
            after.append(hidden[asking] + weight["attn_out"] @ torch.cat(found))
        hidden = []
        for vector in after:
            inner = norm(vector, at + "ff_norm.weight")
            gate = weight["ff_proj"] @ inner
            swish = gate * torch.sigmoid(gate)
            hidden.append(vector + weight["ff_out"] @ (swish * (weight["up_proj"] @ inner)))
    head = state.get(prefix + "ff_out.weight", state[prefix + "wte.weight"])
    return torch.stack([head @ norm(vector, "ln_f.weight") for vector in hidden])


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_logits_are_those_of_the_naive_forward(name: str) -> None:
    model = transformer(layers=2, **VARIANTS[name])
    found = model(TOKENS).logits
    assert ("model.transformer.ff_out.weight" in model.state_dict()) is (name != "tied")
    for row, tokens in enumerate(TOKENS.tolist()):
        wanted = naive(model, tokens)
        assert wanted.std() > 0.5
        assert torch.allclose(found[row].double(), wanted, atol=1e-4)


@torch.no_grad()
def test_every_position_sees_every_other() -> None:
    model = transformer(layers=1, std=0.2)
    row = torch.arange(5, 14)[None]
    plain = model(row).logits[0]
    for changed in range(row.shape[1]):
        tokens = row.clone()
        tokens[0, changed] = 20
        moved = (model(tokens).logits[0] - plain).abs().amax(-1)
        assert bool((moved > 1e-4).all())


@torch.no_grad()
def test_a_padded_row_is_the_row_alone() -> None:
    model = transformer(layers=3)
    rows = [ids_of("w3 w1 w4"), ids_of("w3 w1 w4 w1 w5 w9"), ids_of("w2")]
    tokens, is_real = padded(rows, width=8)
    tokens[~is_real] = 17  # what is hidden there must not matter
    together = model(tokens, attention_mask=is_real.long()).logits
    for row, own in enumerate(rows):
        alone = model(torch.tensor([own])).logits[0]
        assert torch.allclose(together[row, 8 - len(own) :], alone, atol=1e-5)
    seen = model(tokens).logits
    assert not torch.allclose(seen[0, 5:], together[0, 5:], atol=1e-2)


@torch.no_grad()
def test_positions_are_relative_and_matter() -> None:
    model = transformer(layers=2)
    positions = torch.arange(9)[None]
    plain = model(TOKENS[:1]).logits
    assert torch.allclose(model(TOKENS[:1], position_ids=positions + 11).logits, plain, atol=1e-4)
    stretched = model(TOKENS[:1], position_ids=2 * positions).logits
    assert not torch.allclose(stretched, plain, atol=1e-2)


@torch.no_grad()
def test_a_mask_of_queries_and_keys_is_followed() -> None:
    model = transformer(layers=2)
    random = torch.Generator().manual_seed(3)
    allowed = torch.rand(2, 9, 9, generator=random) < 0.5
    allowed |= torch.eye(9, dtype=torch.bool)
    found = model(TOKENS, attention_mask=allowed).logits
    for row, tokens in enumerate(TOKENS.tolist()):
        assert torch.allclose(found[row].double(), naive(model, tokens, allowed[row]), atol=1e-4)


@torch.no_grad()
def test_the_parts_are_the_whole() -> None:
    model = transformer(layers=3)
    hidden = model.embed(TOKENS)
    rotary = model.rotary(torch.arange(9).expand(2, 9))
    for layer in model.layers:
        hidden = layer(hidden, rotary)
    assert torch.equal(model.head(hidden), model(TOKENS).logits)
    assert torch.equal(model(TOKENS, return_dict=False)[0], model(TOKENS).logits)
    assert model.get_input_embeddings().weight.shape == (len(VOCABULARY), 24)


def test_turning_keeps_norms_and_depends_on_distance() -> None:
    random = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 6, generator=random) for _ in range(2))

    def score(at: int, other: int) -> float:
        turned = (
            rotate(vector, rotary_table(torch.tensor([[position]]), 6, 50.0))
            for vector, position in ((query, at), (key, other))
        )
        first, second = turned
        assert first.norm() == pytest.approx(float(query.norm()), rel=1e-5)
        return float((first * second).sum())

    assert score(3, 1) == pytest.approx(score(10, 8), abs=1e-4)
    assert abs(score(3, 1) - score(1, 3)) > 1e-2


def test_low_precision_turns_in_float32() -> None:
    table = rotary_table(torch.tensor([[1000]]), 6, 500_000.0)
    assert table.dtype == torch.float32
    assert table[0, 0, 0, 0, 0] == pytest.approx(math.cos(1000), abs=1e-4)
    turned = rotate(torch.ones(1, 1, 1, 6, dtype=torch.bfloat16), table)
    assert turned.dtype == torch.bfloat16


def test_the_published_size_has_the_published_count() -> None:
    with torch.device("meta"):
        model: Any = LLaDATransformer()
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_015_581_184


def test_saved_and_loaded_it_is_the_same(tmp_path: Any) -> None:
    model = transformer(layers=2, weight_tying=True)
    model.save_pretrained(tmp_path)
    again: Any = LLaDATransformer.from_pretrained(tmp_path)
    assert torch.equal(again(TOKENS).logits, model(TOKENS).logits)
    assert dict(again.config)["mask_token_id"] == MASK
    assert dict(again.config)["pad_token_id"] == PAD


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="d_model 24 is no multiple of n_heads 5"):
        transformer(n_heads=5)
