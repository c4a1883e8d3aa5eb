"""GenEval-mini of a Shapes picture generator, and how faithful its autoencoder is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from gensift.pipelines.loading import call_defaults, load_pipeline
from gensift.randomness import candidate_seed, make_generators
from gensift.zoo.shapes.geneval import CATEGORIES, GenEvalScore, prompts_of, score
from gensift.zoo.shapes.grammar import Meaning, all_meanings
from gensift.zoo.shapes.scenes import scene_for
from gensift.zoo.shapes.verifier import is_true
from gensift.zoo.shapes.world import render

SAMPLES_PER_CATEGORY = 60
_BATCH = 60


def evaluate() -> dict[str, Any]:
    """Figures of the embedded `shapes-flux`: one sample per prompt at the default settings."""
    pipe = load_pipeline("shapes-flux")
    result = geneval(pipe)
    return {
        "geneval_mini": result.by_category,
        "overall": result.overall,
        "interval_95": [result.low, result.high],
        "samples_per_category": SAMPLES_PER_CATEGORY,
        "vae_reconstructions_verified": vae_fidelity(pipe.vae),
    }


def geneval(pipe: Any, per_category: int = SAMPLES_PER_CATEGORY, **overrides: Any) -> GenEvalScore:
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
    pipe: Any, prompts: Sequence[str], seeds: Sequence[int], **overrides: Any
) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """One uint8 `(64, 64, 3)` picture per prompt, by plain pipeline calls."""
    pipe.set_progress_bar_config(disable=True)
    arguments = call_defaults(pipe) | {"output_type": "np"} | overrides
    pictures: list[np.ndarray[Any, np.dtype[np.uint8]]] = []
    for start in tqdm(range(0, len(prompts), _BATCH), desc="generate", unit="batch"):
        batch = list(prompts[start : start + _BATCH])
        if "negative_prompt" in arguments:
            arguments["negative_prompt"] = [""] * len(batch)
        generators = make_generators(seeds[start : start + _BATCH])
        images = pipe(batch, generator=generators, **arguments).images
        pictures += [(image * 255).round().astype(np.uint8) for image in images]
    return pictures


@torch.no_grad()
def vae_fidelity(vae: Any, count: int = 500, seed: int = 6) -> float:
    """Share of rendered scenes that still verify after a pass through the autoencoder."""
    rng = np.random.default_rng(seed)
    meanings = all_meanings()
    # Half of them with counts, whose objects are closest to each other.
    counts = [meaning for meaning in meanings if meaning.second is None]
    pools = (counts, meanings)
    chosen = [pools[i % 2][rng.integers(len(pools[i % 2]))] for i in range(count)]
    pixels = np.stack([render(scene_for(meaning, rng)) for meaning in chosen])
    verified = 0
    for start in range(0, count, 50):
        batch = torch.from_numpy(pixels[start : start + 50]).permute(0, 3, 1, 2).float()
        latents = vae.encode((batch / 127.5 - 1).to(vae.dtype)).latent_dist.mode()
        decoded = vae.decode(latents).sample.float().clamp(-1, 1)
        again = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        verified += sum(map(is_true, again, chosen[start : start + 50]))
    return verified / count
