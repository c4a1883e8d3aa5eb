"""What a search looks like while it runs: its candidates, how they score, who is out."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from apps.web.encoding import picture_uri
from apps.web.request_queue import Task
from gensift.trace import Stage

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Card:
    """One candidate.

    Attributes:
        index: within the prompt.
        picture: data URI of its latest picture; empty before there is one.
        made_at: when that was, in words.
        score: its latest; None before there is one.
        fate: in words; empty while nothing was decided.
        is_out: whether it was dropped.
    """

    index: int
    picture: str = ""
    made_at: str = ""
    score: float | None = None
    fate: str = ""
    is_out: bool = False


@dataclass(frozen=True)
class StageRow:
    """One stage in words and numbers, for the table below the grid."""

    name: str
    scored: int
    kept: int
    best: float


@dataclass(frozen=True)
class Snapshot:
    """What there is to show at one moment.

    Attributes:
        phase: what is being done, in words.
        done, total: of the main work; total 0 where it is not known.
        counts: work so far by name, with what is planned.
        cards: in order of the candidates.
        stages: in order.
        seconds: since the work began.
    """

    phase: str = "Waiting"
    done: int = 0
    total: int = 0
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    cards: tuple[Card, ...] = ()
    stages: tuple[StageRow, ...] = ()
    seconds: float = 0.0


_NAMES = {"decode": "decodes", "reward": "reward calls", "scale": "scales"}


class LiveView:
    """Listens to a search in the thread that works; is looked at from the one that shows.

    Every report is also where a cancelled search stops.

    Attributes:
        candidate_steps: steps that the search makes, each candidate's counted on its own.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._lock = threading.Lock()
        self._cards: dict[int, Card] = {}
        self._stages: list[StageRow] = []
        self._counts: dict[str, tuple[int, int]] = {}
        self._phase = "Loading the model"
        self._main = (0, 0)
        self._rows = 0
        self.candidate_steps = 0
        self._has_final = False

    def plan(self, num_candidates: int, denoiser_rows: int) -> None:
        """The search begins with so many candidates, and takes so many denoiser rows in all."""
        with self._lock:
            self._rows = denoiser_rows
            self._phase = "Starting"
            self._cards = {index: Card(index) for index in range(num_candidates)}
        self._task.tell()

    def say(self, phase: str) -> None:
        """What is being done now."""
        with self._lock:
            self._phase = phase
        self._report()

    def on_progress(self, event: str, done: int, total: int) -> None:
        """See `samplers.output.Progress`."""
        with self._lock:
            if event == "denoise":
                self._main, self._phase = (done, total), "Denoising"
                self.candidate_steps = total
                self._counts["denoiser rows"] = round(done * self._rows / total), self._rows
            else:
                self._counts[_NAMES.get(event, event)] = done, total
            if event == "scale":
                self._main, self._phase = (done, total), "Drawing scale by scale"
        self._report()

    def on_stage(self, prompt_index: int, stage: Stage) -> None:
        """See `samplers.output.OnStage`."""
        name = _stage_name(stage)
        with self._lock:
            for candidate, score in zip(stage.alive, stage.combined, strict=True):
                self._score(candidate, score, stage, name)
            finite = [score for score in stage.combined if math.isfinite(score)]
            best = max(finite, default=math.nan)
            self._stages.append(StageRow(name, len(stage.alive), len(stage.kept), best))
            self._has_final = self._has_final or stage.is_final
        self._report()

    def on_previews(self, step: int, pictures: Mapping[int, Image]) -> None:
        """Early estimates by candidate, made after `step` (counted from 1)."""
        with self._lock:
            for candidate, picture in pictures.items():
                card = self._cards.get(candidate)
                if card is not None and not card.is_out:
                    uri = picture_uri(picture)
                    self._cards[candidate] = replace(card, picture=uri, made_at=f"step {step}")
        self._report()

    @property
    def takes_previews(self) -> bool:
        """Whether rows of the pipeline are still the candidates as they are numbered here."""
        return not self._has_final

    @property
    def num_candidates(self) -> int:
        """Candidates so far."""
        return len(self._cards)

    def snapshot(self) -> Snapshot:
        """What there is to show now."""
        with self._lock:
            return Snapshot(
                phase=self._phase,
                done=self._main[0],
                total=self._main[1],
                counts=dict(self._counts),
                cards=tuple(self._cards[index] for index in sorted(self._cards)),
                stages=tuple(self._stages),
                seconds=self._task.seconds,
            )

    def _score(self, candidate: int, score: float, stage: Stage, name: str) -> None:
        card = self._cards.get(candidate, Card(candidate))
        picture = stage.previews.get(candidate)
        if picture is not None:
            card = replace(card, picture=picture_uri(picture), made_at=name)
        fate, is_out = _fate(candidate, stage, name)
        self._cards[candidate] = replace(card, score=score, fate=fate, is_out=is_out)

    def _report(self) -> None:
        self._task.tell()
        self._task.check()


def _fate(candidate: int, stage: Stage, name: str) -> tuple[str, bool]:
    if stage.is_final:
        if candidate not in stage.kept:
            return "not the best", True
        return ("winner" if candidate == stage.ranking[0] else "kept"), False
    parent = stage.parent(candidate)
    if parent is None:
        return f"dropped, {name}", True
    if parent != candidate:
        return f"now a copy of #{parent}", False
    return f"kept, {name}", False


def _stage_name(stage: Stage) -> str:
    unit = "step" if stage.grid is None else "scale"
    name = "the end" if stage.is_final else f"{unit} {stage.step_index + 1}"
    return name if stage.round is None else f"{name} of round {stage.round}"
