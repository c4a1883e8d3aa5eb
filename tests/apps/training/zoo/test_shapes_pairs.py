"""Training pairs of shapes-clip: every label agrees with the verifier."""

import numpy as np
import torch

from apps.training.zoo import shapes_pairs
from apps.training.zoo.shapes_latents import draw_scenes
from apps.training.zoo.shapes_pairs import augment, near_misses, spoil
from gensift.zoo.shapes.grammar import all_meanings, true_meanings
from gensift.zoo.shapes.split import training_meanings
from gensift.zoo.shapes.verifier import is_true, meanings_of
from gensift.zoo.shapes.world import render


def test_labels_of_rendered_pictures_agree_with_the_verifier() -> None:
    rng = np.random.default_rng(3)
    meanings = training_meanings()
    index = {meaning: position for position, meaning in enumerate(meanings)}
    scenes, _ = draw_scenes(150, seed=5)
    right = wrong = 0
    for scene in scenes:
        picture, (true, near) = shapes_pairs._render_some_wrong(scene, rng)
        said_true = {i for i in true if i >= 0}
        really = {index[m] for m in meanings_of(picture) if m in index}
        assert said_true == really
        assert not any(is_true(picture, meanings[i]) for i in near if i >= 0)
        right += bool(said_true)
        wrong += not said_true
    assert right > 60 and wrong > 15


def test_a_spoiled_picture_hardly_ever_fulfils_a_prompt() -> None:
    rng = np.random.default_rng(4)
    scenes, _ = draw_scenes(150, seed=6)
    lucky = [bool(meanings_of(spoil(render(scene), scene, rng))) for scene in scenes]
    assert np.mean(lucky) < 0.2


def test_near_misses_differ_from_what_they_miss() -> None:
    rng = np.random.default_rng(5)
    scenes, _ = draw_scenes(100, seed=7)
    everything = set(all_meanings())
    for scene in scenes:
        meaning = true_meanings(scene)[0]
        misses = [m for m in near_misses(meaning, rng) if m != meaning]
        assert misses and set(misses) <= everything


def test_augmenting_leaves_the_truth_visible() -> None:
    scenes, _ = draw_scenes(60, seed=8)
    pictures = torch.from_numpy(np.stack([render(s) for s in scenes])).permute(0, 3, 1, 2)
    changed = augment(pictures, torch.Generator().manual_seed(0))
    assert changed.min() >= 0 and changed.max() <= 1
    again = (changed * 255).round().byte().permute(0, 2, 3, 1).numpy()
    kept = [is_true(p, true_meanings(s)[0]) for p, s in zip(again, scenes, strict=True)]
    assert np.mean(kept) > 0.9
