"""What is printed of texts: each different one, whether it is right, and how they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from apps.console import out
from apps.training.evaluation.answers import jaccard_distance
from gensift.zoo.countdown.expressions import canonical

CHECKER = "countdown"
"""Reward that says right or wrong."""
MAX_PROMPTS = 25


def show_answers(lines: Sequence[Mapping[str, Any]]) -> None:
    """Print the texts of every prompt, best first, equal ones once."""
    for line in lines[:MAX_PROMPTS]:
        out.print(_answers(line))
        out.print(difference(line), soft_wrap=True, markup=False, highlight=False)
    if len(lines) > MAX_PROMPTS:
        out.print(f"… {len(lines) - MAX_PROMPTS} more prompts in results.jsonl")


def _answers(line: Mapping[str, Any]) -> Table:
    table = Table(title=escape(line["prompt"]), title_justify="left")
    table.add_column("answer", overflow="fold")
    table.add_column("times", justify="right")
    samples = {sample["text"]: sample for sample in reversed(line["samples"])}
    counts = Counter(sample["text"] for sample in line["samples"])
    is_judged = any(sample["reward"] is not None for sample in line["samples"])
    if is_judged:
        table.add_column("right?" if _is_checked(line) else "reward")
    for text in dict.fromkeys(sample["text"] for sample in line["samples"]):
        judged = [_verdict(samples[text], line)] if is_judged else []
        table.add_row(escape(text), str(counts[text]), *judged)
    return table


def difference(line: Mapping[str, Any]) -> str:
    """How many answers there are, how many differ, and by how much."""
    texts = [sample["text"] for sample in line["samples"]]
    parts = [f"{len(texts)} answers", f"{len(set(texts))} different"]
    if _is_checked(line):
        right = [s["text"] for s in line["samples"] if float(s["rewards"][CHECKER]) == 1]
        parts.append(f"{len(right)} right")
        if right:
            parts.append(f"{len({canonical(text) for text in right})} different solutions")
    parts.append(f"mean distance {jaccard_distance(texts):.2f} (0 alike, 1 no word in common)")
    return ", ".join(parts)


def _is_checked(line: Mapping[str, Any]) -> bool:
    return all(set(sample["rewards"]) == {CHECKER} for sample in line["samples"])


def _verdict(sample: Mapping[str, Any], line: Mapping[str, Any]) -> str:
    if _is_checked(line):
        return "right" if float(sample["reward"]) == 1 else "wrong"
    return f"{float(sample['reward']):.3f}"
