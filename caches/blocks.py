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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from torch import nn

from gensift.denoising.modules import feed_forward_chunk, unwrapped
from gensift.errors import ConfigError, DuplicateNameError, UnsupportedPipelineError

Kind = Literal["self-attention", "cross-attention", "joint-attention", "feed-forward", "fused"]
Stream = Literal["hidden", "encoder"]
_Facts = TypeVar("_Facts")

_BLOCK_EXAMPLE = (
    "from caches.blocks import BlockFacts, Unit, declare_block; "
    'declare_block(BlockFacts(block_class="{block}", '
    'units=(Unit("attn", "self-attention", "attn"), Unit("ff", "feed-forward", "ff"))))'
)
_DENOISER_EXAMPLE = (
    "from caches.blocks import DenoiserBlocks, declare_denoiser_blocks; "
    'declare_denoiser_blocks(DenoiserBlocks(denoiser_class="{denoiser}", '
    'stages=("transformer_blocks",), body=("transformer_blocks",)))'
)


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


@dataclass(frozen=True, eq=False)
class PlacedUnit:
    """A unit of a certain block of a certain denoiser.

    Attributes:
        name: path of the block and name of the unit, such as `transformer_blocks.0.attn`; the same
            for every instance of the denoiser, compiled or not.
        layer: 0-based number of the block in the denoiser, in execution order.
        kind: what the unit is.
        module: the module whose output is the unit's.
        also: modules that are not run on reuse either, see `Unit.also`.
        is_padded: see `BlockFacts.is_padded`.
        method: name of the method of `module` whose output is the unit's; None for its forward.
        reads_first: see `Unit.reads_first`.
        summed_by: facts of the block where it sums up its units, see `BlockFacts.is_sum`.
    """

    name: str
    layer: int
    kind: Kind
    module: nn.Module
    also: tuple[nn.Module, ...] = ()
    is_padded: bool = False
    method: str | None = None
    reads_first: bool = False
    summed_by: BlockFacts | None = None

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """All modules that are not run on reuse."""
        return (*self.also, self.module)


_blocks: dict[str, BlockFacts] = {}
_denoisers: dict[str, DenoiserBlocks] = {}


def declare_block(facts: BlockFacts) -> None:
    """Make the units of a block class known.

    Raises:
        DuplicateNameError: the class is declared already, with other content.
    """
    if _blocks.setdefault(facts.block_class, facts) != facts:
        raise DuplicateNameError(
            f"Block class {facts.block_class!r} is already declared with other units; "
            "declare a subclass under its own name instead."
        )


def declare_denoiser_blocks(order: DenoiserBlocks) -> None:
    """Make the order of blocks of a denoiser class known.

    Raises:
        DuplicateNameError: the class is declared already, with other content.
    """
    if _denoisers.setdefault(order.denoiser_class, order) != order:
        raise DuplicateNameError(
            f"The blocks of denoiser class {order.denoiser_class!r} are already declared in "
            "another order; declare a subclass under its own name instead."
        )


def block_classes() -> tuple[str, ...]:
    """Names of all declared block classes, sorted."""
    return tuple(sorted(_blocks))


def block_facts_of(block: nn.Module) -> BlockFacts:
    """The facts of a block, found by the class names along its MRO.

    Raises:
        UnsupportedPipelineError: no class of the MRO is declared.
    """
    facts = _declared(_blocks, unwrapped(block))
    if facts is None:
        name = type(unwrapped(block)).__name__
        raise UnsupportedPipelineError(
            f"Block class {name!r} is not declared. Known: {', '.join(block_classes())}. "
            f"Declare its units: {_BLOCK_EXAMPLE.format(block=name)}"
        )
    return facts


def body_blocks(denoiser: nn.Module) -> list[nn.Module]:
    """The blocks of the body of a denoiser in execution order, as the denoiser calls them.

    ControlNet residuals are added by the denoiser after each block, also when the block is passed
    over. So let the last block return the input of the first one plus the kept difference: added
    before the first block, the residuals in between would count twice.

    Raises:
        UnsupportedPipelineError: the denoiser or one of its blocks is not declared, or it has no
            body that one difference can stand for.
    """
    denoiser = unwrapped(denoiser)
    order = _order_of(denoiser)
    if not order.body:
        with_body = sorted(name for name, known in _denoisers.items() if known.body)
        raise UnsupportedPipelineError(
            f"{type(denoiser).__name__} has no body of blocks that one difference can stand for. "
            f"Known with one: {', '.join(with_body)}. Use a cache of single sub-blocks instead."
        )
    stages = [_part(denoiser, name) for name in order.body]
    blocks = [block for stage in stages if stage is not None for block in stage.children()]
    for block in blocks:
        block_facts_of(block)
    if not blocks:
        raise _nothing_found(denoiser, order.body)
    return blocks


def units_of(denoiser: nn.Module) -> list[PlacedUnit]:
    """All units of a denoiser in execution order.

    Ask again after adapters were loaded or fused: they put other modules in place.

    Raises:
        UnsupportedPipelineError: the denoiser is not declared, holds no declared block, lacks a
            declared module, or runs feed-forwards in chunks.
    """
    denoiser = unwrapped(denoiser)
    order = _order_of(denoiser)
    blocks = [
        found
        for stage in order.stages
        if (module := _part(denoiser, stage)) is not None
        for found in _blocks_in(stage, module)
    ]
    units = [
        unit
        for layer, (path, block, facts) in enumerate(blocks)
        for unit in _placed(path, block, facts, layer)
    ]
    if not units:
        raise _nothing_found(denoiser, order.stages)
    return units


def _declared(known: dict[str, _Facts], module: nn.Module) -> _Facts | None:
    names = (cls.__name__ for cls in type(module).__mro__)
    return next((known[name] for name in names if name in known), None)


def _order_of(denoiser: nn.Module) -> DenoiserBlocks:
    order = _declared(_denoisers, denoiser)
    if order is None:
        name = type(denoiser).__name__
        raise UnsupportedPipelineError(
            f"The order of blocks of denoiser class {name!r} is not declared. "
            f"Known: {', '.join(sorted(_denoisers))}. "
            f"Declare it: {_DENOISER_EXAMPLE.format(denoiser=name)}"
        )
    return order


def _nothing_found(denoiser: nn.Module, stages: tuple[str, ...]) -> UnsupportedPipelineError:
    return UnsupportedPipelineError(
        f"{type(denoiser).__name__} has no block of a declared class in {', '.join(stages)}: there "
        f"is nothing to cache. Known: {', '.join(block_classes())}. "
        f"Declare its blocks: {_BLOCK_EXAMPLE.format(block='MyBlock')}"
    )


def _part(owner: nn.Module, name: str) -> nn.Module | None:
    """A declared submodule, None where this instance goes without it."""
    part: nn.Module | None = owner
    for attribute in name.split("."):
        if not hasattr(part, attribute):
            cls = type(owner)
            raise UnsupportedPipelineError(
                f"{cls.__module__}.{cls.__name__} has no {name!r}, which caches.blocks declares "
                "for that class name. Give another class a name of its own and declare that one."
            )
        part = getattr(part, attribute)
    return part


def _blocks_in(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module, BlockFacts]]:
    module = unwrapped(module)
    facts = _declared(_blocks, module)
    if facts is not None:
        yield path, module, facts
        return
    for name, child in module.named_children():
        yield from _blocks_in(f"{path}.{name}", child)


def _placed(path: str, block: nn.Module, facts: BlockFacts, layer: int) -> Iterator[PlacedUnit]:
    if (chunk := feed_forward_chunk(block)) is not None:
        raise UnsupportedPipelineError(
            f"{path} runs its feed-forward in chunks of {chunk}, several times per step; its "
            "output can be cached where it runs once. Call disable_forward_chunking() on the "
            "denoiser, or set_chunk_feed_forward(None) on its blocks."
        )
    if facts.pre_norm_flag is not None and not getattr(block, facts.pre_norm_flag, False):
        raise UnsupportedPipelineError(
            f"{path} has {facts.pre_norm_flag}=False: it norms sums, so that the output of a "
            "sub-block alone cannot be kept. Give a model with "
            f"{facts.pre_norm_flag}=True, or cache whole evaluations with ertacache."
        )
    for unit in facts.units:
        if unit.is_optional and not hasattr(block, unit.output):
            continue
        found: Any = _part(block, unit.output)
        if found is None:
            continue
        is_module = isinstance(found, nn.Module)
        also = (_part(block, name) for name in unit.also)
        yield PlacedUnit(
            f"{path}.{unit.name}",
            layer,
            _kind_of(unit, found),
            found if is_module else block,
            tuple(part for part in also if part is not None),
            facts.is_padded,
            None if is_module else unit.output,
            unit.reads_first,
            facts if facts.is_sum else None,
        )


def _kind_of(unit: Unit, module: Any) -> Kind:
    """The kind of a unit; one attention class of diffusers serves with either input."""
    is_cross = getattr(module, "is_cross_attention", None)
    if unit.kind not in ("self-attention", "cross-attention") or is_cross is None:
        return unit.kind
    return "cross-attention" if is_cross else "self-attention"


_ATTENTION_1 = Unit("attn1", "self-attention", "attn1")
_ATTENTION_2 = Unit("attn2", "cross-attention", "attn2")
_JOINT_ATTENTION = Unit("attn", "joint-attention", "attn")
_FEED_FORWARD = Unit("ff", "feed-forward", "ff")
_FEED_FORWARD_TEXT = Unit("ff_context", "feed-forward", "ff_context")

_BUILT_IN_BLOCKS = (
    # With an IP adapter the attention returns a third tensor; it is kept with the others.
    BlockFacts(
        block_class="FluxTransformerBlock",
        units=(_JOINT_ATTENTION, _FEED_FORWARD, _FEED_FORWARD_TEXT),
        returns=("encoder", "hidden"),
    ),
    # One projection takes the attention and the hidden layer of the feed-forward, side by side.
    BlockFacts(
        block_class="FluxSingleTransformerBlock",
        units=(Unit("fused", "fused", "proj_out", also=("attn", "proj_mlp")),),
        returns=("encoder", "hidden"),
    ),
    BlockFacts(
        block_class="Flux2TransformerBlock",
        units=(_JOINT_ATTENTION, _FEED_FORWARD, _FEED_FORWARD_TEXT),
        returns=("encoder", "hidden"),
    ),
    # The feed-forward is inside the attention. The denoiser gives text and image joined as the
    # hidden states, so the encoder argument is None.
    BlockFacts(
        block_class="Flux2SingleTransformerBlock",
        units=(Unit("attn", "fused", "attn"),),
    ),
    # The last block of a denoiser returns None for the text; there the second tensor of its
    # attention is computed but read by nothing.
    BlockFacts(
        block_class="JointTransformerBlock",
        units=(
            _JOINT_ATTENTION,
            Unit("attn2", "self-attention", "attn2"),
            _FEED_FORWARD,
            _FEED_FORWARD_TEXT,
        ),
        returns=("encoder", "hidden"),
    ),
    BlockFacts(
        block_class="BasicTransformerBlock",
        units=(_ATTENTION_1, _ATTENTION_2, _FEED_FORWARD),
    ),
    BlockFacts(
        block_class="WanTransformerBlock",
        units=(_ATTENTION_1, _ATTENTION_2, Unit("ffn", "feed-forward", "ffn")),
    ),
    # The feed-forward is a convolution: its output is `(batch, channels, height, width)`.
    BlockFacts(
        block_class="SanaTransformerBlock",
        units=(_ATTENTION_1, _ATTENTION_2, _FEED_FORWARD),
    ),
    BlockFacts(
        block_class="QwenImageTransformerBlock",
        units=(
            _JOINT_ATTENTION,
            Unit("img_mlp", "feed-forward", "img_mlp"),
            Unit("txt_mlp", "feed-forward", "txt_mlp"),
        ),
        returns=("encoder", "hidden"),
    ),
    # Outputs are normed before the gate; text and image are one stream.
    BlockFacts(
        block_class="ZImageTransformerBlock",
        units=(
            Unit("attention", "self-attention", "attention"),
            Unit("feed_forward", "feed-forward", "feed_forward"),
        ),
        hidden_argument="x",
        encoder_argument=None,
        is_padded=True,
    ),
    # Of torch: each sub-block is a method, whose output is added to what was not normed.
    BlockFacts(
        block_class="TransformerDecoderLayer",
        units=(
            Unit("sa", "self-attention", "_sa_block", also=("norm1",)),
            Unit("ca", "cross-attention", "_mha_block", also=("norm2",)),
            Unit("ff", "feed-forward", "_ff_block", also=("norm3",)),
        ),
        hidden_argument="tgt",
        encoder_argument=None,
        pre_norm_flag="norm_first",
        is_sum=True,
    ),
)

_BUILT_IN_DENOISERS = (
    DenoiserBlocks(
        denoiser_class="FluxTransformer2DModel",
        stages=("transformer_blocks", "single_transformer_blocks"),
        body=("transformer_blocks", "single_transformer_blocks"),
    ),
    # No body: the text joins the hidden states between the lists, which changes their shape.
    DenoiserBlocks(
        denoiser_class="Flux2Transformer2DModel",
        stages=("transformer_blocks", "single_transformer_blocks"),
    ),
    *(
        DenoiserBlocks(
            denoiser_class=name, stages=("transformer_blocks",), body=("transformer_blocks",)
        )
        for name in (
            "SD3Transformer2DModel",
            "PixArtTransformer2DModel",
            "SanaTransformer2DModel",
            "QwenImageTransformer2DModel",
            "DiTTransformer2DModel",
        )
    ),
    DenoiserBlocks(denoiser_class="WanTransformer3DModel", stages=("blocks",), body=("blocks",)),
    # `siglip_refiner` runs in some calls only, so that its outputs may be missing: always computed.
    DenoiserBlocks(
        denoiser_class="ZImageTransformer2DModel",
        stages=("noise_refiner", "context_refiner", "layers"),
        body=("layers",),
    ),
    DenoiserBlocks(
        denoiser_class="DiffusionPolicyTransformer",
        stages=("decoder.layers",),
        body=("decoder.layers",),
    ),
    # No body: skip connections lead around its parts, which differ in shape.
    DenoiserBlocks(
        denoiser_class="UNet2DConditionModel",
        stages=("down_blocks", "mid_block", "up_blocks"),
    ),
)

for _facts in _BUILT_IN_BLOCKS:
    declare_block(_facts)
for _order in _BUILT_IN_DENOISERS:
    declare_denoiser_blocks(_order)
