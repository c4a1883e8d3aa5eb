"""`generate` on masked diffusion language models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.llada import PROMPTS, pipeline
from helpers.run_folders import lines_of, outcome, summary_of

import gensift
from apps.commands.generate import main
from gensift.cost import Cost
from gensift.randomness import candidate_seeds

DEFAULTS = {"gen_length": 8, "num_inference_steps": 8, "temperature": 1.0}
REWARD = "helpers.text_rewards:length"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline with call defaults."""
    folder = tmp_path_factory.mktemp("model") / "tiny-llada"
    pipeline(layers=2).save_pretrained(folder)
    (folder / "gensift.json").write_text(json.dumps(DEFAULTS))
    return folder


def generate(model: Path, folder: Path, *arguments: str, sampler: str = "odd") -> int:
    prompts = [item for prompt in PROMPTS[:2] for item in ("--prompt", prompt)]
    given = ["--model", str(model), *prompts, "-n", "4", "--output", str(folder)]
    return main(["--sampler", sampler, *given, *arguments])


@pytest.fixture(scope="module")
def run_folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    assert generate(model, folder, "--reward", REWARD) == 0
    return folder


def test_lines_hold_texts(run_folder: Path, model: Path) -> None:
    """All texts of a prompt, best first, in the order they were drawn where rewards are equal."""
    pipe: Any = gensift.load_pipeline(model)
    lines = lines_of(run_folder)
    assert [line["prompt"] for line in lines] == list(PROMPTS[:2])
    for index, line in enumerate(lines):
        assert set(line) == {
            "prompt", "prompt_index", "samples", "cost", "first_reward", "mean_reward",
            "config_hash",
        }  # fmt: skip
        seeds = candidate_seeds(0, index, 4)
        wanted = gensift.ODD()(pipe, PROMPTS[index], seeds=[seeds]).samples
        drawn = dict(zip(seeds, wanted, strict=True))
        found = [sample["seed"] for sample in line["samples"]]
        assert found == sorted(seeds, key=lambda s: (-len(drawn[s].split()), seeds.index(s)))
        for sample in line["samples"]:
            assert set(sample) == {"text", "seed", "reward", "rewards"}
            assert sample["text"] == drawn[sample["seed"]]
            assert sample["reward"] == float(len(sample["text"].split()))
            assert list(sample["rewards"].values()) == [sample["reward"]]
    assert not list(run_folder.glob("*.png"))


def test_the_summary_tells_what_was_done(run_folder: Path, model: Path) -> None:
    summary = summary_of(run_folder)
    assert summary["config"]["sampler"] == "odd"
    assert summary["config"]["options"]["alpha"] == gensift.ODDConfig().alpha
    assert summary["config"]["rewards"] == [REWARD]
    assert summary["config"]["model"] == str(model)
    cost = dict(summary["cost"])
    planned, spent = Cost.from_dict(cost.pop("planned")), Cost.from_dict(cost)
    assert planned.nfe == 2 * 4 * 8 >= spent.nfe > 0
    assert spent.decodes == 0


def test_a_finished_run_is_resumed(
    run_folder: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run_folder / "results.jsonl").read_bytes()
    assert generate(model, run_folder, "--reward", REWARD) == 0
    assert "2 of 2 prompts are finished" in capsys.readouterr().err
    assert (run_folder / "results.jsonl").read_bytes() == before


def test_an_interrupted_run_goes_on(run_folder: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    one = ["--sampler", "odd", "--model", str(model), "-n", "4", "--reward", REWARD]
    assert main([*one, "--prompt", PROMPTS[0], "--output", str(folder)]) == 0
    assert generate(model, folder, "--reward", REWARD) == 0
    wanted = [outcome(line) for line in lines_of(run_folder)]
    assert [outcome(line) for line in lines_of(folder)] == wanted


def test_without_a_reward_texts_come_as_drawn(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model, tmp_path / "out", sampler="decode") == 0
    pipe: Any = gensift.load_pipeline(model)
    for index, line in enumerate(lines_of(tmp_path / "out")):
        seeds = candidate_seeds(0, index, 4)
        assert [sample["seed"] for sample in line["samples"]] == seeds
        assert {sample["reward"] for sample in line["samples"]} == {None}
        plain = gensift.TextDecode()(pipe, PROMPTS[index], seeds=[seeds])
        assert [sample["text"] for sample in line["samples"]] == plain.samples
    shown = capsys.readouterr().out
    assert "4 answers" in shown and "Saved in" in shown


def test_fewer_texts_may_be_kept(model: Path, tmp_path: Path) -> None:
    assert generate(model, tmp_path / "out", "--outputs-per-prompt", "2", "--reward", REWARD) == 0
    for line in lines_of(tmp_path / "out"):
        first, second = (sample["reward"] for sample in line["samples"])
        assert first >= second and first >= line["mean_reward"]


def test_json_is_one_document(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model, tmp_path / "out", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    lines = lines_of(tmp_path / "out")
    assert document["sampler"] == "odd" and document["output"] == str(tmp_path / "out")
    assert [entry["prompt"] for entry in document["prompts"]] == list(PROMPTS[:2])
    assert [entry["winner"] for entry in document["prompts"]] == [
        line["samples"][0] for line in lines
    ]
    assert document["cost"]["spent"]["nfe"] == sum(line["cost"]["nfe"] for line in lines)


def test_steps_are_streamed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ("--steps", "4", "--call", "eos_early_stop=false", "--call", "temperature=0")
    assert generate(model, tmp_path / "out", "--stream", *call, sampler="decode") == 0
    told = [row for row in capsys.readouterr().err.splitlines() if row.startswith("step ")]
    assert [row.split(":")[0] for row in told] == [f"step {step}" for step in (1, 2, 3, 4)] * 2
    # Two tokens of eight in each step, in each of four texts.
    assert [row.split().count("_") for row in told] == [24, 16, 8, 0] * 2
    finals = [line["samples"][0]["text"] for line in lines_of(tmp_path / "out")]
    for row, final in zip(told[3::4], finals, strict=True):
        assert row.removeprefix("step 4: ").split(" | ")[0].split() == final.split()


def test_policies_are_options(model: Path, tmp_path: Path) -> None:
    options = (
        "-o", "kv=elastic", "-o", "elastic.gamma=0.8", "-o", "window=sliding",
        "-o", "sliding_length=3", "--call", "threshold=0.4", "--max-rows", "3",
    )  # fmt: skip
    assert generate(model, tmp_path / "out", *options) == 0
    config = summary_of(tmp_path / "out")["config"]
    assert config["options"]["elastic"]["gamma"] == 0.8
    assert config["call"] == {"threshold": 0.4}
    delimited = ("-o", "window=adablock", "-o", "adablock.delimiters=9,11")
    assert generate(model, tmp_path / "more", *delimited) == 0


def test_a_dry_run_tells_the_plan(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(model, tmp_path / "out", "--dry-run", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["plan"]["num_steps"] == 8 and document["plan"]["gen_length"] == 8
    assert generate(model, tmp_path / "out", "--dry-run") == 0
    assert not (tmp_path / "out").exists()


def test_the_zoo_answers_countdown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    prompt = "use 3 7 15 to make 36"
    command = ["--sampler", "odd", "--prompt", prompt, "-n", "16", "--output", str(folder)]
    assert main(command) == 0
    (line,) = lines_of(folder)
    config = summary_of(folder)["config"]
    assert (config["model"], config["rewards"]) == ("countdown-llada", ["countdown"])
    assert len(line["samples"]) == 16
    rewards = [sample["reward"] for sample in line["samples"]]
    assert set(rewards) <= {0.0, 1.0} and rewards == sorted(rewards, reverse=True)
    shown = capsys.readouterr().out
    assert "16 answers" in shown and f"{int(sum(rewards))} right" in shown


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "a prompt too long": (("--prompt", " ".join(["w1"] * 60)), "The prompt has 60 tokens"),
    "a text too long": (("--call", "gen_length=64"), "the model's context holds 64"),
    "an unknown policy": (("-o", "kv=full"), "`kv` is 'full'; allowed: none | prefix"),
    "an unknown option": (("-o", "kvs=full"), "`kvs` is not an option"),
    "a window without blocks": (
        ("-o", "kv=prefix", "-o", "window=sliding"),
        "take window=blocks, or kv=elastic",
    ),
    "a threshold too many": (
        ("-o", "commit=quota", "--call", "threshold=0.5"),
        "commit=quota takes no threshold; leave 0.5 out",
    ),
    "a threshold too few": (("-o", "commit=threshold"), "give it with the call"),
    "an argument of pictures": (("--call", "height=64"), "`--call height` is no argument"),
    "texts of its own": (("--call", "num_texts_per_prompt=2"), "use --num-candidates"),
    "pictures": (("--model", "shapes-infinity"), "InfinityPipeline does not fill in masked text"),
    "a sampler of pictures": (
        ("--sampler", "ttsnap", "--reward", REWARD),
        "writes texts, and this makes samples of another kind (image)",
    ),
    "a stream of pictures": (
        ("--sampler", "ttsnap", "--stream"),
        "`--stream` shows texts, but ttsnap makes samples of another kind",
    ),
    "a reward of pictures": (("--reward", "shapes-clip"), "images hold str"),
    "a shapeless reward": (("--reward", "helpers.text_rewards:shapeless"), "'shapeless' returned"),
    "another prompt": (("--reward", "countdown"), "is no Countdown problem"),
    "a cache of pictures": (
        ("--cache", "ertacache"),
        "No profile of ertacache comes with this model",
    ),
    "a scheduler": (("--scheduler", "DDIMScheduler"), "LLaDAPipeline has no scheduler"),
    "a budget": (("--budget", "100"), "`budget` is not an option"),
    "cold": (("--call", "temperature=-1"), "`temperature` is -1"),
    "words for numbers": (("--call", "temperature=hot"), "`temperature` is 'hot'"),
    "clashing batches": (
        ("-o", "strategy=dpp", "--max-rows", "2"),
        "`strategy` dpp needs all",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_line(
    name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = WRONG[name]
    defaults = {"--model": str(model), "--sampler": "odd", "--prompt": "w1 w2"}
    given = [item for pair in defaults.items() if pair[0] not in arguments for item in pair]
    folder = tmp_path / "out"
    code = main([*given, "-n", "4", "--output", str(folder), *arguments])
    told = capsys.readouterr()
    assert code == 2, told
    (error,) = told.err.strip().splitlines()
    assert error.startswith("error: ") and message in error
    assert told.out == "" and not folder.exists()
