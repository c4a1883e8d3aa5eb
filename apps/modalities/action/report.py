"""What is written and printed of episodes: whether they succeeded, and how fast all was planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from apps.console import out, write
from gensift.protocols import JsonObject
from gensift.runs import RunFiles
from samplers.policy.episode import ActedEpisode


def write_episode(
    files: RunFiles, episode: ActedEpisode, name: str, chunks: Mapping[str, str]
) -> JsonObject:
    """Write its strip as `name` if it has one; returns its part of the results line."""
    line: JsonObject = {
        "goal": episode.goal,
        "success": episode.is_success,
        "steps": episode.steps,
    }
    if episode.strip is not None:
        files.write_image(name, episode.strip, chunks)
        line["file"] = name
    if episode.no_strip is not None:
        line["no_file"] = episode.no_strip
    return line


def show_episodes(lines: Sequence[JsonObject]) -> None:
    """Print success and speed of every task, and where its strip is."""
    table = Table(title="Episodes", title_justify="left")
    table.add_column("task")
    for column in ("success", "actions", "ms per action"):
        table.add_column(column, justify="right")
    table.add_column("strip", overflow="fold")
    for line in lines:
        table.add_row(line["prompt"], *_figures(line), line["samples"][0].get("file", "-"))
    out.print(table)
    out.print("actions: of an episode, mean; ms per action: planning, all robots of a task at once")
    for problem in {line["samples"][0].get("no_file") for line in lines} - {None}:
        write(f"No strip: {problem}")


def _figures(line: JsonObject) -> tuple[str, str, str]:
    samples = line["samples"]
    count = line["cost"]["reward_calls"]["success"]
    steps = [sample["steps"] for sample in samples]
    planned = 1000 * line["cost"]["seconds"]["plan"] / max(1, sum(steps))
    return (
        f"{round(count * line['mean_reward'])} of {count}",
        f"{sum(steps) / len(steps):.0f}",
        f"{planned:.1f}" if len(samples) == count else "-",
    )
