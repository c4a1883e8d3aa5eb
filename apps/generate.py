"""The place of `generate` before 0.2, kept for launchers that name it: `-m apps.generate`."""

from __future__ import annotations

import warnings

from apps.commands.generate import main

if __name__ == "__main__":
    warnings.warn("apps.generate is now apps.commands.generate; name that.", stacklevel=1)
    raise SystemExit(main())
