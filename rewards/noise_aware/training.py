"""Self-distillation: teach a reward to see in an early estimate what it will say of the end.

The input is the estimate of a clean picture after step s, the label is the original reward's score
of the finished picture of the same trajectory. Steps are learned from clean to noisy, each phase
starting from what the one before has learned.

Source: TTSnap (arXiv 2511.22242) and its published training code for loss and curriculum. Ours: the
loss also weighs differences within a prompt, which is all that pruning asks for and which the plain
squared error hardly sees, because prompts differ more than the pictures of one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gensift.config import check, option
from gensift.errors import ConfigError
from rewards.noise_aware.recording import Recording
from rewards.noise_aware.reward import Scorer, check_base
from rewards.noise_aware.weights import (
    NoiseAwareWeights,
    SigmaAdapter,
    Storage,
    continue_from_cleaner,
    make_weights,
)
from rewards.protocol import reward_name

CHECKPOINT = "checkpoint.pt"
_RATES = {"sigma-adapter": 2e-3, "lora": 2e-3, "full": 3e-6}


@dataclass(frozen=True, kw_only=True)
class NoiseAwareTraining:
    """Options of the training of a noise-aware reward."""

    storage: Storage = option(
        "sigma-adapter",
        choices=("sigma-adapter", "lora", "full"),
        help="one adapter conditioned on sigma, one LoRA per step, or all weights per step",
    )
    rank: int = option(16, minimum=1, help="rank of the adapters")
    until: float = option(
        0.75,
        minimum=0.05,
        maximum=1,
        help="share of the loop that is trained; later estimates are clear",
    )
    steps_per_phase: int = option(
        400, minimum=1, help="optimiser steps per noise level (400 in the published code)"
    )
    joint_steps: int = option(
        0, minimum=0, help="optimiser steps over all noise levels after the curriculum"
    )
    batch_prompts: int = option(
        8, minimum=1, help="prompts per optimiser step, each with all its recorded images"
    )
    learning_rate: float | None = option(
        None, minimum=0, help="by default 2e-3 for adapters and 3e-6 for full weights"
    )
    within_prompt: float = option(
        1.0, minimum=0, help="weight of differences within a prompt in the loss; 0 as published"
    )
    held_out: float = option(
        0.1, minimum=0, maximum=0.9, help="share of the recorded prompts kept for the report"
    )
    seed: int = option(0, minimum=0, help="order of the batches and first values of adapters")
    save_every: int = option(100, minimum=1, help="optimiser steps between checkpoints")

    def __post_init__(self) -> None:
        check(self, [])


@dataclass(frozen=True)
class Phase:
    """Some optimiser steps on one noise level, or (None) on all of them."""

    step_index: int | None
    length: int


def phases(num_trained: int, config: NoiseAwareTraining) -> list[Phase]:
    """The curriculum: from the cleanest trained step to the noisiest, then all together."""
    found = [Phase(step, config.steps_per_phase) for step in reversed(range(num_trained))]
    return [*found, Phase(None, config.joint_steps)] if config.joint_steps else found


def split_prompts(recording: Recording, held_out: float) -> tuple[list[int], list[int]]:
    """Indices of the prompts to train on and of those held out, by wording.

    Equal prompts are never on both sides.

    Raises:
        ConfigError: one side would be empty.
    """
    wordings = list(dict.fromkeys(recording.prompts))
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(wordings), generator=generator).tolist()
    chosen = {wordings[i] for i in order[: round(held_out * len(wordings))]}
    sides: tuple[list[int], list[int]] = ([], [])
    for index, prompt in enumerate(recording.prompts):
        sides[prompt in chosen].append(index)
    if not sides[0] or (held_out > 0 and not sides[1]):
        raise ConfigError(
            f"{len(wordings)} different prompts cannot be split with held_out {held_out}; record "
            "more prompts."
        )
    return sides


def trainable_weights(reward: Any) -> dict[str, Tensor]:
    """The weights of a reward's network that its scores depend on, by name.

    Prompts are encoded once and without noise, so the weights that only they pass are left out.
    """
    check_base(reward)
    scorer = Scorer(reward, differentiable=True)
    named = scorer.parameters_by_name
    weights = {name: value.detach().requires_grad_() for name, value in named.items()}
    device = next(iter(named.values())).device
    score = scorer(torch.full((1, 3, 64, 64), 0.5, device=device), ["a"], weights).sum()
    if not score.requires_grad:
        raise ConfigError(f"{reward_name(reward)!r} is not differentiable; give another reward.")
    gradients = torch.autograd.grad(score, list(weights.values()), allow_unused=True)
    return {n: named[n] for n, g in zip(weights, gradients, strict=True) if g is not None}


class Student(nn.Module):
    """The reward with trainable noise-aware weights: estimates in, predicted final scores out."""

    def __init__(self, reward: Any, weights: NoiseAwareWeights) -> None:
        super().__init__()
        self.weights = weights
        # Kept out of the module tree: only the noise-aware weights are trained and saved.
        self._scorer = [Scorer(reward, differentiable=True)]

    def forward(self, pictures: Tensor, prompts: list[str], sigma: float) -> Tensor:
        """Scores float32 `(batch,)`."""
        scorer = self._scorer[0]
        scores: Tensor = scorer(
            pictures, prompts, self.weights.applied(scorer.parameters_by_name, sigma)
        )
        return scores


def distillation_loss(predicted: Tensor, label: Tensor, within_prompt: float) -> Tensor:
    """Squared error, plus that of the deviations from each prompt's mean.

    Args:
        predicted: float `(prompts, images)`, in units of the labels' standard deviation.
        label: the same.
        within_prompt: weight of the second part.
    """
    error = predicted - label
    centred = error - error.mean(1, keepdim=True)
    return error.square().mean() + within_prompt * centred.square().mean()


def train(
    reward: Any,
    recording: Recording,
    folder: Path,
    config: NoiseAwareTraining,
    *,
    accelerator: Any = None,
    on_step: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> NoiseAwareWeights:
    """Train noise-aware weights for `reward`; goes on from `folder`'s checkpoint if there is one.

    Args:
        reward: the original, with `model` and `differentiable`.
        recording: with final scores of this reward.
        folder: holds the checkpoint.
        config: how.
        accelerator: an `accelerate.Accelerator`; None makes one.
        on_step: told after each optimiser step (done, total, loss).

    Raises:
        ConfigError: the reward is not trainable, the recording does not fit, or the checkpoint is
            of another configuration.
    """
    from accelerate import Accelerator

    accelerator = accelerator or Accelerator()
    torch.manual_seed(config.seed)
    trained = max(1, min(recording.num_steps - 1, round(config.until * recording.num_steps)))
    base = trainable_weights(reward)
    weights = make_weights(config.storage, base, recording.sigmas[:trained], config.rank)
    rate = _RATES[config.storage] if config.learning_rate is None else config.learning_rate
    run = _Run(reward, weights, recording, folder, config, rate, accelerator)
    run.to_the_end(phases(trained, config), on_step)
    return weights.eval()


class _Run:
    """One training: student, optimizer, where it stands."""

    def __init__(
        self,
        reward: Any,
        weights: NoiseAwareWeights,
        recording: Recording,
        folder: Path,
        config: NoiseAwareTraining,
        rate: float,
        accelerator: Any,
    ) -> None:
        self.recording, self.config, self.accelerator = recording, config, accelerator
        self.folder, self.rate, self.weights = folder, rate, weights
        self.student = accelerator.prepare(Student(reward, weights.to(accelerator.device)))
        self.train_prompts, _ = split_prompts(recording, config.held_out)
        self.labels = recording.scores(reward_name(reward))
        chosen = self.labels[self.train_prompts]
        self.mean, self.deviation = float(chosen.mean()), float(chosen.std()) or 1.0
        if not math.isfinite(self.mean):
            raise ConfigError("The recording holds final scores that are not finite; record again.")

    def to_the_end(
        self, curriculum: list[Phase], on_step: Callable[[int, int, float], None]
    ) -> None:
        total = sum(phase.length for phase in curriculum)
        done, saved_optimizer = self._resume()
        passed = 0
        for phase in curriculum:
            passed += phase.length
            if done >= passed:
                continue
            if phase.step_index is not None and done == passed - phase.length:
                continue_from_cleaner(self.weights, phase.step_index)
            # As published: a fresh optimizer and a falling rate in every phase.
            optimizer = self.accelerator.prepare(
                torch.optim.AdamW(self.weights.parameters(), lr=self.rate, weight_decay=0.01)
            )
            if saved_optimizer is not None:
                optimizer.load_state_dict(saved_optimizer)
                saved_optimizer = None
            while done < passed:
                progress = 1 - (passed - done) / phase.length
                loss = self._step(optimizer, phase, done, 1 - 0.9 * progress)
                done += 1
                on_step(done, total, loss)
                if done % self.config.save_every == 0 or done == passed:
                    self._save(done, None if done == passed else optimizer)

    def _step(self, optimizer: Any, phase: Phase, number: int, factor: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = self.rate * factor
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        step = self._noise_level(phase, generator)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        drawn = torch.randperm(len(self.train_prompts), generator=generator)
        mine = drawn[: self.config.batch_prompts * world][rank::world].tolist()
        chosen = [self.train_prompts[index] for index in mine]
        predicted = self._predict(chosen, step)
        label = (self.labels[chosen].to(predicted) - self.mean) / self.deviation
        loss = distillation_loss(predicted, label, self.config.within_prompt)
        if not torch.isfinite(loss):
            raise ConfigError(
                f"The loss is {loss.item()} at step {number}; lower the learning rate and run "
                f"again: training goes on from {self.folder / CHECKPOINT}."
            )
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.weights.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _noise_level(self, phase: Phase, generator: torch.Generator) -> int:
        """The phase's own step; with shared weights half of the time a cleaner one, to keep it."""
        trained = len(self.weights.sigmas)
        first = 0 if phase.step_index is None else phase.step_index
        is_shared = isinstance(self.weights, SigmaAdapter) or phase.step_index is None
        if is_shared and (phase.step_index is None or torch.rand((), generator=generator) < 0.5):
            return int(torch.randint(first, trained, (), generator=generator))
        return first

    def _predict(self, chosen: list[int], step: int) -> Tensor:
        pictures = self.recording.pictures(chosen, step)
        groups = pictures.shape[:2]
        pixels = pictures.flatten(0, 1).to(self.accelerator.device).float() / 255
        prompts = [self.recording.prompts[index] for index in chosen for _ in range(groups[1])]
        scores = self.student(pixels, prompts, self.recording.sigmas[step])
        standardised: Tensor = (scores - self.mean) / self.deviation
        return standardised.view(groups)

    def _save(self, done: int, optimizer: Any) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "done": done,
            "weights": self.weights.state_dict(),
            "optimizer": None if optimizer is None else optimizer.state_dict(),
            "config": _identity(self.config),
        }
        aside = self.folder / (CHECKPOINT + ".tmp")
        torch.save(state, aside)
        aside.replace(self.folder / CHECKPOINT)

    def _resume(self) -> tuple[int, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / CHECKPOINT
        if not file.exists():
            return 0, None
        state = torch.load(file, weights_only=True, map_location=self.accelerator.device)
        if state["config"] != _identity(self.config):
            raise ConfigError(
                f"Folder {str(self.folder)!r} holds a training with other options; repeat those to "
                "resume it, or choose another folder."
            )
        self.weights.load_state_dict(state["weights"])
        return int(state["done"]), state["optimizer"]


def _identity(config: NoiseAwareTraining) -> dict[str, Any]:
    names = ("storage", "rank", "until", "steps_per_phase", "joint_steps", "within_prompt", "seed")
    return {name: getattr(config, name) for name in names}
