"""What the documentation tells people to type works as it stands there."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gensift

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def block(page: str, word: str) -> str:
    (found,) = [text for text in blocks(page) if word in text]
    return found


@pytest.fixture
def local_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("sharpness", "halving"):
        sys.modules.pop(name, None)


def test_the_winner_reproduces_as_the_readme_says() -> None:
    names: dict[str, object] = {}
    exec(block("README.md", "same = plain("), names)
    winner, same = (np.asarray(picture, dtype=int) for picture in (names["winner"], names["same"]))
    # A row in a batch differs from the row alone by float rounding, so by one level at most.
    assert np.abs(winner - same).max() <= 1
    assert (winner != same).mean() < 0.01


def test_attaching_works_as_the_readme_says() -> None:
    names: dict[str, object] = {}
    exec(block("README.md", "gensift.attach"), names)
    assert len(names["run"].output.trace.prompts[0].seeds) == 16
    assert names["image"].size == (64, 64)


def test_a_reward_and_a_sampler_are_one_file_each(local_modules: Path) -> None:
    (local_modules / "sharpness.py").write_text(block("CONTRIBUTING.md", "Mean step"))
    (local_modules / "halving.py").write_text(block("CONTRIBUTING.md", "class Halving("))
    from halving import Halving

    pipe = gensift.load_pipeline("shapes-flux")
    sampler = Halving(gensift.load_reward("sharpness:score"), num_candidates=8, rounds=2)
    result = sampler(pipe, "a red circle", num_inference_steps=6)
    stages = result.trace.prompts[0].stages
    assert [len(stage.alive) for stage in stages] == [8, 4, 2]
    flat, striped = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    striped[..., ::2] = 1
    score = gensift.load_reward("sharpness:score")
    assert score(flat, ["x"]).item() == 0 and score(striped, ["x"]).item() == 1
