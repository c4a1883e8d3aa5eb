"""`generate` on models that draw scale by scale."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.run_folders import lines_of, summary_of
from PIL import Image

import gensift
from apps.commands.generate import main
from gensift.cost import Cost
from gensift.randomness import candidate_seeds, make_generators
from gensift.trace import Trace

PROMPTS = ("three green crosses", "a red circle")


def generate(folder: Path, *arguments: str, sampler: str = "tts-var") -> int:
    prompts = [item for prompt in PROMPTS for item in ("--prompt", prompt)]
    return main(["--sampler", sampler, *prompts, "-n", "2", "--output", str(folder), *arguments])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    assert generate(folder) == 0
    return folder


def test_without_a_model_flag_the_zoo_draws(run_folder: Path) -> None:
    config = summary_of(run_folder)["config"]
    assert (config["model"], config["rewards"]) == ("shapes-infinity", ["shapes-clip"])
    for line in lines_of(run_folder):
        with Image.open(run_folder / line["samples"][0]["file"]) as picture:
            assert picture.size == (64, 64)


def test_planned_cost_is_spent_cost(run_folder: Path) -> None:
    cost = summary_of(run_folder)["cost"]
    planned = Cost.from_dict(cost.pop("planned"))
    spent = Cost.from_dict(cost)
    assert planned.tokens == spent.tokens > 0
    # Candidates that come out alike are judged once.
    assert spent.decodes <= planned.decodes
    assert spent.reward_calls["shapes-clip"] <= planned.reward_calls["shapes-clip"]


def test_seeds_are_those_of_all_that_are_begun(run_folder: Path) -> None:
    for index, line in enumerate(lines_of(run_folder)):
        assert line["samples"][0]["seed"] in candidate_seeds(0, index, 16)
    assert json.loads((run_folder / "plan.json").read_text())["num_seeds"] == 16


def test_the_tree_tells_the_scales(run_folder: Path) -> None:
    trace = Trace.from_json((run_folder / "trace.json").read_text())
    for prompt in trace.prompts:
        assert [stage.grid for stage in prompt.stages] == [(2, 2), (3, 3), (4, 4), (6, 6), (8, 8)]
    assert (run_folder / "trace-0000.png").exists()


def test_a_finished_run_is_resumed(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run_folder / "results.jsonl").read_bytes()
    assert generate(run_folder) == 0
    assert "2 of 2 prompts are finished" in capsys.readouterr().err
    assert (run_folder / "results.jsonl").read_bytes() == before


def test_a_best_of_n_winner_is_a_plain_call(tmp_path: Path) -> None:
    assert generate(tmp_path / "out", sampler="var-best-of-n") == 0
    call = summary_of(tmp_path / "out")["pipeline_call"]
    pipe: Any = gensift.load_pipeline("shapes-infinity")
    pipe.set_progress_bar_config(disable=True)
    for prompt, line in zip(PROMPTS, lines_of(tmp_path / "out"), strict=True):
        (winner,) = line["samples"]
        same = pipe(prompt, generator=make_generators([winner["seed"]]), **call).images[0]
        with Image.open(tmp_path / "out" / winner["file"]) as picture:
            difference = np.asarray(picture, dtype=int) - np.asarray(same, dtype=int)
        assert np.abs(difference).max() <= 1


def test_a_dry_run_names_scales(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(tmp_path / "out", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "after scale" in shown and "tokens" in shown and "NFE" not in shown
    assert not (tmp_path / "out").exists()


WRONG = {
    "another kind of sampler": (("--sampler", "ttsnap"), "InfinityPipeline has no scheduler"),
    "another kind of model": (("--model", "shapes-flux"), "FluxPipeline does not draw scale by"),
    "steps": (("--steps", "5"), "`--steps` was given, but InfinityPipeline draws scale by scale"),
    "a scheduler": (("--scheduler", "DDIMScheduler"), "InfinityPipeline has no scheduler"),
    "nobody": (("-n", "0"), "`num_candidates` is 0; allowed: at least 1"),
    "last scale": (("-o", "resample_scales=3,5"), "scale 5 is among the selections"),
    "scale twice": (("-o", "resample_scales=2,4"), "scale 2 selects twice"),
    "widths": (("-o", "widths=4,2,1"), "`widths` has 3 entries and the model 6 scales"),
    "size": (("--call", "height=100"), "the nearest that it draws is 64x64"),
    "no number": (("--call", "temperature=hot"), "`temperature` is 'hot'; give a number from"),
    "an embedding": (("-o", "embedding=foo"), "Embedding 'foo' is unknown"),
    "a budget": (("--budget", "100"), "`budget` is not an option"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = WRONG[name]
    defaults = {"--model": "shapes-infinity", "--sampler": "tts-var"}
    given = [item for pair in defaults.items() if pair[0] not in arguments for item in pair]
    folder = tmp_path / "out"
    command = ["--prompt", "a red circle", "--output", str(folder)]
    assert main([*given, *command, *arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and message in told[0]
    assert not folder.exists()
