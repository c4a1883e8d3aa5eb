import pytest

from apps.web.budget import best_of_n, draw, words
from gensift.trace import PromptTrace, Stage


def stage(step, alive, combined, kept, **fields):
    return Stage(
        step_index=step,
        num_inference_steps=10,
        alive=alive,
        combined=combined,
        kept=kept,
        is_final=step == 9,
        **fields,
    )


def trace(*stages, count=4, **fields):
    return PromptTrace(
        prompt="a", prompt_index=0, seeds=tuple(range(count)), stages=stages, **fields
    )


def test_where_all_were_finished_best_of_n_is_the_running_maximum():
    found = best_of_n(trace(stage(9, (0, 1, 2, 3), (0.2, 0.5, 0.1, 0.9), (3,))), 20)
    assert [point.reward for point in found] == [0.2, 0.5, 0.5, 0.9]
    assert [point.work for point in found] == [20, 40, 60, 80]
    assert all(point.is_exact for point in found)
    assert "found 0.900." in words(found, 80, 0.9)


def test_dropped_candidates_leave_a_lower_bound():
    early = stage(3, (0, 1, 2, 3), (0.9, 0.1, 0.2, 0.8), (0, 3))
    found = best_of_n(trace(early, stage(9, (0, 3), (0.4, 0.6), (3,))), 20)
    assert [(p.count, p.reward, p.is_exact) for p in found] == [
        (1, 0.4, True),
        (2, 0.4, False),
        (3, 0.4, False),
        (4, 0.6, False),
    ]
    text = words(found, 50, 0.6)
    assert "at least 0.600" in text and "not known" in text


def test_before_the_first_finished_candidate_nothing_is_known():
    early = stage(3, (0, 1, 2, 3), (0.1, 0.2, 0.9, 0.8), (2,))
    found = best_of_n(trace(early, stage(9, (2,), (0.7,), (2,))), 20)
    assert [(p.count, p.is_exact) for p in found] == [(3, False), (4, False)]


def test_early_scores_never_count_as_rewards():
    early = stage(3, (0, 1), (5.0, 4.0), (0,))
    found = best_of_n(trace(early, stage(9, (0,), (0.3,), (0,)), count=2), 20)
    assert max(point.reward for point in found) == 0.3


def test_copies_tell_nothing_of_what_their_seeds_alone_would_give():
    copied = stage(3, (0, 1), (0.1, 0.9), (1,), parents=(1, 1))
    found = best_of_n(trace(copied, stage(9, (0, 1), (0.5, 0.6), (1,)), count=2), 20)
    assert found == []
    assert "copies or changes" in words(found, 40, 0.6)


def test_of_a_search_in_rounds_only_the_first_counts():
    first = stage(9, (0, 1), (0.2, 0.4), (1,), round=0)
    second = stage(9, (1, 2), (0.4, 0.8), (2,), round=1)
    found = best_of_n(trace(first, second, count=3, parents=(None, None, 1)), 20)
    assert [point.reward for point in found] == [0.2, 0.4]


def test_a_score_that_is_not_finite_is_no_reward():
    final = stage(9, (0, 1), (float("-inf"), 0.4), (1,))
    assert [p.reward for p in best_of_n(trace(final, count=2), 20)] == [0.4]


@pytest.mark.parametrize("dropped", [True, False])
def test_the_drawing_tells_exact_from_bound(dropped):
    stages = [stage(3, (0, 1, 2), (0.9, 0.1, 0.8), (0, 2))] if dropped else []
    alive = (0, 2) if dropped else (0, 1, 2)
    stages.append(stage(9, alive, tuple(0.1 * (c + 1) for c in alive), (2,)))
    figure = draw(best_of_n(trace(*stages, count=3), 20), 45, 0.3)
    (axes,) = figure.axes
    labels = [line.get_label() for line in axes.lines]
    assert labels == (
        ["best-of-N, at least", "this search"] if dropped else ["best-of-N", "this search"]
    )
