"""`generate --sampler policy` on the zoo's policy, in a known world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.toy_world import toy_goals

from apps.commands import generate
from gensift.zoo.metaworld import rollouts

COMMAND = ["--sampler", "policy", "--task", "push", "--task", "reach", "--steps", "10", "-n", "2"]


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollouts, "goals_of", toy_goals)


def command(folder: Path, *more: str) -> list[str]:
    return [*COMMAND, "-o", "max_steps=8", "-o", "frames=2", "--output", str(folder), *more]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_run_leaves_results_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert generate.main(command(folder)) == 0
    printed = capsys.readouterr().out
    assert "success" in printed and "ms per action" in printed
    first = lines(folder)
    assert [line["prompt"] for line in first] == ["push", "reach"]
    assert [len(line["samples"]) for line in first] == [2, 2]
    best = first[0]["samples"][0]
    assert {"goal", "success", "steps", "seed", "reward", "rewards"} <= best.keys()
    assert (folder / best["file"]).is_file()
    assert json.loads((folder / "run.json").read_text())["config"]["sampler"] == "policy"
    assert generate.main(command(folder)) == 0
    assert "2 of 2" in capsys.readouterr().err
    assert lines(folder) == first


def test_the_zoo_s_cache_works_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = COMMAND.index("10")
    full = [*COMMAND[:steps], "100", *COMMAND[steps + 1 :]]
    more = ["-o", "max_steps=8", "-o", "frames=0", "--cache", "bac", "--json"]
    assert generate.main([*full, *more, "--output", str(tmp_path / "run")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cost"]["spent"]["cache_hits"] > 0
    assert [len(prompt["samples"]) for prompt in document["prompts"]] == [2, 2]


def test_a_plan_costs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(command(tmp_path / "run", "--dry-run", "--json")) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["cost"]["nfe"] == 2 * 10 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--sampler", "policy", "--task", "pusch"], "'push'"),
        (["--sampler", "policy", "--prompt", "push", "--model", "shapes-flux"], "plans no actions"),
        (["--sampler", "best-of-n", "--task", "push"], "--task"),
        (["--sampler", "best-of-n", "--prompt", "push", "--model", "metaworld-policy"], "actions"),
    ],
)
def test_what_does_not_go_together_is_said_in_a_line(
    changed: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main([*changed, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()
