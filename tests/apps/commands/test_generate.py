import json
import subprocess
import sys
import time

import pytest
from helpers import fake_search
from PIL import Image

from gensift.randomness import candidate_seeds
from gensift.trace import Trace

ARGUMENTS = ("--sampler", "fake", "--prompt", "a red circle", "-n", "4")


def lines_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_run_writes_what_the_design_promises(generate, tmp_path):
    finished = generate(*ARGUMENTS, "--outputs-per-prompt", 2, "--output", "out", "--steps", 5)
    assert finished.code == 0
    folder = tmp_path / "out"
    assert {file.name for file in folder.iterdir()} == {
        "0000-0.png",
        "0000-1.png",
        "results.jsonl",
        "run.json",
        "plan.json",
        "trace.json",
        "trace.png",
        ".gensift.lock",
    }
    (line,) = lines_of(folder)
    assert (line["prompt"], line["prompt_index"]) == ("a red circle", 0)
    assert [sample["file"] for sample in line["samples"]] == ["0000-0.png", "0000-1.png"]
    best, second = line["samples"]
    assert best["reward"] >= second["reward"]
    assert best["rewards"] == {"shapes-clip": best["reward"]}
    assert {best["seed"], second["seed"]} <= set(candidate_seeds(0, 0, 4))
    assert line["cost"]["nfe"] == 4 * 5
    summary = json.loads((folder / "run.json").read_text())
    assert summary["pipeline_call"] == {"num_inference_steps": 5}
    assert summary["config"]["sampler"] == "fake"
    assert summary["cost"]["nfe"] == summary["cost"]["planned"]["nfe"] == 20
    assert summary["command"].startswith("generate --sampler fake --prompt 'a red circle'")
    assert {"gensift", "python", "torch", "diffusers"} <= summary["versions"].keys()


def test_pictures_carry_how_they_were_made(generate, tmp_path):
    generate(*ARGUMENTS, "--prompt", "ein grüner Kreis 🟢", "--output", "out")
    with Image.open(tmp_path / "out" / "0001-0.png") as picture:
        text = picture.text
    line = lines_of(tmp_path / "out")[1]
    assert text["prompt"] == "ein grüner Kreis 🟢"
    assert int(text["seed"]) == line["samples"][0]["seed"]
    assert float(text["reward"]) == line["samples"][0]["reward"]
    assert text["sampler"] == "fake"
    summary = json.loads((tmp_path / "out" / "run.json").read_text())
    assert json.loads(text["config"]) == summary["config"]


def test_the_trace_of_several_prompts_is_one_file_and_one_tree_each(generate, tmp_path):
    generate(*ARGUMENTS, "--prompt", "b", "--output", "out")
    folder = tmp_path / "out"
    assert (folder / "trace-0000.png").exists() and (folder / "trace-0001.png").exists()
    trace = Trace.from_json((folder / "trace.json").read_text())
    assert [(p.prompt, p.prompt_index) for p in trace.prompts] == [("a red circle", 0), ("b", 1)]


def test_the_last_table_shows_winner_first_candidate_mean_and_cost(generate):
    out = generate(*ARGUMENTS, "--output", "out").out
    seeds = candidate_seeds(0, 0, 4)
    rewards = [seed % 1000 / 1000 for seed in seeds]
    for number in (max(rewards), rewards[0], sum(rewards) / 4):
        assert f"{number:.3f}" in out
    for word in ("planned", "spent", "denoiser rows (NFE)", "Saved in out"):
        assert word in out


def test_json_is_all_there_is_on_stdout(generate, monkeypatch):
    call = fake_search.FakeSampler.__call__

    def chatty(*args, **kwargs):
        print("a plugin that prints")
        return call(*args, **kwargs)

    monkeypatch.setattr(fake_search.FakeSampler, "__call__", chatty)
    finished = generate(*ARGUMENTS, "--output", "out", "--json")
    document = finished.document
    (prompt,) = document["prompts"]
    assert document["output"] == "out"
    assert prompt["winner"]["file"] == "0000-0.png"
    assert prompt["winner"]["seed"] in candidate_seeds(0, 0, 4)
    assert {"planned", "spent"} == document["cost"].keys()
    assert "a plugin that prints" in finished.err


def test_commands_without_output_do_not_share_a_folder(generate):
    folders = {
        generate(*ARGUMENTS, *more, "--json").document["output"]
        for more in ([], ["--prompt", "b"], ["--seed", 1], ["--steps", 3], [])
    }
    assert len(folders) == 4
    assert all(folder.startswith("outputs/fake-a-red-circle-") for folder in folders)


def test_a_finished_run_is_skipped_and_said_so(generate, tmp_path):
    first = generate(*ARGUMENTS, "--output", "out", "--json").document
    before = (tmp_path / "out" / "0000-0.png").stat().st_mtime_ns
    again = generate(*ARGUMENTS, "--output", "out", "--json")
    assert "1 of 1 prompts are finished" in again.err
    assert (tmp_path / "out" / "0000-0.png").stat().st_mtime_ns == before
    assert again.document["prompts"][0].pop("resumed") is True
    assert first["prompts"][0].pop("resumed") is False
    assert again.document["cost"] == first["cost"]


def test_prompts_may_be_appended_but_not_changed(generate, tmp_path):
    def run(*prompts):
        file = tmp_path / "p.txt"
        file.write_text("\n".join(prompts))
        return generate("--sampler", "fake", "--prompts", file, "-n", 4, "--output", "out")

    run("a", "b")
    assert "2 of 3 prompts are finished" in run("a", "b", "c").err
    assert "holds a result for prompt 1, 'b', but now it is 'x'" in run("a", "x", "c").error
    assert sorted(
        (line["prompt_index"], line["prompt"]) for line in lines_of(tmp_path / "out")
    ) == [
        (0, "a"),
        (1, "b"),
        (2, "c"),
    ]


def test_the_trace_of_a_first_single_prompt_is_kept_when_prompts_are_added(generate, tmp_path):
    generate("--sampler", "fake", "--prompt", "a", "-n", 4, "--output", "out")
    generate("--sampler", "fake", "--prompt", "a", "--prompt", "b", "-n", 4, "--output", "out")
    trace = Trace.from_json((tmp_path / "out" / "trace.json").read_text())
    assert [p.prompt for p in trace.prompts] == ["a", "b"]
    assert (tmp_path / "out" / "trace-0000.png").exists()


def test_another_config_in_the_folder_is_refused_but_less_memory_is_not(generate):
    generate(*ARGUMENTS, "--output", "out")
    error = generate(*ARGUMENTS, "--output", "out", "--steps", 3).error
    assert "`steps`: 10 there, 3 now" in error and "another folder" in error
    assert generate(*ARGUMENTS, "--output", "out", "--max-rows", 2).code == 0


def test_a_measured_budget_keeps_its_first_choice_when_resumed(generate, monkeypatch, tmp_path):
    def run(*prompts):
        given = [item for prompt in prompts for item in ("--prompt", prompt)]
        return generate("--sampler", "fake", "--budget", "60s", "--output", "out", "--json", *given)

    run("a")
    monkeypatch.setattr(fake_search, "MEASURED", [3])
    run("a", "b")
    trace = json.loads((tmp_path / "out" / "trace-0001.json").read_text())
    assert len(trace["prompts"][0]["seeds"]) == 7


def test_ctrl_c_leaves_a_folder_that_the_same_command_finishes(generate, monkeypatch, tmp_path):
    prompts = ("--prompt", "b", "--prompt", "c")
    whole = generate(*ARGUMENTS, *prompts, "--output", "whole")
    call = fake_search.FakeSampler.__call__

    def interrupted(self, pipeline, texts, **kwargs):
        if texts == ["b"]:
            raise KeyboardInterrupt
        return call(self, pipeline, texts, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(fake_search.FakeSampler, "__call__", interrupted)
        stopped = generate(*ARGUMENTS, *prompts, "--output", "out")
    assert stopped.code == 130
    assert "1 of 3 prompts are finished in out; the same command goes on" in stopped.err
    assert "Traceback" not in stopped.err
    assert generate(*ARGUMENTS, *prompts, "--output", "out").code == whole.code == 0
    assert lines_of(tmp_path / "out") == lines_of(tmp_path / "whole")


@pytest.mark.parametrize("kill", ["search:0", "search:2", "line:1"])
def test_after_kill_9_the_results_are_those_of_an_undisturbed_run(generate, tmp_path, kill):
    prompts = [item for prompt in "abcd" for item in ("--prompt", prompt)]
    arguments = ["--sampler", "fake", "-n", "4", *prompts, "--output"]
    command = [sys.executable, "-m", "helpers.fake_search", *arguments, "out"]
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path), "FAKE_KILL": kill}
    killed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert generate(*arguments, "out").code == 0
    assert generate(*arguments, "whole").code == 0
    assert lines_of(tmp_path / "out") == lines_of(tmp_path / "whole")
    for file in (tmp_path / "whole").glob("*.png"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    assert len(list((tmp_path / "out").iterdir())) == len(list((tmp_path / "whole").iterdir()))


BAD_INPUT = {
    "two samplers": (("--sampler", "other"), "`--sampler` was given 2 times (fake, other)"),
    "two seeds": (("--seed", "1", "--seed", "2"), "give it once"),
    "unknown reward": (("--reward", "shape-clip"), "Nearest: 'shapes-clip'"),
    "wrong model folder": (("--model", "folder"), "has no model_index.json"),
    "no such model": (("--model", "shapes-flu"), "Nearest: 'shapes-flux'"),
    "absent cuda": (("--device", "cuda:99"), "'cuda:99' was asked for but is absent"),
    "unknown device": (("--device", "tpux"), "unknown"),
    "NaN reward": (("--reward", "nan"), "no finite score"),
    "missing prompt file": (("--prompts", "none.txt"), "No such file"),
    "empty prompt file": (("--prompts", "empty.txt"), "holds no prompt"),
    "blank prompt": (("--prompt", " "), "`--prompt` is blank"),
    "unwritable folder": (("--output", "empty.txt/out"), "empty.txt' is not a folder"),
    "folder is a file": (("--output", "empty.txt"), "'empty.txt' is not a folder"),
    "bad budget": (("--budget", "2 weeks"), "60s"),
    "candidates and budget": (("--budget", "60s"), "both given; give one"),
    "unknown sampler option": (("-o", "kepe=0.3"), "Nearest: 'keep'"),
    "malformed sampler option": (("-o", "keep"), "write key=value"),
    "sampler option out of range": (("-o", "keep=3"), "0 to 1"),
    "missing config file": (("--config", "none.json"), "cannot be read"),
    "unknown option": (("--stepz", "3"), "No such option: --stepz"),
    "no number": (("--steps", "many"), "`--steps` is 'many'; give an integer"),
    "no value": (("--steps",), "requires an argument"),
    "stray word": (("word",), "word"),
    "no candidate": (("-n", "0"), "give it once"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gives_one_line_and_leaves_nothing_behind(generate, tmp_path, name):
    more, expected = BAD_INPUT[name]
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    output = () if "--output" in more else ("--output", "out")
    assert expected in generate(*ARGUMENTS, *output, *more).error
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_sampler_and_no_prompt_are_refused(generate, tmp_path):
    assert "Nearest: 'fake'" in generate("--sampler", "fakee", "--prompt", "a").error
    assert "use --prompt TEXT" in generate("--sampler", "fake").error
    assert not list(tmp_path.iterdir())


def test_a_failed_first_prompt_keeps_a_folder_that_was_there(generate, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    generate(*ARGUMENTS, "--reward", "nan", "--output", "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_dry_run_shows_the_plan_and_writes_nothing(generate, tmp_path):
    shown = generate(*ARGUMENTS, "--prompt", "b", "--dry-run", "--max-rows", 3)
    assert shown.code == 0
    assert "Most rows at a time: 3" in shown.out
    document = generate(*ARGUMENTS, "--prompt", "b", "--dry-run", "--json").document
    assert document["cost"]["nfe"] == 2 * 4 * 10
    assert document["cost"]["denoiser_calls"] is None
    assert document["plan"]["num_candidates"] == 4
    assert not list(tmp_path.iterdir())


def test_listing_samplers_shows_their_options(generate):
    out = generate("--list-samplers").out
    assert "fake" in out and "num_candidates" in out and "shares kept" in out
    (sampler,) = generate("--list-samplers", "--json").document["samplers"]
    assert sampler["options"][-1] == {
        "name": "keep",
        "type": "list of float",
        "default": [0.5],
        "help": "shares kept",
    }
    assert generate("--list-rewards", "--json").document == {
        "rewards": ["clip-score", "nan", "shapes-clip"]
    }


def test_several_rewards_and_guidance_reach_sampler_and_pipeline(generate, tmp_path):
    more = ("--reward", "shapes-clip", "--reward", "clip-score", "--guidance-scale", 3.5)
    generate(*ARGUMENTS, *more, "--output", "out")
    assert lines_of(tmp_path / "out")[0]["samples"][0]["rewards"].keys() == {
        "shapes-clip",
        "clip-score",
    }
    summary = json.loads((tmp_path / "out" / "run.json").read_text())
    assert summary["pipeline_call"]["true_cfg_scale"] == 3.5
    assert summary["config"]["guidance_scale"] == 3.5


def test_a_library_is_hushed_but_our_own_warning_is_one_line(generate, monkeypatch):
    import warnings

    call = fake_search.FakeSampler.__call__

    def warning(*args, **kwargs):
        warnings.warn("Out of memory;\ngoing on", RuntimeWarning, stacklevel=1)
        warnings.warn_explicit("noise", UserWarning, "x.py", 1, module="diffusers.models")
        return call(*args, **kwargs)

    monkeypatch.setattr(fake_search.FakeSampler, "__call__", warning)
    err = generate(*ARGUMENTS, "--output", "out").err
    assert err.splitlines() == ["warning: Out of memory; going on"]


@pytest.mark.parametrize("arguments", [["--help"], ["--sampler", "a", "--sampler", "b"]])
def test_help_and_mistakes_come_at_once(arguments):
    command = [sys.executable, "-X", "importtime", "-m", "apps.commands.generate", *arguments]
    start = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True)
    assert time.perf_counter() - start < 5  # seconds; below 0.5 on a machine that is not busy
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert not imported & {"torch", "diffusers", "transformers", "matplotlib", "numpy"}
