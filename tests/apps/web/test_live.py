import re

import pytest
from PIL import Image

from apps.web.grid import MAX_CARDS, error_html, live_html
from apps.web.live import LiveView
from apps.web.request_queue import Cancelled, Task
from gensift.trace import Stage


@pytest.fixture
def task():
    return Task(60)


@pytest.fixture
def view(task):
    view = LiveView(task)
    view.plan(4, 80)
    return view


def stage(step=4, kept=(0, 2), combined=(0.4, 0.1, 0.9, 0.2), **fields):
    return Stage(
        step_index=step,
        num_inference_steps=10,
        alive=tuple(range(len(combined))),
        combined=combined,
        kept=kept,
        is_final=step == 9,
        **fields,
    )


def fates(view):
    return [(card.fate, card.is_out) for card in view.snapshot().cards]


def test_dropped_candidates_are_named_as_such(view):
    view.on_stage(0, stage())
    assert fates(view) == [
        ("kept, step 5", False),
        ("dropped, step 5", True),
        ("kept, step 5", False),
        ("dropped, step 5", True),
    ]
    html = live_html(view.snapshot())
    assert html.count("gs-out") == 2 and "2 of 4 still in, best score 0.900" in html


def test_the_best_finished_candidate_wins(view):
    view.on_stage(0, stage(9, kept=(2,)))
    no = "not the best"
    assert [fate for fate, _ in fates(view)] == [no, no, "winner", no]


def test_copies_are_said_to_be_copies(view):
    view.on_stage(0, stage(kept=(2,), parents=(2, 2, 2, None)))
    assert [fate for fate, _ in fates(view)] == [
        "now a copy of #2",
        "now a copy of #2",
        "kept, step 5",
        "dropped, step 5",
    ]


def test_candidates_of_later_rounds_join(view):
    view.on_stage(0, stage(9, kept=(2,), combined=(0.1,) * 6, round=1))
    assert len(view.snapshot().cards) == 6


def test_work_is_counted_in_denoiser_rows(view):
    view.on_progress("denoise", 5, 40)
    view.on_progress("reward", 1, 8)
    counts = view.snapshot().counts
    assert counts == {"denoiser rows": (10, 80), "reward calls": (1, 8)}


def test_pictures_of_dropped_candidates_stay_what_they_were(view):
    view.on_stage(0, stage())
    view.on_previews(7, {0: Image.new("RGB", (4, 4)), 1: Image.new("RGB", (4, 4))})
    cards = view.snapshot().cards
    assert cards[0].made_at == "step 7" and cards[1].picture == ""


def test_every_report_stops_a_cancelled_search(view, task):
    task.cancel()
    for report in (
        lambda: view.on_progress("denoise", 1, 2),
        lambda: view.on_stage(0, stage()),
        lambda: view.on_previews(1, {}),
    ):
        with pytest.raises(Cancelled):
            report()


def test_only_so_many_cards_are_shown_the_living_first(task):
    view = LiveView(task)
    view.plan(MAX_CARDS + 20, 1)
    kept = tuple(range(50, MAX_CARDS + 20))
    view.on_stage(0, stage(kept=kept, combined=(0.5,) * (MAX_CARDS + 20)))
    html = live_html(view.snapshot())
    assert html.count("<li") == MAX_CARDS and "20 more are not shown" in html
    assert all(f"<b>#{index}</b>" in html for index in kept)


def test_text_is_escaped():
    assert "<script>" not in error_html("<script>alert(1)</script>")


def test_no_fact_is_told_by_colour_alone(view):
    view.on_stage(0, stage(9, kept=(2,)))
    words = re.sub(r"<[^>]*>", " ", live_html(view.snapshot()))
    assert "winner" in words and words.count("not the best") == 3
