"""`generate` on the zoo's class-conditional flow models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.run_folders import lines_of, summary_of
from PIL import Image

import gensift
from apps.commands.generate import main

OPTIONS = ("-o", "feature_mode=frn", "-o", "steps_per_segment=2")


def generate(folder: Path, *arguments: str, prompt: str = "a red circle") -> int:
    return main(["--prompt", prompt, "-n", "3", "--output", str(folder), *arguments])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    assert generate(folder, "--sampler", "bfm", *OPTIONS) == 0
    return folder


def test_the_summary_reproduces_the_winner_in_a_plain_call(run_folder: Path) -> None:
    call = summary_of(run_folder)["pipeline_call"]
    assert call["feature_mode"] == "frn" and call["steps_per_segment"] == 2
    (line,) = lines_of(run_folder)
    winner = line["samples"][0]
    pipe: Any = gensift.load_pipeline("shapes-bfm", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(winner["seed"])
    again = pipe("a red circle", generator=generator, **call).images[0]
    kept = np.asarray(Image.open(run_folder / winner["file"])).astype(int)
    assert np.abs(np.asarray(again).astype(int) - kept).max() <= 1


def test_planned_rows_are_spent(run_folder: Path) -> None:
    # Three candidates, four segments of two steps, with and without class.
    assert summary_of(run_folder)["cost"]["nfe"] == 3 * 8 * 2
    assert summary_of(run_folder)["cost"]["planned"]["nfe"] == 3 * 8 * 2


@pytest.mark.parametrize("sampler", ["best-of-n", "ttsnap"])
@pytest.mark.parametrize("model", ["shapes-bfm", "shapes-sit"])
def test_searches_take_both_models(sampler: str, model: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert generate(folder, "--sampler", sampler, "--model", model, "--steps", "8") == 0
    assert len(lines_of(folder)) == 1


@pytest.mark.parametrize(
    ("arguments", "prompt", "told"),
    [
        ((), "a red cirle", "Nearest: 'a red circle'"),
        (("-o", "feature_mode=fast"), "a red circle", "full | frn | hold"),
        (("-o", "steps_per_segment=2,2"), "a red circle", "one for each of 4 segments"),
        (("--steps", "3"), "a red circle", "a model of 4 segments"),
        (("--model", "shapes-flux"), "a red circle", "no blockwise flow model"),
        (("--model", "shapes-sit", "-o", "feature_mode=hold"), "a red circle", "dense"),
        (("-o", "refresh_every=2", "-o", "feature_mode=full"), "a red circle", "refresh_every"),
    ],
)
def test_mistakes_get_one_line(
    arguments: tuple[str, ...],
    prompt: str,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "out"
    assert generate(folder, "--sampler", "bfm", *arguments, prompt=prompt) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert told in error and "Traceback" not in error
    assert not folder.exists()
