"""Options of rollouts; imports nothing heavy, as the command line reads them."""

from __future__ import annotations

from dataclasses import dataclass

from gensift.config import check, option


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """How a policy is evaluated on a task."""

    num_candidates: int = option(
        10, minimum=1, maximum=50, help="episodes per task, each with a held-out goal of its own"
    )
    num_outputs: int | None = option(
        None, minimum=1, help="episodes that are reported, best first; all unless told otherwise"
    )
    max_rows: int | None = option(
        None, minimum=1, help="most robots at once; lower it when memory runs out"
    )
    max_steps: int = option(
        200, minimum=1, maximum=500, help="actions after which an episode has failed"
    )
    frames: int = option(
        8,
        minimum=0,
        maximum=64,
        help="pictures in the strip of the best episode, where a renderer is there",
    )

    def __post_init__(self) -> None:
        problems = []
        if self.num_outputs is not None and self.num_outputs > self.num_candidates:
            problems.append(
                f"`num_outputs` is {self.num_outputs}, more than the {self.num_candidates} episodes"
            )
        check(self, problems)

    @property
    def reported(self) -> int:
        """Episodes reported per task."""
        return self.num_outputs or self.num_candidates
