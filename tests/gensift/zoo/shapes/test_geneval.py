"""GenEval-mini: categories, means and intervals against what can be computed by hand."""

import numpy as np
import pytest

from apps.training.evaluation.shapes_clip import auc
from gensift.zoo.shapes.geneval import CATEGORIES, benchmark, category, prompts_of, score
from gensift.zoo.shapes.grammar import parse
from gensift.zoo.shapes.split import held_out_meanings, training_meanings


def test_the_categories_part_the_held_out_prompts() -> None:
    parts = [prompts_of(name) for name in CATEGORIES]
    assert all(parts)
    assert sorted(str(meaning) for part in parts for meaning in part) == sorted(
        map(str, held_out_meanings())
    )


def test_no_benchmark_prompt_is_a_training_prompt() -> None:
    assert not set(benchmark(100)) & set(training_meanings())


def test_a_smaller_benchmark_is_the_beginning_of_a_larger_one() -> None:
    for name in CATEGORIES:
        assert prompts_of(name, 3) == prompts_of(name, 9)[:3]


def test_prompts_fall_into_the_category_of_what_they_test() -> None:
    by_prompt = {str(m): category(m) for m in held_out_meanings()}
    assert by_prompt["an orange cross"] == "single"
    assert by_prompt["two red triangles"] == "count"
    for prompt, name in by_prompt.items():
        meaning = parse(prompt)
        if name == "position":
            assert meaning.relation not in (None, "and")
        if name == "two objects":
            assert meaning.second is not None
            assert set(meaning.first) & set(meaning.second)
        if name == "colour attribution":
            assert meaning.second is not None
            assert not set(meaning.first) & set(meaning.second)


def test_every_category_weighs_the_same() -> None:
    single, count = prompts_of("single")[0], prompts_of("count")
    result = score({single: [1.0, 1.0], count[0]: [0.0], count[1]: [1.0], count[2]: [0.0]})
    assert result.by_category == pytest.approx({"single": 1.0, "count": 1 / 3})
    assert result.overall == pytest.approx((1 + 1 / 3) / 2)
    assert result.low <= result.overall <= result.high


def test_the_interval_is_that_of_the_binomial() -> None:
    rng = np.random.default_rng(0)
    prompts = prompts_of("position", 200)
    verdicts = {prompt: [float(rng.random() < 0.5)] for prompt in prompts}
    result = score(verdicts)
    expected = 1.96 * np.sqrt(result.overall * (1 - result.overall) / len(prompts))
    assert (result.high - result.low) / 2 == pytest.approx(expected, rel=0.15)


def test_auc_against_counting_pairs() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 6, 40).astype(float)
    right = rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[right] for b in scores[~right]]
    assert auc(scores, right) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(scores, np.ones(40, dtype=bool)))
