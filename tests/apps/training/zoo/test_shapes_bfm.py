"""The recipes of shapes-bfm and shapes-sit: their cost, resuming, what they publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import gensift
from apps.training.zoo import shapes_bfm, shapes_sit
from apps.training.zoo.flow_batches import flow_batch
from apps.training.zoo.shapes_bfm import build_transformer
from apps.training.zoo.shapes_classes import CLASSES, LabelledLatents
from apps.training.zoo.training import TrainingRun
from gensift.pipelines.bfm.macs import bfm_macs, sit_macs

MIB = 2**20


@pytest.fixture
def data() -> LabelledLatents:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).half()

    return LabelledLatents(
        noise(24, 16, 8, 8), noise(24, 16, 8, 8).abs() / 9, torch.arange(24), noise(24, 16, 128)
    )


@pytest.fixture
def small(data: LabelledLatents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes with small batches of made-up latents, and without a compiler."""
    monkeypatch.setattr(torch, "compile", lambda module: module)
    for recipe in (shapes_bfm, shapes_sit):
        monkeypatch.setattr(recipe, "encode_classes", lambda cache: data)
        monkeypatch.setattr(
            recipe, "flow_batch", lambda step, data, edges: flow_batch(step, data, edges, 8)
        )


def disturbed(module: torch.nn.Module) -> Any:
    """What starts at zero would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def test_both_models_cost_the_same() -> None:
    full = bfm_macs(build_transformer().config).full
    assert full == pytest.approx(sit_macs(shapes_sit.build_transformer().config).full, rel=0.05)


@pytest.mark.parametrize("recipe", [shapes_bfm, shapes_sit])
def test_what_is_published_is_small_and_loads(recipe: Any, small: None, tmp_path: Path) -> None:
    finished = recipe.publish(tmp_path, 1)
    weights = sum(file.stat().st_size for file in finished.rglob("*.safetensors"))
    assert weights < 8 * MIB
    assert not [f for f in finished.rglob("*.json") if "_name_or_path" in f.read_text()]
    pipe = gensift.load_pipeline(finished, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe) is gensift.BFMPipeline and len(pipe.config.classes) == len(CLASSES)
    images = pipe("an orange cross", **gensift.call_defaults(pipe)).images
    assert images[0].size == (64, 64)
    assert not [name for name, _ in pipe.transformer.named_modules() if "projection" in name]


@pytest.mark.parametrize("recipe", [shapes_bfm, shapes_sit])
def test_training_goes_on_where_it_was_interrupted(
    recipe: Any, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = recipe.train(tmp_path / "straight", 2).transformer.state_dict()
    whole, inner = TrainingRun._step, TrainingRun._save

    def interrupted(run: TrainingRun, loss: Any) -> Any:
        if run._done == 1:
            inner(run)
            raise KeyboardInterrupt
        return whole(run, loss)

    monkeypatch.setattr(TrainingRun, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recipe.train(tmp_path / "interrupted", 2)
    monkeypatch.setattr(TrainingRun, "_step", whole)
    again = recipe.train(tmp_path / "interrupted", 2).transformer.state_dict()
    assert all(torch.equal(again[name], value) for name, value in straight.items())


def test_the_second_stage_changes_the_approximation_alone(
    data: LabelledLatents, small: None, tmp_path: Path
) -> None:
    model = disturbed(build_transformer())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shapes_bfm.train_approximation(model, data, tmp_path, 3)
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed and all(name.startswith("frn.") for name in changed)


def test_the_third_stage_leaves_the_trunk_alone(
    data: LabelledLatents, small: None, tmp_path: Path
) -> None:
    model = disturbed(build_transformer())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    shapes_bfm.train_jointly(model, data, tmp_path, 3)
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert {name.split(".")[0] for name in changed} == {"frn", "segments"}
