"""How the answers of a task are told apart: what a zoo model of texts brings beside its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AnswerChecker:
    """What reports need to know of a task whose answers are right or wrong.

    Attributes:
        reward: name of the reward that is 1 for a right answer and 0 for any other.
        normal_form: the one text shared by all answers that are the same solution; raises
            `ConfigError` for a text that is no answer at all.
    """

    reward: str
    normal_form: Callable[[str], str]
