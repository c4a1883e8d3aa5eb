"""Rows are independent of their company, and searches may take, copy and drop them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.next_scale import FAMILIES, build, draw, labels_of

from gensift.errors import ConfigError
from gensift.pipelines.loading import load_pipeline
from gensift.pipelines.next_scale.pipeline import NextScaleState
from gensift.randomness import make_generators

SEEDS = [5, 6, 7]


def started(pipe: Any, family: str, seeds: list[int] = SEEDS) -> NextScaleState:
    state: NextScaleState = pipe.start(labels_of(family), generator=make_generators(seeds))
    return state


def finish(pipe: Any, state: NextScaleState) -> torch.Tensor:
    while not state.is_finished:
        pipe.step(state)
    return state.latents


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_is_the_same_alone_in_a_batch_and_in_parts(family: str) -> None:
    pipe, labels = build(family), labels_of(family)
    batch = draw(pipe, labels, SEEDS)
    assert not torch.allclose(batch[0], batch[1], atol=0.1)
    for rows in (1, 2):
        assert torch.allclose(draw(pipe, labels, SEEDS, max_rows=rows), batch, atol=1e-5)
    alone = [draw(pipe, label, [seed]) for label, seed in zip(labels, SEEDS, strict=True)]
    assert torch.allclose(torch.cat(alone), batch, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_of_one_prompt_follow_each_other(family: str) -> None:
    pipe, labels = build(family), labels_of(family)[:2]
    several = draw(pipe, labels, [0, 1, 2, 3], num_images_per_prompt=2)
    repeated = draw(pipe, [labels[0], labels[0], labels[1], labels[1]], [0, 1, 2, 3])
    assert torch.allclose(several, repeated, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_goes_on_is_what_was_chosen(family: str) -> None:
    """Two rows exchanged and one dropped in the middle end as they would have."""
    pipe = build(family)
    whole = finish(pipe, started(pipe, family))
    state = started(pipe, family)
    for _ in range(2):
        pipe.step(state)
    pipe.gather(state, [2, 0], [None, None])
    assert torch.allclose(finish(pipe, state), whole[[2, 0]], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_share_what_was_and_differ_in_what_comes(family: str) -> None:
    pipe = build(family)
    state = started(pipe, family)
    pipe.step(state)
    pipe.gather(state, [1, 1], [None, 99])
    assert torch.equal(state.latents[0], state.latents[1])
    latents = finish(pipe, state)
    assert not torch.allclose(latents[0], latents[1], atol=0.1)
    assert torch.allclose(latents[0], finish(pipe, started(pipe, family))[1], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_draws_the_same(family: str, tmp_path: Path) -> None:
    pipe, labels = build(family), labels_of(family)
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    loaded: Any = load_pipeline(tmp_path, dtype="float32", device="cpu")
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is type(pipe)
    assert torch.equal(draw(loaded, labels, SEEDS), draw(pipe, labels, SEEDS))


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16(family: str) -> None:
    pipe = build(family).to(torch.bfloat16)
    images = pipe(labels_of(family), output_type="pt").images
    assert images.dtype == torch.float32 and bool(images.isfinite().all())
    assert draw(pipe, labels_of(family), SEEDS).dtype == torch.bfloat16


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_in_every_form(family: str) -> None:
    pipe, label = build(family), labels_of(family)[0]
    forms = {form: pipe(label, output_type=form, generator=torch.Generator().manual_seed(0)).images
             for form in ("pt", "np", "pil")}  # fmt: skip
    height, width = forms["pt"].shape[-2:]
    assert forms["pt"].min() >= 0 and forms["pt"].max() <= 1
    assert forms["np"].shape == (1, height, width, 3)
    assert forms["pil"][0].size == (width, height)
    with pytest.raises(ConfigError, match="`output_type` is 'jpg'; allowed: pil"):
        pipe(label, output_type="jpg")


@pytest.mark.parametrize("family", FAMILIES)
def test_no_step_after_the_last(family: str) -> None:
    pipe = build(family)
    state = started(pipe, family)
    finish(pipe, state)
    assert state.tokens == sum(state.schedule.token_counts) * 3 * 2
    with pytest.raises(ConfigError, match="All scales are drawn"):
        pipe.step(state)
