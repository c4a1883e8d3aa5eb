"""The tables and the JSON document that a run ends with."""

from __future__ import annotations

from rich.table import Table

from apps.console import out, write, write_json
from apps.jobs.job import Job
from apps.jobs.run import Outcome, Planned
from gensift.config import config_hash
from gensift.cost import Cost
from gensift.protocols import JsonObject


def report(job: Job, found: Outcome | Planned | None, *, as_json: bool) -> None:
    """Print what was found or planned; all but the first process have nothing to show."""
    if found is None:
        return
    if as_json:
        write_json(
            plan_document(job, found)
            if isinstance(found, Planned)
            else outcome_document(job, found)
        )
    elif isinstance(found, Planned):
        show_plan(job, found)
    else:
        show_outcome(found)


def outcome_document(job: Job, outcome: Outcome) -> JsonObject:
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
                **({"samples": line["samples"]} if outcome.modality.lists_all_samples else {}),
                "first_reward": line.get("first_reward"),
                "mean_reward": line.get("mean_reward"),
                "resumed": line["prompt_index"] in outcome.resumed,
            }
            for line in outcome.lines
        ],
        "cost": {"planned": outcome.planned.to_dict(), "spent": outcome.spent.to_dict()},
    }


def show_outcome(outcome: Outcome) -> None:
    """Print the samples, the cost, and where everything is."""
    outcome.modality.show(outcome.lines, is_reproducible=outcome.is_reproducible)
    out.print(_costs({"planned": outcome.planned, "spent": outcome.spent}))
    write(f"Saved in {outcome.folder}")


def plan_document(job: Job, planned: Planned) -> JsonObject:
    """What `--dry-run --json` prints; `plan` is for one prompt, `cost` for all."""
    return {
        "output": str(job.folder),
        "config": dict(job.config),
        "pipeline_call": None if job.pipeline_call is None else dict(job.pipeline_call),
        "num_prompts": len(job.prompts),
        "plan": planned.plan.to_dict(),
        "cost": planned.cost.to_dict(),
    }


def show_plan(job: Job, planned: Planned) -> None:
    """Print what a run would do."""
    plan = planned.plan
    sampler = str(job.config["sampler"])
    stages = Table(title=f"{sampler}: per prompt", title_justify="left")
    unit = "scale" if hasattr(plan, "num_scales") else "step"
    for column in (f"after {unit}", "scored", "kept"):
        stages.add_column(column, justify="right")
    for stage in plan.stages:
        step = f"{stage.step_index + 1} of {stage.num_inference_steps}"
        stages.add_row(step, str(stage.alive), str(stage.kept))
    out.print(stages)
    out.print(_costs({f"planned, {len(job.prompts)} prompt(s)": planned.cost}))
    write(
        f"Candidates per prompt: {plan.num_candidates}. Most rows at a time: "
        f"{plan.peak_rows}. Nothing was run; results would go to {job.folder}",
    )


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
    counts |= {f"reward calls, {name}": n for name, n in cost.reward_calls.items()}
    counts |= {"cache hits": cost.cache_hits}
    rows |= {label: f"{count:,}" for label, count in counts.items() if count}
    if cost.seconds:
        rows["seconds"] = f"{cost.total_seconds:.1f}"
    if cost.peak_memory_mib is not None:
        rows["peak memory, MiB"] = f"{cost.peak_memory_mib:,.0f}"
    return rows
