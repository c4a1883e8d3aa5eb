"""Parameters and multiply-accumulates: the published figures, and an independent count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.blockwise import bfm, sit

from gensift.pipelines.bfm.blocks import Attention
from gensift.pipelines.bfm.macs import bfm_macs, parameter_counts, sit_macs, split_macs
from gensift.pipelines.bfm.sit import SiTTransformer2DModel
from gensift.pipelines.bfm.sizes import BFM_SIZES, SIT_SIZES
from gensift.pipelines.bfm.split import split_dense
from gensift.pipelines.bfm.transformer import BFMTransformer2DModel


def of_size(letter: str) -> tuple[Any, Any]:
    with torch.device("meta"):
        return (
            BFMTransformer2DModel(**BFM_SIZES[letter]),
            SiTTransformer2DModel(**SIT_SIZES[letter]),
        )


def test_the_published_size() -> None:
    """Millions of parameters, from the table of the method page."""
    counts = parameter_counts(of_size("XL")[0])
    published = {
        "trunk": 365.3,
        "segment": 93.0,
        "segments": 557.9,
        "shared": 8.0 + 15.9 + 5.3 + 2.8,
        "frn": 95.6,
        "full_step": 490.3,
        "frn_step": 221,
    }
    for name, millions in published.items():
        assert counts[name] / 1e6 == pytest.approx(millions, rel=0.01)
    # The published total counts the 8.1 M of a head that only training needs, and no FRN.
    assert (counts["total"] - counts["frn"]) / 1e6 == pytest.approx(963.4 - 8.1, rel=0.01)


def test_the_published_compute() -> None:
    """1e9 multiply-accumulates of one evaluation at 256 tokens."""
    model, dense = of_size("XL")
    macs = bfm_macs(model.config)
    assert macs.trunk / 1e9 == pytest.approx(84.6, rel=0.01)
    assert macs.full / 1e9 == pytest.approx(114.6, rel=0.01)
    assert macs.approximated / 1e9 == pytest.approx(46.9, rel=0.01)
    assert sit_macs(dense.config).full / 1e9 == pytest.approx(118.6, rel=0.01)


@pytest.mark.parametrize("letter", BFM_SIZES)
def test_a_full_step_costs_what_the_dense_model_of_the_same_letter_does(letter: str) -> None:
    model, dense = of_size(letter)
    assert bfm_macs(model.config).full == pytest.approx(sit_macs(dense.config).full, rel=0.06)


class Counter:
    """Multiply-accumulates of every linear layer and attention that runs."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.macs = 0
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(self.linear)
            elif isinstance(module, Attention):
                module.register_forward_hook(self.attention)

    def linear(self, layer: Any, _: Any, output: torch.Tensor) -> None:
        self.macs += output.numel() * layer.in_features

    def attention(self, _: Any, __: Any, output: torch.Tensor) -> None:
        rows, tokens, width = output.shape
        self.macs += 2 * rows * tokens * tokens * width

    def of(self, model: Any, **arguments: Any) -> int:
        self.macs = 0
        shape = (1, model.config.in_channels, *[model.config.sample_size] * 2)
        output = model(torch.zeros(shape), 0.5, torch.tensor([0]), **arguments)
        # The last layer is a function, which no hook sees.
        self.macs += output.sample.numel() * model.config.hidden_size
        return self.macs


def test_the_counter_agrees_with_what_runs() -> None:
    dense = sit()
    assert sit_macs(dense.config).full == Counter(dense).of(dense)
    split = split_dense(dense, 2, 1, frn_depth=2, adaln_rank=8)
    for model, macs in ((bfm(frn_depth=2), bfm_macs), (split, split_macs)):
        planned, counter = macs(model.config), Counter(model)
        features = model(torch.zeros(1, 4, 8, 8), 0.5, torch.tensor([0])).features
        assert planned.full == counter.of(model)
        assert planned.stack == counter.of(model, features=features)
        weight = torch.ones(1)
        assert planned.approximated == counter.of(model, features=features, residual_weight=weight)


def test_a_run_is_the_sum_of_its_parts() -> None:
    macs = bfm_macs(bfm().config)
    run = macs.of_run({"trunk": 2, "frn": 3, "stack": 5})
    assert run == 2 * macs.full + 3 * macs.approximated
