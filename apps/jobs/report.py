"""The tables and the JSON document that a run ends with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from apps.console import out
from apps.jobs.preparation import Job
from apps.jobs.report_episodes import show_episodes
from apps.jobs.report_texts import show_answers
from apps.jobs.run import Outcome
from gensift.config import config_hash
from gensift.cost import Cost

MAX_ROWS = 25


def outcome_document(job: Job, outcome: Outcome) -> dict[str, Any]:
    """What `--json` prints after a run; `file` is relative to `output`."""
    return {
        "output": outcome.folder,
        "sampler": job.config["sampler"],
        "config_hash": config_hash(job.config),
        "prompts": [
            {
                "prompt": line["prompt"],
                "prompt_index": line["prompt_index"],
                "winner": line["samples"][0],
                **({"samples": line["samples"]} if outcome.is_text or outcome.is_action else {}),
                "first_reward": line.get("first_reward"),
                "mean_reward": line.get("mean_reward"),
                "resumed": line["prompt_index"] in outcome.resumed,
            }
            for line in outcome.lines
        ],
        "cost": {"planned": outcome.planned.to_dict(), "spent": outcome.spent.to_dict()},
    }


def show_outcome(outcome: Outcome) -> None:
    """Print the winners, the cost, and where everything is."""
    if outcome.is_text:
        show_answers(outcome.lines)
    elif outcome.is_action:
        show_episodes(outcome.lines)
    else:
        out.print(_winners(outcome.lines))
    if not (outcome.is_reproducible or outcome.is_text or outcome.is_action):
        out.print(
            "This search copies or changes candidates on the way, so a seed alone need not give a "
            "winner again in a plain call; the same command does.",
            soft_wrap=True,
        )
    out.print(_costs({"planned": outcome.planned, "spent": outcome.spent}))
    out.print(f"Saved in {outcome.folder}", soft_wrap=True, markup=False, highlight=False)


def plan_document(job: Job, plan: Any, planned: Cost) -> dict[str, Any]:
    """What `--dry-run --json` prints; `plan` is for one prompt, `cost` for all."""
    return {
        "output": str(job.folder),
        "config": dict(job.config),
        "pipeline_call": None if job.pipeline_call is None else dict(job.pipeline_call),
        "num_prompts": len(job.prompts),
        "plan": plan.to_dict(),
        "cost": planned.to_dict(),
    }


def show_plan(job: Job, plan: Any, planned: Cost) -> None:
    """Print what a run would do."""
    sampler = escape(str(job.config["sampler"]))
    stages = Table(title=f"{sampler}: per prompt", title_justify="left")
    unit = "scale" if hasattr(plan, "num_scales") else "step"
    for column in (f"after {unit}", "scored", "kept"):
        stages.add_column(column, justify="right")
    for stage in plan.stages:
        step = f"{stage.step_index + 1} of {stage.num_inference_steps}"
        stages.add_row(step, str(stage.alive), str(stage.kept))
    out.print(stages)
    out.print(_costs({f"planned, {len(job.prompts)} prompt(s)": planned}))
    out.print(
        f"Candidates per prompt: {plan.num_candidates}. Most rows at a time: "
        f"{plan.peak_rows}. Nothing was run; results would go to {job.folder}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _winners(lines: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title="Reward: winner, first candidate, mean of all finished", title_justify="left"
    )
    table.add_column("prompt", overflow="fold", max_width=44)
    for column in ("winner", "first", "mean", "seed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("file", no_wrap=True)
    for line in lines[:MAX_ROWS]:
        best = line["samples"][0]
        rewards = (best["reward"], line.get("first_reward"), line.get("mean_reward"))
        numbers = [_number(reward) for reward in rewards]
        file = best.get("file", "")
        table.add_row(escape(line["prompt"]), *numbers, str(best["seed"]), file)
    if len(lines) > MAX_ROWS:
        table.add_row(f"… {len(lines) - MAX_ROWS} more in results.jsonl")
    if len(lines) > 1:
        winners = [line["samples"][0]["reward"] for line in lines]
        firsts = [line.get("first_reward") for line in lines]
        means = [line.get("mean_reward") for line in lines]
        table.add_section()
        table.add_row("average", *(_number(_average(c)) for c in (winners, firsts, means)))
    return table


def _costs(costs: dict[str, Cost]) -> Table:
    table = Table(title="Cost", title_justify="left")
    table.add_column("")
    for name in costs:
        table.add_column(name, justify="right")
    rows = {name: _cost_rows(cost) for name, cost in costs.items()}
    for label in dict.fromkeys(label for column in rows.values() for label in column):
        table.add_row(label, *(column.get(label, "-") for column in rows.values()))
    return table


def _cost_rows(cost: Cost) -> dict[str, str]:
    # Some models draw tokens and have no denoiser, and texts are not decoded by a VAE.
    work = {"denoiser rows (NFE)": cost.nfe} if cost.nfe or not cost.tokens else {}
    work |= {"tokens": cost.tokens} if cost.tokens else {}
    work |= {} if cost.nfe and cost.tokens else {"decodes": cost.decodes}
    rows = {label: f"{count:,}" for label, count in work.items()}
    counts = {"preview decodes": cost.preview_decodes}
    counts |= {f"reward calls, {escape(name)}": n for name, n in cost.reward_calls.items()}
    counts |= {"cache hits": cost.cache_hits}
    rows |= {label: f"{count:,}" for label, count in counts.items() if count}
    if cost.seconds:
        rows["seconds"] = f"{cost.total_seconds:.1f}"
    if cost.peak_memory_mib is not None:
        rows["peak memory, MiB"] = f"{cost.peak_memory_mib:,.0f}"
    return rows


def _number(reward: Any) -> str:
    # Non-finite numbers are texts in JSON files, which float reads back.
    return "-" if reward is None else f"{float(reward):.3f}"


def _average(rewards: Sequence[Any]) -> float | None:
    """Mean of the finite rewards; None if one is unknown, as the rest would flatter or deceive."""
    if any(reward is None for reward in rewards):
        return None
    finite = [float(r) for r in rewards if math.isfinite(float(r))]
    return sum(finite) / len(finite) if finite else None
