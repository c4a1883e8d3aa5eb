"""A search of another distribution, with control flow of its own, in one file and one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.plugins import make_distribution, run_with

SOURCE = '''
"""Beam search: the beam halves at every checkpoint; noisy copies fill the other places."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from gensift.config import option
from gensift.randomness import derived_seed, make_generators
from samplers.diffusion.config import EarlySearchConfig
from samplers.diffusion.schedule import Checkpoint
from samplers.diffusion.search import DiffusionSearch
from samplers.diffusion.strategy import Selection, SelectionStrategy, StageScores


@dataclass(frozen=True, kw_only=True)
class BeamConfig(EarlySearchConfig):
    """Options of the beam search."""

    width: int = option(4, minimum=1, help="candidates that the first checkpoint copies")
    jitter: float = option(0.05, minimum=0, help="share of fresh noise in a copy")


class Beam(DiffusionSearch[BeamConfig]):
    """Copies the best over the rest, fewer of them at every checkpoint."""

    name: ClassVar[str] = "beam"
    config_class: ClassVar[type[BeamConfig]] = BeamConfig
    is_reproducible: ClassVar[bool] = False

    def checkpoints(self, num_steps: int) -> tuple[Checkpoint, ...]:
        """At a quarter and at a half of the loop."""
        return tuple(Checkpoint(num_steps * part // 4, 1.0) for part in (1, 2))

    def strategy(self, seeds: Sequence[int], num_steps: int) -> "Halving":
        """The beam of one prompt."""
        return Halving(self.config, seeds)


class Halving(SelectionStrategy):
    """One prompt's beam."""

    def __init__(self, config: BeamConfig, seeds: Sequence[int]) -> None:
        self._width, self._jitter = config.width, config.jitter
        (self._generator,) = make_generators([derived_seed(seeds, "beam")])

    def select(self, scores: StageScores) -> Selection:
        """Fill all places with the best, in turn."""
        best = scores.ranked()[: self._width]
        self._width = max(1, self._width // 2)
        parents = {place: best[i % len(best)] for i, place in enumerate(scores.candidates)}

        def jittered(latents: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(latents.shape, generator=self._generator).to(latents)
            return latents * (1 - self._jitter) + noise * self._jitter

        return Selection(parents, jittered)
'''

CHECK = """
import sys
from functools import partial

from helpers import search_conformance as conformance
from helpers.gated_runs import plain_images
from helpers.tiny_pipelines import build

from samplers.registry import SAMPLERS

Beam = SAMPLERS.get("beam")
for family in ("flux", "sd15"):
    make = partial(build, family)
    conformance.planned_cost_is_spent(Beam, make)
    conformance.micro_batches_change_nothing(Beam, make)
    conformance.traces_are_read_back(Beam, make)
    conformance.failures_leave_no_trace(Beam, make, RuntimeError, plain_images)
from apps.web.choosing import samplers_of
assert "beam" in samplers_of("image")
print("all of them hold")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_distribution(
        tmp_path_factory.mktemp("beam"),
        "beam-search",
        SOURCE,
        {"gensift.samplers": {"beam": "Beam"}},
        summary="A beam over diffusion candidates.",
    )


def test_it_is_drawn_with_like_any_other(folder: Path) -> None:
    options = ("--sampler", "beam", "--prompt", "a red circle", "-n", "4", "--steps", "4")
    arguments = (*options, "-o", "width=2", "--output", folder / "run", "--json")
    done = run_with(folder, "-m", "apps.commands.generate", *arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cost"]["spent"]["nfe"] == 4 * 4 * 2
    trace = json.loads((folder / "run" / "trace.json").read_bytes())["prompts"][0]
    assert [len(set(stage["parents"])) for stage in trace["stages"][:2]] == [2, 1]
    assert (folder / "run" / "0000-0.png").is_file()


def test_it_is_listed_and_its_mistakes_are_refused(folder: Path) -> None:
    listed = run_with(folder, "-m", "apps.commands.main", "list")
    assert "beam:" in listed.stdout.split()
    wrong = ("--sampler", "beam", "--prompt", "a red circle", "-o", "width=0")
    done = run_with(folder, "-m", "apps.commands.generate", *wrong)
    assert done.returncode == 2 and "`width`" in done.stderr and "Traceback" not in done.stderr


def test_it_keeps_what_every_search_promises(folder: Path) -> None:
    done = run_with(folder, "-c", CHECK)
    assert done.stdout.strip() == "all of them hold", done.stderr
