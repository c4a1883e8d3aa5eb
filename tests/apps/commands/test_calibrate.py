"""`gensift calibrate` and `generate --cache`, as their users meet them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apps.commands.generate import main as generate_command
from apps.commands.main import main as gensift_command
from caches.profile import read_profile
from gensift.errors import ConfigError

PROMPTS = ("a red circle", "two blue squares", "a green cross", "three red triangles")
ASKED = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        command = generate_command if arguments[0] == "generate" else gensift_command
        given = arguments[1:] if arguments[0] == "generate" else arguments
        code = command([str(argument) for argument in given])
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("calibrated") / "profile.json"
    asked = ["--steps", "6", "--target-speedup", "1.5", "--max-reuse", "3", "--output", str(file)]
    assert gensift_command(["calibrate", *ASKED, *asked]) == 0
    return file


def test_it_writes_a_profile_and_a_picture(profile: Path) -> None:
    found = read_profile(profile, "ertacache")
    assert found.config["num_steps"] == 6 and len(found.config["updates"]) == 4
    assert found.report["prompts"] == found.report["held_out_prompts"] == 2
    assert Image.open(profile.with_suffix(".png")).size[0] > 400


def test_it_prints_what_is_reused_and_what_it_costs(run: Run, tmp_path: Path) -> None:
    asked = ["--cache", "bac", "--steps", 4, "--target-speedup", 1.1, "--num-bubbling", 1]
    code, out, _ = run("calibrate", *ASKED, *asked, "--output", tmp_path / "bac.json")
    assert code == 0
    assert "transformer_blocks.0.attn" in out and "error on held-out prompts" in out
    code, out, _ = run("calibrate", *ASKED, *asked, "--output", tmp_path / "bac.json", "--json")
    document = json.loads(out)
    assert code == 0 and document["predicted_speedup"] >= 1.1
    assert all(steps[0] == 0 for steps in document["schedule"].values())


def test_generate_uses_it_and_counts_it(run: Run, profile: Path, tmp_path: Path) -> None:
    asked = ["generate", "--prompt", PROMPTS[0], "-n", 2, "--steps", 6, "--sampler", "best-of-n"]
    code, out, _ = run(*asked, "--cache", profile, "--output", tmp_path / "cached", "--json")
    assert code == 0
    cost = json.loads(out)["cost"]["spent"] if "cost" in json.loads(out) else None
    line = json.loads((tmp_path / "cached" / "results.jsonl").read_text().splitlines()[0])
    # 2 candidates, 2 guidance branches, 2 of 6 steps; denoiser rows are counted as asked for.
    assert line["cost"]["cache_hits"] == 2 * 2 * 2
    assert line["cost"]["nfe"] == 2 * 2 * 6
    assert cost is None or cost["cache_hits"] == 8
    config = json.loads((tmp_path / "cached" / "run.json").read_text())["config"]
    assert config["cache"]["name"] == "ertacache"
    # Without the cache it is another run, which the folder refuses.
    code, _, err = run(*asked, "--output", tmp_path / "cached")
    assert code == 2 and "cache" in err


def test_the_zoo_brings_profiles_of_its_own(run: Run, tmp_path: Path) -> None:
    for cache in ("ertacache", "bac"):
        asked = ["--prompt", PROMPTS[0], "-n", 2, "--cache", cache, "--output", tmp_path / cache]
        code, _, err = run("generate", *asked)
        assert code == 0 and "calibrated" not in err
        line = json.loads((tmp_path / cache / "results.jsonl").read_text().splitlines()[0])
        assert line["cost"]["cache_hits"] > 0


def test_another_number_of_steps_is_told(run: Run, tmp_path: Path) -> None:
    asked = ["--prompt", PROMPTS[0], "-n", 2, "--steps", 8, "--output", tmp_path / "out"]
    code, _, err = run("generate", *asked, "--cache", "ertacache")
    assert code == 0 and "calibrated for 20 steps, the run has 8" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "x.json"), "prompt"),
        ((*ASKED,), "`output` is missing; give --output PROFILE.json"),
        ((*ASKED, "--output", "profile.txt"), "end it in .json"),
        ((*ASKED, "--output", "nowhere/profile.json"), "in a folder that is not there"),
        ((*ASKED[:4], "--output", "x.json"), "2 prompts were given"),
        (
            (*ASKED, "--output", "x.json", "--target-speedup", "2", "--max-error", "0.1"),
            "`target_speedup` and `max_error` are given; give one of them",
        ),
        ((*ASKED, "--output", "x.json", "--target-speedup", "0.5"), "allowed: at least 1"),
        (
            (*ASKED, "--output", "x.json", "--cache", "teacache"),
            "'teacache' is not a registered cache method",
        ),
        (
            (*ASKED, "--output", "x.json", "--cache", "bac", "--threshold", "0.1"),
            "`--threshold` is no option of bac, but of ertacache; bac takes --target-speedup",
        ),
        (
            (*ASKED, "--output", "x.json", "--steps", "4", "--target-speedup", "9"),
            "allows for at most 4.0",
        ),
    ],
)
def test_mistakes_get_one_line(
    arguments: tuple[str, ...],
    message: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run("calibrate", *arguments)
    assert code == 2 and out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--no-mend"], False),
        (["--mend"], True),
        (["-o", "mend=false"], False),
        (["--no-correct"], False),
        ([], True),
    ],
)
def test_the_old_name_of_an_option_is_taken_with_a_word(
    given: list[str], expected: bool, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def stop(options: object, settings: Any, prompts: object) -> None:
        asked.append(settings.correct)
        raise ConfigError("That is all.")

    monkeypatch.setattr("apps.commands.calibrate._calibrate", stop)
    code, _, err = run("calibrate", *ASKED, *given, "--output", tmp_path / "x.json")
    assert code == 2 and asked == [expected]
    has_old_name = "mend" in " ".join(given)
    assert ("warning: `mend` is called `correct` now" in " ".join(err.split())) == has_old_name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "neither a profile file nor one of bac, ertacache"),
        ("{", "cannot be read"),
        ("{}", "is no cache profile"),
        ('{"format": "gensift-cache-1", "cache": "ertacache"}', "is damaged"),
    ],
)
def test_bad_profiles_get_one_line(
    content: str | None, message: str, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "profile.json"
    if content is not None:
        file.write_text(content)
    out = tmp_path / "out"
    code, _, err = run("generate", "--prompt", PROMPTS[0], "--cache", file, "--output", out)
    assert code == 2 and message in err and not out.exists()


def test_the_profile_of_another_model_is_refused(run: Run, profile: Path, tmp_path: Path) -> None:
    content = json.loads(profile.read_text())
    content["fingerprint"]["denoiser_config"] = "0" * 16
    (tmp_path / "other.json").write_text(json.dumps(content))
    out = tmp_path / "out"
    code, _, err = run(
        "generate", "--prompt", PROMPTS[0], "--cache", tmp_path / "other.json", "--output", out
    )
    assert code == 2 and "calibrated on another model" in err and not out.exists()
