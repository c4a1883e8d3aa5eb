import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gensift.canvas import Disc, Line, Picture, Text
from gensift.errors import ConfigError
from gensift.sifting_tree import (
    GOLD,
    LINK_LAYER,
    MAX_COLUMNS,
    MAX_PANELS,
    WINNER_LINK_LAYER,
    draw,
)
from gensift.trace import PromptTrace, Stage, Trace


def make_stage(alive, combined, kept, **more):
    fields = {"step_index": 3, "num_inference_steps": 10, "sigma": 0.5, **more}
    return Stage(alive=tuple(alive), combined=tuple(combined), kept=tuple(kept), **fields)


def make_prompt(num_candidates, keeps, prompt="a red circle", previews=False):
    """Candidate k scores k, so that the survivors are known."""
    alive, stages = range(num_candidates), []
    for number, keep in enumerate(keeps):
        kept = list(alive)[-keep:]
        pictures = {k: Image.new("RGB", (8, 8), (k, 0, 0)) for k in alive} if previews else {}
        is_final = number == len(keeps) - 1
        stages.append(make_stage(alive, alive, kept, is_final=is_final, previews=pictures))
        alive = kept
    seeds = tuple(range(100, 100 + num_candidates))
    return PromptTrace(prompt=prompt, prompt_index=0, seeds=seeds, stages=tuple(stages))


@st.composite
def stages(draw):
    alive = draw(st.lists(st.integers(0, 99), unique=True, min_size=1, max_size=6))
    kept = draw(st.lists(st.sampled_from(alive), unique=True))
    size = len(alive)
    heirs = st.none()
    if kept:
        heirs = st.lists(st.sampled_from(kept), min_size=size, max_size=size).map(tuple)
    column = st.lists(st.floats(), min_size=len(alive), max_size=len(alive)).map(tuple)
    return make_stage(
        alive,
        draw(column),
        kept,
        sigma=draw(st.none() | st.floats()),
        timestep=draw(st.none() | st.floats()),
        scores=draw(st.dictionaries(st.text(max_size=4), column, max_size=2)),
        is_final=draw(st.booleans()),
        parents=draw(heirs),
    )


traces = st.lists(
    st.builds(
        PromptTrace,
        prompt=st.text(max_size=9),
        prompt_index=st.integers(0, 9),
        seeds=st.lists(st.integers(0, 2**48 - 1), max_size=3).map(tuple),
        stages=st.lists(stages(), max_size=3).map(tuple),
    ),
    max_size=2,
).map(lambda prompts: Trace(prompts=tuple(prompts)))


def refuse_constant(name):
    raise AssertionError(f"{name} is not strict JSON")


@given(traces)
def test_round_trip_through_strict_json(trace):
    text = trace.to_json()
    json.loads(text, parse_constant=refuse_constant)
    again = Trace.from_json(text)
    # Compared as text, because NaN differs from itself.
    assert again.to_json() == text
    assert repr(again) == repr(trace)


def test_previews_travel_only_when_asked_for():
    trace = Trace(prompts=(make_prompt(3, [1], previews=True),))
    assert Trace.from_json(trace.to_json()).prompts[0].stages[0].previews == {}
    again = Trace.from_json(trace.to_json(with_previews=True))
    pictures = again.prompts[0].stages[0].previews
    assert {k: image.getpixel((0, 0)) for k, image in pictures.items()} == {
        k: (k, 0, 0) for k in range(3)
    }


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"prompts": [{}]}', '{"prompts": [1]}'])
def test_what_is_no_trace_is_refused(text):
    with pytest.raises(ConfigError, match="Not a trace"):
        Trace.from_json(text)


def test_a_stage_that_contradicts_itself_is_refused():
    with pytest.raises(ConfigError, match=r"'combined' has 1 values for 2.*\[7\] were not alive"):
        make_stage([0, 1], [0.5], [7])


def test_parents_must_be_kept_and_one_for_each():
    with pytest.raises(ConfigError, match="1 parents for 2 alive"):
        make_stage([0, 1], [0.5, 0.6], [0], parents=(0,))
    with pytest.raises(ConfigError, match=r"parents \[1\] were not kept"):
        make_stage([0, 1], [0.5, 0.6], [0], parents=(0, 1))


def test_everyone_goes_on_from_its_parent_or_else_from_itself():
    copied = make_stage([0, 1, 3], [0.5, 0.6, 0.7], [0, 3], parents=(0, 3, 3))
    assert [copied.parent(c) for c in range(4)] == [0, 3, None, 3]
    pruned = make_stage([0, 1, 3], [0.5, 0.6, 0.7], [0, 3])
    assert [pruned.parent(c) for c in range(4)] == [0, None, None, 3]


def test_non_finite_scores_rank_last_and_never_win():
    scores = [math.nan, 0.1, math.inf, 0.3, 0.3]
    stage = make_stage(range(5), scores, range(5))
    assert stage.ranking == (3, 4, 1, 0, 2)
    prompt = PromptTrace(prompt="p", prompt_index=0, seeds=(), stages=(stage,))
    assert prompt.winner == 3


def test_the_winner_is_the_best_of_the_kept():
    stage = make_stage([0, 1, 2], [0.9, 0.5, 0.7], [1, 2])
    assert PromptTrace(prompt="p", prompt_index=0, seeds=(), stages=(stage,)).winner == 2
    assert PromptTrace(prompt="p", prompt_index=0, seeds=(), stages=()).winner is None


def tree(*prompts):
    return draw(prompts, ())


def marks(canvas, kind):
    return [mark for mark in canvas.marks if isinstance(mark, kind)]


def drawn_texts(canvas):
    return [mark.text for mark in marks(canvas, Text)]


def crosses(canvas):
    return len(marks(canvas, Disc)) - 1  # one in the legend


def links(canvas):
    return [m for m in marks(canvas, Line) if m.layer in (LINK_LAYER, WINNER_LINK_LAYER)]


@pytest.mark.parametrize("previews", [False, True])
def test_tree_shows_every_candidate_and_crosses_the_dropped(previews):
    figure = tree(make_prompt(8, [4, 2, 1], previews=previews))
    assert len(marks(figure, Picture)) == (8 + 4 + 2 if previews else 0)
    assert crosses(figure) == 4 + 2 + 1
    texts = drawn_texts(figure)
    assert "a red circle" in texts
    assert "winner #7 of 8\nseed 107" in texts
    assert texts.count("7.00") == 3  # the winner's score at each stage


def test_survivors_are_linked_and_the_winner_stays_in_the_middle():
    found = links(tree(make_prompt(9, [4, 1])))
    assert len(found) == 4
    (golden,) = (link for link in found if link.color == GOLD)
    xs = [x for x, _ in golden.points]
    assert xs == pytest.approx([xs[0]] * len(xs))


def golden_ends(figure):
    """Where the golden links begin and end, from top to bottom."""
    golden = [link for link in links(figure) if link.layer == WINNER_LINK_LAYER]
    return [(link.points[0][0], link.points[-1][0]) for link in golden]


def test_copies_are_linked_to_their_parents_and_the_winner_to_its_forebears():
    stages = (
        make_stage(range(3), [0.1, 0.9, 0.2], [0, 1], parents=(0, 1, 1)),
        make_stage(range(3), [0.3, 0.4, 0.8], [2], parents=(2, 2, 2)),
        make_stage(range(3), [0.9, 0.5, 0.6], [0], is_final=True),
    )
    prompt = PromptTrace(prompt="p", prompt_index=0, seeds=(7, 8, 9), stages=stages)
    figure = tree(prompt)
    assert len(links(figure)) == 6
    (first, first_end), (second, second_end) = golden_ends(figure)
    # From 1 to 2, and from 2 to 0: each link begins where the one before has ended.
    assert first != first_end == second != second_end
    assert "winner #0 of 3\nslot seed 7" in drawn_texts(figure)


def test_64_candidates_are_capped_and_the_rest_counted():
    figure = tree(make_prompt(64, [32, 8, 1], previews=True))
    assert len(marks(figure, Picture)) == 2 * MAX_COLUMNS + 8
    assert any(f"{64 - MAX_COLUMNS} not shown" in text for text in drawn_texts(figure))
    # Even where the survivors alone would fill the row, some dropped ones are seen.
    assert crosses(figure) >= 4 + 8 + 7


def test_pictures_stay_inside_the_figure_and_apart():
    figure = tree(make_prompt(64, [16, 1], previews=True), make_prompt(1, [1]))
    boxes = [picture.box for picture in marks(figure, Picture)]
    for left, top, right, bottom in boxes:
        assert 0 < left < right < figure.width and 0 < top < bottom < figure.height
    rows = {}
    for left, top, right, _ in boxes:
        rows.setdefault(round(top, 4), []).append((left, right))
    for row in rows.values():
        row.sort()
        assert all(a[1] < b[0] for a, b in pairwise(row))


def test_final_images_are_drawn_and_saved(tmp_path):
    path = tmp_path / "trace.png"
    blue = Image.new("RGB", (64, 64), (0, 0, 255))
    trace = Trace(prompts=(make_prompt(2, [1], prompt=r"costs $\frac$, no formula"),))
    trace.plot(path, images=[{1: blue}])
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert (pixels == (0, 0, 255)).all(axis=-1).sum() > 1000


def test_odd_traces_are_drawn_too(tmp_path):
    nothing_finite = make_stage([0, 1], [math.nan, math.inf], [])
    prompts = [
        PromptTrace(prompt="", prompt_index=0, seeds=(1, 2), stages=(nothing_finite,)),
        PromptTrace(prompt="x" * 500, prompt_index=1, seeds=(), stages=()),
        make_prompt(1, [1]),
    ]
    Trace(prompts=tuple(prompts * 5)).plot(tmp_path / "odd.png")
    figure = tree(*prompts * 5)
    assert f"{15 - MAX_PANELS} more prompts not shown" in drawn_texts(figure)
    assert "NaN" in drawn_texts(figure)
    Trace().plot(tmp_path / "empty.png")


def test_wide_pictures_keep_their_shape():
    stage = make_stage([0], [1.0], [0], previews={0: Image.new("RGB", (128, 64))})
    prompt = PromptTrace(prompt="p", prompt_index=0, seeds=(0,), stages=(stage,))
    (left, top, right, bottom) = marks(tree(prompt), Picture)[0].box
    assert (right - left) / (bottom - top) == pytest.approx(2)


def test_a_figure_shows_the_picture_pixel_by_pixel(tmp_path):
    trace = Trace(prompts=(make_prompt(5, [2, 1], previews=True),))
    trace.plot(tmp_path / "tree.png")
    shown = np.asarray(Image.open(tmp_path / "tree.png").convert("RGB")).astype(int)
    drawn = np.asarray(trace.picture()).astype(int)
    assert drawn.shape == shown.shape and np.abs(drawn - shown).max() <= 1


def test_plotting_leaves_the_pyplot_state_alone():
    code = (
        "import sys; from gensift.trace import Trace; assert 'matplotlib' not in sys.modules; "
        "Trace().picture(); assert 'matplotlib' not in sys.modules; "
        "Trace().plot(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_rounds_and_ancestry_survive_json_and_are_drawn(tmp_path: Path) -> None:
    def stage(number: int, alive: tuple[int, ...], kept: tuple[int, ...]) -> Stage:
        scores = tuple(float(candidate) for candidate in alive)
        return Stage(
            step_index=9,
            num_inference_steps=10,
            alive=alive,
            combined=scores,
            kept=kept,
            is_final=True,
            round=number,
        )

    prompt = PromptTrace(
        prompt="a red circle",
        prompt_index=0,
        seeds=tuple(range(8)),
        stages=(stage(0, (0, 1), (1,)), stage(1, (1, 2, 3, 4), (4,)), stage(2, (4, 5, 6, 7), (7,))),
        parents=(None, None, 1, 1, 1, 4, 4, None),
    )
    trace = Trace(prompts=(prompt,))
    assert Trace.from_json(trace.to_json()) == trace
    assert [prompt.ancestry(c) for c in (0, 3, 6, 7)] == [(0,), (1, 3), (1, 4, 6), (7,)]
    assert {"round 0", "round 1", "round 2"} <= set(drawn_texts(tree(prompt)))
    trace.plot(tmp_path / "tree.png")
    assert (tmp_path / "tree.png").stat().st_size > 0


def test_traces_written_before_there_were_rounds_are_read() -> None:
    old = {"prompt": "a", "prompt_index": 0, "seeds": [1], "stages": []}
    assert PromptTrace.from_dict(old).ancestry(0) == (0,)
