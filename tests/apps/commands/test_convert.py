"""`gensift convert` from published files to folders that load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import official_layouts as official

from apps.commands.main import main
from gensift.pipelines.loading import load_pipeline


def save(folder: Path, family: str) -> Path:
    folder.mkdir()
    transformer = (
        official.var_transformer(sides=(1, 2, 3))
        if family == "var"
        else official.infinity_transformer(chunks=2)
    )
    channels = 4 if family == "var" else 6
    vae = official.tokenizer(widths=(32, 64), channels=channels, family=family)
    torch.save(transformer, folder / "transformer.pth")
    torch.save(vae if family == "var" else {"vae": vae}, folder / "vae.pth")
    return folder


def run(*arguments: Any) -> int:
    return main(["convert", *(str(argument) for argument in arguments)])


def test_var_by_folder_and_by_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, flags = save(tmp_path / "in", "var"), ["--scales", "1,2,3", "--allow-pickle"]
    assert run("var", source, tmp_path / "a", *flags) == 0
    out = capsys.readouterr().out
    assert "transformer: 34 tensors of" in out and "float32, dropped attn_bias_for_masking" in out
    assert f"Model folder: {tmp_path / 'a'}" in out
    files = [source / "vae.pth", source / "transformer.pth"]
    assert run("var", *files, tmp_path / "b", *flags, "--dtype", "bfloat16", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [part["part"] for part in document["parts"]] == ["transformer", "tokenizer"]
    assert {part["dtype"] for part in document["parts"]} == {"bfloat16"}
    pipe: Any = load_pipeline(tmp_path / "b", dtype="float32", device="cpu")
    assert pipe(2, output_type="pt").images.shape == (1, 3, 6, 6)


def test_infinity_says_what_to_add(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save(tmp_path / "in", "infinity")
    assert run("infinity", source, tmp_path / "out", "--allow-pickle") == 0
    told = capsys.readouterr()
    assert "transformer: 97 tensors of" in told.out and "quantizer.lfq.mask" in told.out
    assert "has no text encoder" in told.err and "--text-encoder google/flan-t5-xl" in told.err
    assert (tmp_path / "out" / "model_index.json").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "is a pickle, a format that can hide code"),
        (["--allow-pickle"], "14 positions on 3 scales, which no published schedule has"),
        (["--scales", "1,x"], "`--scales` is '1,x'; give whole numbers"),
        (["--scales", "2,3"], "The first scale is 2x2"),
        (["--dtype", "int8"], "`--dtype` is 'int8'; allowed: float32"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    source = save(tmp_path / "in", "var")
    flags = options if "--scales" not in options else [*options, "--allow-pickle"]
    assert run("var", source, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and error.startswith("error: ") and "\n" not in error
    assert list(tmp_path.iterdir()) == [source]


def test_a_full_folder_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert run("var", tmp_path, tmp_path / "out") == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["mine.txt"]
