"""Peaks of memory, each in a process of its own: what one run took stays with its process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def in_fresh_process(module: str, arguments: Sequence[str]) -> Any:
    """The JSON that `python -m MODULE ARGUMENTS` prints as its last line."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_of(run: Callable[[], Any], device: str) -> dict[str, float]:
    """Peak memory of `run`, MiB: in all, and above what was in use before it."""
    before = _restart_peak(device)
    run()
    after = _peak(device)
    return {"total_mib": after, "search_mib": after - before}


def _restart_peak(device: str) -> float:
    """Forget the peak of loading; returns what is in use now, MiB."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")
    else:
        torch.cuda.reset_peak_memory_stats()
    return _peak(device)


def _peak(device: str) -> float:
    """The highest memory in use since the restart, MiB; on a CPU the resident set of Linux."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
