"""The recipe of shapes-infinity: its batches, its loss by hand, and what it publishes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from transformers import T5EncoderModel

import gensift
from apps.training.zoo import shapes_infinity, shapes_tokenizer
from apps.training.zoo.shapes_infinity import (
    DEFAULTS,
    SCHEDULE,
    BitLoss,
    TokenScenes,
    batch_at,
    build_transformer,
    encode_scenes,
    publish,
)
from apps.training.zoo.vocabulary import build_t5_tokenizer
from gensift.pipelines.infinity.pipeline import InfinityPipeline
from gensift.zoo.catalog import model_folder


@pytest.fixture
def scenes() -> TokenScenes:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(20, 16, 8, 8, generator=generator).half()
    prompts = torch.full((20, 6), -1)
    prompts[:, :2] = torch.tensor([0, 1])
    return TokenScenes(latents, prompts)


@pytest.fixture
def texts() -> Any:
    return build_t5_tokenizer()(
        ["a red circle", "two blue squares"], padding="max_length", return_tensors="pt"
    )


def batch(scenes: TokenScenes, texts: Any, step: int = 0) -> Any:
    ids, is_real = texts.input_ids, texts.attention_mask.bool()
    return batch_at(step, shapes_tokenizer.build(), scenes, ids, is_real)


def test_a_step_has_its_own_batch(scenes: TokenScenes, texts: Any) -> None:
    first, again, other = (batch(scenes, texts, step) for step in (3, 3, 4))
    assert torch.equal(first.bits, again.bits)
    assert not torch.equal(first.bits, other.bits)


def test_targets_undo_what_went_wrong_before(
    scenes: TokenScenes, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inputs hold wrong bits; with the targets of the later scales they end where they should.

    Without wrong bits the sum of all codes is what quantizing gives.
    """
    tokenizer = shapes_tokenizer.build()
    ends = [0, *SCHEDULE.ends]

    def last_sum(found: Any) -> torch.Tensor:
        """Inputs of the last scale, with its own bits added."""
        grid = found.bits[:, ends[-2] :].transpose(1, 2).unflatten(2, (8, 8)).bool()
        # At 8 x 8 the input is the sum itself.
        return tokenizer.add(found.inputs[-1], grid, 5, 6)

    disturbed = batch(scenes, texts)
    monkeypatch.setattr(shapes_infinity, "MAX_FLIPS", 0.0)
    exact = batch(scenes, texts)
    assert torch.equal(disturbed.bits[:, 0], exact.bits[:, 0])
    assert not torch.equal(disturbed.inputs[0], exact.inputs[0])
    generator = torch.Generator().manual_seed(shapes_infinity.SEED * 1_000_003)
    latents, _ = scenes.draw(shapes_infinity.BATCH, generator)
    whole = tokenizer.quantize(latents, SCHEDULE.scales).latents
    assert torch.allclose(last_sum(exact), whole, atol=1e-6)
    before = (disturbed.inputs[-1] - latents).square().mean()
    assert (last_sum(disturbed) - latents).square().mean() < before


def test_the_loss_by_hand(scenes: TokenScenes, texts: Any) -> None:
    found = batch(scenes, texts)
    transformer = build_transformer()
    encoder = T5EncoderModel.from_pretrained(model_folder("shapes-flux") / "text_encoder_2")
    with torch.no_grad():
        loss = BitLoss(transformer, encoder)(found)
        hidden = encoder(found.text_ids, attention_mask=found.is_real.long())[0]
        rows = []
        for text, is_real, is_dropped in zip(hidden, found.is_real, found.is_dropped, strict=True):
            length = int(is_real.sum())
            (nothing,) = transformer.unconditional([length])
            rows.append(nothing if is_dropped else text[:length])
        conditions = transformer.conditions(rows)
        logits = transformer(found.inputs, SCHEDULE, conditions, torch.arange(len(rows)))
    one_over_zero = logits[..., 1::2] - logits[..., ::2]
    errors = binary_cross_entropy_with_logits(
        one_over_zero, found.bits.float(), reduction="none"
    ).mean((0, 2))
    parts = errors.split(SCHEDULE.token_counts)
    roots = [count**0.5 for count in SCHEDULE.token_counts]
    expected = sum(r * float(p.mean()) for r, p in zip(roots, parts, strict=True)) / sum(roots)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    # Nothing is known yet: a bit is a coin.
    assert loss.item() == pytest.approx(0.693, abs=0.01)


def test_what_is_published_loads_as_it_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = shapes_tokenizer.build()
    monkeypatch.setattr(shapes_tokenizer, "train", lambda folder: tokenizer)
    monkeypatch.setattr(
        shapes_infinity, "encode_scenes", lambda vae, cache: encode_scenes(vae, cache, count=32)
    )
    monkeypatch.setattr(torch, "compile", lambda module: module)
    monkeypatch.setattr(shapes_infinity, "BATCH", 4)
    finished = publish(tmp_path, steps=2)

    pipe: Any = gensift.load_pipeline(finished)
    assert type(pipe) is InfinityPipeline
    assert gensift.call_defaults(pipe) == DEFAULTS
    assert pipe.schedule() == SCHEDULE
    assert {part.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder)} == {
        torch.float32
    }
    pipe.set_progress_bar_config(disable=True)
    assert pipe("a red circle", **DEFAULTS).images[0].size == (64, 64)
