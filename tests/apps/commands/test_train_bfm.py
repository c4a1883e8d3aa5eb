"""`gensift train bfm`, from pictures to a picture."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.blockwise_training import SIDE, draw_pictures, tiny_vae
from PIL import Image

from apps.commands.main import main as gensift_command
from apps.commands.train_bfm import PANELS
from apps.training.bfm.options import BFMTraining
from gensift.config import describe

Run = Callable[..., tuple[int, str, str]]
SMALL = (
    *("--hidden-size", 16, "--num-heads", 2, "--trunk-depth", 1, "--segment-depth", 1),
    *("--frn-depth", 1, "--adaln-rank", 4, "--features", "none", "--image-size", SIDE),
    *("--steps", 2, "--frn-steps", 1, "--batch-size", 4, "--frn-batch-size", 2),
    *("--boundaries", "1,0.4,0", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    draw_pictures(folder / "pictures", per_class=2)
    tiny_vae().save_pretrained(folder / "vae")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], here: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(here)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = gensift_command(["train", "bfm", *map(str, arguments)])
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


def test_from_pictures_to_a_picture(run: Run, here: Path) -> None:
    command = ("pictures", "--vae", "vae", "--output", "out", *SMALL)
    code, out, err = run(*command)
    assert code == 0, err
    assert [line.split(":")[0] for line in out.splitlines()] == ["flow", "frn"]
    assert "generate --model out" in err
    report = json.loads((here / "out" / "training.json").read_text())
    assert report["config"]["boundaries"] == [1.0, 0.4, 0.0]
    assert report["versions"]["torch"] and report["config"]["mixed_precision"] == "bf16"

    code, out, _ = run(*command, "--json")
    assert code == 0 and json.loads(out) == report
    # In a process of its own, in which nothing has been imported on the way.
    draw = "import gensift; print(gensift.load_pipeline('out')('light').images[0].size)"
    done = subprocess.run(
        [sys.executable, "-c", draw], capture_output=True, text=True, check=False, cwd=here
    )
    assert done.stdout.strip() == f"({SIDE}, {SIDE})", done.stderr


def test_every_option_is_in_the_help() -> None:
    listed = [field for panel in PANELS.values() for field in panel]
    assert sorted(listed) == sorted(row.name for row in describe(BFMTraining))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere", "--vae", "vae"), "'nowhere' is no folder"),
        (("vae", "--vae", "vae"), "one subfolder of pictures for each class"),
        (("pictures", "--vae", "pictures"), "as vae cannot be loaded"),
        (("pictures",), "--vae"),
        (("pictures", "--vae", "vae", "--size", "XXL"), "`size` is 'XXL'; allowed: S | B | L | XL"),
        (("pictures", "--vae", "vae", "--boundaries", "1,x"), "list of float"),
        (("pictures", "--vae", "vae", "--steps", 0, "--frn-steps", 0), "nothing to train"),
        (("pictures", "--vae", "vae", "--image-size", 18), "multiple of 4; give 16"),
        (("pictures", "--vae", "vae", "--device", "cuda:1"), "CUDA_VISIBLE_DEVICES"),
        (("pictures", "--vae", "vae", "--from-dense", "x", "--init", "y"), "give one of them"),
    ],
)
def test_mistakes_give_one_line(
    run: Run, here: Path, arguments: tuple[str, ...], expected: str
) -> None:
    code, out, err = run(*arguments, "--output", "new")
    assert (code, out) == (2, "")
    assert expected in err and len(err.splitlines()) == 1
    assert not (here / "new").exists()


def test_a_broken_picture_is_named(run: Run, here: Path, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "b.png").write_bytes(b"no picture")
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "cat" / "a.png")
    code, _, err = run(tmp_path, "--vae", "vae", "--output", "broken", *SMALL)
    assert code == 2 and "b.png' cannot be read" in err and len(err.splitlines()) == 1
