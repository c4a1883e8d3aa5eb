"""What is printed of pictures: the winner of each prompt beside the first and the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from apps.console import WIDE, out
from gensift.protocols import JsonObject

MAX_ROWS = 25


def show_winners(lines: Sequence[JsonObject], *, is_reproducible: bool) -> None:
    """Print a table of winners, and a warning where a seed alone does not give one again."""
    out.print(_winners(lines))
    if not is_reproducible:
        out.print(
            "This search copies or changes candidates on the way, so a seed alone need not give a "
            "winner again in a plain call; the same command does.",
            soft_wrap=True,
        )


def _winners(lines: Sequence[JsonObject]) -> Table:
    table = Table(
        title="Reward: winner, first candidate, mean of all finished", title_justify="left"
    )
    table.add_column("prompt", overflow="fold", max_width=44 if out.width < WIDE else None)
    for column in ("winner", "first", "mean", "seed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("file", overflow="fold")
    for line in lines[:MAX_ROWS]:
        best = line["samples"][0]
        rewards = (best["reward"], line.get("first_reward"), line.get("mean_reward"))
        numbers = [_number(reward) for reward in rewards]
        file = best.get("file", "")
        table.add_row(line["prompt"], *numbers, str(best["seed"]), file)
    if len(lines) > MAX_ROWS:
        table.add_row(f"… {len(lines) - MAX_ROWS} more in results.jsonl")
    if len(lines) > 1:
        winners = [line["samples"][0]["reward"] for line in lines]
        firsts = [line.get("first_reward") for line in lines]
        means = [line.get("mean_reward") for line in lines]
        table.add_section()
        table.add_row("average", *(_number(_average(c)) for c in (winners, firsts, means)))
    return table


# Non-finite numbers are texts in JSON files, which float reads back.
_Reward = float | str | None


def _number(reward: _Reward) -> str:
    return "-" if reward is None else f"{float(reward):.3f}"


def _average(rewards: Sequence[_Reward]) -> float | None:
    """Mean of the finite rewards; None if one is unknown, as the rest would flatter or deceive."""
    known = [float(reward) for reward in rewards if reward is not None]
    finite = [reward for reward in known if math.isfinite(reward)]
    return sum(finite) / len(finite) if finite and len(known) == len(rewards) else None
