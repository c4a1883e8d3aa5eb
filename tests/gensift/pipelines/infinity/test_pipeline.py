"""Prompts of any length, with what to keep away from, alone or together."""

from typing import Any

import pytest
import torch
from helpers.next_scale import build, draw, infinity_transformer, labels_of

from gensift.errors import ConfigError
from gensift.pipelines.infinity.schedules import schedule_for

FAMILIES = ("infinity", "infinity-patches")
NEGATIVES = ["blue", "two circle left of a square", "a"]
SEEDS = [1, 2, 3]


@torch.no_grad()
def test_padding_is_not_read() -> None:
    """Texts of several lengths in one batch give what each gives alone."""
    pipe = build("infinity")
    transformer, schedule = pipe.transformer, pipe.schedule()
    texts = pipe.encode_text(labels_of("infinity"))
    assert len({len(text) for text in texts}) == 3
    inputs = [torch.randn(1, 6, *grid) for grid in schedule.scales[1:]]
    together = transformer.conditions(texts)
    assert together.text_mask is not None
    for at, text in enumerate(texts):
        alone = transformer.conditions([text])
        assert alone.text_mask is None
        wanted = transformer(inputs, schedule, alone, torch.tensor([0]))
        found = transformer(inputs, schedule, together, torch.tensor([at]))
        assert torch.allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_negative_prompts_of_several_lengths_together_and_alone(family: str) -> None:
    pipe, prompts = build(family), labels_of(family)
    batch = draw(pipe, prompts, SEEDS, negative_prompt=NEGATIVES)
    for at, seed in enumerate(SEEDS):
        alone = draw(pipe, prompts[at], [seed], negative_prompt=NEGATIVES[at])
        assert torch.allclose(alone[0], batch[at], atol=1e-5)
    assert not torch.allclose(batch, draw(pipe, prompts, SEEDS), atol=1e-2)
    shared = draw(pipe, prompts, SEEDS, negative_prompt="blue")
    assert torch.allclose(shared[0], batch[0], atol=1e-5)


def test_guidance_and_temperature_per_scale() -> None:
    pipe, prompt = build("infinity"), "a red circle"
    plain = draw(pipe, prompt, [0], guidance_scale=2.0, temperature=0.7)
    listed = draw(pipe, prompt, [0], guidance_scale=[2.0] * 4, temperature=[0.7] * 4)
    assert torch.equal(plain, listed)
    # The unconditional branch is left when no later scale needs it.
    early = draw(pipe, prompt, [0], guidance_scale=[9.0, 9.0, 1.0, 1.0], temperature=5.0)
    assert not torch.equal(early, draw(pipe, prompt, [0], guidance_scale=9.0, temperature=5.0))
    state = pipe.start(prompt, guidance_scale=[2.0, 1.0, 1.0, 1.0])
    pipe.step(state)
    pipe.step(state)
    assert state.cache.branches == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": " "}, "A prompt is empty"),
        ({"num_images_per_prompt": 0}, "`num_images_per_prompt` is 0"),
        ({"guidance_scale": [1.0, 2.0]}, "`guidance_scale` has 2 numbers; give one, or .* 4"),
        ({"temperature": 0.0}, "`temperature` is 0.0"),
        ({"height": 64}, r"no pictures of 64x64 pixels .* nearest that it draws is 12x8"),
        ({"negative_prompt": ["a", "b"]}, "2 negative prompts were given for 1 prompts"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("infinity")(**{"prompt": "a", **options})


def test_sizes_of_the_released_models() -> None:
    pipe = build("infinity")
    pipe.register_to_config(scales=None)
    # Two pixels a token in this tiny tokenizer.
    assert pipe.schedule().ends[-1] == 10521
    assert pipe.schedule(64, 64).ends[-1] == schedule_for("0.25M").ends[-1]
    assert pipe.schedule(144, 108).scales[-1] == (72, 54)


@torch.no_grad()
def test_a_text_too_long_is_refused() -> None:
    with pytest.raises(ConfigError, match="A prompt has 13 text tokens; this model reads 1 to 12"):
        infinity_transformer().conditions([torch.zeros(13, 16)])
