"""A dense flow model turned into a blockwise one: a trunk, and copies of its last blocks.

Our own way, not the paper's, which trains from scratch. The stack of a segment goes on where the
trunk ends, instead of reading the latents again, and keeps the dense model's own modulation; what
BFM adds per token starts at zero. So the untrained result equals the dense model exactly.
"""

from __future__ import annotations

from collections.abc import Sequence

# When a pipeline is loaded, diffusers looks for the base class in the module of the class itself.
from diffusers import ModelMixin as ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import silu

from gensift.errors import ConfigError
from gensift.pipelines.bfm.blocks import BlockStack, CheckpointedLayers
from gensift.pipelines.bfm.blockwise import BlockwiseTransformer
from gensift.pipelines.bfm.embeddings import ConditionEmbedding
from gensift.pipelines.bfm.macs import StepMacs, split_macs
from gensift.pipelines.bfm.modulation import (
    FinalLayer,
    LowRankModulation,
    full_modulation,
    zero_linear,
)
from gensift.pipelines.bfm.patches import to_latents, to_tokens
from gensift.pipelines.bfm.schedule import checked_boundaries
from gensift.pipelines.bfm.semantics import semantic_condition
from gensift.pipelines.bfm.sit import SiTTransformer2DModel
from gensift.pipelines.bfm.sizes import check_sizes


class SplitSegment(CheckpointedLayers):
    """The last blocks of a dense model, for one segment, with an extra modulation per token."""

    def __init__(self, depth: int, width: int, num_heads: int, rank: int) -> None:
        super().__init__()
        stack = BlockStack(depth, width, num_heads, lambda: full_modulation(width, width))
        self.blocks, self.modulations = stack.blocks, stack.modulations
        self.extras = nn.ModuleList(LowRankModulation(2 * width, width, rank) for _ in range(depth))

    def forward(
        self, tokens: Tensor, condition: Tensor, semantic: Tensor, rotary: Tensor, common: Tensor
    ) -> Tensor:
        """As `BlockStack`, on tokens `(rows, tokens, width)`.

        `condition` is per row, `(rows, 1, width)`; `semantic` and `common` are per token.
        """
        layers = zip(self.blocks, self.modulations, self.extras, strict=True)
        for block, modulation, extra in layers:
            tokens = self._run(
                _modulated, block, modulation, extra, tokens, condition, semantic, rotary, common
            )
        return tokens


def _modulated(
    block: nn.Module,
    modulation: nn.Module,
    extra: nn.Module,
    tokens: Tensor,
    condition: Tensor,
    semantic: Tensor,
    rotary: Tensor,
    common: Tensor,
) -> Tensor:
    result: Tensor = block(tokens, modulation(condition) + (extra(semantic) + common), rotary)
    return result


class SplitSharedParts(nn.Module):
    """What every segment uses: those of the dense model, and zero-initialised additions."""

    def __init__(self, width: int, patch_channels: int, num_classes: int) -> None:
        super().__init__()
        self.condition = ConditionEmbedding(width, num_classes)
        self.patches = nn.Linear(patch_channels, width)
        self.segment_modulation = full_modulation(2 * width, width)
        self.final = FinalLayer(width, width, patch_channels)
        self.final_extra = zero_linear(2 * width, 2 * width)


class SplitTransformer2DModel(BlockwiseTransformer):
    """Velocity of latents, by a trunk and one stack of further blocks per segment of time.

    Arguments are those of `BFMTransformer2DModel`; `trunk_depth` 0 is a whole copy of the dense
    model's blocks for each segment.

    Raises:
        ConfigError: sizes do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        num_segments: int = 6,
        segment_depth: int = 8,
        trunk_depth: int = 20,
        frn_depth: int = 0,
        boundaries: Sequence[float] | None = None,
        hidden_size: int = 1152,
        num_heads: int = 16,
        patch_size: int = 2,
        sample_size: int = 32,
        in_channels: int = 4,
        num_classes: int = 1000,
        adaln_rank: int = 288,
    ) -> None:
        super().__init__()
        check_sizes(self.config)
        checked_boundaries(boundaries, num_segments)
        width, heads = hidden_size, num_heads
        self.shared = SplitSharedParts(width, in_channels * patch_size**2, num_classes)
        self.trunk = BlockStack(trunk_depth, width, heads, lambda: full_modulation(width, width))
        self.segments = nn.ModuleList(
            SplitSegment(segment_depth, width, heads, adaln_rank) for _ in range(num_segments)
        )
        if frn_depth:
            self.frn = BlockStack(frn_depth, width, heads, lambda: full_modulation(width, width))

    @property
    def step_macs(self) -> StepMacs:
        """Multiply-accumulates of one evaluation of one row."""
        return split_macs(self.config)

    def trunk_tokens(self, hidden_states: Tensor) -> Tensor:
        """What goes into the trunk, `(rows, tokens, width)`."""
        result: Tensor = self.shared.patches(to_tokens(hidden_states, self.config.patch_size))
        return result

    def trunk_features(self, hidden_states: Tensor, condition: Tensor) -> Tensor:
        """Features `(rows, tokens, width)` of latents `(rows, channels, height, width)`."""
        tokens = self.trunk_tokens(hidden_states)
        result: Tensor = self.trunk(tokens, silu(condition)[:, None], self._rotary(hidden_states))
        return result

    def velocity(
        self, hidden_states: Tensor, condition: Tensor, features: Tensor, segment: int
    ) -> Tensor:
        """Velocity by the stack of one segment, float32, shaped as the latents.

        Args:
            hidden_states: latents `(rows, channels, height, width)`.
            condition: float `(rows, width)`.
            features: of the trunk, float `(rows, tokens, width)`.
            segment: 0-based number of the stack.
        """
        patch, (height, width) = self.config.patch_size, hidden_states.shape[-2:]
        shared, active = self.shared, silu(condition)[:, None]
        semantic = semantic_condition(condition, features)
        common = shared.segment_modulation(semantic)
        rotary = self._rotary(hidden_states)
        tokens = self.segments[segment](features, active, semantic, rotary, common)
        modulation = shared.final.modulation(active) + shared.final_extra(semantic)
        return to_latents(shared.final.project(tokens, modulation), patch, height, width)


def split_dense(
    dense: SiTTransformer2DModel,
    num_segments: int,
    trunk_depth: int,
    *,
    frn_depth: int = 0,
    boundaries: Sequence[float] | None = None,
    adaln_rank: int | None = None,
) -> SplitTransformer2DModel:
    """A blockwise model that equals `dense` exactly, until it is trained.

    Args:
        dense: the model; it is left as it is.
        num_segments: copies of its blocks from `trunk_depth` on.
        trunk_depth: its blocks that become the trunk; 0 makes copies of all of them.
        frn_depth, boundaries: as in `BFMTransformer2DModel`.
        adaln_rank: of the added modulation; a quarter of the width by default, as in BFM.

    Raises:
        ConfigError: the dense model has not that many blocks.
    """
    config = dense.config
    if not 0 <= trunk_depth < config.depth:
        raise ConfigError(
            f"`trunk_depth` is {trunk_depth}; a model of {config.depth} blocks can give 0 to "
            f"{config.depth - 1} of them to the trunk."
        )
    names = ("hidden_size", "num_heads", "patch_size", "sample_size", "in_channels", "num_classes")
    model: SplitTransformer2DModel = SplitTransformer2DModel(
        num_segments=num_segments,
        segment_depth=config.depth - trunk_depth,
        trunk_depth=trunk_depth,
        frn_depth=frn_depth,
        boundaries=boundaries,
        adaln_rank=adaln_rank or config.hidden_size // 4,
        **{name: config[name] for name in names},
    ).to(dense.device)
    # diffusers warns of every change of dtype by `to`, also of one that changes nothing.
    nn.Module.to(model, dense.dtype)
    for name in ("condition", "patches", "final"):
        getattr(model.shared, name).load_state_dict(getattr(dense, name).state_dict())
    for own in ("blocks", "modulations"):
        layers = getattr(dense.stack, own)
        _copy(layers[:trunk_depth], getattr(model.trunk, own))
        for segment in model.segments:
            _copy(layers[trunk_depth:], getattr(segment, own))
    result: SplitTransformer2DModel = model.train(dense.training)
    return result


def _copy(layers: nn.ModuleList, targets: nn.ModuleList) -> None:
    for layer, target in zip(layers, targets, strict=True):
        target.load_state_dict(layer.state_dict())
