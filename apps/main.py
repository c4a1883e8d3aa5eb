"""The place of `gensift` before 0.2, kept for launchers that name it: `-m apps.main`."""

from __future__ import annotations

import warnings

from apps.commands.main import main

if __name__ == "__main__":
    warnings.warn("apps.main is now apps.commands.main; name that.", stacklevel=1)
    raise SystemExit(main())
