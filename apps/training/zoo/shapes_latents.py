"""The training set of the Shapes generators: encoded scenes, each with every true prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import trange

from gensift.zoo.shapes.grammar import Meaning, true_meanings
from gensift.zoo.shapes.scenes import scene_for
from gensift.zoo.shapes.split import training_meanings
from gensift.zoo.shapes.world import Scene, render

SCENES = 81_920
SEED = 23
MIXTURE = {"single": 0.20, "count": 0.26, "and": 0.12, "relation": 0.42}
_ENCODE_BATCH = 128


@dataclass(frozen=True)
class LatentScenes:
    """Posterior of each scene's latents and the prompts true of it.

    Attributes:
        mean, std: float16 `(scenes, 16, 8, 8)`, normalised as the pipeline expects.
        prompts: int64 `(scenes, 6)`, indices into `training_meanings()`; -1 pads.
    """

    mean: Tensor
    std: Tensor
    prompts: Tensor

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random batch: float32 latents `(size, 16, 8, 8)` and prompt indices `(size,)`."""
        rows = torch.randint(len(self.mean), (size,), generator=generator)
        noise = torch.randn(self.mean[rows].shape, generator=generator)
        latents = self.mean[rows].float() + self.std[rows].float() * noise
        return latents, pick_prompts(self.prompts[rows], generator)


def pick_prompts(choices: Tensor, generator: torch.Generator) -> Tensor:
    """One random prompt of each row of `choices` `(size, most)`, which -1 pads."""
    pick = (torch.rand(len(choices), generator=generator) * (choices >= 0).sum(1)).long()
    return choices.gather(1, pick[:, None])[:, 0]


def _category(meaning: Meaning) -> str:
    if meaning.relation is not None:
        return "and" if meaning.relation == "and" else "relation"
    return "single" if meaning.count == 1 else "count"


def draw_scenes(count: int, seed: int = SEED) -> tuple[list[Scene], NDArray[np.int64]]:
    """Scenes of training prompts in the proportions of `MIXTURE`, with their true prompts."""
    rng = np.random.default_rng(seed)
    meanings = training_meanings()
    index = {meaning: position for position, meaning in enumerate(meanings)}
    by_category = {name: [m for m in meanings if _category(m) == name] for name in MIXTURE}
    categories = rng.choice(list(MIXTURE), size=count, p=list(MIXTURE.values()))
    scenes: list[Scene] = []
    prompts = np.full((count, 6), -1, dtype=np.int64)
    for row, category in enumerate(categories):
        choices = by_category[str(category)]
        scene = scene_for(choices[rng.integers(len(choices))], rng)
        true = [index[meaning] for meaning in true_meanings(scene) if meaning in index]
        prompts[row, : len(true)] = true
        scenes.append(scene)
    return scenes, prompts


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, cache: Path, count: int = SCENES) -> LatentScenes:
    """Draw and encode the training set, or read it from `cache` when it is there already."""
    if not cache.exists():
        scenes, prompts = draw_scenes(count)
        scale, shift = vae.config.scaling_factor, vae.config.shift_factor
        means, stds = [], []
        for start in trange(0, count, _ENCODE_BATCH, desc="encode scenes", unit="batch"):
            pixels = np.stack([render(scene) for scene in scenes[start : start + _ENCODE_BATCH]])
            tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.autocast("cpu", torch.bfloat16):
                posterior = vae.encode(tensor).latent_dist
            means.append(((posterior.mean.float() - shift) * scale).half())
            stds.append((posterior.std.float() * scale).half())
        arrays = {
            "mean": torch.cat(means).contiguous(),
            "std": torch.cat(stds).contiguous(),
            "prompts": torch.from_numpy(prompts),
        }
        aside = cache.with_suffix(".tmp")
        save_file(arrays, aside)
        aside.replace(cache)
    return LatentScenes(**load_file(cache))
