"""Multiply-accumulates and parameters of flow models, counted from their configurations.

One row, guidance not counted; twice as many FLOPs. Norms, activations and the rotation of queries
and keys are left out, as in the figures of the paper's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from gensift.pipelines.bfm.blocks import FEED_FORWARD_RATIO
from gensift.pipelines.bfm.embeddings import FREQUENCIES
from gensift.pipelines.bfm.modulation import MODULATIONS


@dataclass(frozen=True)
class StepMacs:
    """Multiply-accumulates of the parts of one network evaluation of one row.

    Attributes:
        trunk: features from latents.
        frn: their approximation.
        stack: velocity from features, with what is needed in any case.
    """

    trunk: int
    frn: int
    stack: int

    @property
    def full(self) -> int:
        """An evaluation that runs the trunk."""
        return self.trunk + self.stack

    @property
    def approximated(self) -> int:
        """One that runs FRN."""
        return self.frn + self.stack

    def of_run(self, evaluations: Mapping[str, int]) -> int:
        """All of a run whose rows went through the parts so often."""
        return sum(getattr(self, part) * rows for part, rows in evaluations.items())


def bfm_macs(config: Any) -> StepMacs:
    """Of a `BFMTransformer2DModel`."""
    width, tokens, rank = config.hidden_size, _tokens(config), config.adaln_rank
    six = MODULATIONS * width
    trunk_block = _block(width, tokens) + rank * (width + six)
    segment_block = _block(width, tokens) + tokens * rank * (2 * width + six)
    common = tokens * 2 * width * six
    final = tokens * (2 * width * 2 * width + width * _patch(config))
    return StepMacs(
        trunk=_patches(config) + config.trunk_depth * trunk_block + width * six,
        frn=_patches(config) + config.frn_depth * (_block(width, tokens) + width * six),
        stack=_condition(width)
        + _patches(config)
        + config.segment_depth * segment_block
        + common
        + final,
    )


def split_macs(config: Any) -> StepMacs:
    """Of a `SplitTransformer2DModel`."""
    width, tokens, rank = config.hidden_size, _tokens(config), config.adaln_rank
    six = MODULATIONS * width
    block = _block(width, tokens) + width * six
    extra = tokens * rank * (2 * width + six)
    common = tokens * 2 * width * six
    final = width * 2 * width + tokens * (2 * width * 2 * width + width * _patch(config))
    return StepMacs(
        trunk=_patches(config) + config.trunk_depth * block,
        frn=_patches(config) + config.frn_depth * block,
        stack=_condition(width) + config.segment_depth * (block + extra) + common + final,
    )


def sit_macs(config: Any) -> StepMacs:
    """Of a `SiTTransformer2DModel`, all of it under `stack`."""
    width, tokens = config.hidden_size, _tokens(config)
    block = _block(width, tokens) + width * MODULATIONS * width
    final = width * 2 * width + tokens * width * _patch(config)
    whole = _condition(width) + _patches(config) + config.depth * block + final
    return StepMacs(trunk=0, frn=0, stack=whole)


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Parameters of each part of a blockwise model; one on the "meta" device will do.

    "segment" is one of "segments"; "full_step" and "frn_step" are what one evaluation touches.
    """
    counts = {name: _count(part) for name, part in model.named_children()}
    counts["segment"] = _count(model.get_submodule("segments.0"))
    counts["total"] = _count(model)
    always = counts["shared"] + counts["segment"]
    return counts | {
        "full_step": always + counts["trunk"],
        "frn_step": always + counts.get("frn", 0),
    }


def _count(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _tokens(config: Any) -> int:
    return int((config.sample_size // config.patch_size) ** 2)


def _patch(config: Any) -> int:
    return int(config.in_channels * config.patch_size**2)


def _patches(config: Any) -> int:
    return _tokens(config) * _patch(config) * int(config.hidden_size)


def _condition(width: int) -> int:
    return FREQUENCIES * width + width * width


def _block(width: int, tokens: int) -> int:
    """Projections and feed-forward per token, and attention of every token to every token."""
    linear = (4 + 2 * FEED_FORWARD_RATIO) * width * width
    return tokens * linear + 2 * tokens * tokens * width
