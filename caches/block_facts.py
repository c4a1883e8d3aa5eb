"""Facts about transformer blocks: which outputs a feature cache may keep, and what lies in order.

A unit is a sub-block (self-attention, cross-attention, feed-forward) whose output enters the block
only by a gate or norm and an addition: on reuse its modules are not run and the kept output is
returned for them. A body is a run of blocks that changes the hidden states and nothing that is read
later: on reuse all of it is passed over and one kept difference is added.

Block classes differ in the names of all this, and the order in which modules were registered is not
the order in which they run (`UNet2DConditionModel` registers its middle last). So both are declared
by class name, as data. What a block does in a method instead of a module is declared the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gensift.errors import ConfigError

Kind = Literal["self-attention", "cross-attention", "joint-attention", "feed-forward", "fused"]
Stream = Literal["hidden", "encoder"]


@dataclass(frozen=True)
class Unit:
    """A part of a block whose output can be kept and returned without running its modules.

    Attributes:
        name: name within the block, part of the stable name of the placed unit.
        kind: what the unit is; attention of a class that also serves with the other input is
            placed by what its module says.
        output: attribute of the block with the unit's output, a module or a method: a tensor, or a
            tuple of tensors for joint attention.
        also: attributes with further work of the unit, called before `output` and not run on reuse
            either. Their results reach nothing but `output`; an empty tensor with zero channels
            serves for each, so that what lies between costs nothing.
        is_optional: whether some blocks of the class lack the attribute `output`.
        reads_first: whether the block reads only the first entry of a tuple that `output` returns;
            None stands for the others on reuse.
    """

    name: str
    kind: Kind
    output: str
    also: tuple[str, ...] = ()
    is_optional: bool = False
    reads_first: bool = False


@dataclass(frozen=True, kw_only=True)
class BlockFacts:
    """Units and streams of one block class.

    Attributes:
        block_class: name of the class; subclasses are found through their MRO.
        units: in the order in which the forward runs them, each once per call of the block. Those
            whose attribute is None in a block are left out there.
        returns: what the forward returns; a single entry is a tensor by itself, more are a tuple.
        hidden_argument: parameter of the forward with the stream that the body is about.
        encoder_argument: parameter of the forward with the text, None where there is none.
        is_padded: whether rows `(tokens, channels)` are padded to the longest of the batch, so that
            their length depends on who runs beside them. What stands there is read by nothing.
        pre_norm_flag: attribute of the block that tells whether it norms the inputs of its units;
            where it norms sums instead, its units are refused. None for classes that always do.
        is_sum: whether the block returns its hidden argument plus the outputs of its units, which
            are methods, in their order, and does nothing else.
    """

    block_class: str
    units: tuple[Unit, ...]
    returns: tuple[Stream, ...] = ("hidden",)
    hidden_argument: str = "hidden_states"
    encoder_argument: str | None = "encoder_hidden_states"
    is_padded: bool = False
    pre_norm_flag: str | None = None
    is_sum: bool = False

    def __post_init__(self) -> None:
        problems = []
        if not self.units:
            problems.append('`units` is empty: give at least one such as Unit("ff", ...)')
        names = [unit.name for unit in self.units]
        modules = [name for unit in self.units for name in (unit.output, *unit.also)]
        for what, given in (("name", names), ("module", modules)):
            if twice := sorted({name for name in given if given.count(name) > 1}):
                problems.append(f"{what} {', '.join(twice)} is in two units: give each its own")
        if unknown := sorted({str(unit.kind) for unit in self.units} - set(get_args(Kind))):
            problems.append(f"kind {', '.join(unknown)} is not one of {', '.join(get_args(Kind))}")
        if sorted(self.returns) not in (["hidden"], ["encoder", "hidden"]):
            problems.append(
                f'`returns` is {self.returns}: give ("hidden",) or "hidden" and "encoder" in order'
            )
        if "encoder" in self.returns and self.encoder_argument is None:
            problems.append("`returns` has the encoder: name its `encoder_argument`")
        if problems:
            raise ConfigError.from_problems(f"BlockFacts {self.block_class!r}", problems)


@dataclass(frozen=True, kw_only=True)
class DenoiserBlocks:
    """Where the blocks of a denoiser class lie, in the order in which its forward runs them.

    Attributes:
        denoiser_class: name of the class; subclasses are found through their MRO.
        stages: attributes (or paths of them, as "decoder.layers") that hold blocks, at any depth;
            within one, blocks run in the order in which they were registered. Each block runs once
            per call of the denoiser.
        body: the lists among `stages` that follow each other at the end, and through which hidden
            states of one shape run; empty where no single difference can stand for the blocks.
    """

    denoiser_class: str
    stages: tuple[str, ...]
    body: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if not self.stages:
            problems.append("`stages` is empty: name the attributes that hold blocks")
        if self.body != self.stages[len(self.stages) - len(self.body) :]:
            problems.append(
                f"`body` is {self.body}: give the last of `stages` {self.stages}, or none"
            )
        if problems:
            raise ConfigError.from_problems(f"DenoiserBlocks {self.denoiser_class!r}", problems)
