"""`generate` in two processes: the same winners, files and cost, and a clear end when one dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.run_folders import difference, lines_of, outcome, summary_of

from apps.commands.generate import main
from gensift.trace import Trace

ACCELERATE = Path(sys.executable).with_name("accelerate")
PROMPTS = ("a red circle left of a blue square", "two green crosses", "a blue square")
OPTIONS = ("-n", "5", "--outputs-per-prompt", "2", "--steps", "4", "--output")
RUN = (*(item for prompt in PROMPTS for item in ("--prompt", prompt)), *OPTIONS)
PATIENCE_S = 300


def environment(**more: str) -> dict[str, str]:
    here = Path(__file__).parents[3]
    path = os.pathsep.join([str(here), str(here / "tests"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, *arguments: str, module: str = "apps.commands.generate") -> Any:
    """Two processes with what a launcher tells them, but nobody who ends one for the other."""
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env=environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE="2",
                LOCAL_WORLD_SIZE="2",
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def ends(processes: Any) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    told = [process.communicate(timeout=PATIENCE_S) for process in processes]
    return [(p.returncode, *texts) for p, texts in zip(processes, told, strict=True)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def assert_same_run(shared: Path, alone: Path) -> None:
    """Files, winners, traces and costs agree; pictures to one level of 255, scores to 1e-5.

    A batch of another size rounds otherwise.
    """
    from PIL import Image

    assert {file.name for file in shared.iterdir()} == {file.name for file in alone.iterdir()}
    ours, theirs = lines_of(shared), lines_of(alone)
    for line in (*ours, *theirs):
        del line["cost"]["denoiser_calls"]  # a forward pass per process
    assert list(map(outcome, ours)) == list(map(outcome, theirs))
    for file in alone.glob("0*.png"):
        with Image.open(file) as expected, Image.open(shared / file.name) as found:
            assert difference(found, expected) <= 1
            assert found.text["seed"] == expected.text["seed"]  # type: ignore[attr-defined]
    for stage, expected in zip(stages(shared), stages(alone), strict=True):
        assert (stage.step_index, stage.alive, stage.kept) == (
            expected.step_index,
            expected.alive,
            expected.kept,
        )
        assert stage.combined == pytest.approx(expected.combined, abs=1e-5)
    left, right = summary_of(shared), summary_of(alone)
    assert (left["config"], left["pipeline_call"]) == (right["config"], right["pipeline_call"])
    for name in ("nfe", "decodes", "preview_decodes", "reward_calls", "planned"):
        assert left["cost"][name] == right["cost"][name]


def stages(folder: Path) -> list[Any]:
    trace = Trace.from_json((folder / "trace.json").read_text())
    return [stage for prompt in trace.prompts for stage in prompt.stages]


def test_accelerate_with_two_processes_gives_what_one_gives(here: Path) -> None:
    """Two of the three prompts are dealt out whole; the candidates of the last one are shared."""
    launch = ["launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--main_process_port", str(free_port())]
    done = subprocess.run(
        [ACCELERATE, *launch, "-m", "apps.commands.generate", *RUN, "two"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Saved in two") == 1
    assert done.stderr.count("[3/3] reward ") == 1
    assert main([*RUN, "one"]) == 0
    assert_same_run(here / "two", here / "one")
    assert "wait" in lines_of(here / "two")[2]["cost"]["seconds"]


EIGHT = [f"a {c} {s}" for c in ("red", "green") for s in ("circle", "square", "cross")]
EIGHT += ["two blue circles", "three green squares"]
QUICK = ("--prompts", "prompts.txt", "-n", "2", "--steps", "4", "--output")


def test_killing_one_process_ends_the_run_which_then_resumes(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "prompts.txt").write_text("\n".join(EIGHT))
    first, second = start(here, *QUICK, "out")
    results = here / "out" / "results.jsonl"
    while first.poll() is None and not (results.exists() and results.read_bytes().count(b"\n") > 1):
        time.sleep(0.02)
    os.kill(second.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    (code, shown, told), (killed, _, _) = ends([first, second])
    assert time.monotonic() - killed_at < 60
    assert (code, killed, shown) == (3, -signal.SIGKILL, "")
    error = told.splitlines()[-1]
    assert told.count("error:") == 1 and "Traceback" not in told
    assert error.startswith("error: Process 0 of 2 lost another one")
    assert error.endswith("safe in out; the same command goes on from there.")
    done = lines_of(here / "out")
    assert 2 <= len(done) < len(EIGHT)

    assert main([*QUICK, "out"]) == 0
    assert f"{len(done)} of 8 prompts are finished and skipped" in capsys.readouterr().err
    assert main([*QUICK, "whole"]) == 0
    assert lines_of(here / "out")[: len(done)] == done
    assert_same_run(here / "out", here / "whole")


FAKES = ("--sampler", "fake", "-n", "4", "--prompt", "a", "--prompt", "b", "--prompt", "c")


def test_the_others_say_so_when_the_first_process_dies(
    here: Path, generate: Callable[..., Any]
) -> None:
    os.environ["FAKE_KILL"] = "search:2"  # of the first process, in the second round
    try:
        processes = start(here, *FAKES, "--output", "out", module="helpers.fake_search")
    finally:
        del os.environ["FAKE_KILL"]
    (killed, _, _), (code, shown, told) = ends(processes)
    assert (killed, code, shown) == (-signal.SIGKILL, 3, "")
    (line,) = told.splitlines()
    assert line.startswith("error: Process 1 of 2 lost another one")
    assert [line["prompt"] for line in lines_of(here / "out")] == ["a", "b"]
    assert generate(*FAKES, "--output", "out").code == 0
    assert generate(*FAKES, "--output", "whole").code == 0
    assert lines_of(here / "out") == lines_of(here / "whole")


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown option": (("--frobnicate",), "error: No such option: --frobnicate"),
    "unknown sampler": (("--sampler", "ttsnip", "--prompt", "a"), "error: 'ttsnip' is not a"),
    "only one process fails": (
        ("--prompt", "a red circle", "-n", "2", "--steps", "2", "--reward", "moody:score"),
        "error: Reward 'score' returned float32 (7,) for 1 samples",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_told_once_and_ends_all_processes(name: str, here: Path) -> None:
    (here / "moody.py").write_text(
        "import os, torch\n"
        "def score(images, prompts):\n"
        "    return torch.zeros(7 if os.environ['RANK'] == '1' else len(images))\n"
    )
    before = set(here.iterdir())
    arguments, expected = REFUSED[name]
    (code, shown, told), (other, silent, hushed) = ends(start(here, *arguments, "--output", "out"))
    assert (code, other) == (2, 2)
    (line,) = told.splitlines()
    assert line.startswith(expected)
    assert shown == silent == hushed == ""
    assert {path for path in here.iterdir() if path.name != "__pycache__"} == before


def test_a_launcher_that_started_one_process_only_is_named(
    generate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setenv("MASTER_PORT", "29500")
    finished = generate("--sampler", "fake", "--prompt", "a", "--json")
    assert finished.code == 0
    assert "warning: accelerate has started one process only" in finished.err
    assert json.loads(finished.out)["prompts"]


@pytest.mark.parametrize("text", ["soon", "0", "nan"])
def test_a_silence_that_is_no_time_is_refused(
    text: str, generate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("GENSIFT_SILENCE_S", text)
    assert f"GENSIFT_SILENCE_S is {text!r}; give seconds" in generate("--prompt", "a").error
