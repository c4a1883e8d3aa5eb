"""Tensors in what a denoiser takes and returns, whatever they are wrapped in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def as_tensor(value: object) -> Tensor | None:
    """A tensor `(rows, ...)`; of a list of rows one tensor, or None where their shapes differ.

    None also where a row is several tensors, as in Z-Image with pictures as further input.
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, Sequence):
        return None
    rows = [row for row in value if isinstance(row, Tensor)]
    if not rows or len(rows) < len(value) or any(row.shape != rows[0].shape for row in rows):
        return None
    return torch.stack(rows)


def prediction_in(output: object) -> object:
    """The denoiser's prediction inside its output: a tensor, or a list of rows."""
    if isinstance(output, Mapping):  # diffusers' output dataclasses are mappings
        return next(iter(output.values()))
    return output[0] if isinstance(output, tuple) else output


def with_prediction(output: object, prediction: Tensor) -> object:
    """`output` with another prediction `(rows, ...)`, in the form of its own."""
    own = prediction_in(output)
    value = list(prediction.unbind(0)) if isinstance(own, list) else prediction
    if isinstance(output, Mapping):
        name, *others = output
        make: Callable[..., object] = type(output)
        return make(**{name: value, **{key: output[key] for key in others}})
    return (value, *output[1:]) if isinstance(output, tuple) else value


def channel_dim(latents: Tensor) -> int:
    """Where the channels lie: last in packed latents `(rows, tokens, channels)`, else second."""
    return latents.ndim - 1 if latents.ndim == 3 else 1


def matching(latents: Tensor, prediction: Tensor) -> Tensor:
    """The part of a denoiser's input that corresponds to its output, float32 `(rows, ...)`.

    Inputs may carry further channels behind (inpainting), outputs too (a learned variance): the
    former are cut off, the latter get zeros.
    """
    dim = channel_dim(prediction)
    wanted, own = prediction.shape[dim], latents.shape[dim]
    kept = latents.narrow(dim, 0, min(wanted, own)).float()
    if wanted <= own:
        return kept
    shape = list(kept.shape)
    shape[dim] = wanted - own
    return torch.cat([kept, kept.new_zeros(shape)], dim)
