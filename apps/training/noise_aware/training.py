"""Self-distillation: teach a reward to see in an early estimate what it will say of the end.

The input is the estimate of a clean picture after step s, the label is the original reward's score
of the finished picture of the same trajectory. Steps are learned from clean to noisy, each phase
starting from what the one before has learned.

Source: TTSnap (arXiv 2511.22242) and its published training code for loss and curriculum. Ours: the
loss also asks for the order within a prompt, which is all that pruning needs and which the plain
squared error hardly sees, because prompts differ more than the pictures of one prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from apps.training.noise_aware.options import NoiseAwareTraining
from gensift.config import to_dict
from gensift.errors import ConfigError
from gensift.hub import one_line
from gensift.protocols import JsonObject
from rewards.loading import UNREADABLE
from rewards.noise_aware.recording import Recording
from rewards.noise_aware.reward import Scorer, check_base
from rewards.noise_aware.weights import (
    NoiseAwareWeights,
    SigmaAdapter,
    continue_from_cleaner,
    make_weights,
)
from rewards.protocol import reward_name

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT = "checkpoint.pt"
_PAIR_TEMPERATURE = 0.5
_RATES = {"sigma-adapter": 2e-3, "lora": 2e-3, "full": 3e-6}


@dataclass(frozen=True)
class Phase:
    """Some optimiser steps on one noise level, or (None) on all of them."""

    step_index: int | None
    length: int


def phases(num_trained: int, config: NoiseAwareTraining) -> list[Phase]:
    """The curriculum: from the cleanest trained step to the noisiest, then all together."""
    found = [Phase(step, config.steps_per_phase) for step in reversed(range(num_trained))]
    return [*found, Phase(None, config.joint_steps)] if config.joint_steps else found


def trained_steps(recording: Recording, config: NoiseAwareTraining) -> list[int]:
    """Recorded steps that are trained: from `since` to `until`, never the finished picture.

    Some solvers (PNDM) stay at a noise level for two steps, of which the first one there is taken.

    Raises:
        ConfigError: no recorded step lies there.
    """
    sigmas = recording.sigmas
    end = max(1, min(len(sigmas) - 1, round(config.until * len(sigmas))))
    first = round(config.since * len(sigmas))
    if first >= end:
        raise ConfigError(
            f"None of the {len(sigmas)} recorded steps lies between `since` {config.since} and "
            f"`until` {config.until}, the finished picture left out; move them apart."
        )
    return [s for s in range(first, end) if s == first or sigmas[s] != sigmas[s - 1]]


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

    def forward(
        self, pictures: Tensor, prompts: list[str], sigma: float, each: bool = False
    ) -> Tensor:
        """Scores float32 `(batch,)`; with `each` of every picture against every prompt."""
        scorer = self._scorer[0]
        weights = self.weights.applied(scorer.parameters_by_name, sigma)
        scores: Tensor = scorer(pictures, prompts, weights, each=each)
        return scores


def distillation_loss(predicted: Tensor, label: Tensor, within_prompt: float) -> Tensor:
    """Squared error, plus a cross-entropy over all pairs of one prompt on which one is better.

    Args:
        predicted: float `(prompts, images)`, in units of the labels' standard deviation.
        label: the same.
        within_prompt: weight of the second part.
    """
    squared = (predicted - label).square().mean()
    order = (label[:, :, None] - label[:, None, :]).sign()
    lead = (predicted[:, :, None] - predicted[:, None, :]) / _PAIR_TEMPERATURE
    pairs = softplus(-order * lead) * order.abs()
    return squared + within_prompt * pairs.sum() / order.abs().sum().clamp(min=1)


def train(
    reward: Any,
    recording: Recording,
    folder: Path,
    config: NoiseAwareTraining,
    *,
    accelerator: Accelerator | None = None,
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
    base = trainable_weights(reward)
    steps = trained_steps(recording, config)
    # First values are drawn on the CPU, by a stream of their own.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        sigmas = [recording.sigmas[step] for step in steps]
        weights = make_weights(config.storage, base, sigmas, config.rank)
    run = _Run(reward, weights, recording, steps, folder, config, accelerator)
    run.to_the_end(phases(len(steps), config), on_step)
    return weights.eval()


class _Run:
    """One training: student, optimizer, where it stands."""

    def __init__(
        self,
        reward: Any,
        weights: NoiseAwareWeights,
        recording: Recording,
        steps: Sequence[int],
        folder: Path,
        config: NoiseAwareTraining,
        accelerator: Accelerator,
    ) -> None:
        if config.across_prompts and not hasattr(reward, "score_each"):
            raise ConfigError(
                f"`across_prompts` is {config.across_prompts}, but {reward_name(reward)!r} cannot "
                "score a picture against many prompts at once; leave it out."
            )
        self.reward = reward
        self.recording, self.config, self.accelerator = recording, config, accelerator
        self.folder, self.steps, self.weights = folder, steps, weights
        own = config.learning_rate
        self.rate: float = _RATES[config.storage] if own is None else own
        self.train_prompts, _ = split_prompts(recording, config.held_out)
        if len(self.train_prompts) < accelerator.num_processes:
            raise ConfigError(
                f"{len(self.train_prompts)} prompts cannot be shared by "
                f"{accelerator.num_processes} processes; start fewer, or record more prompts."
            )
        self.labels = recording.scores(reward_name(reward))
        if not self.labels.isfinite().all():
            raise ConfigError("The recording holds final scores that are not finite; record again.")
        chosen = self.labels[self.train_prompts]
        self.mean = float(chosen.mean())
        self.deviation = float(chosen.std(correction=0)) or 1.0
        self.identity = _identity(config, reward_name(reward), weights.sigmas, recording)
        self.student = _prepare(accelerator, Student(reward, weights.to(accelerator.device)))
        self.optimizer = accelerator.prepare(
            torch.optim.AdamW(weights.parameters(), lr=self.rate, weight_decay=0.01)
        )

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
            self.optimizer.state.clear()
            if saved_optimizer is not None:
                self.optimizer.load_state_dict(saved_optimizer)
                saved_optimizer = None
            while done < passed:
                progress = 1 - (passed - done) / phase.length
                loss = self._step(phase, done, 1 - 0.9 * progress)
                done += 1
                on_step(done, total, loss)
                if done % self.config.save_every == 0 or done == passed:
                    self._save(done, is_in_phase=done < passed)

    def _step(self, phase: Phase, number: int, factor: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        level = self._noise_level(phase, generator)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        drawn = torch.randperm(len(self.train_prompts), generator=generator)
        mine = drawn[: self.config.batch_prompts * world][rank::world].tolist()
        chosen = [self.train_prompts[index] for index in mine]
        loss = self._loss(chosen, self.steps[level])
        if not torch.isfinite(loss):
            raise ConfigError(
                f"The loss is {loss.item()} at step {number}; lower the learning rate and run "
                f"again: training goes on from {self.folder / CHECKPOINT}."
            )
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.weights.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def _noise_level(self, phase: Phase, generator: torch.Generator) -> int:
        """The phase's own step; with shared weights half of the time a cleaner one, to keep it."""
        trained = len(self.weights.sigmas)
        first = 0 if phase.step_index is None else phase.step_index
        is_shared = isinstance(self.weights, SigmaAdapter) or phase.step_index is None
        if is_shared and (phase.step_index is None or torch.rand((), generator=generator) < 0.5):
            return int(torch.randint(first, trained, (), generator=generator))
        return first

    def _loss(self, chosen: list[int], step: int) -> Tensor:
        label = self._standardised(self.labels[chosen].to(self.accelerator.device))
        prompts = [self.recording.prompts[index] for index in chosen]
        sigma = self.recording.sigmas[step]
        if not self.config.across_prompts:
            texts = [prompt for prompt in prompts for _ in range(label.shape[1])]
            scores = self.student(self._pixels(chosen, step), texts, sigma)
            predicted = self._standardised(scores).view(label.shape)
            return distillation_loss(predicted, label, self.config.within_prompt)
        every = self._standardised(self.student(self._pixels(chosen, step), prompts, sigma, True))
        # (prompts, images, prompts): each prompt's own pictures lie on the diagonal.
        table = every.view(*label.shape, len(prompts))
        own = torch.arange(len(prompts), device=table.device)
        loss = distillation_loss(table[own, :, own], label, self.config.within_prompt)
        wanted = self._standardised(self._finished_scores(chosen, prompts))
        return loss + self.config.across_prompts * (every - wanted).square().mean()

    def _finished_scores(self, chosen: list[int], prompts: list[str]) -> Tensor:
        """What the original says of the finished pictures, against each prompt."""
        with torch.no_grad():
            finished = self._pixels(chosen, self.recording.num_steps - 1)
            scores: Tensor = self.reward.score_each(finished, prompts)
        return scores

    def _pixels(self, chosen: list[int], step: int) -> Tensor:
        pictures = self.recording.pictures(chosen, step)
        return pictures.flatten(0, 1).to(self.accelerator.device).float() / 255

    def _standardised(self, scores: Tensor) -> Tensor:
        return (scores - self.mean) / self.deviation

    def _save(self, done: int, *, is_in_phase: bool) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "done": done,
            "weights": self.weights.state_dict(),
            "optimizer": self.optimizer.state_dict() if is_in_phase else None,
            "config": self.identity,
        }
        aside = self.folder / (CHECKPOINT + ".tmp")
        torch.save(state, aside)
        aside.replace(self.folder / CHECKPOINT)

    def _resume(self) -> tuple[int, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / CHECKPOINT
        if not file.exists():
            return 0, None
        try:
            state = torch.load(file, weights_only=True, map_location=self.accelerator.device)
        except UNREADABLE as error:
            raise ConfigError(
                f"{str(file)!r} is damaged ({one_line(error)}); delete it to begin again."
            ) from error
        if state["config"] != self.identity:
            raise ConfigError(
                f"Folder {str(self.folder)!r} holds a training with other options, or on another "
                "recording; repeat it to resume it, or choose another folder."
            )
        self.weights.load_state_dict(state["weights"])
        return int(state["done"]), state["optimizer"]


def _prepare(accelerator: Accelerator, student: Student) -> Any:
    """The student, shared by the processes; most of its weights belong to other noise levels."""
    from accelerate.utils import DistributedDataParallelKwargs

    own = accelerator.ddp_handler
    accelerator.ddp_handler = own or DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        return accelerator.prepare(student)
    finally:
        accelerator.ddp_handler = own


def _identity(
    config: NoiseAwareTraining, reward: str, sigmas: Sequence[float], recording: Recording
) -> JsonObject:
    """What a checkpoint belongs to; rate, batch and saving may change on the way."""
    free = ("learning_rate", "batch_prompts", "save_every")
    chosen = {key: value for key, value in to_dict(config).items() if key not in free}
    texts = hashlib.sha256("\0".join(recording.prompts).encode()).hexdigest()
    seen = {"reward": reward, "sigmas": list(sigmas), "prompts": texts}
    return chosen | seen | {"num_images": recording.num_images}
