"""Single prompts keep their settings, and what is wrong is refused before weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import fake_search

from gensift.randomness import candidate_seeds

ARGUMENTS = ("--sampler", "fake", "-n", "3", "--output", "out", "--prompts", "p.csv")


@pytest.fixture(autouse=True)
def pipeline_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(self: Any, prompt: str, height: int = 8, width: int = 8) -> None: ...

    monkeypatch.setattr(fake_search.FakePipeline, "__call__", call, raising=False)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out/results.jsonl").read_text().splitlines()]


def test_a_seed_of_its_own_gives_what_the_prompt_has_alone(generate: Any, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,seed,width\na,,\nb,7,16\n")
    assert generate(*ARGUMENTS, "--seed", 3).code == 0
    first, second = lines(tmp_path)
    assert "own" not in first
    assert first["samples"][0]["seed"] in candidate_seeds(3, 0, 3)
    assert second["samples"][0]["seed"] in candidate_seeds(7, 0, 3)
    assert second["own"] == {"seed": 7, "width": 16}


def test_changed_settings_are_refused_and_the_same_resume(generate: Any, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,seed\na,1\nb,2\n")
    assert generate(*ARGUMENTS).code == 0
    assert "Resuming" in generate(*ARGUMENTS).err
    (tmp_path / "p.csv").write_text("prompt,seed\na,1\nb,3\n")
    assert "now it sets {'seed': 3}; repeat that" in generate(*ARGUMENTS).error
    other = generate(*ARGUMENTS[:4], "--prompts", "p.csv")
    (tmp_path / "p.csv").write_text("prompt,seed\na,1\nb,4\n")
    again = generate(*ARGUMENTS[:4], "--prompts", "p.csv")
    folders = [next(x for x in d.out.splitlines() if "Saved in" in x) for d in (other, again)]
    assert folders[0] != folders[1]


def test_what_the_pipeline_does_not_take_is_refused(generate: Any, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,negative prompt\na,blur\n")
    assert "sets negative_prompt, which FakePipeline does not take" in generate(*ARGUMENTS).error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_bad_profile_is_refused_before_a_model_is_loaded(
    generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("apps.jobs.preparation.load_models", refuse)
    if content is not None:
        (tmp_path / "profile.json").write_text(content)
    (tmp_path / "p.csv").write_text("prompt\na\n")
    assert "profile.json" in generate(*ARGUMENTS, "--cache", "profile.json").error
