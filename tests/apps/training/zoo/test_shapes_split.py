"""The dense zoo model in blocks: equal to its teacher until trained; only stacks and FRN change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from apps.training.zoo import shapes_sit, shapes_split
from apps.training.zoo.flow_batches import flow_batch
from apps.training.zoo.shapes_bfm import BOUNDARIES
from apps.training.zoo.shapes_classes import LabelledLatents
from gensift.pipelines.bfm.macs import sit_macs


@pytest.fixture
def dense() -> Any:
    model = shapes_sit.build_transformer()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def data() -> LabelledLatents:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).half()

    return LabelledLatents(
        noise(24, 16, 8, 8), noise(24, 16, 8, 8).abs() / 9, torch.arange(24), noise(24, 16, 128)
    )


@torch.no_grad()
def test_untrained_it_equals_the_dense_model(dense: Any, data: LabelledLatents) -> None:
    model = shapes_split.build(dense).eval()
    batch = flow_batch(0, data, BOUNDARIES, 8)
    for segment, rows in enumerate(torch.arange(8).chunk(4)):
        given = (batch.latents[rows], batch.sigma[rows], batch.labels[rows])
        assert torch.equal(model(*given, segment=segment).sample, dense(*given).sample)


def test_it_costs_what_was_aimed_at(dense: Any) -> None:
    """24 steps: 4 with the trunk, 20 with FRN; 1.5 times fewer MACs than the dense model's."""
    macs = shapes_split.build(dense).step_macs
    assert 24 * sit_macs(dense.config).full / (4 * macs.full + 20 * macs.approximated) > 1.5


def test_training_leaves_the_trunk_alone_and_resumes(
    dense: Any, data: LabelledLatents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module: module)
    monkeypatch.setattr(shapes_split, "encode_classes", lambda cache: data)
    monkeypatch.setattr(
        shapes_split, "load_pipeline", lambda name, **given: SimpleNamespace(transformer=dense)
    )
    monkeypatch.setattr(
        shapes_split, "flow_batch", lambda step, data, edges: flow_batch(step, data, edges, 8)
    )
    before = {n: v.clone() for n, v in shapes_split.build(dense).state_dict().items()}
    first = shapes_split.train(tmp_path, 2).transformer.state_dict()
    changed = {name for name, value in first.items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed} == {"frn", "segments"}
    again = shapes_split.train(tmp_path, 2).transformer.state_dict()
    assert all(torch.equal(again[name], value) for name, value in first.items())
