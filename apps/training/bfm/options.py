"""Options of the training of blockwise flow models; nothing heavy, as the CLI reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gensift.config import check, option

Size = Literal["S", "B", "L", "XL"]
Precision = Literal["bf16", "no"]


@dataclass(frozen=True, kw_only=True)
class BFMTraining:
    """How a blockwise flow model is trained.

    Source of the defaults: Blockwise Flow Matching, arXiv 2510.21167, released XL configuration;
    what is not in it says "ours".
    """

    size: Size = option(
        "XL",
        choices=("S", "B", "L", "XL"),
        help="of a new model; XL is the released one, the others are ours",
    )
    hidden_size: int | None = option(None, minimum=4, help="channels of a token, instead of size's")
    num_heads: int | None = option(None, minimum=1, help="attention heads, instead of size's")
    trunk_depth: int | None = option(
        None, minimum=0, help="blocks of the trunk, instead of size's; needed with --from-dense"
    )
    segment_depth: int | None = option(
        None, minimum=1, help="blocks of each segment, instead of size's"
    )
    frn_depth: int | None = option(
        None, minimum=0, help="blocks of FRN, instead of size's; 0 for none"
    )
    adaln_rank: int | None = option(
        None, minimum=1, help="rank of the modulations, instead of size's"
    )
    patch_size: int = option(2, minimum=1, help="latents along a side of a token; 2 as published")
    num_segments: int | None = option(
        None, minimum=1, help="stacks of blocks, each for a stretch of time; 6 as published"
    )
    boundaries: tuple[float, ...] | None = option(
        None, help="sigmas between segments as 1,0.5,0; by default equal stretches, as published"
    )
    image_size: int = option(
        256, minimum=1, unit="pixels", help="pictures are scaled and cropped to it; 256 published"
    )
    horizontal_flip: bool = option(
        False, help="encode every picture mirrored, too; off as published"
    )
    features: str = option(
        "dinov2",
        help="what the trunk is aligned with: dinov2 (facebook/dinov2-base, as published), a "
        "folder or hub id of a Dinov2Model, shapes-clip, or none",
    )
    alignment_weight: float = option(
        0.05, minimum=0, help="weight of the alignment in the loss; 0.05 as published"
    )
    projection_width: int = option(
        2048, minimum=1, help="hidden channels of the alignment's projection; 2048 as published"
    )
    steps: int = option(
        2_000_000,
        minimum=0,
        help="optimiser steps of stage 1 (of the distillation with --from-dense); 0 leaves it out; "
        "2 million at most as published",
    )
    frn_steps: int = option(
        50_000,
        minimum=0,
        help="optimiser steps of stage 2, which trains FRN; 0 leaves it out; ours",
    )
    joint_steps: int = option(
        0,
        minimum=0,
        help="optimiser steps of a third stage, in which stacks learn to do with FRN's features, "
        "taught by the finished model of --init; ours, none as published",
    )
    batch_size: int = option(
        1536,
        minimum=1,
        help="pictures per step over all processes, except in stage 2; 1536 published",
    )
    frn_batch_size: int = option(256, minimum=1, help="the same of stage 2; 256 as published")
    micro_batch: int | None = option(
        None,
        minimum=1,
        help="pictures that a process computes at once; by default all of its share",
    )
    learning_rate: float = option(1e-4, minimum=0, help="of AdamW, constant; 1e-4 as published")
    ema_decay: float = option(
        0.9999,
        minimum=0,
        maximum=1,
        help="of the average that is published, 0.9999; ours: it begins lower, and reaches that "
        "after about 10 / (1 - decay) steps",
    )
    clip: float = option(1.0, minimum=0, help="largest norm of the gradient; 1 as published")
    label_dropout: float = option(
        0.1,
        minimum=0,
        maximum=1,
        help="share of rows that are trained without class; 0.1 published",
    )
    mixed_precision: Precision = option(
        "bf16", choices=("bf16", "no"), help="bf16 as published, or no; weights stay float32"
    )
    gradient_checkpointing: bool = option(
        False, help="compute blocks again in the backward pass: less memory, more time"
    )
    seed: int = option(0, minimum=0, help="number that all randomness derives from")
    save_every: int = option(5_000, minimum=1, help="optimiser steps between checkpoints")

    def __post_init__(self) -> None:
        check(self, self._problems())

    def _problems(self) -> Iterator[str]:
        if not self.steps and not self.trains_approximation:
            yield "`steps`, `frn_steps` and `joint_steps` leave nothing to train; give one of them"
        if self.joint_steps and self.steps:
            yield (
                "`joint_steps` go on from a finished model; give them in a run of their own, with "
                "--init and `steps` 0"
            )
        for name in ("learning_rate", "clip"):
            if getattr(self, name) == 0:
                yield f"`{name}` is 0.0; allowed: above 0"

    @property
    def trains_approximation(self) -> bool:
        """Whether FRN is trained, in any stage."""
        return bool(self.frn_steps or self.joint_steps) and self.frn_depth != 0
