"""What a step and a scoring cost, and searches at the cost of best-of-N, for `benchmarks.gpu`."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.gpu_subject import PROMPT, SCHEDULES, SHORT_STEPS, Extent, Subject
from benchmarks.timing import Timing, interleaved, ratio, seconds_by_part, summary
from gensift.errors import ConfigError
from gensift.pipelines.loading import load_preview_decoder
from samplers.diffusion.call import PipelineCall
from samplers.diffusion.schedule import UnitCosts, largest_search, plan_stages, search_cost
from samplers.diffusion.unit_costs import measure_unit_costs


def unit_costs(subject: Subject, rounds: int) -> dict[str, UnitCosts]:
    """What a step, a scoring by the VAE and a preview cost, in FLOPs and in median seconds."""
    arguments = subject.arguments | {"prompt": [PROMPT]}
    call = PipelineCall.bind(subject.pipe, type(subject.pipe).__call__, (), arguments)
    decoder = load_preview_decoder(subject.pipe, subject.preview_decoder)
    flops = measure_unit_costs(call, subject.reward, "flops", decoder)
    timed: list[UnitCosts] = []
    refused: ConfigError | None = None
    for _ in range(max(rounds, 3)):
        try:
            timed.append(measure_unit_costs(call, subject.reward, "seconds", decoder))
        except ConfigError as error:  # a hiccup made the shorter of its runs the longer one
            refused = error
    if refused is not None and not timed:
        raise refused
    return {"flops": flops, "seconds": _median_unit_costs(timed)}


def _median_unit_costs(timed: list[UnitCosts]) -> UnitCosts:
    return UnitCosts(
        step=median(costs.step for costs in timed),
        scoring=median(costs.scoring for costs in timed),
        preview=median(costs.early_scoring for costs in timed),
    )


def describe_unit_costs(found: dict[str, UnitCosts]) -> dict[str, Any]:
    """For JSON; a step is one of one candidate, guidance rows included."""
    return {
        unit: {
            "step": costs.step,
            "verdict": costs.scoring,
            "preview": costs.early_scoring,
            "verdict_in_steps": costs.scoring / costs.step,
            "preview_in_steps": costs.early_scoring / costs.step,
        }
        for unit, costs in found.items()
    }


def fitting(name: str, costs: UnitCosts, budget: int, steps: int) -> int:
    """Candidates of the schedule `name` that cost at most what best-of-`budget` does; may be 0."""
    allowed = search_cost(plan_stages((), steps, budget, 1), costs)
    # A rounding error must not take a candidate from best-of-N itself.
    allowed *= 1 + 1e-9
    checkpoints = SCHEDULES[name].resolve(steps)
    if search_cost(plan_stages(checkpoints, steps, 1, 1), costs) > allowed:
        return 0
    return largest_search(checkpoints, steps, 1, costs, allowed)


def contenders(
    found: dict[str, UnitCosts], budget: int, steps: int
) -> dict[tuple[str, int], list[str]]:
    """(schedule, candidates) and the units of cost in which it equals best-of-`budget`."""
    chosen: dict[tuple[str, int], list[str]] = {}
    for name in SCHEDULES:
        for unit, costs in found.items():
            chosen.setdefault((name, fitting(name, costs, budget, steps)), []).append(unit)
    return chosen


def equal_budget(
    subject: Subject, extent: Extent, rounds: int, found: dict[str, UnitCosts]
) -> dict[str, Any]:
    """Candidates considered per second, at the cost of best-of-N."""
    chosen = contenders(found, extent.budget, subject.steps)
    too_dear = {name: units for (name, count), units in chosen.items() if count == 0}
    chosen = {key: units for key, units in chosen.items() if key[1] > 0}
    searches = {f"{name}: {count}": (name, count) for name, count in chosen}
    for name, count in searches.values():  # warm-up: batches of new sizes choose kernels
        short = subject.arguments | {"num_inference_steps": SHORT_STEPS}
        subject.search(name, count)(subject.pipe, PROMPT, **short)
    runs = {
        key: lambda n=name, c=count: (
            subject.search(n, c)(subject.pipe, PROMPT, **subject.arguments).cost
        )
        for key, (name, count) in searches.items()
    }
    timings = interleaved(runs, rounds, subject.device)
    baseline = timings[f"best-of-n: {extent.budget}"]
    rows = [
        _contender(subject, *searches[key], found, timings[key], baseline)
        | {"equal_in": chosen[searches[key]]}
        for key in searches
    ]
    allowed = search_cost_of("best-of-n", extent.budget, subject.steps, found)
    return {
        "budget": extent.budget,
        "allowed_cost": allowed,
        "rounds": rounds,
        "rows": rows,
        "not_one_candidate_fits": too_dear,
    }


def search_cost_of(
    name: str, count: int, steps: int, found: dict[str, UnitCosts]
) -> dict[str, float]:
    """Planned cost of a search in each unit."""
    stages = plan_stages(SCHEDULES[name].resolve(steps), steps, count, 1)
    return {unit: search_cost(stages, costs) for unit, costs in found.items()}


def _contender(
    subject: Subject,
    name: str,
    count: int,
    found: dict[str, UnitCosts],
    timings: list[Timing],
    baseline: list[Timing],
) -> dict[str, Any]:
    planned = subject.search(name, count).plan(subject.pipe, PROMPT, **subject.arguments).cost
    cost = timings[0].result
    rates = [count / timing.seconds for timing in timings]
    best_of_n = baseline[0].result.reward_calls
    base_rates = [sum(best_of_n.values()) / timing.seconds for timing in baseline]
    return {
        "name": name,
        "num_candidates": count,
        "planned_cost": search_cost_of(name, count, subject.steps, found),
        "nfe": cost.nfe,
        "planned_nfe": planned.nfe,
        "decodes": cost.decodes,
        "preview_decodes": cost.preview_decodes,
        **summary(timings),
        "candidates_per_second": median(rates),
        "candidates_per_second_over_best_of_n": ratio(rates, base_rates),
        "seconds_by_part": seconds_by_part(timings),
    }
