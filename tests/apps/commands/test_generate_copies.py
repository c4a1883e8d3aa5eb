"""`generate` with the samplers that copy candidates, whose seeds are not the whole story."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from apps.commands.generate import main
from gensift.cost import Cost
from gensift.trace import Trace

PROMPT = "a red circle left of a blue square"
SAMPLERS = ("fk-steering", "svdd")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def generate(sampler: str, *more: str) -> int:
    common = ("--prompt", PROMPT, "-n", "8", "--steps", "4", "--output", "out")
    return main(["--sampler", sampler, *common, *more])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_promises_no_plain_call_and_gives_itself_again(
    sampler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(sampler) == 0
    assert "a seed alone need not give a winner again" in capsys.readouterr().out
    summary = json.loads(Path("out/run.json").read_text())
    assert summary["pipeline_call"] is None
    planned = Cost.from_dict(summary["cost"].pop("planned"))
    assert Cost.from_dict(summary["cost"]).difference(planned) == {}
    (prompt,) = Trace.from_json(Path("out/trace.json").read_text()).prompts
    assert any(stage.parents for stage in prompt.stages)
    with Image.open("out/trace.png") as drawing:
        assert drawing.format == "PNG"
    with Image.open("out/0000-0.png") as first:
        picture = first.tobytes()
    Path("out").rename("before")
    assert generate(sampler, "--max-rows", "16") == 0
    with Image.open("out/0000-0.png") as again:
        assert again.tobytes() == picture


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_plan_tells_the_cost_and_promises_nothing(
    sampler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(sampler, "--dry-run", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pipeline_call"] is None
    assert document["cost"]["nfe"] == 8 * 4 * 2


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_deterministic_solver_is_refused_in_one_line(
    sampler: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(sampler, "-o", "sde=none") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "is deterministic" in line and "Set `sde` to auto or flow" in line
    assert not Path("out").exists()
