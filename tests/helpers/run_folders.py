"""Reading run folders, and comparing what two runs left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def pixels(picture: Any) -> Any:
    """Pixels as integers wide enough to be subtracted."""
    return np.asarray(picture.convert("RGB")).astype(int)


def difference(left: Any, right: Any) -> int:
    """Largest difference of two pictures, in 255ths."""
    return int(np.abs(pixels(left) - pixels(right)).max())


def outcome(line: dict[str, Any]) -> dict[str, Any]:
    """A results line without what differs from run to run; rewards to five digits."""
    cost = {k: v for k, v in line["cost"].items() if k not in ("seconds", "peak_memory_mib")}
    return json.loads(  # type: ignore[no-any-return]
        json.dumps({**line, "cost": cost}), parse_float=lambda text: round(float(text), 5)
    )
