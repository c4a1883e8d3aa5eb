"""How a benchmark publishes: figures with their command, hardware and versions; intervals."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gensift.files import write_atomically

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
PACKAGES = ("gensift", "torch", "diffusers", "transformers", "open_clip_torch")


def publish(name: str, figures: Mapping[str, Any]) -> Path:
    """Write `docs/benchmarks/NAME.json`; returns the file."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    document = {
        "command": f"python -m {' '.join([_module(), *sys.argv[1:]])}",
        "hardware": hardware(),
        "versions": {package: version(package) for package in PACKAGES},
        **figures,
    }
    file = FOLDER / f"{name}.json"
    write_atomically(file, (json.dumps(document, indent=2) + "\n").encode())
    return file


def _module() -> str:
    return f"benchmarks.{Path(sys.argv[0]).stem}"


def hardware() -> dict[str, Any]:
    """What the figures were measured on."""
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "cpu_threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def interval(values: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `values`."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(draws, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
