"""Whatever policies are combined: decoding ends, in time, and leaves no mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.llada import EOS, MASK, NEWLINE, WORDS, Oracle, decoded, pipeline, transformer
from hypothesis import given, settings
from hypothesis import strategies as st

from gensift.errors import ConfigError
from samplers.text.config import TextDecodeConfig
from samplers.text.decode import TextDecode
from samplers.text.odd import ODD

PIPES: dict[str, Any] = {
    "oracle": pipeline(Oracle()),
    "shifted oracle": pipeline(Oracle(seed=1), shift_logits=True),
    "short": pipeline(Oracle(vocabulary=6, seed=2)),  # ends are frequent
    "layers": pipeline(transformer(2)),
    "shifted layers": pipeline(transformer(2, seed=1), shift_logits=True),
}
PROMPT = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
CONFIGS = st.fixed_dictionaries(
    {
        "window": st.sampled_from(["blocks", "adablock", "sliding"]),
        "kv": st.sampled_from(["none", "prefix", "dual", "elastic"]),
        "commit": st.sampled_from(["auto", "quota", "threshold", "factor", "threshold-or-quota"]),
        "confidence": st.sampled_from(["probability", "margin", "entropy", "random"]),
        "attention": st.sampled_from(["full", "full", "block-causal", "context-causal"]),
        "end_of_text": st.sampled_from(["allow", "late", "ban"]),
        "factor": st.floats(0, 3),
        "sliding_length": st.integers(1, 5),
        "max_rows": st.one_of(st.none(), st.integers(1, 3)),
        "adablock": st.fixed_dictionaries(
            {
                "threshold": st.floats(0, 0.2),
                "share": st.floats(0, 1),
                "shortest": st.integers(1, 4),
                "delimiters": st.sampled_from([[], [NEWLINE], [NEWLINE, 7, 9, 20], [EOS]]),
            }
        ),
        "elastic": st.fixed_dictionaries(
            {
                "gamma": st.sampled_from([-1.0, 0.9, 2.0]),
                "track": st.integers(1, 20),
                "drift_axis": st.sampled_from(["keys", "heads"]),
                "all_masks": st.booleans(),
                "refresh_every": st.one_of(st.none(), st.integers(1, 3)),
            }
        ),
    }
)
CALLS = st.fixed_dictionaries(
    {
        "gen_length": st.integers(1, 9),
        "block_length": st.one_of(st.none(), st.integers(1, 11)),
        "num_inference_steps": st.integers(1, 12),
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 3.0]),
        "guidance_scale": st.sampled_from([1.0, 0.0, 1.7]),
        "threshold": st.one_of(st.none(), st.sampled_from([0.0, 0.2, 0.9, 1.0])),
        "eos_early_stop": st.booleans(),
    }
)
DIVERSITY = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.0, 4.0, 64.0]),
        "confidence_source": st.sampled_from(["pushed", "clean"]),
        "history": st.sampled_from(["steps", "final"]),
        "strategy": st.sampled_from(["odd", "random-probe", "none"]),
    }
)


def is_allowed(config: dict[str, Any], call: dict[str, Any], pipe: str) -> bool:
    """Whether the combination means something."""
    try:
        TextDecodeConfig(**config)
    except ConfigError:
        return False
    if "layers" not in pipe and (config["kv"] != "none" or config["attention"] != "full"):
        return False
    if config["attention"] != "full" and call["block_length"] is None:
        return False
    has_threshold = call["threshold"] is not None
    needs = config["commit"] in ("threshold", "threshold-or-quota")
    refuses = config["commit"] in ("quota", "factor")
    return not (needs and not has_threshold) and not (refuses and has_threshold)


def mended(config: dict[str, Any], call: dict[str, Any], pipe: str) -> None:
    """Change what clashes, so that most of what is drawn is decoded."""
    if config["commit"] in ("threshold", "threshold-or-quota") and call["threshold"] is None:
        call["threshold"] = 0.4
    if config["commit"] in ("quota", "factor"):
        call["threshold"] = None
    if config["attention"] != "full":
        config["window"] = "blocks"
        call["block_length"] = call["block_length"] or 3
        config["kv"] = {"elastic": "dual"}.get(config["kv"], config["kv"])
    if config["kv"] in ("prefix", "dual") and config["window"] == "sliding":
        config["window"] = "adablock"
    if "layers" not in pipe:
        config["kv"], config["attention"] = "none", "full"
    compares = config["commit"] == "factor" or config["window"] == "adablock"
    if compares or call["threshold"] is not None:
        config["confidence"] = {"entropy": "margin", "random": "probability"}.get(
            config["confidence"], config["confidence"]
        )


def check(sampler: Any, pipe: Any, prompts: list[str], call: dict[str, Any], rows: int) -> None:
    blocks_of: list[int] = []
    tokens = decoded(pipe, sampler, prompts, on_step=lambda step: blocks_of.append(1), **call)
    length = call["gen_length"]
    assert tokens.shape == (rows, length)
    assert MASK not in tokens and int(tokens.min()) >= 0
    if sampler.config.end_of_text == "ban":
        assert EOS not in tokens
    again = sampler(pipe, prompts, **call)
    assert torch.equal(pipe.seen, tokens)
    branches = 1 if call["guidance_scale"] == 1 else 2
    blocks = -(-length // (call["block_length"] or length))
    # Each pass commits a token of each row that it runs.
    assert rows * branches <= again.cost.nfe <= rows * branches * (length + blocks)
    assert again.cost.nfe <= rows * branches * length


@pytest.mark.parametrize("name", PIPES)
@settings(max_examples=35, deadline=None, derandomize=True)
@given(
    prompts=st.lists(PROMPT, min_size=1, max_size=3),
    config=CONFIGS,
    call=CALLS,
    rows=st.integers(1, 3),
)
def test_every_combination_ends(
    name: str, prompts: list[str], config: dict[str, Any], call: dict[str, Any], rows: int
) -> None:
    mended(config, call, name)
    assert is_allowed(config, call, name)
    check(
        TextDecode(num_candidates=rows, **config), PIPES[name], prompts, call, len(prompts) * rows
    )


@pytest.mark.parametrize("name", ["oracle", "short", "shifted layers"])
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    prompts=st.lists(PROMPT, min_size=1, max_size=2),
    config=CONFIGS,
    call=CALLS,
    diversity=DIVERSITY,
    rows=st.integers(1, 4),
)
def test_every_combination_with_diversity_ends(
    name: str,
    prompts: list[str],
    config: dict[str, Any],
    call: dict[str, Any],
    diversity: dict[str, Any],
    rows: int,
) -> None:
    mended(config, call, name)
    sampler = ODD(num_candidates=rows, **config, **diversity)
    check(sampler, PIPES[name], prompts, call, len(prompts) * rows)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(config=CONFIGS, call=CALLS, name=st.sampled_from(sorted(PIPES)))
def test_what_is_not_allowed_is_refused_before_anything_runs(
    name: str, config: dict[str, Any], call: dict[str, Any]
) -> None:
    """A combination is either decoded or refused in one line."""
    if is_allowed(config, call, name):
        return
    ran: list[int] = []
    with pytest.raises((ConfigError, TypeError)) as caught:
        TextDecode(num_candidates=1, **config)(
            PIPES[name], "w1 w2", on_step=lambda step: ran.append(1), **call
        )
    assert "\n" not in str(caught.value) and not ran
