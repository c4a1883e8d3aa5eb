"""Searches side by side on held-out prompts, each with as many candidates as a budget allows."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import gensift
from benchmarks.results import interval
from gensift.cost import Cost
from gensift.errors import ConfigError
from gensift.files import write_atomically
from gensift.pipelines.loading import call_defaults
from gensift.zoo.shapes.geneval import category, score
from gensift.zoo.shapes.grammar import Meaning, parse
from gensift.zoo.shapes.verifier import is_true
from rewards.digest import weights_digest
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.schedule import UnitCosts
from samplers.diffusion.unit_costs import measure_unit_costs
from samplers.registry import SAMPLERS

MOST_CANDIDATES = 400


@dataclass(frozen=True)
class Contender:
    """One way to search.

    Attributes:
        name: in tables and plots.
        sampler: registered name.
        reward: key of the reward that scores.
        options: of the sampler, but for the number of candidates.
        steps: denoising steps; None for models without any.
    """

    name: str
    sampler: str
    reward: str = "noise-aware"
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = 20

    def build(self, rewards: Mapping[str, Any], num_candidates: int) -> Any:
        """The search itself."""
        cls: Any = SAMPLERS.get(self.sampler)
        return cls(rewards[self.reward], num_candidates=num_candidates, **self.options)

    @property
    def call(self) -> dict[str, Any]:
        """Arguments of the pipeline call that differ from the model's own."""
        return {} if self.steps is None else {"num_inference_steps": self.steps}


@dataclass
class Record:
    """What a contender did: one entry per prompt and seed, in the same order for all."""

    meanings: list[Meaning] = field(default_factory=list)
    correct: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        texts = [str(meaning) for meaning in self.meanings]
        return {**vars(self), "meanings": texts, "cost": self.cost.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Inverse of `to_dict`."""
        meanings = [parse(text) for text in data["meanings"]]
        return cls(**{**data, "meanings": meanings, "cost": Cost.from_dict(data["cost"])})


def unit_costs(pipe: Any, reward: Any, unit: Any, decoder: Any, repeats: int) -> UnitCosts:
    """What a step and a scoring cost here; the smallest of `repeats`, to shed noise."""
    arguments = call_defaults(pipe) | {"prompt": ["a red circle left of a blue square"]}
    call = PipelineCall.bind(pipe, type(pipe).__call__, (), arguments)
    found = [measure_unit_costs(call, reward, unit, decoder) for _ in range(repeats)]
    return UnitCosts(
        step=min(p.step for p in found),
        scoring=min(p.scoring for p in found),
        preview=min(p.early_scoring for p in found),
    )


def cost_in_units(cost: Cost, costs: UnitCosts, rows_per_step: int, outputs: int) -> float:
    """What some work costs; the pipeline's own decode of the outputs is alike for all, left out."""
    looks = cost.decodes - outputs
    return (
        cost.nfe / rows_per_step * costs.step
        + cost.preview_decodes * costs.early_scoring
        + looks * costs.scoring
    )


def largest_count(
    contender: Contender, pipe: Any, rewards: Mapping[str, Any], costs: UnitCosts, budget: float
) -> int:
    """The most candidates whose planned cost fits in `budget`; 0 where not even one does."""
    best = 0
    for count in range(1, MOST_CANDIDATES):
        try:
            plan = contender.build(rewards, count).plan(pipe, 1, **contender.call)
        except ConfigError:
            continue  # some searches need several candidates, or a multiple of a number
        if cost_in_units(plan.cost, costs, plan.guidance_rows, 1) > budget:
            return best
        best = count
    return best


def run_once(
    folder: Path,
    contender: Contender,
    count: int,
    pipe: Any,
    rewards: Mapping[str, Any],
    meanings: Sequence[Meaning],
    seeds: Sequence[int],
) -> Record:
    """`run`, or what an earlier call with the same arguments has left in `folder`."""
    scorer = weights_digest(rewards[contender.reward])
    asked = [asdict(contender), count, [str(m) for m in meanings], list(seeds), scorer]
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    file = folder / f"{contender.name.replace(' ', '-').replace(',', '')}-{count}-{digest}.json"
    if file.exists():
        return Record.from_dict(json.loads(file.read_text()))
    record = run(contender, count, pipe, rewards, meanings, seeds)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(record.to_dict()).encode())
    return record


def run(
    contender: Contender,
    count: int,
    pipe: Any,
    rewards: Mapping[str, Any],
    meanings: Sequence[Meaning],
    seeds: Iterable[int],
) -> Record:
    """Search once per prompt and seed, one prompt at a time as a user would."""
    search = contender.build(rewards, count)
    record = Record()
    tasks = [(index, meaning, seed) for seed in seeds for index, meaning in enumerate(meanings)]
    for index, meaning, seed in tqdm(tasks, desc=f"{contender.name} {count}", unit="prompt"):
        # Every prompt has seeds of its own, shared by all contenders.
        base = gensift.candidate_seed(seed, index, 0)
        start = time.perf_counter()
        output = search(pipe, str(meaning), seed=base, **contender.call)
        record.seconds.append(time.perf_counter() - start)
        record.meanings.append(meaning)
        record.correct.append(float(is_true(np.asarray(output.images[0]), meaning)))
        record.rewards.append(output.rewards[0])
        record.cost = record.cost + output.cost
    return record


def figures(record: Record) -> dict[str, Any]:
    """What a contender found and what it spent, per prompt."""
    count = len(record.meanings)
    by_prompt: dict[Meaning, list[float]] = {}
    for meaning, value in zip(record.meanings, record.correct, strict=True):
        by_prompt.setdefault(meaning, []).append(value)
    result = score(by_prompt)
    rewards = np.array(record.rewards)
    return {
        "nfe_per_prompt": record.cost.nfe / count,
        "tokens_per_prompt": record.cost.tokens / count,
        "decodes_per_prompt": record.cost.decodes / count,
        "preview_decodes_per_prompt": record.cost.preview_decodes / count,
        "seconds_per_prompt": float(np.median(record.seconds)),
        "reward": float(rewards.mean()),
        "reward_interval_95": interval(rewards),
        "geneval_mini": result.overall,
        "geneval_mini_interval_95": (result.low, result.high),
        "by_category": result.by_category,
    }


def gain(record: Record, other: Record) -> dict[str, Any]:
    """Differences in reward and GenEval-mini, paired by prompt and seed."""
    names = np.array([category(meaning) for meaning in record.meanings])
    found: dict[str, Any] = {}
    reward = np.array(record.rewards) - np.array(other.rewards)
    found["reward"], found["reward_interval_95"] = float(reward.mean()), interval(reward)
    difference = np.array(record.correct) - np.array(other.correct)
    groups = [difference[names == name] for name in dict.fromkeys(names)]
    rng = np.random.default_rng(0)
    # Every category weighs the same.
    draws = np.stack([rng.choice(g, size=(2000, len(g))).mean(1) for g in groups]).mean(0)
    low, high = np.quantile(draws, [0.025, 0.975])
    found["geneval_mini"] = float(np.mean([group.mean() for group in groups]))
    found["geneval_mini_interval_95"] = (float(low), float(high))
    return found
