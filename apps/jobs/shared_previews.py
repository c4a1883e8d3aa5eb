"""Small pictures of the sifting tree, handed over through the run folder.

Processes exchange scores, never pictures; those that the first process needs to draw the tree lie
for a moment in files beside the results.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gensift.files import TEMPORARY_PATTERN, write_atomically
from gensift.runs import RunFiles
from gensift.trace import PromptTrace, Stage, Trace


def write_previews(files: RunFiles, trace: Trace, index: int, rank: int) -> None:
    """Leave the previews of process `rank` for prompt `index`."""
    write_atomically(_file(files, index, rank), trace.to_json(with_previews=True).encode())


def with_previews_of(files: RunFiles, trace: Trace, index: int, size: int) -> Trace:
    """`trace` with what the other processes have left, which is taken away."""
    for rank in range(1, size):
        file = _file(files, index, rank)
        other = Trace.from_json(file.read_text())
        file.unlink()
        trace = Trace(prompts=tuple(map(_joined, trace.prompts, other.prompts)))
    return trace


def _joined(ours: PromptTrace, theirs: PromptTrace) -> PromptTrace:
    return replace(ours, stages=tuple(map(_with_previews, ours.stages, theirs.stages)))


def _with_previews(ours: Stage, theirs: Stage) -> Stage:
    return replace(ours, previews={**ours.previews, **theirs.previews})


def _file(files: RunFiles, index: int, rank: int) -> Path:
    # By this name the next run removes it, should this one die in between.
    return files.path / TEMPORARY_PATTERN.replace("*", f"previews-{index}-{rank}")
