"""Guard against other packages with our top-level names, which are common words."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import NoReturn

SIBLINGS = ("samplers", "caches", "rewards", "apps")
MARK = b'PART_OF = "gensift"'
"""Stands in `__init__.py` of each sibling; a file that took its place is known by its lack."""
_COMMANDS = ("generate", "gensift")


def refuse_shadows() -> None:
    """Check that our sibling packages are found, and are ours by place and by content.

    In one of our commands, which have nobody to catch an error, one line and exit code 2.

    Raises:
        ImportError: another package of that name comes first on the path, or has overwritten ours;
            names its file, the distribution that brought it, and the cure.
    """
    home = Path(__file__).resolve().parent.parent
    if _is_run_as_module():
        # Python has put the current folder first, and people have folders called apps.
        sys.path[0] = str(home)
    for name in SIBLINGS:
        ours = home / name / "__init__.py"
        found = _found(name)
        if found != ours:
            _refuse(
                f"gensift needs its own package '{name}' beside it in {home}, but Python finds "
                f"{found or 'nowhere'}{_brought_by(name, found)}. "
                + (
                    "Rename or move that file, or run from another folder."
                    if found is not None
                    else "Install gensift again: pip install --force-reinstall --no-deps gensift."
                )
            )
        if MARK not in ours.read_bytes():
            _refuse(
                f"gensift's package '{name}' in {home} was overwritten{_brought_by(name, ours)}. "
                "Uninstall that, then install gensift again: pip install --force-reinstall "
                "--no-deps gensift; or keep the two in environments of their own."
            )


def _is_run_as_module() -> bool:
    """Whether this is `python -m gensift`; Python says so only until the module has been found."""
    given = sys.orig_argv
    at = given.index("-m") + 1 if sys.argv[:1] == ["-m"] and "-m" in given else len(given)
    return given[at : at + 1] == ["gensift"]


def _found(name: str) -> Path | None:
    """The file that Python would import as `name`; None where there is none, or but a folder."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # something put a module there by hand
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None


def _brought_by(name: str, file: Path | None) -> str:
    """Such as " (of the distribution rewards 1.0)"; empty where no other one has `file`."""
    from importlib.metadata import distributions

    others = sorted(
        f"{found.name} {found.version}"
        for found in distributions()
        if found.name != "gensift"
        and any(
            entry.parts[:1] in ((name,), (f"{name}.py",))
            and Path(str(found.locate_file(entry))).resolve() == file
            for entry in found.files or ()
        )
    )
    return f" (of the distribution {', '.join(others)})" if others else ""


def _refuse(message: str) -> NoReturn:
    is_command = Path(sys.argv[0]).name in _COMMANDS if sys.argv else False
    if is_command or _is_run_as_module():
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(message)
