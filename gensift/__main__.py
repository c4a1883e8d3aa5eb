"""Where the commands start: `gensift` and `generate`, also as `python -m gensift [generate]`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence


def gensift(argv: Sequence[str] | None = None) -> int:
    """Run the command `gensift`; returns its exit code."""
    return _run("apps.commands.main", argv)


def generate(argv: Sequence[str] | None = None) -> int:
    """Run the command `generate`; returns its exit code."""
    return _run("apps.commands.generate", argv)


def _run(module: str, argv: Sequence[str] | None) -> int:
    # By name: gensift itself knows nothing of what is built on it. By way of gensift, so that a
    # package that has taken the place of one of ours is named before it is imported.
    code: int = importlib.import_module(module).main(sys.argv[1:] if argv is None else argv)
    return code


if __name__ == "__main__":
    is_generate = sys.argv[1:2] == ["generate"]
    raise SystemExit(generate(sys.argv[2:]) if is_generate else gensift())
