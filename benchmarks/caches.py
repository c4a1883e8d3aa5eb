"""What feature caches are worth: nearness to uncached runs against measured time, at 50 steps.

    python -m benchmarks.caches [--prompts-per-category 8] [--rounds 1]

One process, `shapes-flux`, held-out prompts. Ours are calibrated on training prompts. In each batch
of prompts every contender runs once right after the uncached loop, with the same seeds, and its
speed-up is the median over batches of the ratio of seconds inside the denoiser. Quality: PSNR of
the pictures against the uncached ones, distance of their shapes-clip features, and GenEval-mini.

Also: the overhead of an attached cache that skips nothing, the speed-up against the ideal that the
skipped share allows, and the ablation of ERTACache's parts.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

import gensift
from benchmarks.cache_contenders import (
    FAILURES,
    CacheContender,
    cache_dit_caches,
    diffusers_caches,
    fewer_steps,
    ours,
)
from benchmarks.caches_plot import draw
from benchmarks.results import FOLDER, publish
from caches.bac import calibration as bac
from caches.bac.cache import BAC
from caches.bac.config import BACConfig, UnitSchedule
from caches.ertacache import calibration as erta
from caches.ertacache.cache import ERTACache
from caches.ertacache.config import ERTACacheConfig
from caches.ertacache.recorder import ReuseStatistics
from caches.evaluation import Denoising, now
from caches.planning.uniform import uniform_updates
from gensift.files import write_atomically
from gensift.randomness import candidate_seed, make_generators
from gensift.zoo.shapes.geneval import benchmark
from gensift.zoo.shapes.grammar import Meaning
from gensift.zoo.shapes.split import training_meanings
from gensift.zoo.shapes.verifier import is_true

STEPS = 50
BATCH = 8
SPEEDUPS = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
TRAINING_PROMPTS = 24


@dataclass
class Measured:
    """Pictures and times of one contender, batch by batch."""

    images: list[Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    uncached_seconds: list[float] = field(default_factory=list)

    @property
    def speedup(self) -> float:
        """Median ratio of seconds inside the denoiser."""
        return float(np.median(np.array(self.uncached_seconds) / np.array(self.seconds)))


class DenoiserTimer:
    """Seconds inside the denoiser, whatever hooks are on it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def around(self, denoiser: Any) -> Iterator[None]:
        """Count calls while the block runs, hooks included."""
        had_own = "forward" in vars(denoiser)
        plain = denoiser.forward

        @functools.wraps(plain)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = now()
            output = plain(*args, **kwargs)
            self.seconds += now() - start
            return output

        denoiser.forward = timed
        try:
            yield
        finally:
            if had_own:
                denoiser.forward = plain
            else:
                del denoiser.forward


def draw_batch(pipe: Any, prompts: Sequence[str], first: int, steps: int) -> tuple[Tensor, float]:
    """Pictures `(prompts, 3, height, width)` and seconds inside the denoiser."""
    seeds = [candidate_seed(0, first + i, 0) for i in range(len(prompts))]
    timer = DenoiserTimer()
    with timer.around(pipe.transformer), torch.no_grad():
        images = pipe(
            list(prompts),
            num_inference_steps=steps,
            generator=make_generators(seeds),
            output_type="pt",
            **{k: v for k, v in gensift.call_defaults(pipe).items() if k != "num_inference_steps"},
        ).images
    return images.float().clamp(0, 1), timer.seconds


def measure(
    pipe: Any, prompts: Sequence[str], contenders: Sequence[CacheContender], rounds: int
) -> tuple[dict[CacheContender, Measured], dict[CacheContender, str], Tensor]:
    """Every contender on every batch, each right after the uncached loop.

    Returns:
        What was measured, why others failed, and the uncached pictures.
    """
    found = {contender: Measured() for contender in contenders}
    failed: dict[CacheContender, str] = {}
    uncached_images: list[Tensor] = []
    for first in range(0, len(prompts), BATCH):
        texts = prompts[first : first + BATCH]
        images, _ = draw_batch(pipe, texts, first, STEPS)
        uncached_images.append(images)
        for contender in contenders:
            if contender in failed:
                continue
            for turn in range(rounds):
                _, uncached = draw_batch(pipe, texts, first, STEPS)
                try:
                    with contender.switch(pipe):
                        images, seconds = draw_batch(pipe, texts, first, contender.steps or STEPS)
                except FAILURES as error:
                    failed[contender] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                    found.pop(contender)
                    break
                measured = found[contender]
                measured.seconds.append(seconds)
                measured.uncached_seconds.append(uncached)
                if turn == 0:
                    measured.images.append(images)
        print(f"{first + len(texts)} of {len(prompts)} prompts", flush=True)
    return found, failed, torch.cat(uncached_images)


def psnr(images: Tensor, reference: Tensor) -> float:
    """Mean over pictures of the peak signal-to-noise ratio, dB; at most 60 each."""
    error = (images - reference).square().flatten(1).mean(1).clamp(min=1e-6)
    return float((-10 * error.log10()).mean())


def feature_distance(reward: Any, images: Tensor, reference: Tensor) -> float:
    """Mean over pictures of one minus the cosine of their shapes-clip features."""

    def features(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return normalize(reward.model.encode_image(reward.preprocess(batch)), dim=-1)

    return float((1 - (features(images) * features(reference)).sum(-1)).mean())


def correct(images: Tensor, meanings: Sequence[Meaning]) -> float:
    """GenEval-mini: share of pictures that the verifier accepts."""
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return float(np.mean([is_true(p, m) for p, m in zip(pixels, meanings, strict=True)]))


def our_contenders(denoising: Denoising, prompts: Sequence[str]) -> list[CacheContender]:
    """ERTACache at several speed-ups, and BAC, its baselines among them; calibrated here."""
    uncached = denoising.run(prompts)
    statistics = erta.record_reuse(denoising, prompts, max_reuse=8)
    found = []
    for speedup in SPEEDUPS:
        config = _best_ertacache(denoising, prompts, uncached, statistics, speedup)
        ideal = statistics.speedup(config.residual, len(config.updates))
        setting = f"for {speedup} x, {config.residual}"
        found.append(ours("ERTACache", setting, _maker(ERTACache, config), ideal))
    blocks = bac.record_similarity(denoising, prompts)
    for policy in ("blockwise", "shared", "uniform"):
        for count in (40, 33, 25, 17, 10):
            schedules = bac.block_schedules(blocks, count, policy=policy, num_bubbling=5)
            made = _maker(BAC, bac.config_of(denoising, blocks, schedules))
            name = "BAC" if policy == "blockwise" else f"BAC, {policy} schedule"
            ideal = bac.predicted_speedup(blocks, schedules)
            found.append(ours(name, f"{count} updates", made, ideal))
    return found


def _best_ertacache(
    denoising: Denoising,
    prompts: Sequence[str],
    uncached: Any,
    statistics: ReuseStatistics,
    speedup: float,
) -> ERTACacheConfig:
    configs = []
    for mode in statistics.modes:
        count = erta.updates_for_speedup(statistics, mode, speedup)
        schedule = erta.choose_schedule(statistics, count, mode)
        configs.append(erta.plain_config(denoising, statistics, schedule))
    config = min(configs, key=lambda c: uncached.error_of(denoising.run(prompts, ERTACache(c))))
    return erta.best_variant(denoising, prompts, uncached, config, statistics)[0]


def ablation_contenders(denoising: Denoising, prompts: Sequence[str]) -> list[CacheContender]:
    """ERTACache built up from a uniform schedule, as in the paper's ablation, at 2 x."""
    statistics = erta.record_reuse(denoising, prompts, max_reuse=8)
    count = STEPS // 2
    schedule = erta.choose_schedule(statistics, count, "increment")
    policy = erta.plain_config(denoising, statistics, schedule)
    uniform = replace(policy, updates=tuple(uniform_updates(STEPS, count)))
    threshold = _threshold_for(statistics, count)
    greedy = erta.threshold_schedule(statistics, threshold, "increment")
    moved = erta.with_moved_steps(policy, statistics)
    by_change = erta.with_moved_steps(policy, statistics, "change")
    again = erta.record_reuse(denoising, prompts, 8, moved)
    parts = {
        "uniform": uniform,
        "published threshold rule": erta.plain_config(denoising, statistics, greedy),
        "+ policy (dynamic program)": policy,
        "+ steps moved": moved,
        "+ steps moved, by the change of velocity": by_change,
        "+ rectification": erta.with_rectification(policy, statistics),
        "+ steps moved and rectification": erta.with_rectification(moved, again),
    }
    return [ours("ablation", name, _maker(ERTACache, config)) for name, config in parts.items()]


def _threshold_for(statistics: ReuseStatistics, count: int) -> float:
    """The threshold whose schedule has `count` updates, or just more."""
    low, high = 0.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        updates = erta.threshold_schedule(statistics, middle, "increment").updates
        low, high = (middle, high) if len(updates) >= count else (low, middle)
    return low


def overhead(pipe: Any, prompts: Sequence[str], num_pairs: int) -> dict[str, Any]:
    """Denoiser seconds with a cache that skips nothing, over those without; and with it all on."""
    every = tuple(range(STEPS))
    units = bac.record_similarity(
        Denoising(pipe, {"num_inference_steps": 4}, batch_prompts=4), prompts[:4]
    ).units
    makers = {
        "ertacache": lambda: ERTACache(ERTACacheConfig(num_steps=STEPS, updates=every)),
        "bac": lambda: BAC(
            BACConfig(
                num_steps=STEPS,
                schedules=tuple(UnitSchedule(unit=u, updates=every) for u in units),
            )
        ),
    }
    found: dict[str, Any] = {}
    texts = prompts[:BATCH]
    for name, make in makers.items():
        ratios = []
        for _ in range(num_pairs):
            _, plain = draw_batch(pipe, texts, 0, STEPS)
            with ours(name, "", make).switch(pipe):
                _, cached = draw_batch(pipe, texts, 0, STEPS)
            ratios.append(cached / plain)
        found[name] = {"ratio": float(np.median(ratios)), "pairs": num_pairs}
    return found


def rows_of(
    found: dict[CacheContender, Measured],
    uncached: Tensor,
    meanings: Sequence[Meaning],
    reward: Any,
) -> list[dict[str, Any]]:
    """The figures of every contender."""
    rows = []
    for contender, measured in found.items():
        images = torch.cat(measured.images)
        rows.append(
            {
                "method": contender.method,
                "setting": contender.setting,
                "speedup": measured.speedup,
                "ideal": contender.ideal,
                "psnr": psnr(images, uncached),
                "feature_distance": feature_distance(reward, images, uncached),
                "geneval_mini": correct(images, meanings),
                "batches": len(measured.seconds),
            }
        )
    return rows


def training_prompts(count: int) -> list[str]:
    """Random training prompts."""
    chosen = random.Random(41).sample(list(training_meanings()), count)
    return [str(meaning) for meaning in chosen]


def _maker(kind: Any, config: Any) -> Callable[[], Any]:
    return lambda: kind(config)


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts-per-category", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument(
        "--overhead-only", action="store_true", help="measure that figure anew, keep the others"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    pipe = gensift.load_pipeline("shapes-flux", dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    own = training_prompts(TRAINING_PROMPTS)
    if arguments.overhead_only:
        file = FOLDER / "caches.json"
        kept = json.loads(file.read_text())
        kept["overhead_without_skips"] = overhead(pipe, own, arguments.pairs)
        write_atomically(file, (json.dumps(kept, indent=2) + "\n").encode())
        return
    reward = gensift.load_reward("shapes-clip", noise_aware=False)
    meanings = benchmark(arguments.prompts_per_category)
    prompts = [str(meaning) for meaning in meanings]
    denoising = Denoising(pipe, {"num_inference_steps": STEPS}, batch_prompts=BATCH, seed=41)
    contenders = [
        *(fewer_steps(steps) for steps in (40, 33, 25, 20, 17, 13)),
        *our_contenders(denoising, own),
        *diffusers_caches(pipe, STEPS, lambda: draw_batch(pipe, own[:1], 0, STEPS) and None),
        *cache_dit_caches(STEPS),
    ]
    ablation = ablation_contenders(denoising, own)
    found, failed, uncached = measure(pipe, prompts, [*contenders, *ablation], arguments.rounds)
    rows = rows_of(found, uncached, meanings, reward)
    figures = {
        "prompts": len(prompts),
        "steps": STEPS,
        "uncached_geneval_mini": correct(uncached, meanings),
        "contenders": [row for row in rows if row["method"] != "ablation"],
        "ablation": [row for row in rows if row["method"] == "ablation"],
        "failed": {f"{c.method}, {c.setting}": reason for c, reason in failed.items()},
        "overhead_without_skips": overhead(pipe, prompts, arguments.pairs),
    }
    file = publish("caches", figures)
    draw(figures, file.with_suffix(".png"))
    print(file)


if __name__ == "__main__":
    main()
