"""Taking the output of a pipeline call apart into rows, and putting chosen rows together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gensift.protocols import PipelineOutput, Sample

Row = tuple[Any, ...]


def split_rows(output: PipelineOutput) -> list[Row]:
    """One row per sample of a pipeline's output: its entry of every field that has one each."""
    fields = _fields(output)
    count = len(fields[0])
    return [tuple(f[i] if _has_rows(f, count) else f for f in fields) for i in range(count)]


def join_rows(output: PipelineOutput, rows: Sequence[Row]) -> PipelineOutput:
    """An output of the type of `output`, with these rows."""
    fields = _fields(output)
    count = len(fields[0])
    joined = [
        _stacked(field, [row[place] for row in rows]) if _has_rows(field, count) else field
        for place, field in enumerate(fields)
    ]
    if isinstance(output, tuple):
        return tuple(joined)
    return replace(output, **dict(zip(output.keys(), joined, strict=True)))


def _fields(output: PipelineOutput) -> list[PipelineOutput]:
    # diffusers' output dataclasses are mappings; fields that are None are not among the keys.
    return list(output) if isinstance(output, tuple) else list(output.values())


def _has_rows(field: PipelineOutput, count: int) -> bool:
    return isinstance(field, list | np.ndarray | torch.Tensor) and len(field) == count


def _stacked(like: PipelineOutput, rows: list[Sample]) -> PipelineOutput:
    if isinstance(like, torch.Tensor):
        return torch.stack(rows)
    return np.stack(rows) if isinstance(like, np.ndarray) else rows
