"""How a benchmark publishes: figures with their command, hardware and versions; intervals."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import gensift
from gensift.files import write_atomically

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "xformers", "cache_dit")


def publish(name: str, figures: Mapping[str, Any], folder: Path = FOLDER) -> Path:
    """Write `NAME.json`, by default in `docs/benchmarks`; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {
        "command": f"python -m {' '.join([_module(), *sys.argv[1:]])}",
        "hardware": hardware(),
        "versions": versions(),
        **figures,
    }
    file = folder / f"{name}.json"
    write_atomically(file, (json.dumps(document, indent=2) + "\n").encode())
    return file


def versions() -> dict[str, str]:
    """Versions of the installed packages that a figure depends on; our own also uninstalled."""
    found = {"gensift": gensift.__version__}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


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
        gpu = torch.cuda.get_device_properties()
        found["gpu"] = gpu.name
        found["gpu_memory_gib"] = round(gpu.total_memory / 2**30, 1)
        found["cuda"] = torch.version.cuda
    return found


def interval(values: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of `values`."""
    rng = np.random.default_rng(0)
    means = rng.choice(values, size=(draws, len(values))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
