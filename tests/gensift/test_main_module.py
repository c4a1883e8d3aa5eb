"""Versions of all commands, and completion in shells."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import gensift
from gensift.__main__ import generate
from gensift.__main__ import gensift as gensift_command

COMMANDS = (
    [], ["list"], ["doctor"], ["zoo"], ["zoo", "train"], ["convert", "var"], ["train", "bfm"],
    ["calibrate"], ["record"], ["train-reward"], ["tune"], ["app"],
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_its_version(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert gensift_command([*command, "--version"]) == 0
    assert capsys.readouterr().out == f"gensift {gensift.__version__}\n"


def test_generate_says_its_version_unless_it_is_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(["--version"]) == 0
    assert capsys.readouterr().out == f"gensift {gensift.__version__}\n"
    assert generate(["--prompt", "--version", "--sampler", "none"]) == 2


@pytest.mark.parametrize(
    ("function", "words", "expected"),
    [
        ("generate", "generate --prompt-", "--prompt-column"),
        ("gensift", "gensift cal", "calibrate"),
    ],
)
def test_shells_complete(function: str, words: str, expected: str) -> None:
    code = f"from gensift.__main__ import {function}; {function}([])"
    environment = {
        **os.environ,
        f"_{function.upper()}_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert expected in done.stdout.split(), done.stderr
