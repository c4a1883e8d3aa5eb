"""The training loop that all zoo recipes share: resumable, seeded, with a progress bar."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from gensift.average import Average

LogRow = dict[str, float]
Loss = Callable[[int], tuple[Tensor, LogRow]]
"""Step index -> (scalar loss, figures to log). All randomness derives from the step index, so that
a resumed run sees the batches that an undisturbed one would have seen."""


def warmup_then_decay(warmup: float, decay_from: float) -> Callable[[float], float]:
    """Learning-rate factor over progress in [0, 1]: linear up, constant, linear down to 0.02."""

    def factor(progress: float) -> float:
        if progress < warmup:
            return max(progress / warmup, 0.01)
        if progress < decay_from:
            return 1.0
        return max(1.0 - (progress - decay_from) / (1.0 - decay_from), 0.02)

    return factor


@dataclass
class TrainingRun:
    """A resumable optimisation.

    Attributes:
        folder: holds `checkpoint.pt` (read with `weights_only=True`) and `log.jsonl`.
        steps: total number of optimiser steps.
        modules: what is trained, by name.
        optimizers: their learning rates are scaled together by `schedule`.
        schedule: learning-rate factor over progress in [0, 1].
        average_decay: decay of the parameter average; the average is what gets published.
        save_every: steps between checkpoints.
        clip: largest gradient norm.
    """

    folder: Path
    steps: int
    modules: Mapping[str, nn.Module]
    optimizers: Sequence[torch.optim.Optimizer]
    schedule: Callable[[float], float]
    average_decay: float = 0.999
    save_every: int = 250
    clip: float = 1.0
    _done: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self._average = Average(self.modules, self.average_decay)

    @property
    def checkpoint(self) -> Path:
        """Where the state is kept."""
        return self.folder / "checkpoint.pt"

    def run(self, loss_at: Loss) -> None:
        """Train to the end, continuing from the checkpoint if there is one.

        On return the modules hold the averaged parameters, in evaluation mode.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        bar = tqdm(total=self.steps, initial=self._done, desc=self.folder.name, unit="step")
        started = time.monotonic()
        for module in self.modules.values():
            module.train()
        while self._done < self.steps:
            figures = self._step(loss_at)
            bar.update()
            if self._done % 25 == 0:
                bar.set_postfix({key: f"{value:.4f}" for key, value in figures.items()})
                self._log(figures, time.monotonic() - started)
            if self._done % self.save_every == 0 or self._done == self.steps:
                self._save()
        bar.close()
        self._average.copy_to(self.modules)
        for module in self.modules.values():
            module.eval()

    def _step(self, loss_at: Loss) -> LogRow:
        factor = self.schedule(self._done / self.steps)
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss, figures = loss_at(self._done)
        loss.backward()
        parameters = [p for m in self.modules.values() for p in m.parameters()]
        norm = nn.utils.clip_grad_norm_(parameters, self.clip)
        if not math.isfinite(float(norm)):
            raise FloatingPointError(
                f"gradient is {float(norm)} at step {self._done}; lower the learning rate and "
                f"run again: training continues from {self.checkpoint}"
            )
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._done += 1
        self._average.update(self.modules, self._done)
        return figures

    def _log(self, figures: LogRow, seconds: float) -> None:
        row = {"step": self._done, "seconds": round(seconds, 1), **figures}
        with (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")

    def _save(self) -> None:
        state = {
            "done": self._done,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self._average.values,
        }
        aside = self.checkpoint.with_suffix(".tmp")
        torch.save(state, aside)
        aside.replace(self.checkpoint)

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._average.values = state["average"]
        self._done = state["done"]
