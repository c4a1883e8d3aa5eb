"""Picking rows out of a denoiser's arguments and putting its outputs together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch

from gensift.errors import UnsupportedPipelineError


class RowSelection:
    """Row numbers, as a sequence and as an index tensor on whatever device asks."""

    def __init__(self, rows: Sequence[int]) -> None:
        self.rows = tuple(rows)
        self._tensors: dict[torch.device, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def tensor(self, device: torch.device) -> torch.Tensor:
        """The rows as an int64 tensor `(len(self),)` on `device`, made once per device."""
        if device not in self._tensors:
            self._tensors[device] = torch.tensor(self.rows, dtype=torch.int64, device=device)
        return self._tensors[device]


def select_rows(value: Any, num_rows: int, rows: RowSelection, name: str) -> Any:
    """The chosen rows of a tensor `(num_rows, ...)` or of a list with `num_rows` elements.

    What is shared by all rows passes through: a leading size of 1, 0-dim tensors, non-tensors.

    Raises:
        UnsupportedPipelineError: the size of `value` is neither `num_rows` nor 1.
    """
    if isinstance(value, torch.Tensor):
        if value.ndim == 0 or (value.shape[0] == 1 and num_rows > 1):
            return value
        _check_size(value.shape[0], num_rows, name)
        return value.index_select(0, rows.tensor(value.device))
    if isinstance(value, list):
        _check_size(len(value), num_rows, name)
        return [value[row] for row in rows.rows]
    return value


def select_nested(value: Any, num_rows: int, rows: RowSelection, name: str) -> Any:
    """`select_rows` on every tensor inside dicts, lists and tuples, which are built afresh.

    Fresh containers matter: some denoisers pop entries out of the dict that they are given.
    """
    if isinstance(value, Mapping):
        items = value.items()
        return {k: select_nested(v, num_rows, rows, f"{name}[{k!r}]") for k, v in items}
    if isinstance(value, list | tuple):
        return type(value)(
            select_nested(leaf, num_rows, rows, f"{name}[{i}]") for i, leaf in enumerate(value)
        )
    return select_rows(value, num_rows, rows, name)


def merge_rows(outputs: Sequence[Any], source: RowSelection, num_live: int) -> Any:
    """One output of full size from those of the micro-batches, of the type the denoiser returned.

    `source` gives, for each row of the full output, its place among the `num_live` computed rows.

    Raises:
        UnsupportedPipelineError: an output does not have one entry per computed row.
    """
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        _check_size(sum(len(part) if part.ndim else 0 for part in outputs), num_live, "output")
        computed = torch.cat(list(outputs)) if len(outputs) > 1 else first
        return computed.index_select(0, source.tensor(computed.device))
    if isinstance(first, list):
        rows = list(chain.from_iterable(outputs))
        _check_size(len(rows), num_live, "output")
        return [rows[place] for place in source.rows]
    if isinstance(first, tuple):
        return tuple(merge_rows(part, source, num_live) for part in zip(*outputs, strict=True))
    if isinstance(first, Mapping):
        # diffusers' output dataclasses are mappings; fields that are None are not among the keys.
        fields = {k: merge_rows([o[k] for o in outputs], source, num_live) for k in first}
        return type(first)(**fields)
    return first


def _check_size(size: int, expected: int, name: str) -> None:
    if size != expected:
        raise UnsupportedPipelineError(
            f"Denoiser argument or output {name!r} has {size} rows where {expected} were expected "
            "(or 1, shared by all). If it is not batched, leave it out of its DenoiserFamily."
        )
