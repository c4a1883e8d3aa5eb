"""The verifier on rendered scenes: right ones pass, wrong ones do not."""

import numpy as np
import pytest

from gensift.zoo.shapes.grammar import Meaning, all_meanings, parse, satisfies, true_meanings
from gensift.zoo.shapes.scenes import place, scene_for
from gensift.zoo.shapes.verifier import UNKNOWN, detect, is_true, meanings_of, verdict
from gensift.zoo.shapes.world import COLOURS, SHAPES, Scene, SceneObject, render

SCENES = 2000


def random_meanings(rng: np.random.Generator) -> list[Meaning]:
    """Half counts and singles, whose objects are many; half pairs."""
    few = [meaning for meaning in all_meanings() if meaning.second is None]
    pairs = [meaning for meaning in all_meanings() if meaning.second is not None]
    return [pool[rng.integers(len(pool))] for pool in (few, pairs) for _ in range(SCENES // 2)]


def change_one_attribute(scene: Scene, meaning: Meaning, rng: np.random.Generator) -> Scene:
    """A scene of which `meaning` is false because of one object."""
    while True:
        kinds = [thing.kind for thing in scene]
        at = int(rng.integers(len(kinds)))
        colour, shape = kinds[at]
        change = rng.integers(5)
        if change == 0:
            kinds[at] = (str(rng.choice(list(COLOURS))), shape)
        elif change == 1:
            kinds[at] = (colour, str(rng.choice(SHAPES)))
        elif change == 2:
            kinds.append(kinds[at])
        elif change == 3 and len(kinds) > 1:
            kinds.pop(at)
        changed = place(kinds, rng)
        if not satisfies(changed, meaning):
            return changed


def test_true_pictures_are_accepted() -> None:
    rng = np.random.default_rng(11)
    meanings = random_meanings(rng)
    right = sum(is_true(render(scene_for(meaning, rng)), meaning) for meaning in meanings)
    assert right >= 0.995 * SCENES


def test_pictures_with_one_attribute_changed_are_rejected() -> None:
    rng = np.random.default_rng(12)
    wrong = 0
    for meaning in random_meanings(rng):
        scene = change_one_attribute(scene_for(meaning, rng), meaning, rng)
        wrong += not is_true(render(scene), meaning)
    assert wrong >= 0.99 * SCENES


def test_relations_hold_at_the_margin_and_fail_one_pixel_before_it() -> None:
    asked = parse("a red triangle above a blue square")
    at_margin = (
        SceneObject("red", "triangle", 31, 0, 12),
        SceneObject("blue", "square", 46, 7, 14),
    )
    assert satisfies(at_margin, asked) and is_true(render(at_margin), asked)
    before = (at_margin[0], SceneObject("blue", "square", 46, 6, 14))
    assert not satisfies(before, asked) and not is_true(render(before), asked)


def test_an_even_triangle_keeps_its_place() -> None:
    found = detect(render((SceneObject("red", "triangle", 10, 20, 14),)))
    assert [(f.shape, f.top, f.height) for f in found] == [("triangle", 20, 14)]


@pytest.mark.parametrize("colour", COLOURS)
def test_half_an_object_is_no_object(colour: str) -> None:
    picture = render((SceneObject(colour, "circle", 20, 20, 20),))
    picture[20:30] = 240
    assert [thing.shape for thing in detect(picture)] == [UNKNOWN]


def test_two_colours_in_one_blob_are_two_things() -> None:
    picture = render((SceneObject("red", "square", 20, 20, 20),))
    picture[20:30, 20:40] = COLOURS["blue"]
    assert {thing.colour for thing in detect(picture)} == {"red", "blue"}


def test_empty_picture() -> None:
    picture = np.full((64, 64, 3), 240, dtype=np.uint8)
    assert detect(picture) == [] and not is_true(picture, parse("a red circle"))


def test_partial_credit_orders_wrong_pictures() -> None:
    asked = parse("a red circle left of a blue square")
    right = (SceneObject("red", "circle", 2, 2, 14), SceneObject("blue", "square", 40, 2, 14))
    swapped = (SceneObject("red", "circle", 40, 2, 14), SceneObject("blue", "square", 2, 2, 14))
    half = right[:1]
    values = [verdict(detect(render(scene)), asked) for scene in (right, swapped, half, ())]
    assert values == [1.0, 0.5, 0.375, 0.0]


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        detect(np.zeros((32, 32, 3), dtype=np.uint8))


def test_meanings_of_a_picture_are_those_of_its_scene() -> None:
    rng = np.random.default_rng(12)
    meanings = all_meanings()
    for _ in range(200):
        scene = scene_for(meanings[rng.integers(len(meanings))], rng)
        assert set(meanings_of(render(scene))) == set(true_meanings(scene))


def test_no_prompt_is_true_of_an_empty_or_a_crowded_picture() -> None:
    rng = np.random.default_rng(13)
    crowd = place([("red", "circle"), ("red", "circle"), ("blue", "square")], rng)
    assert meanings_of(render(())) == []
    assert meanings_of(render(crowd)) == []
