"""Options of the diffusion searches; imports nothing heavy, as listings read them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gensift.config import check, option
from gensift.errors import ConfigError
from gensift.pipelines.bfm.settings import FeatureMode, SamplingSettings, Solver
from gensift.protocols import JsonObject
from samplers.diffusion.schedule import schedule_problems

BudgetUnit = Literal["nfe", "flops", "seconds"]
Potential = Literal["max", "sum", "diff"]
Sde = Literal["auto", "flow", "none"]


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Options that every diffusion search has."""

    num_candidates: int | None = option(
        None, minimum=1, help="candidates per prompt; default 16, or what the budget allows"
    )
    num_outputs: int = option(1, minimum=1, help="samples returned per prompt, best first")
    budget: float | None = option(
        None, minimum=0, help="most that the search for one prompt may cost, in budget_unit"
    )
    budget_unit: BudgetUnit = option(
        "nfe",
        choices=("nfe", "flops", "seconds"),
        help="nfe counts denoiser rows; flops and seconds are measured, decode and reward included",
    )
    max_rows: int | None = option(
        None, minimum=1, help="most denoiser rows, and pictures decoded, at a time; bounds memory"
    )

    def __post_init__(self) -> None:
        check(self, self.problems())

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        if self.budget is not None and not math.isfinite(self.budget):
            yield f"`budget` {self.budget} is no amount"
        if self.num_candidates is not None and self.budget is not None:
            yield "`num_candidates` and `budget` are both given; give one"
        elif self.num_candidates is not None and self.num_outputs > self.num_candidates:
            yield f"`num_outputs` {self.num_outputs} exceeds `num_candidates` {self.num_candidates}"

    def call_arguments(self) -> JsonObject:
        """What the options ask of the pipeline's call."""
        return {}


@dataclass(frozen=True, kw_only=True)
class EarlySearchConfig(SearchConfig):
    """Options of the searches that judge candidates before they are finished."""

    preview_decoder: str = option(
        "auto",
        help="what decodes early estimates: a folder or hub id of an AutoencoderTiny, vae for the "
        "pipeline's own, auto for the tiny one of a zoo model, where there is one",
    )


@dataclass(frozen=True, kw_only=True)
class TTSnapConfig(EarlySearchConfig):
    """Options of TTSnap.

    The default schedule is late and gentle, (6, 8, 12) of 20 steps, where candidates are judged by
    rewards made for clean pictures, and (5, 8) of 20 where all rewards are noise-aware.
    """

    checkpoints: tuple[float, ...] | None = option(
        None,
        help="where to prune, as shares of the denoising loop; by default 0.3,0.4,0.6, or 0.25,0.4 "
        "with noise-aware rewards",
    )
    keep: tuple[float, ...] | None = option(
        None,
        help="share of the living candidates kept at each checkpoint; by default 0.65,0.65,0.5, or "
        "0.4,0.6 with noise-aware rewards",
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        yield from schedule_problems(self.checkpoints or (), self.keep or ())


@dataclass(frozen=True, kw_only=True)
class BFMConfig(SearchConfig):
    """Options of the sampler; those left out are as the model asks, or as in a plain call."""

    feature_mode: FeatureMode | None = option(
        None,
        choices=("full", "frn", "hold"),
        help="full runs the trunk at each step; frn at the first one of a segment, approximating "
        "features after that; hold keeps them as they are",
    )
    steps_per_segment: tuple[int, ...] | None = option(
        None, help="one number of steps for all segments or one for each, instead of --steps"
    )
    refresh_every: int | None = option(
        None, minimum=1, help="with frn and hold: run the trunk after so many steps, too"
    )
    refresh_threshold: float | None = option(
        None,
        minimum=0,
        help="with frn and hold: run the trunk for a picture whose latents moved by this share "
        "of their norm",
    )
    guidance_interval: tuple[float, ...] | None = option(
        None, help="lowest and highest sigma at which guidance is on, as 0,0.7"
    )
    solver: Solver | None = option(
        None,
        choices=("euler", "heun", "sde"),
        help="euler; heun, with two evaluations a step; or sde, which adds noise",
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        given = self.call_arguments()
        if self.feature_mode is None:
            # The model's own mode may need them; the call checks them together.
            given = {name: v for name, v in given.items() if not name.startswith("refresh_")}
        try:
            SamplingSettings.of_call(given)
        except ConfigError as error:
            yield from error.problems

    def call_arguments(self) -> JsonObject:
        """What the options ask of the pipeline's call."""
        steps = self.steps_per_segment
        given = {
            "feature_mode": self.feature_mode,
            "steps_per_segment": steps[0] if steps and len(steps) == 1 else steps,
            "refresh_every": self.refresh_every,
            "refresh_threshold": self.refresh_threshold,
            "guidance_interval": self.guidance_interval,
            "solver": self.solver,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class ResamplingConfig(EarlySearchConfig):
    """Options of the searches that copy candidates."""

    sde: Sde = option(
        "auto",
        choices=("auto", "flow", "none"),
        help="noise added to the solver's steps: flow makes the Euler solver of flow models an "
        "SDE, auto does so wherever that is the solver, none leaves the solver as it is",
    )
    sde_scale: float = option(
        1.0, minimum=0, help="strength of that noise: its g as a multiple of sigma"
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.sde_scale == 0:
            yield "`sde_scale` 0 draws no noise, so copies would stay alike; give more"


@dataclass(frozen=True, kw_only=True)
class FKSteeringConfig(ResamplingConfig):
    """Options of FK steering.

    Schedule, potential and strength are those of the published command line for SDXL with
    ImageReward; a reward whose scores spread less needs a higher strength.
    """

    potential: Potential = option(
        "max",
        choices=("max", "sum", "diff"),
        help="what weighs a particle: the highest of its rewards so far, their sum, or what the "
        "newest one adds",
    )
    strength: float = option(
        10.0, minimum=0, help="lambda: weights are exp(strength * reward); 0 never resamples"
    )
    checkpoints: tuple[float, ...] = option(
        (0.2, 0.4, 0.6, 0.8), help="where to weigh and resample, as shares of the denoising loop"
    )
    ess_threshold: float = option(
        0.5,
        minimum=0,
        maximum=1,
        help="resample where the effective number of particles is below this share of them",
    )
    resampling: Literal["systematic", "multinomial"] = option(
        "systematic",
        choices=("systematic", "multinomial"),
        help="how parents are drawn; systematic strays least from the weights",
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        yield from schedule_problems(self.checkpoints, [1.0] * len(self.checkpoints))


@dataclass(frozen=True, kw_only=True)
class SVDDConfig(ResamplingConfig):
    """Options of SVDD; `num_candidates` counts all rows, chains times children."""

    children: int = option(
        4,
        minimum=1,
        help="M: continuations among which each chain chooses; num_candidates / children chains "
        "run side by side",
    )
    alpha: float = option(
        0.0,
        minimum=0,
        help="children are drawn by exp(reward / alpha); 0 takes the best, as the published code",
    )
    every: int = option(1, minimum=1, help="steps from one choice to the next")

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.num_candidates is not None and self.num_candidates % self.children:
            yield chains_problem(self.num_candidates, self.children)


@dataclass(frozen=True, kw_only=True)
class RefinementConfig(SearchConfig):
    """Options of the searches that refine noises."""

    rounds: int = option(4, minimum=0, help="rounds of neighbours after the first search")
    neighbours: int = option(4, minimum=1, help="neighbours of each refined noise per round")
    similarity: float = option(
        0.95, minimum=0, maximum=1, help="cosine between a noise and its neighbours"
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.similarity == 1:
            yield "`similarity` 1 makes each neighbour the noise itself; give less, such as 0.95"


@dataclass(frozen=True, kw_only=True)
class ZeroOrderConfig(RefinementConfig):
    """Options of zero-order search."""

    restart: bool = option(
        False, help="let a round of fresh noises follow a round in which no neighbour was better"
    )


@dataclass(frozen=True, kw_only=True)
class LocalRefineConfig(RefinementConfig, TTSnapConfig):
    """Options of TTSnap and of the refinement that follows it."""

    rounds: int = option(2, minimum=0, help="rounds of neighbours after TTSnap")
    survivors: int = option(2, minimum=1, help="finished candidates whose noises are refined")
    prune_rounds: bool = option(
        False, help="prune the neighbours of each round by the same checkpoints"
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.num_candidates is not None and self.survivors > self.num_candidates:
            yield f"`survivors` {self.survivors} exceeds `num_candidates` {self.num_candidates}"


@dataclass(frozen=True, kw_only=True)
class SearchOverPathsConfig(EarlySearchConfig):
    """Options of the search over paths; shares are those of the plain denoising loop."""

    num_candidates: int | None = option(
        None, minimum=1, help="paths per prompt; default 4, or what the budget allows"
    )
    branches: int = option(4, minimum=1, help="re-noised copies of each path per round")
    start: float = option(
        0.4, minimum=0, maximum=1, help="share of the loop before the first branching"
    )
    renoise: float = option(
        0.2, minimum=0, maximum=1, help="share of the loop that each branching goes back up"
    )
    denoise: float = option(
        0.4, minimum=0, maximum=1, help="share of the loop that each round goes down"
    )

    def problems(self) -> Iterator[str]:
        """Faults between options, one phrase each."""
        yield from super().problems()
        if self.denoise <= self.renoise:
            yield (
                f"`denoise` {self.denoise} does not exceed `renoise` {self.renoise}, so the paths "
                "would not come down; give more"
            )


def chains_problem(num_candidates: int, children: int) -> str:
    """What is wrong where candidates do not make up whole chains."""
    return (
        f"`num_candidates` {num_candidates} is no multiple of `children` {children}; give chains "
        "times children"
    )
