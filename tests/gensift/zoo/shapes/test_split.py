"""What training may see."""

import hashlib

from gensift.zoo.shapes.geneval import CATEGORIES, benchmark, category, prompts_of, score
from gensift.zoo.shapes.grammar import all_meanings
from gensift.zoo.shapes.split import (
    held_out_meanings,
    is_held_out_combination,
    training_meanings,
)


def test_training_and_held_out_prompts_partition_the_grammar() -> None:
    training, held_out = set(training_meanings()), set(held_out_meanings())
    assert not training & held_out
    assert training | held_out == set(all_meanings())
    assert 0.2 <= len(held_out) / len(all_meanings()) <= 0.3


def test_a_held_out_combination_is_absent_in_every_wording() -> None:
    training = set(training_meanings())
    for meaning in held_out_meanings():
        if is_held_out_combination(meaning):
            assert meaning not in training
            assert meaning.reversed() not in training


def test_every_held_out_prompt_has_one_of_six_categories() -> None:
    assert {category(meaning) for meaning in held_out_meanings()} == set(CATEGORIES)
    assert len(benchmark(12)) >= 60


def test_categories() -> None:
    by_name = {name: prompts_of(name) for name in CATEGORIES}
    assert all(m.second is None and m.count == 1 for m in by_name["single"])
    assert all(m.count > 1 for m in by_name["count"])
    assert all(m.relation == "and" for m in by_name["two objects"])
    for meaning in by_name["colour attribution"]:
        assert meaning.second is not None
        assert meaning.first[0] != meaning.second[0] and meaning.first[1] != meaning.second[1]
    assert all(m.relation not in (None, "and") for m in by_name["position"])


def test_overall_is_the_mean_of_categories_not_of_prompts() -> None:
    single, counts = prompts_of("single", 1), prompts_of("count", 3)
    result = score({single[0]: [1.0], counts[0]: [0.0], counts[1]: [0.0, 1.0], counts[2]: [0.0]})
    assert result.by_category["single"] == 1.0
    assert abs(result.by_category["count"] - 0.5 / 3) < 1e-12
    assert abs(result.overall - (1 + 0.5 / 3) / 2) < 1e-12
    assert result.low <= result.overall <= result.high


def test_the_split_never_moves() -> None:
    # Committed weights were trained on this split: a change of hashing would leak test prompts.
    assert sorted(str(m) for m in prompts_of("single")) == [
        "a blue triangle",
        "a purple circle",
        "an orange circle",
        "an orange cross",
    ]
    text = "\n".join(str(meaning) for meaning in held_out_meanings())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "a6c795841258c4ca"
