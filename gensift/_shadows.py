"""Guard against other packages with our top-level names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SIBLINGS = ("samplers", "caches", "rewards", "apps")


def refuse_shadows() -> None:
    """Check that our sibling packages come from the same place as gensift itself.

    Raises:
        ImportError: another package of that name comes first on the path; names its file.
    """
    home = Path(__file__).resolve().parent.parent
    for name in SIBLINGS:
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if found is None or found.parent.parent != home:
            where = found or "nowhere"
            raise ImportError(
                f"gensift needs its own package '{name}' beside it in {home}, but Python finds "
                f"{where}. Rename or move that file, or run from another folder."
            )
