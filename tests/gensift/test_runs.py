import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from gensift import runs
from gensift.config import config_hash
from gensift.errors import RunFolderError
from gensift.runs import RunFolder

CONFIG = {"sampler": "ttsnap", "seed": 0, "options": {"keep": 0.5, "points": (0.3, 0.6)}}


def open_folder(path, config=CONFIG):
    return RunFolder(
        path,
        config=config,
        command="generate --seed 0",
        pipeline_call={"num_inference_steps": 4},
        versions={"gensift": "0"},
    )


def finish_prompt(folder, index, prompt="p"):
    name = f"{index:04d}.png"
    folder.write_image(name, Image.new("RGB", (4, 4), (index, 0, 0)), {"prompt": prompt})
    sample = {"file": name, "seed": index, "reward": 0.5, "rewards": {"clip": 0.5}}
    line = {"prompt": prompt, "prompt_index": index, "samples": [sample], "cost": {"nfe": 1}}
    folder.append_result(line)


def read_lines(path):
    return [json.loads(line) for line in (path / runs.RESULTS).read_text().splitlines()]


def test_files_have_the_fixed_shape(tmp_path):
    with open_folder(tmp_path / "deep" / "run") as folder:
        finish_prompt(folder, 3)
        folder.write_summary({"nfe": 7})
    path = tmp_path / "deep" / "run"
    assert read_lines(path) == [
        {
            "prompt": "p",
            "prompt_index": 3,
            "samples": [
                {"file": "0003.png", "seed": 3, "reward": 0.5, "rewards": {"clip": 0.5}}
            ],
            "cost": {"nfe": 1},
            "config_hash": config_hash(CONFIG),
        }
    ]  # fmt: skip
    assert json.loads((path / "run.json").read_text()) == {
        "command": "generate --seed 0",
        "config": {**CONFIG, "options": {"keep": 0.5, "points": [0.3, 0.6]}},
        "pipeline_call": {"num_inference_steps": 4},
        "versions": {"gensift": "0"},
        "cost": {"nfe": 7},
    }


def test_png_text_chunks_hold_any_text(tmp_path):
    chunks = {"prompt": "ein roter Kreis ◯ 圆", "seed": "12"}
    with open_folder(tmp_path) as folder:
        path = folder.write_image("images/a.png", Image.new("RGB", (2, 2)), chunks)
    assert path == tmp_path / "images" / "a.png"
    assert Image.open(path).text == chunks


def test_the_same_config_resumes_and_keeps_the_summary(tmp_path):
    with open_folder(tmp_path) as folder:
        assert folder.finished() == set()
        finish_prompt(folder, 0)
        finish_prompt(folder, 2)
        folder.write_summary({"nfe": 2})
    with open_folder(tmp_path) as folder:
        assert folder.finished() == {0, 2}
        assert [line["prompt_index"] for line in folder.results()] == [0, 2]
    assert json.loads((tmp_path / "run.json").read_text())["cost"] == {"nfe": 2}


def test_another_config_is_refused_naming_the_keys(tmp_path):
    open_folder(tmp_path).close()
    other = {**CONFIG, "seed": 1, "options": {"keep": 0.25, "points": [0.3, 0.6]}}
    with pytest.raises(RunFolderError) as caught:
        open_folder(tmp_path, other)
    message = str(caught.value)
    assert "`seed`: 0 there, 1 now" in message
    assert "`options.keep`: 0.5 there, 0.25 now" in message
    assert "points" not in message
    open_folder(tmp_path).close()  # the refusal released the lock


def test_results_of_another_config_are_refused_even_without_run_json(tmp_path):
    with open_folder(tmp_path) as folder:
        finish_prompt(folder, 0)
    (tmp_path / "run.json").unlink()
    with pytest.raises(RunFolderError, match="another config"):
        open_folder(tmp_path, {"seed": 5})
    with open_folder(tmp_path) as folder:
        assert folder.finished() == {0}


def test_a_config_with_non_finite_numbers_resumes(tmp_path):
    config = {"limit": float("inf"), "low": float("nan")}
    open_folder(tmp_path, config).close()
    open_folder(tmp_path, config).close()


@pytest.mark.parametrize("torn", [b'{"prompt": "p", "promp', b"\x00\x00\x00\n", b"[]", b"{}\n"])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    with open_folder(tmp_path) as folder:
        finish_prompt(folder, 0)
    whole = (tmp_path / runs.RESULTS).read_bytes()
    (tmp_path / runs.RESULTS).write_bytes(whole + torn)
    with open_folder(tmp_path) as folder:
        assert folder.finished() == {0}
        assert (tmp_path / runs.RESULTS).read_bytes() == whole
        finish_prompt(folder, 1)
    assert [line["prompt_index"] for line in read_lines(tmp_path)] == [0, 1]


def test_every_cut_of_the_file_loses_at_most_the_last_line(tmp_path):
    with open_folder(tmp_path) as folder:
        finish_prompt(folder, 0)
        finish_prompt(folder, 1)
    whole = (tmp_path / runs.RESULTS).read_bytes()
    first = whole.index(b"\n") + 1
    for size in range(len(whole) + 1):
        (tmp_path / runs.RESULTS).write_bytes(whole[:size])
        with open_folder(tmp_path) as folder:
            expected = {0, 1} if size == len(whole) else {0} if size >= first else set()
            assert folder.finished() == expected


@pytest.mark.parametrize("name", [runs.RESULTS, runs.SUMMARY])
def test_damage_in_the_middle_is_refused(tmp_path, name):
    with open_folder(tmp_path) as folder:
        finish_prompt(folder, 0)
    (tmp_path / name).write_bytes(b"rubbish\n" + (tmp_path / name).read_bytes())
    with pytest.raises(RunFolderError, match="damaged"):
        open_folder(tmp_path)


def test_a_line_without_its_picture_is_unfinished_and_then_replaced(tmp_path):
    with open_folder(tmp_path) as folder:
        finish_prompt(folder, 0)
        finish_prompt(folder, 1)
    (tmp_path / "0000.png").unlink()
    with open_folder(tmp_path) as folder:
        assert folder.finished() == {1}
        finish_prompt(folder, 0)
        assert folder.finished() == {0, 1}
    assert sorted(line["prompt_index"] for line in read_lines(tmp_path)) == [0, 1]


def test_a_line_counts_only_for_its_own_prompt(tmp_path):
    with open_folder(tmp_path) as folder:
        finish_prompt(folder, 0, "a")
        finish_prompt(folder, 1, "b")
        finish_prompt(folder, 2, "c")
        assert folder.finished(["a", "changed"]) == {0}


def test_text_samples_need_no_file(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.append_result(
            {"prompt": "p", "prompt_index": 0, "samples": [{"text": "3*7"}], "cost": {}}
        )
        assert folder.finished() == {0}


def test_nan_is_written_as_strict_json(tmp_path):
    with open_folder(tmp_path) as folder:
        folder.write_json("x.json", {"a": float("nan"), "b": (1, float("-inf"))})
    read = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert read == {"a": "nan", "b": [1, "-inf"]}


def test_a_second_opener_is_refused_until_the_first_closes(tmp_path):
    with (
        open_folder(tmp_path),
        pytest.raises(RunFolderError, match="in use by another process"),
    ):
        open_folder(tmp_path)
    open_folder(tmp_path).close()


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with open_folder(tmp_path) as folder:
        finish_prompt(folder, 0)
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
        monkeypatch.setattr(os, "fsync", full_disk)
        with pytest.raises(RunFolderError, match="No space left"):
            folder.write_image("0000.png", Image.new("RGB", (9, 9)), {})
        with pytest.raises(RunFolderError, match="No space left"):
            folder.append_result({"prompt": "p", "prompt_index": 1, "samples": [], "cost": {}})
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot be written .*choose a writable folder"):
        open_folder(tmp_path / "file" / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunFolderError, match="cannot be written"):
        open_folder(tmp_path)


def test_names_outside_the_folder_are_refused(tmp_path):
    with open_folder(tmp_path / "run") as folder, pytest.raises(RunFolderError, match="outside"):
        folder.write_json("../x.json", {})
    assert not (tmp_path / "x.json").exists()


def test_stale_temporary_files_are_removed_and_others_are_not(tmp_path):
    (tmp_path / "images").mkdir()
    for name in (".gensift-1.tmp", "images/.gensift-2.tmp", "mine.tmp"):
        (tmp_path / name).write_text("half")
    open_folder(tmp_path).close()
    assert sorted(p.name for p in tmp_path.rglob("*.tmp")) == ["mine.tmp"]


WORKER = """
import sys
from PIL import Image
from gensift.runs import RunFolder

folder = RunFolder(sys.argv[1], config={"seed": 0}, command="", pipeline_call={}, versions={})
image = Image.effect_noise((128, 128), 50)
for index in range(20):
    if index not in folder.finished():
        folder.write_image(f"{index}.png", image, {})
        sample = {"file": f"{index}.png", "seed": index, "note": "x" * 20000}
        line = {"prompt": "p", "prompt_index": index, "samples": [sample], "cost": {}}
        folder.append_result(line)
"""


def test_kill_9_at_many_moments_then_resume_gives_every_result_once(tmp_path):
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    results = tmp_path / runs.RESULTS
    for goal in (1, 7, 13):
        worker = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while _count_lines(results) < goal and worker.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        for picture in tmp_path.glob("*.png"):
            Image.open(picture).load()  # whole, whenever the kill came
    subprocess.run(command, check=True)
    assert [line["prompt_index"] for line in read_lines(tmp_path)] == list(range(20))
    assert not list(tmp_path.glob(".gensift-*.tmp"))


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


GOOD = {
    "prompt": "a",
    "prompt_index": 0,
    "samples": [{"file": "0000-0.png", "seed": 1, "reward": 0.5, "rewards": {"r": 0.5}}],
    "cost": {},
}
DEEP = "[" * 100_000
DAMAGED_LINES = {
    "an absolute path": {"samples": [{"file": "/etc/passwd", "seed": 1}]},
    "a path that leaves the folder": {"samples": [{"file": "../other/0000-0.png", "seed": 1}]},
    "a negative index": {"prompt_index": -1},
    "an index as text": {"prompt_index": "0"},
    "an index that is true": {"prompt_index": True},
    "no samples": {"samples": []},
    "samples as a mapping": {"samples": {"file": "0000-0.png"}},
    "a seed as text": {"samples": [{"text": "x", "seed": "one"}]},
    "a negative seed": {"samples": [{"text": "x", "seed": -1}]},
    "a prompt that is a number": {"prompt": 7},
    "a cost that is a list": {"cost": []},
    "a cost of unknown work": {"cost": {"nonsense": 1}},
}


@pytest.mark.parametrize("what", DAMAGED_LINES)
@pytest.mark.parametrize("is_last", [True, False])
def test_a_line_that_is_not_as_it_should_be_is_refused(tmp_path, what, is_last):
    with open_folder(tmp_path) as folder:
        folder.write_image("0000-0.png", Image.new("RGB", (4, 4)), {})
        folder.append_result(GOOD)
    file = tmp_path / "results.jsonl"
    (good,) = file.read_text().splitlines()
    bad = json.dumps({**json.loads(good), **DAMAGED_LINES[what]})
    file.write_text("".join(f"{line}\n" for line in ([good, bad] if is_last else [bad, good])))
    with pytest.raises(RunFolderError, match=r"is damaged and cannot be resumed from \(line \d"):
        open_folder(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "plan.json", "results.jsonl"])
@pytest.mark.parametrize("content", ["", "nonsense", "[]", "{}", "null", DEEP, "\0" * 64, "folder"])
def test_no_content_of_a_file_ends_in_anything_but_the_one_error(tmp_path, name, content):
    with open_folder(tmp_path) as folder:
        folder.write_json("plan.json", {"num_candidates": 4})
    (tmp_path / name).unlink(missing_ok=True)
    if content == "folder":
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text(
            content if name != "results.jsonl" else f"{content}\n{content}"
        )
    try:
        with open_folder(tmp_path) as folder:
            folder.read_plan()
    except RunFolderError as error:
        assert "is damaged and cannot be resumed from" in str(error)
        assert name in str(error)
    else:
        assert name == "results.jsonl" and content == ""


@pytest.mark.parametrize("plan", [{"num_candidates": 0}, {"num_candidates": 10**30}, {"n": 4}])
def test_a_plan_for_no_sensible_number_is_refused(tmp_path, plan):
    with open_folder(tmp_path) as folder:
        assert folder.read_plan() is None
        folder.write_json("plan.json", {"num_candidates": 4, "cost": {}})
        assert folder.read_plan() == 4
        folder.write_json("plan.json", plan)
        with pytest.raises(RunFolderError, match=r"plan.json.*`num_candidates`"):
            folder.read_plan()


@pytest.mark.parametrize("keep", [0, 8, 60, -1])
def test_a_torn_picture_makes_its_prompt_unfinished(tmp_path, keep):
    with open_folder(tmp_path) as folder:
        folder.write_image("0000-0.png", Image.new("RGB", (4, 4)), {})
        folder.append_result(GOOD)
        assert folder.finished(["a"]) == {0} and folder.lost() == set()
    file = tmp_path / "0000-0.png"
    file.write_bytes(file.read_bytes()[:keep])
    with open_folder(tmp_path) as folder:
        assert folder.finished(["a"]) == set() and folder.lost() == {0}
