"""How many functions of ours lie between the command and the first call of the denoiser.

Whoever reads a traceback, or steps through a run, goes through all of them.
"""

from __future__ import annotations

import inspect
from functools import wraps
from pathlib import Path

import pytest
from diffusers import FluxTransformer2DModel

from apps.commands.generate import main

OURS = {"apps", "samplers", "caches", "rewards", "gensift"}
MOST = 12


def test_few_frames_lie_between_the_command_and_the_denoiser(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stacks: list[list[str]] = []
    forward = FluxTransformer2DModel.forward

    @wraps(forward)
    def recorded(self, *args, **kwargs):
        stacks.append(_ours())
        return forward(self, *args, **kwargs)

    # The row gate replaces an attribute of the module, so that of the class is what is called last.
    monkeypatch.setattr(FluxTransformer2DModel, "forward", recorded)
    command = ["--sampler", "ttsnap", "--prompt", "a red circle", "-n", "2", "--steps", "2"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 0
    first = next(stack for stack in stacks if any("new_forward" in frame for frame in stack))
    print("\n".join(first))
    assert first[0] == "apps.commands.generate.main"
    in_apps = [frame for frame in first if frame.startswith("apps.")]
    assert len(in_apps) <= 7, in_apps
    assert len(first) <= MOST, first


def _ours() -> list[str]:
    """Names of our functions on the stack, outermost first."""
    frames = [info.frame for info in reversed(inspect.stack())]
    return [
        f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}"
        for frame in frames
        if frame.f_globals.get("__name__", "").partition(".")[0] in OURS
    ]
