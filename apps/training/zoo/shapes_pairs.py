"""Training pairs of `shapes-clip`: pictures, the prompts true of them, and near misses.

Two thirds of the pictures are rendered; a third of those are wrong on purpose (odd collections,
half-erased, two-coloured or doubled objects) and half are blurred by the autoencoder. The others
are drawn by `shapes-flux`, mistakes and all, and labelled by the verifier. Only training prompts
occur.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import trange

from apps.training.evaluation.scenes import generate
from apps.training.zoo.shapes_latents import draw_scenes
from gensift.protocols import Pipeline
from gensift.randomness import candidate_seed
from gensift.zoo.shapes.grammar import KINDS, RELATIONS, Meaning, true_meanings
from gensift.zoo.shapes.scenes import place
from gensift.zoo.shapes.split import training_meanings
from gensift.zoo.shapes.verifier import meanings_of
from gensift.zoo.shapes.world import (
    BACKGROUND,
    COLOURS,
    SHAPES,
    Scene,
    render,
    shape_mask,
)

RENDERED, GENERATED = 32_768, 16_384
GENERATION_STEPS = 12
SEED = 41
TRUE, NEAR = 6, 4
_WRONG_SHARE = 0.35
_DECODED_SHARE = 0.5
_MAX_LATENT_NOISE = 0.3
_BATCH = 64

Picture = NDArray[np.uint8]
Labels = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Pairs:
    """The pool of pictures.

    Attributes:
        pictures: uint8 `(pictures, 3, 64, 64)`.
        true: int64 `(pictures, 6)`, training prompts that are true of each; -1 pads.
        near: int64 `(pictures, 4)`, training prompts that are nearly, but not, true.
    """

    pictures: Tensor
    true: Tensor
    near: Tensor


def near_misses(meaning: Meaning, rng: np.random.Generator) -> list[Meaning]:
    """Prompts that differ from `meaning` in one attribute, shuffled."""
    colours = [(c, meaning.first[1]) for c in COLOURS]
    shapes = [(meaning.first[0], s) for s in SHAPES]
    found = [
        Meaning(kind, meaning.count, meaning.relation, meaning.second) for kind in colours + shapes
    ]
    if meaning.second is None:
        found += [Meaning(meaning.first, number) for number in (1, 2, 3, 4)]
    else:
        back = meaning.reversed()
        others = [(c, back.first[1]) for c in COLOURS] + [(back.first[0], s) for s in SHAPES]
        found += [Meaning(meaning.first, 1, meaning.relation, kind) for kind in others]
        # Relations twice: they are the hardest to learn and the fewest among the edits.
        found += 2 * [Meaning(meaning.first, 1, r, meaning.second) for r in RELATIONS]
        swapped = (meaning.second[0], meaning.first[1]), (meaning.first[0], meaning.second[1])
        found.append(Meaning(swapped[0], 1, meaning.relation, swapped[1]))
    rng.shuffle(found)
    return [other for other in found if other.first != other.second]


def odd_collection(scene: Scene, rng: np.random.Generator) -> Scene:
    """The objects of `scene` with one more, or one fewer, or one of another kind."""
    kinds = [thing.kind for thing in scene]
    change = rng.integers(3)
    stranger = KINDS[rng.integers(len(KINDS))]
    if change == 0 and len(kinds) > 1:
        kinds.pop(rng.integers(len(kinds)))
    elif change == 1 and len(kinds) > 1:
        kinds[rng.integers(len(kinds))] = stranger
    else:
        kinds.append(kinds[0] if rng.random() < 0.5 else stranger)
    return place(kinds, rng)


def spoil(picture: Picture, scene: Scene, rng: np.random.Generator) -> Picture:
    """Damage one object, so that hardly ever a prompt is still true."""
    thing = scene[rng.integers(len(scene))]
    result = picture.copy()
    box = result[thing.top : thing.top + thing.size, thing.left : thing.left + thing.size]
    half = np.zeros((thing.size, thing.size), dtype=bool)
    half[: thing.size // 2] = True
    half = np.rot90(half, int(rng.integers(4)))
    damage = rng.integers(3)
    if damage == 0:
        box[half] = BACKGROUND
        return result
    colour = COLOURS[str(rng.choice([c for c in COLOURS if c != thing.colour]))]
    if damage == 1:
        box[half & shape_mask(thing.shape, thing.size)] = colour
        return result
    shape = str(rng.choice([s for s in SHAPES if s != thing.shape]))
    doubled = shape_mask(shape, thing.size) & ~shape_mask(thing.shape, thing.size)
    box[doubled] = colour if rng.random() < 0.5 else COLOURS[thing.colour]
    if doubled.sum() < 0.1 * thing.size**2:
        box[half] = BACKGROUND
    return result


def build_pairs(pipe: Pipeline, cache: Path) -> Pairs:
    """Make the pool with the published `shapes-flux`, or read it from `cache` when it is there."""
    if not cache.exists():
        rng = np.random.default_rng(SEED)
        rendered, rendered_labels = _rendered(pipe.vae, RENDERED, rng)
        generated, generated_labels = _generated(pipe, GENERATED, rng)
        labels = rendered_labels + generated_labels
        arrays = {
            "pictures": torch.cat([rendered, generated]),
            "true": torch.tensor([true for true, _ in labels]),
            "near": torch.tensor([near for _, near in labels]),
        }
        aside = cache.with_suffix(".tmp")
        save_file(arrays, aside)
        aside.replace(cache)
    return Pairs(**load_file(cache))


def _rendered(
    vae: AutoencoderKL, count: int, rng: np.random.Generator
) -> tuple[Tensor, list[Labels]]:
    scenes, _ = draw_scenes(count, seed=SEED)
    rows = [_render_some_wrong(scene, rng) for scene in scenes]
    pictures = _channels_first([picture for picture, _ in rows])
    return _decode_some(pictures, vae), [labels for _, labels in rows]


def _generated(pipe: Pipeline, count: int, rng: np.random.Generator) -> tuple[Tensor, list[Labels]]:
    """Pictures that `pipe` draws for training prompts, labelled by the verifier."""
    scenes, _ = draw_scenes(count, seed=SEED + 1)
    known = _prompt_index()
    meanings = [next(m for m in true_meanings(scene) if m in known) for scene in scenes]
    seeds = [candidate_seed(SEED, index, 0) for index in range(count)]
    prompts = [str(meaning) for meaning in meanings]
    pictures = generate(pipe, prompts, seeds, num_inference_steps=GENERATION_STEPS)
    labels = []
    for picture, meaning in zip(pictures, meanings, strict=True):
        labels.append(_labels(meanings_of(picture), [meaning, *near_misses(meaning, rng)]))
    return _channels_first(pictures), labels


def _channels_first(pictures: Sequence[Picture]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()


def _render_some_wrong(scene: Scene, rng: np.random.Generator) -> tuple[Picture, Labels]:
    original = true_meanings(scene)
    misses = near_misses(original[rng.integers(len(original))], rng)
    fate = rng.random()
    # A wrong picture's nearest misses are the prompts that it was meant to fulfil.
    if fate < _WRONG_SHARE / 2:
        changed = odd_collection(scene, rng)
        return render(changed), _labels(true_meanings(changed), original + misses)
    if fate < _WRONG_SHARE:
        spoiled = spoil(render(scene), scene, rng)
        return spoiled, _labels(meanings_of(spoiled), original + misses)
    return render(scene), _labels(original, misses)


def _labels(true: list[Meaning], near: list[Meaning]) -> Labels:
    """Indices of the training prompts among `true` and among `near` but not true, padded by -1."""
    index = _prompt_index()
    known_true = [index[m] for m in true if m in index][:TRUE]
    known_near = [index[m] for m in near if m in index and m not in true][:NEAR]
    pad_true, pad_near = TRUE - len(known_true), NEAR - len(known_near)
    return known_true + [-1] * pad_true, known_near + [-1] * pad_near


@lru_cache(maxsize=1)
def _prompt_index() -> dict[Meaning, int]:
    return {meaning: position for position, meaning in enumerate(training_meanings())}


@torch.no_grad()
def _decode_some(pictures: Tensor, vae: AutoencoderKL) -> Tensor:
    """Send a share of the pictures through the autoencoder, with noise on the latents."""
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.randperm(len(pictures), generator=generator)
    rows = rows[: int(len(rows) * _DECODED_SHARE)]
    for start in trange(0, len(rows), _BATCH, desc="decode pictures", unit="batch"):
        part = rows[start : start + _BATCH]
        latents = vae.encode(pictures[part].float() / 127.5 - 1).latent_dist.mode()
        level = torch.rand(len(part), 1, 1, 1, generator=generator) * _MAX_LATENT_NOISE
        latents = latents + level * torch.randn(latents.shape, generator=generator)
        decoded = vae.decode(latents).sample.clamp(-1, 1)
        pictures[part] = ((decoded + 1) * 127.5).round().byte()
    return pictures


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and grain that leave every prompt's truth unchanged.

    Args:
        pictures: uint8 `(batch, 3, 64, 64)`.

    Returns:
        float32 in [0, 1].
    """
    pixels = pictures.float() / 255
    blurred = torch.nn.functional.avg_pool2d(
        pixels, 3, stride=1, padding=1, count_include_pad=False
    )
    share = torch.rand(len(pixels), 1, 1, 1, generator=generator)
    share = (share * 2 - 1).clamp(min=0)  # half of the pictures stay sharp
    grain = 0.04 * torch.rand(len(pixels), 1, 1, 1, generator=generator)
    noise = torch.randn(pixels.shape, generator=generator)
    return (pixels.lerp(blurred, share) + grain * noise).clamp(0, 1)
