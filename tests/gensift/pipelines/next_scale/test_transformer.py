"""What a cache makes cheaper it must not change, and published sizes have published counts."""

from typing import Any

import pytest
import torch
from helpers.next_scale import (
    FAMILIES,
    build,
    conditions_of,
    labels_of,
    random_inputs,
    schedule_of,
    var_transformer,
)
from torch import Tensor

from gensift.pipelines.infinity.transformer import InfinityTransformer
from gensift.pipelines.var.pipeline import VARPipeline
from gensift.pipelines.var.transformer import VARTransformer

ROWS = torch.tensor([0, 1, 1, 2])


def both(pipe: Any, labels: list[Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Logits per scale: with a cache, and in one pass without."""
    schedule, conditions = schedule_of(pipe), conditions_of(pipe, labels)
    inputs = random_inputs(pipe, len(ROWS))
    cache = pipe.transformer.make_cache(1, len(ROWS), schedule.ends[-1])
    cached = []
    for k, count in enumerate(schedule.token_counts):
        seen = [] if k == 0 else [inputs[k - 1]]
        cached.append(
            pipe.transformer(seen, schedule, conditions, ROWS, scale_index=k, cache=cache)
        )
        cache.advance(count)
    whole = pipe.transformer(inputs, schedule, conditions, ROWS)
    return cached, list(whole.split(schedule.token_counts, dim=1))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_logits_are_those_of_one_pass(family: str) -> None:
    cached, whole = both(build(family), labels_of(family))
    for scale, (one, other) in enumerate(zip(cached, whole, strict=True)):
        assert one.std() > 0.1, scale
        assert torch.allclose(one, other, atol=1e-4), scale
    # Each condition and each place has logits of its own.
    assert not torch.allclose(cached[-1][0], cached[-1][3], atol=1e-2)
    assert not torch.allclose(cached[-1][:, 0], cached[-1][:, 1], atol=1e-2)


@torch.no_grad()
def test_attention_without_cosine_too() -> None:
    pipe = build("var")
    other = VARPipeline(var_transformer(cosine=False), pipe.vae)
    cached, whole = both(other, labels_of("var"))
    assert torch.allclose(cached[-1], whole[-1], atol=1e-4)
    assert not torch.allclose(cached[-1], both(pipe, labels_of("var"))[0][-1], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_scale_sees_itself_and_coarser_ones_alone(family: str) -> None:
    pipe = build(family)
    schedule, conditions = schedule_of(pipe), conditions_of(pipe, labels_of(family))
    inputs = random_inputs(pipe, len(ROWS))
    before = pipe.transformer(inputs, schedule, conditions, ROWS)
    inputs[-2] += 1
    after = pipe.transformer(inputs, schedule, conditions, ROWS)
    unchanged = schedule.ends[-3]
    assert torch.equal(before[:, :unchanged], after[:, :unchanged])
    changed = (before - after).abs().amax(-1)[:, unchanged:]
    assert bool((changed > 1e-4).all())


# Published tables count in round numbers, and differently.
PUBLISHED = [
    (VARTransformer, {"num_layers": 16, "num_attention_heads": 16}, 310e6),
    (VARTransformer, {"num_layers": 20, "num_attention_heads": 20}, 600e6),
    (VARTransformer, {"num_layers": 24, "num_attention_heads": 24}, 1.03e9),
    (VARTransformer, {"num_layers": 30, "num_attention_heads": 30}, 2.0e9),
    (
        VARTransformer,
        {
            "num_layers": 36,
            "num_attention_heads": 36,
            "has_shared_modulation": True,
            "scales": (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
        },
        2.35e9,
    ),
    (InfinityTransformer, {}, 2.2e9),
    (
        InfinityTransformer,
        {"num_layers": 40, "num_attention_heads": 28, "token_channels": 56},
        8.3e9,
    ),
]


@pytest.mark.parametrize(("model", "config", "count"), PUBLISHED)
def test_published_sizes_have_published_counts(
    model: Any, config: dict[str, Any], count: float
) -> None:
    with torch.device("meta"):
        built = model(**config)
    found = sum(parameter.numel() for parameter in built.parameters())
    assert found == pytest.approx(count, rel=0.05)
