"""`gensift tune` from file to schedule, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from apps.commands import main as shell
from apps.commands.generate import main as generate
from apps.jobs.options import read_options
from samplers.diffusion.schedule import Checkpoint, PruningSchedule, plan_stages
from samplers.tuning.schedule_file import generate_config

STEPS = 8


@pytest.fixture
def tune(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = shell.main(["tune", *(str(argument) for argument in arguments)])
        return code, *capsys.readouterr()

    return run


def save(path: Path, noise: float | None, prompts: int = 30, images: int = 40, **more) -> Path:
    rng = np.random.default_rng(0)
    final, blur = rng.normal(size=(2, prompts, images, 1))
    fading = blur * np.linspace(1, 0, STEPS)
    early = rng.normal(size=fading.shape) if noise is None else final + noise * fading
    np.savez(path, early=early, final=final[:, :, 0], **more)
    return path


@pytest.fixture
def useful(tmp_path: Path) -> Path:
    return save(tmp_path / "useful.npz", 0.5, sigmas=np.linspace(1, 0.1, STEPS))


def test_a_schedule_that_generate_takes(tune, useful, tmp_path):
    file = tmp_path / "schedule.json"
    code, out, err = tune(useful, "--budget-in-candidates", 8, "--output", file, "--json")
    assert code == 0, err
    document = json.loads(out)
    written = json.loads(file.read_text())
    assert document["schedule"] == written and document["prunes"] is True
    options = read_options({}, file)
    assert options.sampler == "ttsnap"
    schedule = PruningSchedule(
        tuple(options.options["checkpoints"]), tuple(written["options"]["keep"])
    )
    found = [(point.step_index, point.keep) for point in schedule.resolve(STEPS)]
    told = document["recommendation"]
    assert found == [(p["step_index"], p["keep"]) for p in told["checkpoints"]]
    assert told["gain"]["low"] > 0 and told["equivalent"]["count"] > 8
    assert told["best_of_n"] == 8 and told["cost"] <= document["config"]["budget"]
    assert len(document["ranking"]["reward"]) == STEPS


def test_the_report_says_all_that_was_measured(tune, useful):
    code, out, _ = tune(useful, "--budget-in-candidates", 8, "--max-checkpoints", 1)
    assert code == 0
    for expected in (
        "sigma",
        "tau",
        "Tacc 25 %",
        "30 prompts, 40 images each, 8 steps",
        "best-of-N: n = 8",
        "Prune after steps",
        "on held-out prompts the gain is",
        "Equivalent: best-of-N with",
        "over budgets",
        "in steps of",
    ):
        assert expected in out


def test_noise_is_not_pruned_by_and_the_file_says_best_of_n(tune, tmp_path):
    file = tmp_path / "schedule.json"
    code, out, _ = tune(save(tmp_path / "noise.npz", None), "--budget", 640, "--output", file)
    assert code == 0 and "Do not prune: " in out and "omega" not in out
    assert json.loads(file.read_text()) == {"sampler": "best-of-n"}
    assert read_options({}, file).sampler == "best-of-n"


def test_broken_scores_and_small_pools_are_warned_of(tune, tmp_path):
    path = save(tmp_path / "few.npz", 0.0, images=12)
    arrays = dict(np.load(path))
    arrays["early"][0, 0, 0] = np.nan
    np.savez(path, **arrays)
    code, _, err = tune(path, "--budget-in-candidates", 6, "--max-checkpoints", 1)
    assert code == 0
    broken, small = err.splitlines()
    assert "1 scores are not finite" in broken
    assert "more than the 12 images" in small


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--budget", 9, "--budget-in-candidates", 3], "give one"),
        (["--budget", 9], "below the cost of 1 candidate"),
        (["--budget", "-1"], "give a positive amount"),
        (["--budget", "nan"], "give a positive amount"),
        (["--budget-in-candidates", 41], "40 images per prompt; record more"),
        (["--step-cost", 0], "a step must cost something"),
        (["--scoring-cost", "-1"], "`--scoring-cost` is -1.0"),
        (["--verdict-cost", 1, "--scoring-cost", 1], "give `--scoring-cost`"),
        (["--preview-cost", "nan"], "`--preview-cost` is nan"),
        (["--max-checkpoints", 4], "--max-checkpoints"),
        (["--folds", 1], "--folds"),
        (["--output", "schedule.toml"], "end it in .json"),
        (["--output", "nowhere/schedule.json"], "a folder that is not there"),
    ],
)
def test_mistakes_give_one_line(tune, useful, arguments, expected):
    code, out, err = tune(useful, *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ") and expected in line


def test_the_old_name_of_the_scoring_cost_does_the_same_and_warns_once(tune, useful):
    arguments = ["--budget-in-candidates", 4, "--max-checkpoints", 1, "--json"]
    _, new, silent = tune(useful, "--scoring-cost", 2.5, *arguments)
    code, old, err = tune(useful, "--verdict-cost", 2.5, *arguments)
    assert (code, old, silent) == (0, new, "")
    assert json.loads(new)["prices"]["scoring"] == 2.5
    (line,) = err.splitlines()
    assert line.startswith("warning: `--verdict-cost` is now called `--scoring-cost`")


def test_the_old_name_is_not_in_the_help(tune):
    _, out, _ = tune("--help")
    assert "--scoring-cost" in out and "verdict" not in out


def test_one_prompt_cannot_be_cross_validated(tune, tmp_path):
    code, _, err = tune(save(tmp_path / "one.npz", 0.0, prompts=1))
    assert code == 2 and "at least 2" in err


def test_what_is_no_file_of_scores_is_refused(tune, tmp_path):
    for path, expected in ((tmp_path, "no recording"), (tmp_path / "no.npz", "do not exist")):
        code, _, err = tune(path)
        assert code == 2 and expected in err


@pytest.mark.parametrize("checkpoints", [(), (Checkpoint(0, 0.5), Checkpoint(2, 0.65))])
def test_generate_plans_by_the_file(capsys, tmp_path, checkpoints):
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps(generate_config(checkpoints, 5)))
    request = ["--prompt", "a red circle", "--steps", "5", "-n", "8", "--dry-run", "--json"]
    assert generate(["--config", str(file), *request]) == 0
    stages = json.loads(capsys.readouterr().out)["plan"]["stages"]
    planned = plan_stages(checkpoints, 5, 8, 1)
    assert [(s["step_index"], s["alive"], s["kept"]) for s in stages] == [
        (s.step_index, s.alive, s.kept) for s in planned
    ]
