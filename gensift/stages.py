"""What one stage of a search did, and the stages of the search for one prompt."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gensift.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One round of scoring and sifting among the candidates of a prompt.

    step_index: 0-based step after which the candidates were scored.
    num_inference_steps: length of the loop.
    sigma, timestep: noise level and scheduler time at that step; None where the model has none.
    alive: indices, within the prompt, of the candidates that were scored.
    scores: per reward one value for each of `alive`; higher is better.
    combined: one value for each of `alive`, by which they were ranked.
    kept: the candidates that go on (at the final stage: that are returned).
    is_final: whether finished samples were scored.
    parents: for each of `alive` the kept candidate whose state it goes on with, None for a
        place that stays empty; None as a whole where everyone kept goes on with its own.
    grid: token grid (height, width) that was drawn, of models that draw scale by scale.
    round: number of the round in searches that make several, the first one 0; None elsewhere.
    previews: candidate index to its picture at that stage; not part of equality.
    """

    step_index: int
    num_inference_steps: int
    sigma: float | None = None
    timestep: float | None = None
    alive: tuple[int, ...]
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    combined: tuple[float, ...]
    kept: tuple[int, ...]
    is_final: bool = False
    parents: tuple[int | None, ...] | None = None
    grid: tuple[int, int] | None = None
    round: int | None = None
    previews: Mapping[int, Image] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        columns = {"combined": self.combined, **self.scores}
        problems = [
            f"{name!r} has {len(values)} values for {len(self.alive)} alive candidates"
            for name, values in columns.items()
            if len(values) != len(self.alive)
        ]
        strangers = sorted(set(self.kept) - set(self.alive))
        if strangers:
            problems.append(f"kept candidates {strangers} were not alive")
        if self.parents is not None:
            problems += self._problems_of_parents(self.parents)
        if problems:
            raise ConfigError.from_problems("Stage", problems)

    def _problems_of_parents(self, parents: tuple[int | None, ...]) -> list[str]:
        if len(parents) != len(self.alive):
            return [f"{len(parents)} parents for {len(self.alive)} alive candidates"]
        strangers = sorted({p for p in parents if p is not None} - set(self.kept))
        return [f"parents {strangers} were not kept"] if strangers else []

    def parent(self, candidate: int) -> int | None:
        """Whose state `candidate` goes on with after this stage; None if it does not go on."""
        if self.parents is not None and candidate in self.alive:
            return self.parents[self.alive.index(candidate)]
        return candidate if candidate in self.kept else None

    @property
    def ranking(self) -> tuple[int, ...]:
        """The alive candidates from best to worst; non-finite scores last, ties by index."""
        by_candidate = dict(zip(self.alive, self.combined, strict=True))
        return tuple(sorted(self.alive, key=lambda c: (*_descending(by_candidate[c]), c)))

    def to_dict(self, *, with_previews: bool = False) -> dict[str, Any]:
        """Return a mapping for JSON; previews, if asked for, as base64 PNG."""
        data: dict[str, Any] = {
            "step_index": self.step_index,
            "num_inference_steps": self.num_inference_steps,
            "sigma": self.sigma,
            "timestep": self.timestep,
            "alive": list(self.alive),
            "scores": {name: list(values) for name, values in self.scores.items()},
            "combined": list(self.combined),
            "kept": list(self.kept),
            "is_final": self.is_final,
            "round": self.round,
        }
        if self.parents is not None:
            data["parents"] = list(self.parents)
        if self.grid is not None:
            data["grid"] = list(self.grid)
        if with_previews:
            data["previews"] = {str(c): _encode(image) for c, image in self.previews.items()}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stage:
        """Inverse of `to_dict`."""
        return cls(
            step_index=data["step_index"],
            num_inference_steps=data["num_inference_steps"],
            sigma=_optional_float(data["sigma"]),
            timestep=_optional_float(data["timestep"]),
            alive=tuple(data["alive"]),
            scores={name: tuple(map(float, values)) for name, values in data["scores"].items()},
            combined=tuple(map(float, data["combined"])),
            kept=tuple(data["kept"]),
            is_final=data["is_final"],
            parents=tuple(data["parents"]) if data.get("parents") is not None else None,
            grid=tuple(data["grid"]) if data.get("grid") is not None else None,
            round=data.get("round"),
            previews={int(c): _decode(text) for c, text in data.get("previews", {}).items()},
        )


@dataclass(frozen=True, kw_only=True)
class PromptTrace:
    """The search for one prompt: its stages from noisy to final, in order of the rounds.

    seeds: of all candidates.
    parents: per candidate the one it was made from by adding noise; None for a candidate of its
        own. Empty where all are of their own.
    """

    prompt: str
    prompt_index: int
    seeds: tuple[int, ...]
    stages: tuple[Stage, ...]
    parents: tuple[int | None, ...] = ()

    @property
    def winner(self) -> int | None:
        """Index of the best candidate kept at the last stage; None without one."""
        if not self.stages or not self.stages[-1].kept:
            return None
        last = self.stages[-1]
        return next(candidate for candidate in last.ranking if candidate in last.kept)

    def ancestry(self, candidate: int) -> tuple[int, ...]:
        """The candidates that `candidate` came from, the eldest first, itself last."""
        line = [candidate]
        while self.parents and (parent := self.parents[line[0]]) is not None:
            line.insert(0, parent)
        return tuple(line)

    def to_dict(self, *, with_previews: bool = False) -> dict[str, Any]:
        """Return a mapping for JSON."""
        return {
            "prompt": self.prompt,
            "prompt_index": self.prompt_index,
            "seeds": list(self.seeds),
            "parents": list(self.parents),
            "stages": [stage.to_dict(with_previews=with_previews) for stage in self.stages],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PromptTrace:
        """Inverse of `to_dict`."""
        return cls(
            prompt=data["prompt"],
            prompt_index=data["prompt_index"],
            seeds=tuple(data["seeds"]),
            stages=tuple(Stage.from_dict(stage) for stage in data["stages"]),
            parents=tuple(data.get("parents", ())),
        )


def _descending(score: float) -> tuple[bool, float]:
    return (False, -score) if math.isfinite(score) else (True, 0.0)


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


def _encode(image: Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _decode(text: str) -> Image:
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image
