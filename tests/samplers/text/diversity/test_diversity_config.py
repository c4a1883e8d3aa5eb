"""Options that are refused, and what the error says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.diversity import diversified, make

from gensift.config import describe, from_dict, to_dict
from gensift.errors import ConfigError
from samplers.text.diversity.config import DiversityConfig
from samplers.text.diversity.diversify import Diversifier


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("strategy", "od"),
        ("alpha", -1.0),
        ("alpha", float("nan")),
        ("pooling", "min"),
        ("features", "logits"),
        ("top_k", -1),
        ("gate", "open"),
        ("gate_threshold", 1.5),
        ("on_duplicate", "raise"),
        ("quality", "maybe"),
    ],
)
def test_bad_values_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{option}`"):
        DiversityConfig(**{option: value})


def test_a_gate_needs_a_quality() -> None:
    with pytest.raises(ConfigError, match="turn it on"):
        DiversityConfig(gate="confidence", quality=False)


def test_round_trip_and_help() -> None:
    config = DiversityConfig(strategy="dpp", top_k=5)
    assert from_dict(DiversityConfig, to_dict(config)) == config
    assert all(row.help for row in describe(DiversityConfig))


def test_embeddings_are_asked_for_when_missing() -> None:
    with pytest.raises(ConfigError, match="pass the model's as `embeddings`"):
        Diversifier(DiversityConfig(features="embeddings"))


def test_dpp_refuses_a_history() -> None:
    with pytest.raises(ConfigError, match="in one batch"):
        diversified(make(), torch.zeros(0, 40), strategy="dpp")
