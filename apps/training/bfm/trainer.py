"""The loop over the steps of all stages; resumable, shared by processes, averaged.

All randomness of a step derives from (seed, stage, step, process): a run that was interrupted
anywhere ends with the weights of an undisturbed one.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from apps.training.bfm.batches import FlowBatch, make_batch
from apps.training.bfm.checkpoint import State
from apps.training.bfm.encoded import EncodedPictures
from apps.training.bfm.options import BFMTraining
from apps.training.bfm.order import RowOrder
from apps.training.bfm.stages import Stage
from gensift.average import Average
from gensift.errors import ConfigError
from gensift.randomness import derived_seed

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG = "log.jsonl"
_LOG_EVERY = 100
_RECENT = 50
"""Steps that reported figures are the mean of."""

OnStep = Callable[[int], None]
"""Told how many steps are done: those of an earlier run at first, then each."""


def check_batches(config: BFMTraining, segments: int, processes: int) -> None:
    """Refuse batches that cannot be shared out.

    Raises:
        ConfigError: a process gets no whole number of rows, or fewer than there are segments.
    """
    sizes = {"batch_size": config.batch_size, "frn_batch_size": config.frn_batch_size}
    if not (config.steps or config.joint_steps):
        del sizes["batch_size"]
    if not config.frn_steps:
        del sizes["frn_batch_size"]
    problems = []
    for name, size in sizes.items():
        share, rest = divmod(size, processes)
        micro = min(config.micro_batch or share, share)
        if rest:
            problems.append(f"`{name}` is {size}, no multiple of {processes} processes")
        elif micro < segments:
            problems.append(
                f"`{name}` gives {micro} pictures at once for {segments} segments; each segment "
                "needs one"
            )
        elif share % micro:
            problems.append(
                f"`micro_batch` is {micro}, which does not divide the {share} pictures that "
                f"`{name}` gives a process"
            )
    if problems:
        raise ConfigError.from_problems("BFMTraining", problems)


class Trainer:
    """Trains a model through its stages.

    Args:
        transformer: the model; on return it holds the averaged weights.
        stages: in order.
        data: encoded pictures.
        folder: of checkpoint and log.
        identity: that a checkpoint must be of.
        config: how.
        accelerator: an `accelerate.Accelerator`.
    """

    def __init__(
        self,
        transformer: Any,
        stages: Sequence[Stage],
        data: EncodedPictures,
        folder: Path,
        identity: str,
        config: BFMTraining,
        accelerator: Accelerator,
    ) -> None:
        self.transformer, self.stages, self.data = transformer, stages, data
        self.folder, self.identity, self.config = folder, identity, config
        self.accelerator = accelerator
        self.finished: dict[str, dict[str, float]] = {}
        if config.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()

    def run(self, on_step: OnStep = lambda count: None) -> dict[str, dict[str, float]]:
        """Train to the end, going on from the checkpoint if there is one.

        Returns:
            Of each stage, by its name, how many steps it took, and the mean figures of the last.

        Raises:
            ConfigError: a checkpoint does not fit, or a gradient is not finite.
        """
        state = State.read(self.folder, self.identity)
        passed = [stage.name for stage in self.stages].index(state.stage) if state else 0
        if state is not None:
            self.finished = state.finished
            on_step(sum(stage.steps for stage in self.stages[:passed]))
        for stage in self.stages[passed:]:
            loop = _StageLoop(self, stage, state)
            state = None
            self.finished[stage.name] = loop.to_the_end(on_step)
            del loop
            self.accelerator.free_memory()
        self.transformer.requires_grad_(False).eval()
        return self.finished


class _StageLoop:
    """The steps of one stage."""

    def __init__(self, trainer: Trainer, stage: Stage, state: State | None) -> None:
        config, accelerator = trainer.config, trainer.accelerator
        self.trainer, self.stage, self.config = trainer, stage, config
        self.accelerator = accelerator
        self.modules: Mapping[str, nn.Module] = {"transformer": trainer.transformer} | (
            {"projection": stage.trained["projection"]} if "projection" in stage.trained else {}
        )
        if state is not None:
            for name, module in self.modules.items():
                module.load_state_dict(state.modules[name])
        stage.loss.requires_grad_(False).train()
        for module in stage.trained.values():
            module.requires_grad_(True)
        self.order = RowOrder(len(trainer.data), stage.batch_size, config.seed, stage.name)
        # As published: a constant rate, no decay of weights.
        optimizer = torch.optim.AdamW(stage.parameters, lr=config.learning_rate, weight_decay=0.0)
        self.loss, self.optimizer = accelerator.prepare(stage.loss, optimizer)
        self.average = Average(stage.trained, config.ema_decay)
        self.done = 0
        self.recent: deque[list[float]] = deque(maxlen=_RECENT)
        if state is not None:
            self._take(state)

    def _take(self, state: State) -> None:
        self.optimizer.load_state_dict(state.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate
        self.average.values = {
            key: value.to(self.accelerator.device) for key, value in state.average.items()
        }
        self.done = state.done
        self.recent.extend(state.recent)

    def to_the_end(self, on_step: OnStep) -> dict[str, float]:
        on_step(self.done)
        started = time.monotonic()
        while self.done < self.stage.steps:
            self.recent.append(self._step())
            self.done += 1
            self.average.update(self.stage.trained, self.done)
            on_step(1)
            if self.done % self.config.save_every == 0 or self.done == self.stage.steps:
                self._save()
            if self.done % _LOG_EVERY == 0:
                self._log(time.monotonic() - started)
        self.average.copy_to(self.stage.trained)
        return {"steps": self.done, **self._figures()}

    def _step(self) -> list[float]:
        """One optimiser step; returns its figures, those of all processes together."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        rows = self.order.at(self.done)[rank::world]
        seed = derived_seed([self.config.seed, self.done, rank], self.stage.name)
        generator = torch.Generator().manual_seed(seed)
        pieces = rows.split(self.config.micro_batch or len(rows))
        figures = torch.zeros(2, device=self.accelerator.device)
        for number, piece in enumerate(pieces):
            is_last = number == len(pieces) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.loss):
                parts = torch.stack(self._parts(self._batch(piece, generator)))
                weighted = parts @ parts.new_tensor(self.stage.weights)
                self.accelerator.backward(weighted / len(pieces))
            figures += parts.detach() / len(pieces)
        norm = self.accelerator.clip_grad_norm_(self.stage.parameters, self.config.clip)
        # Gradients are those of all processes by now, so that all of them stop, or none.
        length, shown = float(norm), self.accelerator.reduce(figures, "mean").tolist()
        if not math.isfinite(length):
            raise ConfigError(
                f"The gradient is {length} at step {self.done} of stage {self.stage.name!r}; lower "
                "--learning-rate and run the same command again: training goes on from its last "
                "checkpoint."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return [float(figure) for figure in shown]

    def _batch(self, rows: Tensor, generator: torch.Generator) -> FlowBatch:
        transformer = self.trainer.transformer
        batch = make_batch(
            *self.trainer.data.draw(rows, generator),
            transformer.boundaries,
            null_label=transformer.null_label,
            label_dropout=self.config.label_dropout,
            generator=generator,
        )
        return batch.to(self.accelerator.device)

    def _parts(self, batch: FlowBatch) -> tuple[Tensor, Tensor]:
        device, is_mixed = self.accelerator.device.type, self.config.mixed_precision == "bf16"
        with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
            parts: tuple[Tensor, Tensor] = self.loss(*self.stage.arguments(batch))
        return parts

    def _figures(self) -> dict[str, float]:
        means = [sum(column) / len(self.recent) for column in zip(*self.recent, strict=True)]
        return dict(zip(self.stage.figures, means, strict=False))

    def _log(self, seconds: float) -> None:
        if self.accelerator.is_main_process:
            row = {"stage": self.stage.name, "step": self.done, "seconds": round(seconds, 1)}
            with (self.trainer.folder / LOG).open("a") as log:
                log.write(json.dumps(row | self._figures()) + "\n")

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        State(
            identity=self.trainer.identity,
            stage=self.stage.name,
            done=self.done,
            modules={name: module.state_dict() for name, module in self.modules.items()},
            optimizer=self.optimizer.state_dict(),
            average=self.average.values,
            recent=list(self.recent),
            finished=self.trainer.finished,
        ).write(self.trainer.folder)
