"""How many answers, how many differ, how many are right: on lines made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from apps.modalities.text.report import MAX_PROMPTS, difference, show_answers

PROMPT = "use 2 3 9 to make 15"


def line(texts: list[str], right: list[int] | None = None, name: str = "countdown") -> Any:
    """`right` lists which of the texts have a reward of 1; None for no reward at all."""
    samples = [
        {"text": text, "seed": at, "reward": None, "rewards": {}}
        if right is None
        else {
            "text": text,
            "seed": at,
            "reward": float(at in right),
            "rewards": {name: float(at in right)},
        }
        for at, text in enumerate(texts)
    ]
    return {"prompt": PROMPT, "prompt_index": 0, "samples": samples}


ANSWERS = ["( 2 * 3 ) + 9", "9 + ( 3 * 2 )", "( 2 * 9 ) - 3", "( 2 * 3 ) + 9", "2 + 3 + 9"]

CASES = {
    "checked": (
        line(ANSWERS, [0, 1, 2, 3]),
        "5 answers, 4 different, 4 right, 2 different solutions, mean distance",
    ),
    "none right": (line(ANSWERS[4:], []), "1 answers, 1 different, 0 right, mean distance 0.00"),
    "unjudged": (line(["a b", "a b"]), "2 answers, 1 different, mean distance 0.00 (0 alike"),
    "strangers": (line(["a b", "c d"]), "2 answers, 2 different, mean distance 1.00 (0 alike"),
    # Multisets {a b} and {b c}: one word of three in common.
    "in part": (line(["a b", "b c"]), "mean distance 0.67 "),
    "another reward": (line(["a", "b"], [0], "length"), "2 answers, 2 different, mean distance"),
}


@pytest.mark.parametrize("name", CASES)
def test_difference(name: str) -> None:
    given, wanted = CASES[name]
    assert wanted in difference(given)


def test_equal_answers_are_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    show_answers([line(ANSWERS, [0, 1, 2, 3])])
    shown = capsys.readouterr().out
    assert PROMPT in shown
    (first,) = [row for row in shown.splitlines() if "( 2 * 3 ) + 9" in row]
    assert "2" in first and "right" in first
    (last,) = [row for row in shown.splitlines() if "2 + 3 + 9" in row]
    assert "wrong" in last


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_answers([line(["[bold]a[/bold] [b"])])
    assert "[bold]a[/bold] [b" in capsys.readouterr().out


def test_many_prompts_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    show_answers([line(["a"])] * (MAX_PROMPTS + 3))
    assert "3 more prompts in results.jsonl" in capsys.readouterr().out
