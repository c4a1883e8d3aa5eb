"""`gensift tune --sampler tts-var` from prompts to a schedule, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.next_scale_search import PROMPTS, SIDES, SOFT, Brightness, searchable
from PIL import Image

from apps.commands import tune_scales
from apps.commands.main import main
from apps.jobs.options import read_options
from gensift.errors import ConfigError
from gensift.zoo.shapes.split import training_meanings
from samplers.autoregressive.consistency import consistency_curve
from samplers.autoregressive.proposal import THRESHOLD
from samplers.autoregressive.score_recorder import record_scores
from samplers.autoregressive.tts_var import TTSVAR

CANDIDATES = 6
CALL = [part for name, value in SOFT["infinity"].items() for part in ("--call", f"{name}={value}")]
ASKED = [part for prompt in PROMPTS["infinity"] for part in ("--prompt", prompt)]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models") / "tiny"
    searchable("infinity").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A reward that is named as anybody names one of their own."""
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "lightness.py").write_text(
        "from helpers.next_scale_search import Brightness\nscore = Brightness()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield "lightness:score"


@pytest.fixture
def tune(capsys: pytest.CaptureFixture[str], model: Path, reward: str) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        told = [str(argument) for argument in arguments]
        code = main(["tune", "--sampler", "tts-var", "--reward", reward, *told])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def small(tune: Run, model: Path) -> Run:
    """On the tiny model, a few candidates of two prompts."""

    def run(*arguments: object) -> tuple[int, str, str]:
        return tune("--model", model, *ASKED, "-n", CANDIDATES, *CALL, *arguments)

    return run


def test_a_schedule_that_generate_takes(small: Run, tmp_path: Path) -> None:
    file, picture = tmp_path / "schedule.json", tmp_path / "curve.png"
    code, out, err = small("--threshold", 0.3, "--output", file, "--plot", picture, "--json")
    assert code == 0, err
    document = json.loads(out)
    written = json.loads(file.read_text())
    assert document["schedule"] == written and written["sampler"] == "tts-var"
    options = read_options({}, file)
    schedule = TTSVAR(Brightness(), **options.options).schedule(len(SIDES))
    told = document["proposal"]["schedule"]
    assert list(schedule.resample_scales) == told["resample_scales"]
    assert list(schedule.widths) == told["widths"]
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
    assert {file.name for file in tmp_path.iterdir()} == {file.name, picture.name}


def test_the_document_is_what_python_measures(small: Run) -> None:
    code, out, err = small("--seed", 3, "--json")
    assert code == 0, err
    document = json.loads(out)
    scores = record_scores(
        searchable("infinity"),
        PROMPTS["infinity"],
        Brightness(),
        num_candidates=CANDIDATES,
        seed=3,
        **SOFT["infinity"],
    )
    for found, expected in zip(document["curve"], consistency_curve(scores, seed=3), strict=True):
        assert float(found["spearman"]) == pytest.approx(expected.spearman, nan_ok=True)
        assert float(found["low"]) == pytest.approx(expected.low, nan_ok=True)
    counts = [document[name] for name in ("prompts", "candidates", "scales")]
    assert counts == [2, CANDIDATES, len(SIDES)]
    assert document["grids"] == [[side, side] for side in SIDES]


def test_the_report_says_all_that_was_measured(small: Run, reward: str) -> None:
    code, out, _ = small("--threshold", 0.3)
    assert code == 0
    for expected in (
        f"Agreement with the final reward, {reward}: 2 prompts, 6 candidates each",
        "Spearman",
        "95 %",
        "pooled",
        "best kept",
        "left out",
        "6x6",
        "Proposal: ",
        "resample after",
        "Candidates after each scale, per finished one: ",
    ):
        assert expected in out


def test_what_passes_nowhere_is_said(small: Run, tmp_path: Path) -> None:
    file = tmp_path / "schedule.json"
    code, out, _ = small("--threshold", 1.0, "--output", file)
    assert code == 0 and "rewards tell too little to resample by" in out
    assert json.loads(file.read_text())["options"]["resample_scales"] == []


def test_training_prompts_are_the_default_of_shapes_models() -> None:
    found = tune_scales.choose_prompts(tune_scales.ScaleOptions(), "shapes-infinity")
    assert len(set(found)) == tune_scales.DEFAULT_PROMPTS
    assert set(found) <= {str(meaning) for meaning in training_meanings()}
    given = tune_scales.ScaleOptions(prompt=("a red circle",))
    assert tune_scales.choose_prompts(given, "shapes-infinity") == ["a red circle"]
    with pytest.raises(ConfigError, match="No prompt was given"):
        tune_scales.choose_prompts(tune_scales.ScaleOptions(), "some/model")


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(tune_scales, "load_models", refuse)


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "some/model"], "No prompt was given"),
        (["--prompt", " "], "`--prompt` is blank"),
        ([*ASKED, "-n", 1], "`num_candidates` is 1"),
        ([*ASKED, "-n", "many"], "`--num-candidates` is 'many'"),
        ([*ASKED, "--threshold", 1.5], "`threshold` is 1.5"),
        (["scores.npz"], "SCORES 'scores.npz' are for ttsnap"),
        ([*ASKED, "--budget", 9], "`--budget` is not for --sampler tts-var"),
        ([*ASKED, "--step-cost", 9.9], "`--step-cost` is not for --sampler tts-var"),
        ([*ASKED, "--output", "schedule.toml"], "end it in .json"),
        ([*ASKED, "--output", "nowhere/schedule.json"], "a folder that is not there"),
        ([*ASKED, "--plot", "curve.jpg"], "end it in .png"),
        ([*ASKED, "--plot", "nowhere/curve.png"], "a folder that is not there"),
        ([*ASKED, "--reward", "nonsense"], "nonsense"),
        ([*ASKED, "--reward-option", "nonsense"], "is no key=value"),
        ([*ASKED, "--device", "nonsense"], "Device 'nonsense' is unknown"),
    ],
)
def test_mistakes_give_one_line_before_anything_is_loaded(
    tune: Run, arguments: list[object], expected: str
) -> None:
    code, out, err = tune(*arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ") and expected in line


def test_a_folder_is_no_file_to_write(tune: Run, tmp_path: Path) -> None:
    taken = tmp_path / "schedule.json"
    taken.mkdir()
    code, _, err = tune(*ASKED, "--output", taken)
    assert code == 2 and "which cannot be written" in err


def test_a_diffusion_model_is_refused(tune: Run) -> None:
    code, out, err = tune("--model", "shapes-flux", *ASKED)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: FluxPipeline does not draw scale by scale")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--sampler", "tts_var"], "not tuned; give ttsnap or tts-var."),
        (["--sampler", "svdd", "scores.npz"], "`--sampler` is 'svdd', which is not tuned; give"),
        ([], "SCORES are missing"),
        (["scores.npz", "--prompt", "a cat"], "`--prompt` is not for --sampler ttsnap"),
        (["scores.npz", "-n", 4], "`--num-candidates` is not for --sampler ttsnap"),
    ],
)
def test_each_sampler_takes_its_own(
    capsys: pytest.CaptureFixture[str], arguments: list[object], expected: str
) -> None:
    code = main(["tune", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ") and expected in line


def test_the_default_threshold_is_that_of_python() -> None:
    assert tune_scales.ScaleOptions().threshold == THRESHOLD
