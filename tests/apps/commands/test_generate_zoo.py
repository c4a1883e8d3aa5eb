"""`generate` end to end on the embedded models, in processes of its own where that matters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from helpers.run_folders import difference, lines_of, outcome, summary_of
from PIL import Image

import gensift
from apps.commands.generate import main
from gensift.config import config_hash
from gensift.cost import Cost
from gensift.randomness import candidate_seeds
from gensift.trace import Trace
from gensift.zoo.catalog import model_folder

GENERATE = Path(sys.executable).with_name("generate")
PROMPTS = ("a red circle left of a blue square", "two green crosses")
CANDIDATES, OUTPUTS, STEPS = 6, 2, 4
OPTIONS = ("-n", str(CANDIDATES), "--outputs-per-prompt", str(OUTPUTS), "--steps", str(STEPS))


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [GENERATE, *arguments]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# --- a finished run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves in `out` for two prompts, two pictures each."""
    folder = tmp_path_factory.mktemp("run")
    prompts = [item for prompt in PROMPTS for item in ("--prompt", prompt)]
    process = start(folder, "--sampler", "ttsnap", *prompts, *OPTIONS, "--output", "out")
    shown, told = process.communicate()
    assert process.returncode == 0, told
    first, second = told.splitlines()
    assert first.startswith("[1/2] reward ") and first.endswith(PROMPTS[0])
    assert second.startswith("[2/2] reward ") and second.endswith(PROMPTS[1])
    assert "Saved in out" in shown
    return folder / "out"


@pytest.fixture(scope="module")
def zoo() -> Iterator[Any]:
    """The embedded pipeline, loaded as anybody would."""
    pipe = DiffusionPipeline.from_pretrained(model_folder("shapes-flux"))
    pipe.set_progress_bar_config(disable=True)
    yield pipe


def test_the_run_folder_holds_these_files(run_folder: Path) -> None:
    pictures = {f"{index:04d}-{rank}.png" for index in range(2) for rank in range(OUTPUTS)}
    traces = {f"trace-{index:04d}.{kind}" for index in range(2) for kind in ("json", "png")}
    others = {"results.jsonl", "run.json", "plan.json", "trace.json", ".gensift.lock"}
    assert {file.name for file in run_folder.iterdir()} == pictures | traces | others


def test_each_line_of_the_results_has_the_promised_shape(run_folder: Path) -> None:
    lines = lines_of(run_folder)
    assert [(line["prompt_index"], line["prompt"]) for line in lines] == list(enumerate(PROMPTS))
    for index, line in enumerate(lines):
        files = [f"{index:04d}-{rank}.png" for rank in range(OUTPUTS)]
        assert [sample["file"] for sample in line["samples"]] == files
        for sample in line["samples"]:
            assert sample.keys() == {"file", "seed", "reward", "rewards"}
            assert sample["rewards"] == {"shapes-clip": sample["reward"]}
            assert sample["seed"] in candidate_seeds(0, index, CANDIDATES)
        best, second = line["samples"]
        assert best["reward"] >= second["reward"]
        assert best["seed"] != second["seed"]
        cost = Cost.from_dict(line["cost"])
        # Of 4 steps, 0.25 is number 1, counted from 0, and 0.4 is number 2; two outputs are asked.
        assert cost.nfe == 2 * (6 * 2 + 2 * 1 + 2 * 1)
        assert cost.reward_calls == {"shapes-clip": 6 + 2 + 2}
        assert cost.preview_decodes == 6 + 2
        assert cost.decodes == 2 + OUTPUTS


def test_the_summary_says_what_was_run_and_what_it_cost(run_folder: Path) -> None:
    summary = summary_of(run_folder)
    assert summary.keys() == {"command", "config", "pipeline_call", "versions", "cost"}
    assert summary["command"].startswith(f"generate --sampler ttsnap --prompt '{PROMPTS[0]}'")
    config = summary["config"]
    assert config["sampler"] == "ttsnap" and config["model"] == "shapes-flux"
    assert config["rewards"] == ["shapes-clip"] and config["seed"] == 0
    assert config["steps"] == STEPS and config["options"]["num_candidates"] == CANDIDATES
    assert summary["pipeline_call"]["num_inference_steps"] == STEPS
    assert {"gensift", "python", "torch", "diffusers", "transformers"} <= summary["versions"].keys()
    planned = Cost.from_dict(summary["cost"].pop("planned"))
    spent = Cost.from_dict(summary["cost"])
    assert spent.difference(planned) == {}
    lines = lines_of(run_folder)
    assert spent.nfe == sum(line["cost"]["nfe"] for line in lines)
    assert {line["config_hash"] for line in lines} == {config_hash(config)}


def test_each_picture_says_how_it_was_made(run_folder: Path) -> None:
    for line in lines_of(run_folder):
        for sample in line["samples"]:
            with Image.open(run_folder / sample["file"]) as picture:
                assert (picture.format, picture.size) == ("PNG", (64, 64))
                chunks = picture.text  # type: ignore[attr-defined]
            assert chunks.keys() == {"prompt", "seed", "sampler", "config", "reward"}
            assert chunks["prompt"] == line["prompt"]
            assert int(chunks["seed"]) == sample["seed"]
            assert chunks["sampler"] == "ttsnap"
            assert json.loads(chunks["config"]) == summary_of(run_folder)["config"]
            assert json.loads(chunks["reward"]) == sample["reward"]


def test_the_trace_is_told_and_drawn(run_folder: Path) -> None:
    trace = Trace.from_json((run_folder / "trace.json").read_text())
    assert [prompt.prompt for prompt in trace.prompts] == list(PROMPTS)
    for index, (prompt, line) in enumerate(zip(trace.prompts, lines_of(run_folder), strict=True)):
        assert prompt.prompt_index == index
        assert prompt.seeds == tuple(candidate_seeds(0, index, CANDIDATES))
        assert prompt.seeds[prompt.winner or 0] == line["samples"][0]["seed"]
        assert [len(stage.alive) for stage in prompt.stages] == [6, 2, 2]
        with Image.open(run_folder / f"trace-{index:04d}.png") as drawing:
            colours = drawing.convert("RGB").getcolors(2**24)
        assert len(colours) > 500  # thumbnails, not an empty sheet


def test_a_plain_pipeline_call_reproduces_every_picture(run_folder: Path, zoo: Any) -> None:
    call = summary_of(run_folder)["pipeline_call"]
    for line in lines_of(run_folder):
        for sample in line["samples"]:
            with Image.open(run_folder / sample["file"]) as picture:
                generator = torch.Generator().manual_seed(int(picture.text["seed"]))  # type: ignore[attr-defined]
                again = zoo(line["prompt"], generator=generator, **call).images[0]
                assert difference(again, picture) <= 1


def test_the_same_command_again_draws_nothing_anew(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run_folder.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = {file.name: file.stat().st_mtime_ns for file in run_folder.glob("*.png")}
    results = (run_folder / "results.jsonl").read_bytes()
    prompts = [item for prompt in PROMPTS for item in ("--prompt", prompt)]
    assert main([*prompts, *OPTIONS, "--output", "out"]) == 0
    assert "2 of 2 prompts are finished and skipped" in capsys.readouterr().err
    assert {file.name: file.stat().st_mtime_ns for file in run_folder.glob("*.png")} == before
    assert (run_folder / "results.jsonl").read_bytes() == results


def test_winner_reproduces_from_its_seed(zoo: Any) -> None:
    reward = gensift.load_reward("shapes-clip")
    call = {"num_inference_steps": STEPS, "height": 64, "width": 64, "max_sequence_length": 12}
    call |= {"true_cfg_scale": 2.5, "negative_prompt": ""}
    output = gensift.TTSnap(reward=reward, num_candidates=5)(zoo, PROMPTS[0], **call)
    generator = torch.Generator().manual_seed(output.seeds[0])
    alone = zoo(PROMPTS[0], generator=generator, **call).images[0]
    assert difference(alone, output.images[0]) <= 1
    assert output.rewards[0] == pytest.approx(float(reward([alone], [PROMPTS[0]])), abs=2e-3)


def test_several_prompts_in_one_call_give_what_each_gives_alone(zoo: Any) -> None:
    sampler = gensift.TTSnap(reward=gensift.load_reward("shapes-clip"), num_candidates=4)
    together = sampler(zoo, list(PROMPTS), num_inference_steps=2)
    for index, prompt in enumerate(PROMPTS):
        seeds = [candidate_seeds(0, index, 4)]
        alone = sampler(zoo, prompt, seeds=seeds, num_inference_steps=2)
        assert together.seeds[index] == alone.seeds[0]
        assert difference(together.images[index], alone.images[0]) <= 1


# --- interruption ---------------------------------------------------------------------------------

COLOURS = ("red", "green", "blue", "yellow", "purple")
TWENTY = [f"a {colour} {shape}" for colour in COLOURS for shape in ("circle", "square", "cross")]
TWENTY += [f"two {colour} triangles" for colour in COLOURS]
QUICK = ("--prompts", "prompts.txt", "-n", "2", "--steps", str(STEPS), "--output")


def test_killed_in_the_middle_it_resumes_to_the_results_of_an_undisturbed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(TWENTY))
    process = start(tmp_path, *QUICK, "out")
    results = tmp_path / "out" / "results.jsonl"
    while process.poll() is None:
        if results.exists() and results.read_bytes().count(b"\n") >= 3:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.02)
    _, complaints = process.communicate()
    assert process.returncode == -signal.SIGKILL, complaints
    saved = results.read_bytes()
    done = saved.count(b"\n")
    assert 3 <= done < 20

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main([*QUICK, "out"]) == 0
    assert main([*QUICK, "whole"]) == 0
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert results.read_bytes().startswith(saved[: saved.rindex(b"\n") + 1])
    assert [line["prompt"] for line in lines_of(out)] == TWENTY
    assert list(map(outcome, lines_of(out))) == list(map(outcome, lines_of(whole)))
    assert {file.name for file in out.iterdir()} == {file.name for file in whole.iterdir()}
    for index in range(20):
        with (
            Image.open(out / f"{index:04d}-0.png") as resumed,
            Image.open(whole / f"{index:04d}-0.png") as undisturbed,
        ):
            assert difference(resumed, undisturbed) <= 1
            assert resumed.text["seed"] == undisturbed.text["seed"]  # type: ignore[attr-defined]
    assert summary_of(out)["cost"]["nfe"] == summary_of(whole)["cost"]["nfe"]
    for name in ("config", "pipeline_call", "versions"):
        assert summary_of(out)[name] == summary_of(whole)[name]


# --- bad input ------------------------------------------------------------------------------------

ONE = ("--prompt", "a red circle", "-n", "2", "--steps", "2")


@pytest.fixture
def refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run the command; return its one line, an error. The folder must be as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(*arguments: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()
        code = main(arguments)
        shown = capsys.readouterr()
        assert code == 2
        assert shown.out == ""
        (line,) = shown.err.splitlines()
        assert line.startswith("error: ")
        assert sorted(tmp_path.rglob("*")) == before
        return line

    return run


FILES = {
    "empty.txt": "",
    "comments.txt": "# nothing\n\n \t\n",
    "in-the-way": "",
    "no-model/config.json": "{}",
    "unknown-class/model_index.json": json.dumps({"_class_name": "NoPipeline"}),
    "garbled/model_index.json": '{"_class_name',
    "incomplete/model_index.json": json.dumps(
        {"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    ),
}

BAD_INPUT: dict[str, tuple[tuple[str, ...], str]] = {
    "two samplers": (
        ("--sampler", "ttsnap", "--sampler", "best-of-n", *ONE),
        "`--sampler` was given 2 times (ttsnap, best-of-n); give it once",
    ),
    "unknown sampler": (("--sampler", "ttsnip", *ONE), "Nearest: 'ttsnap'"),
    "empty prompt file": (("--prompts", "empty.txt"), "'empty.txt' holds no prompt"),
    "prompt file of comments": (("--prompts", "comments.txt"), "holds no prompt"),
    "white space as prompt": (("--prompt", " \t "), "`--prompt` is blank"),
    "output is a file": (("--output", "in-the-way", *ONE), "'in-the-way' is not a folder"),
    "output below a file": (("--output", "in-the-way/out", *ONE), "in-the-way' is not a folder"),
    "folder without a model": (("--model", "no-model", *ONE), "has no model_index.json"),
    "folder that is not there": (
        ("--model", "./nowhere", *ONE),
        "neither a zoo model nor a folder",
    ),
    "folder of an unknown pipeline": (("--model", "unknown-class", *ONE), "NoPipeline"),
    "folder with a garbled index": (("--model", "garbled", *ONE), "'garbled' cannot be loaded"),
    "incomplete folder": (("--model", "incomplete", *ONE), "'incomplete' cannot be loaded"),
    "a zoo model that draws nothing": (("--model", "shapes-clip", *ONE), "no diffusers pipeline"),
    "absent device": (("--device", "cuda", *ONE), "'cuda' was asked for but is absent"),
    "unknown option of the sampler": (("-o", "kepe=0.5", *ONE), "`kepe` is not an option"),
    "option of another sampler": (
        ("--sampler", "best-of-n", "-o", "keep=0.5", *ONE),
        "`keep` is not an option",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gives_one_line_and_nothing_is_written(
    name: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    for file, content in FILES.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
    arguments, expected = BAD_INPUT[name]
    assert expected in refused(*arguments)


LATE: dict[str, tuple[tuple[str, ...], str]] = {
    "a budget below one candidate": (("--prompt", "a", "--budget", "3"), "raise the budget"),
    "a size that is no number": (("--call", "height=big", *ONE), "height"),
    "a value that the pipeline refuses": (
        ("--call", "max_sequence_length=4096", *ONE),
        "max_sequence_length",
    ),
}


@pytest.mark.parametrize("output", [(), ("--output", "out")], ids=["no folder named", "a folder"])
@pytest.mark.parametrize("name", LATE)
def test_what_shows_only_once_the_model_is_loaded_leaves_nothing_either(
    name: str, output: tuple[str, ...], refused: Callable[..., str]
) -> None:
    arguments, expected = LATE[name]
    assert expected in refused(*arguments, *output)


def test_a_reward_that_is_not_a_number_ends_the_command_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(
        "def score(images, prompts):\n    return [float('nan')] * len(images)\n"
    )
    process = start(tmp_path, *ONE, "--reward", "broken:score", "--output", "out")
    shown, complaints = process.communicate()
    assert process.returncode == 2
    assert shown == ""
    (line,) = complaints.splitlines()
    assert line.startswith("error: Reward broken:score gave no finite score for any of the 2 ")
    left = {path.name for path in tmp_path.iterdir()} - {"__pycache__"}
    assert left == {"broken.py"}
