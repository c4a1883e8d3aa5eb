"""`gensift doctor`: what is installed, which devices there are, and what does not work."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from rich.table import Table

from apps.commands.zoo import models
from apps.console import out
from gensift import __version__
from gensift.protocols import JsonObject

PACKAGES = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "open_clip_torch",
    "gradio",
    "xformers",
)


def examine() -> JsonObject:
    """Everything that `gensift doctor` reports."""
    return {
        "versions": _versions(),
        "devices": _devices(),
        "xformers": _xformers(),
        "zoo": {model["name"]: model["has_weights"] for model in models()},
    }


def show(report: JsonObject) -> None:
    """Print a report section by section."""
    sections = {
        "versions": {name: found or "not installed" for name, found in report["versions"].items()},
        "devices": {device["name"]: device["detail"] for device in report["devices"]},
        "attention": {"xformers": report["xformers"]},
        "zoo": {
            name: "weights present" if present else f"weights missing: gensift zoo train {name}"
            for name, present in report["zoo"].items()
        },
    }
    for title, lines in sections.items():
        table = Table(title=title, title_justify="left", box=None, show_header=False)
        for name, text in lines.items():
            table.add_row(f"  {name}", text)
        out.print(table)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"gensift": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _devices() -> list[dict[str, str]]:
    import torch

    cores = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    devices = [{"name": "cpu", "detail": f"{cores}, {torch.get_num_threads()} threads used"}]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        detail = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB"
        devices.append({"name": f"cuda:{index}", "detail": detail})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "detail": "Apple GPU"})
    return devices


def _xformers() -> str:
    if find_spec("xformers") is None:
        return "not installed; native attention is used"
    import torch

    from gensift.pipelines.attention import probe_xformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reason = probe_xformers(torch.device(device))
    return f"works on {device}" if reason is None else f"does not work: {reason}"
