"""How well pictures of the Shapes world are drawn, and how faithfully they are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from gensift.pipelines.loading import call_defaults
from gensift.protocols import JsonObject, Pipeline
from gensift.randomness import candidate_seed, make_generators
from gensift.zoo.shapes.geneval import CATEGORIES, GenEvalScore, prompts_of, score
from gensift.zoo.shapes.grammar import Meaning, all_meanings
from gensift.zoo.shapes.scenes import scene_for
from gensift.zoo.shapes.verifier import is_true
from gensift.zoo.shapes.world import render

SAMPLES_PER_CATEGORY = 60
_BATCH = 60


def geneval_figures(pipe: Pipeline) -> JsonObject:
    """GenEval-mini of a pipeline at its default settings, as model cards tell it."""
    result = geneval(pipe)
    return {
        "geneval_mini": result.by_category,
        "overall": result.overall,
        "interval_95": [result.low, result.high],
        "samples_per_category": SAMPLES_PER_CATEGORY,
    }


def geneval(
    pipe: Pipeline, per_category: int = SAMPLES_PER_CATEGORY, **overrides: object
) -> GenEvalScore:
    """One sample for each of `per_category` held-out prompts per category.

    Categories with fewer prompts repeat them with fresh seeds.
    """
    chosen: list[Meaning] = []
    for name in CATEGORIES:
        prompts = prompts_of(name)
        chosen += [prompts[index % len(prompts)] for index in range(per_category)]
    seeds = [candidate_seed(0, index, 0) for index in range(len(chosen))]
    pictures = generate(pipe, [str(meaning) for meaning in chosen], seeds, **overrides)
    correct: dict[Meaning, list[float]] = {}
    for meaning, picture in zip(chosen, pictures, strict=True):
        correct.setdefault(meaning, []).append(is_true(picture, meaning))
    return score(correct)


def generate(
    pipe: Pipeline, prompts: Sequence[str], seeds: Sequence[int], **overrides: object
) -> list[NDArray[np.uint8]]:
    """One uint8 `(64, 64, 3)` picture per prompt, by plain pipeline calls."""
    pipe.set_progress_bar_config(disable=True)
    arguments = call_defaults(pipe) | {"output_type": "np"} | overrides
    pictures: list[NDArray[np.uint8]] = []
    for start in tqdm(range(0, len(prompts), _BATCH), desc="generate", unit="batch"):
        batch = list(prompts[start : start + _BATCH])
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [""] * len(batch)
        generators = make_generators(seeds[start : start + _BATCH])
        images = pipe(batch, generator=generators, **arguments).images
        pictures += [(image * 255).round().astype(np.uint8) for image in images]
    return pictures


def fidelity(reconstruct: Callable[[Tensor], Tensor], count: int = 500, seed: int = 6) -> float:
    """Share of rendered scenes that still verify after `reconstruct`.

    Args:
        reconstruct: pictures `(batch, 3, 64, 64)` in [0, 1] to such pictures.
        count: scenes, half of them with several like objects, which lie closest to each other.
        seed: of the scenes.
    """
    rng = np.random.default_rng(seed)
    meanings = all_meanings()
    counts = [meaning for meaning in meanings if meaning.second is None]
    pools = (counts, meanings)
    chosen = [pools[i % 2][rng.integers(len(pools[i % 2]))] for i in range(count)]
    pixels = np.stack([render(scene_for(meaning, rng)) for meaning in chosen])
    verified = 0
    for start in range(0, count, 50):
        batch = torch.from_numpy(pixels[start : start + 50]).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            again = (reconstruct(batch).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        verified += sum(map(is_true, again.numpy(), chosen[start : start + 50]))
    return verified / count
