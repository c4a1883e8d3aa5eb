"""What calibration measures and chooses, against independent computations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import gensift
from caches.bac import calibration as bac
from caches.bac.cache import BAC
from caches.bac.recorder import SimilarityStatistics, UnitStatistics
from caches.calibrate import calibrate
from caches.enable import make_cache
from caches.ertacache import calibration as erta
from caches.ertacache.cache import ERTACache
from caches.ertacache.closed_loop import closed_loop_updates
from caches.ertacache.options import ERTACacheOptions
from caches.ertacache.recorder import ReuseStatistics
from caches.evaluation import Denoising
from caches.options import CalibrationOptions
from caches.planning.rectification import Moments
from caches.profile import write_profile
from caches.registry import options_class_of
from gensift.errors import ConfigError

PROMPTS = ("a red circle", "two blue squares", "a green cross", "a purple triangle")
STEPS = 6


@pytest.fixture(scope="module")
def pipe() -> Any:
    found = gensift.load_pipeline("shapes-flux", dtype="float32")
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def denoising(pipe: Any) -> Denoising:
    return Denoising(pipe, {"num_inference_steps": STEPS}, batch_prompts=2, seed=3)


@contextmanager
def watched(modules: dict[str, torch.nn.Module]) -> Iterator[dict[str, list[tuple[Any, Any]]]]:
    """Inputs and outputs of each call, by torch's own hooks."""
    seen: dict[str, list[tuple[Any, Any]]] = {name: [] for name in modules}

    def keep(name: str) -> Any:
        return lambda module, args, kwargs, output: seen[name].append((kwargs, output))

    handles = [
        module.register_forward_hook(keep(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def evaluations(denoising: Denoising, prompts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """Latents and output `(branches * prompts, steps, ...)` as pairs, from an uncached run."""
    with watched({"root": denoising.pipe.transformer}) as seen:
        denoising.run(prompts)
    calls = [(kwargs["hidden_states"], output[0]) for kwargs, output in seen["root"]]
    # The zoo's guidance makes two calls per step; batches follow each other.
    batches = [calls[i : i + 2 * STEPS] for i in range(0, len(calls), 2 * STEPS)]
    return [
        (torch.stack([c[0] for c in batch[b::2]], 1), torch.stack([c[1] for c in batch[b::2]], 1))
        for batch in batches
        for b in range(2)
    ]


def relative(error: Tensor, size: Tensor) -> Tensor:
    return error.abs().flatten(1).sum(1) / size.abs().flatten(1).sum(1)


def test_the_cost_of_every_reuse_by_hand(denoising: Denoising) -> None:
    statistics = erta.record_reuse(denoising, PROMPTS, max_reuse=3)
    pairs = evaluations(denoising, PROMPTS)
    for anchor in range(STEPS):
        for step in range(STEPS):
            if not 0 < step - anchor <= 3:
                assert np.isinf(statistics.cost("increment")[anchor, step])
                continue
            expected: dict[str, list[Tensor]] = {"increment": [], "output": []}
            shares: dict[str, list[Tensor]] = {"velocity": [], "change": []}
            for x, v in pairs:
                own = v[:, step] - x[:, step]
                reused = v[:, anchor] - x[:, anchor] + x[:, step]
                expected["increment"].append(relative(reused - v[:, step], own))
                expected["output"].append(relative(v[:, anchor] - v[:, step], own))
                change = v[:, step] - v[:, step - 1]
                for rule, scale in (("velocity", v[:, step]), ("change", change)):
                    shares[rule].append((1 - relative(reused - v[:, step], scale)).clamp(0, 1))
            for mode in ("increment", "output"):
                found = statistics.cost(mode)[anchor, step]
                assert found == pytest.approx(float(torch.cat(expected[mode]).mean()), rel=1e-4)
            for rule in ("velocity", "change"):
                found = statistics.step_shares("increment", rule)[anchor, step]
                assert found == pytest.approx(float(torch.cat(shares[rule]).mean()), abs=1e-4)


def test_body_reuse_of_the_same_step_would_be_exact_and_costs_little(denoising: Denoising) -> None:
    statistics = erta.record_reuse(denoising, PROMPTS[:2], max_reuse=1)
    assert "body" in statistics.modes
    # Neighbouring steps differ little, and passing over all blocks is quick.
    assert 0 < statistics.cost("body")[4, 5] < 0.5
    assert statistics.speedup("increment", 3) == 2.0
    assert 1.0 < statistics.speedup("body", 3) < 2.0


def test_moments_are_those_of_even_and_odd_prompts(denoising: Denoising) -> None:
    statistics = erta.record_reuse(denoising, PROMPTS, max_reuse=2)
    pairs = evaluations(denoising, PROMPTS)
    key = ("output", "cond", 2, 4)
    conditional = pairs[0::2]
    for place, table in ((0, statistics.fitted), (1, statistics.held_out)):
        v = torch.stack([outputs[place, 2] for _, outputs in conditional]).double()
        e = v - torch.stack([outputs[place, 4] for _, outputs in conditional]).double()
        expected = Moments.empty(v.shape[-1])
        expected.add(v.flatten(0, 1).T.numpy(), e.flatten(0, 1).T.numpy())
        np.testing.assert_allclose(table[key].sums, expected.sums, rtol=1e-4, atol=1e-3)
        assert table[key].count == expected.count


def made_up(cost: np.ndarray[Any, Any]) -> ReuseStatistics:
    statistics = ReuseStatistics(len(cost), latents=(4, 8))
    for anchor, step in zip(*np.triu_indices(len(cost), 1), strict=True):
        one = torch.tensor([cost[anchor, step]])
        figures = {"error": one, "velocity": 1 - one, "change": 0 * one}
        statistics.add("increment", int(anchor), int(step), figures)
    return statistics


def test_the_schedule_is_the_cheapest_of_all() -> None:
    cost = np.random.default_rng(0).uniform(0, 1, (8, 8)).astype(np.float32)
    statistics = made_up(cost)
    for count in range(1, 9):

        def total(updates: tuple[int, ...]) -> float:
            last, summed = 0, 0.0
            for step in range(8):
                last = step if step in updates else last
                summed += 0.0 if step in updates else float(cost[last, step])
            return summed

        options = [(0, *rest) for rest in combinations(range(1, 8), count - 1)]
        chosen = erta.choose_schedule(statistics, count, "increment")
        assert len(chosen.updates) == count
        assert total(chosen.updates) == pytest.approx(min(map(total, options)))


def closed_loop_by_hand(pipe: Any, threshold: float) -> tuple[int, ...]:
    """An Euler loop of our own around the bare transformer, that decides as it goes."""
    calls: dict[str, list[Any]] = {"kwargs": []}

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        calls["kwargs"].append(kwargs)

    handle = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    Denoising(pipe, {"num_inference_steps": STEPS}, batch_prompts=4, seed=3).run(PROMPTS)
    handle.remove()
    conditional, negative = calls["kwargs"][:2]
    sigmas = pipe.scheduler.sigmas
    scale = gensift.call_defaults(pipe)["true_cfg_scale"]
    x, kept, updates = conditional["hidden_states"], {}, []
    with torch.no_grad():
        for step in range(STEPS):
            outputs = {}
            for name, given in (("cond", conditional), ("uncond", negative)):
                time = given["timestep"] * 0 + sigmas[step]
                arguments = given | {"hidden_states": x, "timestep": time, "return_dict": False}
                v = pipe.transformer(**arguments)[0]
                if name == "cond":
                    is_reused = step > 0 and (
                        relative(kept[name] - (v - x), v - x).mean() < threshold
                    )
                    updates += [] if is_reused else [step]
                kept[name] = kept[name] if is_reused else v - x
                outputs[name] = x + kept[name]
            guided = outputs["uncond"] + scale * (outputs["cond"] - outputs["uncond"])
            x = x + (sigmas[step + 1] - sigmas[step]) * guided
    return tuple(updates)


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.3, 0.5, 9.0])
def test_the_closed_loop_by_hand(threshold: float, pipe: Any, denoising: Denoising) -> None:
    found = closed_loop_updates(denoising, PROMPTS, threshold)
    assert found == closed_loop_by_hand(pipe, threshold)
    if threshold in (0.0, 9.0):
        assert found == {0.0: tuple(range(STEPS)), 9.0: (0,)}[threshold]
    limited = closed_loop_updates(denoising, PROMPTS, 9.0, must_update=(0, 5), max_reuse=2)
    assert limited == (0, 3, 5)


@pytest.mark.parametrize(("held_out", "expected"), [(0.3, 0.3), (-0.3, None)])
def test_an_error_is_taken_off_only_where_other_prompts_gain(
    held_out: float, expected: float | None, denoising: Denoising
) -> None:
    statistics = made_up(np.full((4, 4), 0.1, dtype=np.float32))
    values = np.random.default_rng(1).normal(size=(1, 500))
    for table, slope in ((statistics.fitted, 0.3), (statistics.held_out, held_out)):
        for anchor, step in ((0, 1), (1, 2), (2, 3)):
            moments = Moments.empty(1)
            moments.add(values, slope * values)
            table["increment", "cond", anchor, step] = moments
    schedule = erta.Schedule(updates=(0, 2), mode="increment")
    plain = erta.plain_config(denoising, statistics, schedule)
    found = erta.with_rectification(plain, statistics).rectification
    if expected is None:
        assert found == ()
        return
    # Step 2 is computed; step 3 reuses step 2, never step 1.
    assert [(item.branch, item.step) for item in found] == [("cond", 1), ("cond", 3)]
    assert all(item.slope == pytest.approx((expected,), rel=1e-3) for item in found)


def test_reused_steps_are_moved_by_the_share_of_the_step_they_reuse(denoising: Denoising) -> None:
    cost = np.random.default_rng(2).uniform(0, 0.9, (5, 5)).astype(np.float32)
    schedule = erta.Schedule(updates=(0, 3), mode="increment")
    plain = erta.plain_config(denoising, made_up(cost), schedule)
    found = erta.with_moved_steps(plain, made_up(cost)).step_shares
    expected = (1, 1 - cost[0, 1], 1 - cost[0, 2], 1, 1 - cost[3, 4])
    assert found == pytest.approx(expected, abs=1e-6)


def test_similarity_and_change_by_hand(denoising: Denoising) -> None:
    statistics = bac.record_similarity(denoising, PROMPTS[:2])
    transformer = denoising.pipe.transformer
    name = "transformer_blocks.1.ff"
    with watched({name: transformer.transformer_blocks[1].ff}) as seen:
        denoising.run(PROMPTS[:2])
    outputs = [output.flatten(1).double() for _, output in seen[name]]
    cosines, changes = [], []
    for branch in range(2):
        steps = torch.stack(outputs[branch::2], 1)
        for row in steps:
            length = row / row.norm(dim=1, keepdim=True)
            cosines.append(length @ length.T)
            pairs = [(a, b) for a in range(STEPS) for b in range(a)]
            changes.append(np.mean([float((row[a] - row[b]).abs().mean()) for a, b in pairs]))
    np.testing.assert_allclose(
        statistics.similarity(name), torch.stack(cosines).mean(0).numpy(), atol=1e-5
    )
    assert statistics.change(name) == pytest.approx(float(np.mean(changes)), rel=1e-4)
    assert 0 < sum(statistics.share_of_time(unit) for unit in statistics.units) < 1


def test_the_predicted_speedup_of_sub_blocks_by_hand() -> None:
    units = {
        "a": UnitStatistics(0, "joint-attention", np.eye(10), seconds=3.0),
        "b": UnitStatistics(0, "feed-forward", np.eye(10), seconds=2.0),
    }
    statistics = SimilarityStatistics(10, seconds=10.0, units=units)
    # 30 % of the time saved in 9 of 10 steps, 20 % in half of them.
    found = bac.predicted_speedup(statistics, {"a": (0,), "b": tuple(range(5))})
    assert found == pytest.approx(1 / (1 - 0.27 - 0.10))
    with pytest.raises(ConfigError, match=r"at most 1\.82 is possible"):
        bac.updates_for_speedup(statistics, 3.0, num_bubbling=0)
    count = bac.updates_for_speedup(statistics, 1.25, num_bubbling=0)
    shorter = bac.block_schedules(statistics, count, num_bubbling=0)
    longer = bac.block_schedules(statistics, count + 1, num_bubbling=0)
    assert bac.predicted_speedup(statistics, shorter) >= 1.25
    assert bac.predicted_speedup(statistics, longer) < 1.25


@pytest.mark.parametrize("cache", ["ertacache", "bac"])
def test_a_profile_from_end_to_end(cache: Any, pipe: Any, tmp_path: Any) -> None:
    aim = {"ertacache": 1.5, "bac": 1.1}[cache]
    own = {"ertacache": {"max_reuse": 3}, "bac": {"num_bubbling": 2}}[cache]
    options = options_class_of(cache)(target_speedup=aim, batch_prompts=2, **own)
    prompts = [*PROMPTS, "an orange square", "two red circles", "a blue cross", "a red square"]
    found = calibrate(pipe, prompts, options, num_inference_steps=STEPS)
    assert found.predicted_speedup >= aim
    write_profile(tmp_path / "profile.json", found.profile)
    loaded = make_cache(pipe, tmp_path / "profile.json")
    again = Denoising(pipe, {"num_inference_steps": STEPS}, batch_prompts=2)
    # The figure is that of the odd prompts, with the cache as it was written.
    error, _ = again.compare(prompts[1::2], loaded)
    assert error == pytest.approx(found.error, rel=1e-4)
    assert error > 0


def test_the_error_asked_for_is_kept(pipe: Any) -> None:
    options = ERTACacheOptions(max_error=0.05, batch_prompts=4, correct=False, residual="increment")
    found = calibrate(pipe, PROMPTS * 2, options, num_inference_steps=8)
    again = Denoising(pipe, {"num_inference_steps": 8}, batch_prompts=4)
    fitted = (PROMPTS * 2)[::2]
    uncached = again.run(fitted)
    assert uncached.error_of(again.run(fitted, found.cache)) <= 0.05
    # One update less would not keep it.
    statistics = erta.record_reuse(again, fitted, options.max_reuse)
    fewer = erta.choose_schedule(statistics, len(found.schedule["denoiser"]) - 1, "increment")
    worse = ERTACache(erta.plain_config(again, statistics, fewer))
    assert uncached.error_of(again.run(fitted, worse)) > 0.05


def test_schedules_of_one_sub_block_serve_all_where_asked(denoising: Denoising) -> None:
    statistics = bac.record_similarity(denoising, PROMPTS[:2])
    shared = bac.block_schedules(statistics, 3, policy="shared")
    uniform = bac.block_schedules(statistics, 3, policy="uniform")
    assert len(set(shared.values())) == len(set(uniform.values())) == 1
    assert next(iter(uniform.values())) == (0, 2, 4)
    own = bac.block_schedules(statistics, 3, num_bubbling=0)
    assert {len(updates) for updates in own.values()} == {3}
    joined = bac.block_schedules(statistics, 3, num_bubbling=2)
    assert all(set(joined[name]) >= set(own[name]) for name in own)
    assert sum(joined[name] != own[name] for name in own) <= 2
    cache = BAC(bac.config_of(denoising, statistics, joined))
    denoising.run(PROMPTS[:2], cache)
    # Two prompts, two guidance branches.
    assert cache.report().computed == 4 * sum(len(updates) for updates in joined.values())


def test_too_few_prompts(pipe: Any) -> None:
    with pytest.raises(ConfigError, match=r"3 prompts were given; .* at least 4"):
        calibrate(pipe, PROMPTS[:3], CalibrationOptions())
