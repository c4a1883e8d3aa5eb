"""Prompts: wording, parsing, truth."""

import numpy as np
import pytest

from gensift.errors import ConfigError
from gensift.zoo.shapes.grammar import Meaning, all_meanings, parse, satisfies, true_meanings
from gensift.zoo.shapes.scenes import scene_for
from gensift.zoo.shapes.world import CANVAS, MAX_SIZE, MIN_SIZE, SceneObject


def test_the_grammar_has_the_size_that_combinatorics_says() -> None:
    kinds = 6 * 4
    assert len(all_meanings()) == kinds + 3 * kinds + 5 * kinds * (kinds - 1)
    assert len({str(meaning) for meaning in all_meanings()}) == len(all_meanings())


def test_every_prompt_parses_back_to_its_meaning() -> None:
    assert all(parse(str(meaning)) == meaning for meaning in all_meanings())


@pytest.mark.parametrize(
    ("text", "wording"),
    [
        ("An orange cross", "an orange cross"),
        ("  two   red crosses. ", "two red crosses"),
        ("a red circle left of an orange square", "a red circle left of an orange square"),
    ],
)
def test_wording(text: str, wording: str) -> None:
    assert str(parse(text)) == wording


@pytest.mark.parametrize(
    "text",
    ["", "a pink circle", "five red circles", "a red circle and a red circle", "two red circle"],
)
def test_other_prompts_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match="Allowed: 'a <colour> <shape>'"):
        parse(text)


def test_opposite_wordings_share_one_canonical_form() -> None:
    assert parse("a red circle above a blue square").canonical == (
        parse("a blue square below a red circle").canonical
    )
    assert parse("a red circle above a blue square").canonical != (
        parse("a red circle below a blue square").canonical
    )


def test_relations_need_eight_pixels_between_centres() -> None:
    near = (SceneObject("red", "circle", 0, 0, 12), SceneObject("blue", "square", 7, 30, 12))
    far = (near[0], SceneObject("blue", "square", 8, 30, 12))
    asked = parse("a red circle left of a blue square")
    assert not satisfies(near, asked) and satisfies(far, asked)
    assert not satisfies(far, parse("a red circle right of a blue square"))
    assert satisfies(far, parse("a blue square right of a red circle"))
    assert satisfies(far, parse("a red circle above a blue square"))


def test_nothing_else_may_be_there() -> None:
    circle = SceneObject("red", "circle", 0, 0, 12)
    other = SceneObject("red", "circle", 30, 30, 12)
    assert satisfies((circle,), parse("a red circle"))
    assert not satisfies((circle, other), parse("a red circle"))
    assert satisfies((circle, other), parse("two red circles"))


def test_true_meanings_are_exactly_the_satisfied_prompts() -> None:
    rng = np.random.default_rng(3)
    meanings = all_meanings()
    for index in rng.integers(0, len(meanings), size=25):
        scene = scene_for(meanings[index], rng)
        assert set(true_meanings(scene)) == {m for m in meanings if satisfies(scene, m)}


def test_random_scenes_fulfil_their_prompt_and_the_rules_of_the_world() -> None:
    rng = np.random.default_rng(4)
    for meaning in [parse("four red crosses"), parse("a red circle below a blue square")] * 50:
        scene = scene_for(meaning, rng)
        assert satisfies(scene, meaning)
        for i, thing in enumerate(scene):
            assert MIN_SIZE <= thing.size <= MAX_SIZE
            assert 0 <= thing.left <= CANVAS - thing.size
            assert 0 <= thing.top <= CANVAS - thing.size
            assert all(thing.clears(other) for other in scene[:i])


def test_meaning_counts_objects() -> None:
    assert Meaning(("red", "circle"), 3).wanted == {("red", "circle"): 3}
