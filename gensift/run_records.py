"""What the files of a run folder hold, checked when they are read back."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gensift.cost import Cost
from gensift.errors import ConfigError

Score = float | str | None
"""A number; JSON has no inf and nan, so these are texts."""


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name[:80]!r} lies outside of the run folder")
    return name


def _cost(given: dict[str, Any]) -> dict[str, Any]:
    try:
        Cost.from_dict(given)
    except (ConfigError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"no cost ({' '.join(str(error).split())[:80]})") from error
    return given


class _Record(BaseModel):
    # Later versions may add fields; what is there must be right.
    model_config = ConfigDict(extra="allow", strict=True)


class SampleRecord(_Record):
    """One sample of a prompt: a text, a file beside the results, or what else a modality notes."""

    file: Annotated[str, AfterValidator(_inside)] | None = None
    text: str | None = None
    seed: int = Field(ge=0, lt=2**64)
    reward: Score = None
    rewards: dict[str, Score] = {}


class ResultRecord(_Record):
    """A line of `results.jsonl`: one finished prompt."""

    prompt: str
    prompt_index: int = Field(ge=0, lt=2**53)
    samples: list[SampleRecord] = Field(min_length=1)
    cost: Annotated[dict[str, Any], AfterValidator(_cost)]
    config_hash: str
    own: dict[str, Any] = {}


class SummaryRecord(_Record):
    """`run.json`."""

    config: dict[str, Any]
    command: str = ""
    pipeline_call: dict[str, Any] | None = None
    versions: dict[str, str] = {}
    cost: dict[str, Any] = {}


class PlanRecord(_Record):
    """`plan.json`; of it only the number of candidates is read back."""

    num_candidates: int = Field(ge=1, lt=2**31)
