"""The training loop against an undisturbed run."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay


class Interrupted(Exception):
    pass


def make_run(folder: Path, steps: int = 12) -> tuple[nn.Linear, TrainingRun]:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    run = TrainingRun(
        folder,
        steps,
        {"model": model},
        [optimizer],
        warmup_then_decay(0.1, 0.5),
        average_decay=0.9,
        save_every=4,
    )
    return model, run


def loss_of(model: nn.Linear, stop_at: int | None = None):
    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        if step == stop_at:
            raise Interrupted
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(8, 3, generator=generator)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        return loss, {"loss": loss.item()}

    return loss_at


@pytest.mark.parametrize("stop_at", [1, 6, 8, 11])
def test_a_run_stopped_anywhere_ends_as_an_undisturbed_one(tmp_path: Path, stop_at: int) -> None:
    whole, run = make_run(tmp_path / "whole")
    run.run(loss_of(whole))

    first, run = make_run(tmp_path / "stopped")
    with pytest.raises(Interrupted):
        run.run(loss_of(first, stop_at))
    second, run = make_run(tmp_path / "stopped")
    run.run(loss_of(second))

    assert torch.equal(second.weight, whole.weight)
    assert torch.equal(second.bias, whole.bias)


def test_training_learns_and_publishes_the_average(tmp_path: Path) -> None:
    model, run = make_run(tmp_path, steps=300)
    run.run(loss_of(model))
    assert torch.allclose(model.weight, torch.ones(1, 3), atol=0.05)
    saved = torch.load(run.checkpoint, weights_only=True)
    assert torch.equal(saved["average"]["model.weight"], model.weight)
    assert not torch.equal(saved["modules"]["model"]["weight"], model.weight)


def test_a_gradient_that_is_not_finite_stops_with_advice(tmp_path: Path) -> None:
    model, run = make_run(tmp_path)

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        return model.weight.sum() * float("inf"), {"loss": 0.0}

    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        run.run(loss_at)


def test_the_rate_rises_stays_and_falls() -> None:
    factor = warmup_then_decay(0.1, 0.5)
    assert [factor(p) for p in (0.05, 0.1, 0.3, 0.5, 0.75, 1.0)] == pytest.approx(
        [0.5, 1.0, 1.0, 1.0, 0.5, 0.02]
    )
