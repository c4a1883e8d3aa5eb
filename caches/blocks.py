"""Finding the blocks of a denoiser, and what in them a feature cache may keep.

What there is to know of block classes is declared, as `caches.block_facts` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from caches.block_facts import BlockFacts as BlockFacts
from caches.block_facts import DenoiserBlocks as DenoiserBlocks
from caches.block_facts import Kind as Kind
from caches.block_facts import Unit as Unit
from caches.known_blocks import BUILT_IN_BLOCKS, BUILT_IN_DENOISERS
from gensift.denoising.modules import feed_forward_chunk, unwrapped
from gensift.errors import DuplicateNameError, UnsupportedPipelineError

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
        found = _part(block, unit.output)
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


def _kind_of(unit: Unit, module: object) -> Kind:
    """The kind of a unit; one attention class of diffusers serves with either input."""
    is_cross = getattr(module, "is_cross_attention", None)
    if unit.kind not in ("self-attention", "cross-attention") or is_cross is None:
        return unit.kind
    return "cross-attention" if is_cross else "self-attention"


for _facts in BUILT_IN_BLOCKS:
    declare_block(_facts)
for _order in BUILT_IN_DENOISERS:
    declare_denoiser_blocks(_order)
