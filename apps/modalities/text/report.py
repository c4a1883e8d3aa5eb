"""What is printed of texts: each different one, whether it is right, and how they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

from rich.table import Table

from apps.console import out, write
from gensift.protocols import JsonObject
from gensift.zoo.answers import AnswerChecker
from gensift.zoo.catalog import checker_of

MAX_PROMPTS = 25

Line: TypeAlias = JsonObject
"""A line of `results.jsonl`."""


def show_answers(lines: Sequence[Line]) -> None:
    """Print the texts of every prompt, best first, equal ones once."""
    for line in lines[:MAX_PROMPTS]:
        out.print(_answers(line))
        write(difference(line))
    if len(lines) > MAX_PROMPTS:
        out.print(f"… {len(lines) - MAX_PROMPTS} more prompts in results.jsonl")


def _answers(line: Line) -> Table:
    table = Table(title=line["prompt"], title_justify="left")
    table.add_column("answer", overflow="fold")
    table.add_column("times", justify="right")
    samples = {sample["text"]: sample for sample in reversed(line["samples"])}
    counts = Counter(sample["text"] for sample in line["samples"])
    is_scored = any(sample["reward"] is not None for sample in line["samples"])
    is_checked = _checker(line) is not None
    if is_scored:
        table.add_column("right?" if is_checked else "reward")
    for text in dict.fromkeys(sample["text"] for sample in line["samples"]):
        scored = [_score(samples[text], is_checked=is_checked)] if is_scored else []
        table.add_row(text, str(counts[text]), *scored)
    return table


def difference(line: Line) -> str:
    """How many answers there are, how many differ, and by how much."""
    from apps.training.evaluation.answers import jaccard_distance

    texts = [sample["text"] for sample in line["samples"]]
    parts = [f"{len(texts)} answers", f"{len(set(texts))} different"]
    if (checker := _checker(line)) is not None:
        right = [s["text"] for s in line["samples"] if float(s["rewards"][checker.reward]) == 1]
        parts.append(f"{len(right)} right")
        if right:
            forms = {checker.normal_form(text) for text in right}
            parts.append(f"{len(forms)} different solutions")
    parts.append(f"mean distance {jaccard_distance(texts):.2f} (0 alike, 1 no word in common)")
    return ", ".join(parts)


def _checker(line: Line) -> AnswerChecker | None:
    """What tells right from wrong, where it is the only reward."""
    names = {tuple(sample["rewards"]) for sample in line["samples"]}
    if len(names) != 1 or len(only := names.pop()) != 1:
        return None
    return checker_of(only[0])


def _score(sample: JsonObject, *, is_checked: bool) -> str:
    if is_checked:
        return "right" if float(sample["reward"]) == 1 else "wrong"
    return f"{float(sample['reward']):.3f}"
