"""What the Runs tab says of a run."""

import json

import pytest

from apps.web.run_store import RunStore
from apps.web.tabs.runs import run_html


@pytest.fixture
def show(tmp_path):
    def show(sampler, sample):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        (folder / "run.json").write_text(
            json.dumps({"command": "generate", "config": {"sampler": sampler}})
        )
        line = {"prompt": "<push>", "samples": [sample]}
        (folder / "results.jsonl").write_text(json.dumps(line))
        (folder / "0000-0.png").write_bytes(b"png")
        return run_html(RunStore(tmp_path).open("run"))

    return show


@pytest.mark.parametrize(
    ("sampler", "sample", "said"),
    [
        ("policy", {"goal": 3, "success": True, "steps": 61}, "goal 3: reached, 61 actions"),
        ("policy", {"goal": 0, "success": False, "steps": 200}, "goal 0: not reached, 200 actions"),
        ("odd", {"text": "1 < 2"}, "<code>1 &lt; 2</code>"),
        ("unknown", {"file": "0000-0.json"}, "<code>0000-0.json</code>"),
    ],
)
def test_an_episode_and_a_text_are_told_in_words(show, sampler, sample, said):
    page = show(sampler, sample)
    assert said in page and "&lt;push&gt;" in page and "<img" not in page


def test_a_picture_stands_alone_and_a_strip_with_its_episode(show):
    picture = show("ttsnap", {"file": "0000-0.png"})
    assert "<img" in picture and "<code></code>" not in picture and "goal" not in picture
    strip = show("policy", {"file": "0000-0.png", "goal": 1, "success": True, "steps": 9})
    assert "<img" in strip and "goal 1: reached, 9 actions" in strip
