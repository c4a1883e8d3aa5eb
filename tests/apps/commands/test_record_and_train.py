"""From trajectories to a noise-aware reward and a schedule, by the commands alone."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gensift
from apps.commands.generate import main as generate
from apps.commands.main import main as gensift_command
from rewards.noise_aware.recording import Recording
from rewards.protocol import call_reward

PROMPTS = ("a red circle", "two blue squares", "a green cross", "three red triangles")
IMAGES, STEPS = 4, 4
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = gensift_command([str(argument) for argument in arguments])
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "recording"
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    asked = ["--steps", str(STEPS), "-n", str(IMAGES), "--prompts-per-shard", "2"]
    assert gensift_command(["record", *prompts, *asked, "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def weights(recording: Path) -> Path:
    folder = recording.parent / "noise-aware"
    asked = ["--reward", "shapes-clip", "--output", str(folder), "--held-out", "0.5"]
    few = ["--steps-per-phase", "2", "--rank", "2", "--batch-prompts", "2"]
    assert gensift_command(["train-reward", str(recording), *asked, *few]) == 0
    return folder


def test_a_recording_holds_what_plain_calls_give(recording: Path) -> None:
    found = Recording(recording)
    assert (found.prompts, found.num_images, found.num_steps) == (PROMPTS, IMAGES, STEPS)
    seed = gensift.candidate_seed(0, 2, 1)
    pipe = gensift.load_pipeline("shapes-flux")
    arguments = gensift.call_defaults(pipe) | {"num_inference_steps": STEPS, "output_type": "pt"}
    alone = pipe(PROMPTS[2], generator=torch.Generator().manual_seed(seed), **arguments).images
    kept = found.pictures([2], STEPS - 1)[0, 1].float() / 255
    assert (kept - alone[0].float()).abs().max() <= 1.01 / 255
    reward = gensift.load_reward("shapes-clip", noise_aware=False)
    score = call_reward(reward, alone.float(), [PROMPTS[2]])
    assert float(score) == pytest.approx(float(found.scores("shapes-clip")[2, 1]), abs=1e-4)


def test_the_same_record_command_again_draws_nothing(
    run: Run, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samplers.diffusion.record._record_shard", None)
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    asked = ["--steps", STEPS, "-n", IMAGES, "--prompts-per-shard", 2, "--output", recording]
    assert run("record", *prompts, *asked)[0] == 0
    code, _, err = run("record", *prompts, *asked, "--seed", 5)
    assert code == 2 and "another seed" in err


def test_the_report_compares_before_and_after_on_held_out_prompts(weights: Path) -> None:
    report = json.loads((weights / "report.json").read_text())
    assert report["held_out_prompts"] == 2
    assert [len(report[key]) for key in ("before", "after", "sigmas")] == [STEPS] * 3
    # The finished picture is judged by the original reward, before and after.
    assert report["before"][-1] == report["after"][-1]


def test_generate_takes_the_weights(run: Run, weights: Path, tmp_path: Path) -> None:
    asked = ["--prompt", "a red circle", "--steps", str(STEPS), "-n", "4", "--output", tmp_path]
    option = ["--reward-option", f"noise_aware={weights}"]
    assert generate([str(a) for a in [*asked, *option]]) == 0
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert [len(stage["alive"]) for stage in trace["prompts"][0]["stages"]] == [4, 2, 1]


def test_tune_scores_a_recording_once(
    run: Run, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("--budget-in-candidates", 2, "--folds", 2, "--json")
    code, out, err = run("tune", recording, *few)
    assert code == 0, err
    document = json.loads(out)
    assert document
    monkeypatch.setattr("samplers.tuning.scored_recording.score_recording", None)
    assert json.loads(run("tune", recording, *few)[1]) == document


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("record", "--prompt", "a red circle"), "--output"),
        (("record", "--output", "here"), "prompt"),
        (("record", "--prompt", "a", "--output", "x", "-n", "1"), "num_images"),
        (("train-reward", "nowhere", "--reward", "shapes-clip", "--output", "x"), "no recording"),
        (
            ("train-reward", "{rec}", "--reward", "shapes-verifier", "--output", "x"),
            "no final scores",
        ),
        (("train-reward", "{rec}", "--reward", "shapes-clip", "--output", "x", "--rank", "0"), "1"),
        (("tune", "{rec}", "--reward", "pixscore"), "pickscore"),
    ],
)
def test_mistakes_give_one_line(
    run: Run,
    recording: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*(a.replace("{rec}", str(recording)) for a in arguments))
    assert (code, out) == (2, "")
    assert expected in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
