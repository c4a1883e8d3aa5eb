from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from helpers import fake_search

from apps.commands.generate import main


@dataclass
class Finished:
    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one error line; fails if there is anything but it."""
        assert self.code == 2
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        assert self.out == ""
        return line

    @property
    def document(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def generate(monkeypatch, tmp_path, capsys):
    """Run `generate` on the fakes, in an empty current folder."""
    fake_search.install(monkeypatch.setattr, monkeypatch.setitem)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Finished:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Finished(code, *capsys.readouterr())

    return run
