"""Recipe of `countdown-llada`: a small LLaDA, trained on fresh Countdown problems at every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from apps.training.zoo.publishing import publish_pipeline
from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from gensift.pipelines.llada.pipeline import LLaDAPipeline
from gensift.pipelines.llada.transformer import LLaDATransformer
from gensift.zoo.countdown.problems import (
    ANSWER_TOKENS,
    OPERATORS,
    PROMPT_TOKENS,
    Answers,
    draw_answers,
)
from gensift.zoo.countdown.split import is_held_out
from gensift.zoo.countdown.tokenizer import VOCABULARY, build_tokenizer

STEPS = 7_800
"""Enough to be right about half of the time, and no more: searches need something to find."""
BATCH = 128
RATE = 2e-3
WEIGHT_DECAY = 0.05
MIN_MASKED = 0.02
INIT_STD = 0.06
SEED = 83
WIDTH, HEADS, LAYERS, HIDDEN = 128, 4, 4, 344
DEFAULTS = {
    "gen_length": ANSWER_TOKENS,
    "num_inference_steps": ANSWER_TOKENS,
    "temperature": 1.0,
}
"""Call arguments of the published pipeline."""
_ID = {token: index for index, token in enumerate(VOCABULARY)}
_TRIES = 4 * BATCH


class AnswerLoss(nn.Module):
    """Cross-entropy of the masked answer tokens, each over its probability of being masked.

    Source: Nie et al., "Large Language Diffusion Models" (arXiv 2502.09992), eq. 5. The mean over
    the masking probability is the negative log-likelihood per answer token, or a bound on it.
    """

    def __init__(self, transformer: LLaDATransformer) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, ids: Tensor, is_masked: Tensor, shares: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            ids: int64 `(batch, 14)`, prompt and answer.
            is_masked: bool `(batch, 7)`, which answer tokens are to be predicted.
            shares: float `(batch,)`, the probability with which they were masked.
        """
        answers = ids[:, PROMPT_TOKENS:]
        shown = answers.masked_fill(is_masked, self.transformer.config.mask_token_id)
        logits = self._answer_logits(torch.cat([ids[:, :PROMPT_TOKENS], shown], dim=1))
        errors = cross_entropy(logits.flatten(0, 1).float(), answers.flatten(), reduction="none")
        weights = is_masked / shares[:, None]
        return (errors.view(answers.shape) * weights).mean()

    def _answer_logits(self, ids: Tensor) -> Tensor:
        """`(batch, 7, vocabulary)`: the head is left out where nothing is to be predicted."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        hidden, rotary = self.transformer.embed(ids), self.transformer.rotary(positions)
        for layer in self.transformer.layers:
            hidden = layer(hidden, rotary)
        logits: Tensor = self.transformer.head(hidden[:, PROMPT_TOKENS:])
        return logits


def build_transformer() -> LLaDATransformer:
    """A fresh transformer of 0.8 M parameters."""
    torch.manual_seed(SEED)
    transformer: LLaDATransformer = LLaDATransformer(
        d_model=WIDTH,
        n_heads=HEADS,
        n_layers=LAYERS,
        mlp_hidden_size=HIDDEN,
        vocab_size=len(VOCABULARY),
        max_sequence_length=64,
        rope_theta=10_000.0,
        mask_token_id=_ID["[MASK]"],
        eos_token_id=_ID["[EOS]"],
        pad_token_id=_ID["[PAD]"],
    )
    for parameter in transformer.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=INIT_STD)
    return transformer


def publish(folder: Path, steps: int | None = None) -> Path:
    """Train in `folder` and write the finished pipeline below it, weights in float16."""
    return publish_pipeline(
        train(folder, STEPS if steps is None else steps), folder / "model", DEFAULTS
    )


def train(folder: Path, steps: int = STEPS) -> LLaDAPipeline:
    """Train (or go on training) in `folder`."""
    transformer = build_transformer()
    loss = AnswerLoss(transformer)
    run = TrainingRun(
        folder / "transformer",
        steps,
        {"transformer": transformer},
        [build_optimizer(transformer)],
        warmup_then_decay(0.025, 0.75),
        average_decay=0.998,
    )

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        batch = batch_at(step)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(*batch)
        return value, {"loss": value.item()}

    run.run(loss_at)
    return LLaDAPipeline(transformer=transformer, tokenizer=build_tokenizer())


def batch_at(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """The batch of a step: what `AnswerLoss` takes.

    Masking probabilities are spread evenly over (0, 1), and at least 0.02.
    """
    rng = np.random.default_rng((SEED, step))
    ids = encode(draw_training_answers(rng), rng)
    shares = ((np.arange(BATCH) + rng.random(BATCH)) / BATCH).clip(min=MIN_MASKED)
    is_masked = rng.random((BATCH, ANSWER_TOKENS)) < shares[:, None]
    return ids, torch.from_numpy(is_masked), torch.from_numpy(shares).float()


def draw_training_answers(rng: np.random.Generator) -> Answers:
    """`BATCH` answers to problems that are not held out."""
    while True:
        answers = draw_answers(_TRIES, rng)
        answers = answers.take(~is_held_out(answers.numbers, answers.targets))
        if len(answers.targets) >= BATCH:
            return answers.take(slice(BATCH))


def encode(answers: Answers, rng: np.random.Generator) -> Tensor:
    """Ids `(count, 14)` of prompts, their numbers in random order, and answers."""
    count = len(answers.targets)
    number, operator = _ID["0"], np.array([_ID[symbol] for symbol in OPERATORS])
    shown = number + rng.permuted(answers.numbers, axis=1)
    words = {word: np.full(count, _ID[word]) for word in ("use", "to", "make", "(", ")")}
    a, b, c = number + answers.numbers.T
    o, p = operator[answers.operators].T
    prompt = [words["use"], *shown.T, words["to"], words["make"], number + answers.targets]
    left = np.stack([words["("], a, o, b, words[")"], p, c], axis=1)
    right = np.stack([a, o, words["("], b, p, c, words[")"]], axis=1)
    answer = np.where(answers.is_left_first[:, None], left, right)
    return torch.from_numpy(np.concatenate([np.stack(prompt, axis=1), answer], axis=1))


def build_optimizer(transformer: LLaDATransformer) -> torch.optim.Optimizer:
    """AdamW; weights of norms do not decay."""
    matrices = [p for p in transformer.parameters() if p.ndim == 2]
    vectors = [p for p in transformer.parameters() if p.ndim == 1]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
