"""Diversity and commit rules as a scheduler of diffusers' own LLaDA2 pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline
from helpers.llada import MASK, pipeline
from torch import Tensor

from gensift.errors import ConfigError
from gensift.pipelines.llada.pipeline import forbid
from samplers.text.diversity.candidates import Candidates
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.diversify import Diversifier
from samplers.text.scheduler import DiverseBlockScheduler

ROWS, BLOCK, VOCABULARY = 4, 6, 40
CALL: dict[str, Any] = {
    "gen_length": 13,
    "block_length": 8,
    "num_inference_steps": 4,
    "temperature": 1.0,
    "threshold": 2.0,
    "editing_threshold": None,
    "eos_early_stop": False,
    "output_type": "seq",
}


def sequences(scheduler: Any, seed: int = 0, **changes: Any) -> Tensor:
    own = pipeline(layers=2)
    head = own.transformer.head
    # diffusers would sample masks; here only models that never propose one can be compared.
    own.transformer.head = lambda hidden: forbid(head(hidden), [MASK])
    pipe = LLaDA2Pipeline(model=own.transformer, scheduler=scheduler, tokenizer=own.tokenizer)
    pipe.set_progress_bar_config(disable=True)
    prompt = torch.tensor([[9, 10, 11]]).repeat(6, 1)
    generator = torch.Generator().manual_seed(seed)
    found: Tensor = pipe(input_ids=prompt, generator=generator, **(CALL | changes)).sequences
    return found


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(ROWS, BLOCK, VOCABULARY, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def sample() -> Tensor:
    """Rows with 6, 5, 3 and no masks."""
    tokens = torch.full((ROWS, BLOCK), MASK)
    tokens[1, 2] = 20
    tokens[2, :3] = torch.tensor([21, 22, 20])
    tokens[3] = torch.arange(23, 29)
    return tokens


def step(logits: Tensor, sample: Tensor, index: int = 0, **options: Any) -> Any:
    scheduler = DiverseBlockScheduler(block_length=BLOCK, num_inference_steps=3, **options)
    scheduler.set_timesteps(3, block_length=BLOCK)
    return scheduler.step(logits, index, sample, mask_token_id=MASK, threshold=2.0)


def test_strength_zero_is_the_scheduler_of_diffusers() -> None:
    plain = sequences(BlockRefinementScheduler())
    assert torch.equal(sequences(DiverseBlockScheduler(alpha=0.0)), plain)


def test_the_first_row_is_plain_and_others_are_not() -> None:
    plain = sequences(BlockRefinementScheduler(), temperature=0.0)
    assert len(plain.unique(dim=0)) == 1
    pushed = sequences(DiverseBlockScheduler(alpha=16.0), temperature=0.0)
    assert torch.equal(pushed[0], plain[0])
    assert len(pushed.unique(dim=0)) == 6


def test_masked_logits_are_pushed_as_the_diversifier_says(logits: Tensor, sample: Tensor) -> None:
    """The strength is that of the share of the block that is masked."""
    found = step(logits, sample, alpha=8.0, protected_ids=(0,), seed=5).pred_logits
    is_masked = sample == MASK
    ruled_out = logits.clone()
    ruled_out[..., MASK] = -torch.inf
    wanted = Diversifier(DiversityConfig(alpha=8.0), protected=(0,))(
        Candidates(
            logits=ruled_out,
            positions=torch.arange(BLOCK).expand(ROWS, -1),
            is_open=is_masked,
            tokens=sample,
            is_committed=~is_masked,
            strength=8.0 * is_masked.float().mean(1),
            seeds=[5, 6, 7, 8],
            step=0,
        )
    ).logits
    assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.equal(found[~is_masked], ruled_out[~is_masked])
    assert not torch.equal(found[is_masked], ruled_out[is_masked])


def test_prompts_do_not_push_each_other(logits: Tensor, sample: Tensor) -> None:
    pairs = step(logits, sample, rows_per_prompt=2).pred_logits
    for at in (0, 2):
        alone = step(logits[at : at + 2], sample[at : at + 2], seed=at).pred_logits
        assert torch.allclose(pairs[at : at + 2], alone, atol=1e-5)


@pytest.mark.parametrize("commit", ["quota", "threshold", "factor"])
def test_our_rules_commit_every_token_and_never_a_mask(commit: str) -> None:
    scheduler = DiverseBlockScheduler(alpha=8.0, commit=commit)
    found = sequences(scheduler, threshold=0.4)
    assert not bool((found == MASK).any())


def test_the_quota_is_even_and_takes_the_surest(logits: Tensor, sample: Tensor) -> None:
    """Six tokens in three steps: two per step."""
    out = step(logits, sample, alpha=0.0, commit="quota")
    sure = out.sampled_probs.masked_fill(sample != MASK, -1)
    for row, masks in enumerate((6, 5, 3, 0)):
        chosen = out.transfer_index[row]
        assert int(chosen.sum()) == min(2, masks)
        if masks:
            assert set(chosen.nonzero()[:, 0].tolist()) == set(sure[row].topk(2).indices.tolist())
    committed = torch.where(out.transfer_index, out.sampled_tokens, sample)
    assert torch.equal(out.prev_sample, committed)


def test_the_last_step_commits_what_is_left(logits: Tensor, sample: Tensor) -> None:
    out = step(logits, sample, index=2, alpha=0.0, commit="threshold")
    assert torch.equal(out.transfer_index, sample == MASK)


def test_a_saved_scheduler_is_the_same(tmp_path) -> None:
    made = DiverseBlockScheduler(alpha=4.0, diversity={"pooling": "mean"}, commit="quota", seed=3)
    made.save_pretrained(tmp_path)
    again = DiverseBlockScheduler.from_pretrained(tmp_path)
    assert torch.equal(sequences(again), sequences(made))


@pytest.mark.parametrize(
    ("options", "call", "says"),
    [
        ({"commit": "best"}, {}, "allowed: refinement, quota, threshold, factor"),
        ({"alpha": -1.0}, {}, "`alpha` is -1.0; allowed: at least 0"),
        ({"diversity": {"pool": "max"}}, {}, "`pool` is not an option"),
        ({"rows_per_prompt": 3}, {}, "4 rows do not divide into prompts"),
        ({}, {"mask_token_id": None}, "give `mask_token_id`"),
    ],
)
def test_wrong_options_are_refused(logits, sample, options, call, says) -> None:
    with pytest.raises(ConfigError, match=says):
        scheduler = DiverseBlockScheduler(block_length=BLOCK, **options)
        scheduler.step(logits, 0, sample, **({"mask_token_id": MASK} | call))
