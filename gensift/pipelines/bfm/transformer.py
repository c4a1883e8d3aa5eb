"""BFM's transformer.

Source: Blockwise Flow Matching, arXiv 2510.21167, and the shapes of the released XL configuration.
Our own: FRN's residual is what its blocks add to their input, so that an untrained FRN holds
features instead of disturbing them.
"""

from __future__ import annotations

from collections.abc import Sequence

# When a pipeline is loaded, diffusers looks for the base class in the module of the class itself.
from diffusers import ModelMixin as ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import silu

from gensift.pipelines.bfm.blocks import BFMSegment, BlockStack
from gensift.pipelines.bfm.blockwise import BlockwiseTransformer
from gensift.pipelines.bfm.embeddings import ConditionEmbedding
from gensift.pipelines.bfm.macs import StepMacs, bfm_macs
from gensift.pipelines.bfm.modulation import FinalLayer, LowRankModulation, full_modulation
from gensift.pipelines.bfm.patches import to_latents, to_tokens
from gensift.pipelines.bfm.schedule import checked_boundaries
from gensift.pipelines.bfm.semantics import semantic_condition
from gensift.pipelines.bfm.sizes import check_sizes


class SharedParts(nn.Module):
    """What every segment uses: embeddings, patches, common modulations, the final layer."""

    def __init__(self, width: int, patch_channels: int, num_classes: int) -> None:
        super().__init__()
        self.condition = ConditionEmbedding(width, num_classes)
        self.trunk_patches = nn.Linear(patch_channels, width)
        self.segment_patches = nn.Linear(patch_channels, width)
        self.trunk_modulation = full_modulation(width, width)
        self.segment_modulation = full_modulation(2 * width, width)
        self.final = FinalLayer(2 * width, width, patch_channels)


class BFMTransformer2DModel(BlockwiseTransformer):
    """Velocity of latents, one stack of blocks per segment of time.

    A trunk reads the latents and turns them into features; the stack of the present segment reads
    the same latents, each token modulated by time, class and its feature.

    Args:
        num_segments: stacks, each for a stretch of sigma.
        segment_depth, trunk_depth: blocks of a stack, and of the trunk.
        frn_depth: blocks of the network that approximates later features; 0 for none.
        boundaries: sigmas between segments, from 1.0 to 0.0; None for equal stretches.
        hidden_size, num_heads: width of a token, attention heads.
        patch_size, sample_size, in_channels: of the latents.
        num_classes: without the null class.
        adaln_rank: channels that a block's own modulation passes through.

    Raises:
        ConfigError: sizes do not fit together.
    """

    @register_to_config
    def __init__(
        self,
        num_segments: int = 6,
        segment_depth: int = 5,
        trunk_depth: int = 20,
        frn_depth: int = 4,
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
        self.shared = SharedParts(width, in_channels * patch_size**2, num_classes)
        self.trunk = BlockStack(
            trunk_depth, width, heads, lambda: LowRankModulation(width, width, adaln_rank)
        )
        self.segments = nn.ModuleList(
            BFMSegment(
                segment_depth,
                width,
                heads,
                lambda: LowRankModulation(2 * width, width, adaln_rank),
            )
            for _ in range(num_segments)
        )
        if frn_depth:
            self.frn = BlockStack(frn_depth, width, heads, lambda: full_modulation(width, width))

    @property
    def step_macs(self) -> StepMacs:
        """Multiply-accumulates of one evaluation of one row."""
        return bfm_macs(self.config)

    def trunk_tokens(self, hidden_states: Tensor) -> Tensor:
        """What goes into the trunk, `(rows, tokens, width)`."""
        result: Tensor = self.shared.trunk_patches(to_tokens(hidden_states, self.config.patch_size))
        return result

    def trunk_features(self, hidden_states: Tensor, condition: Tensor) -> Tensor:
        """Features `(rows, tokens, width)` of latents `(rows, channels, height, width)`."""
        active = silu(condition)[:, None]
        tokens = self.trunk_tokens(hidden_states)
        common = self.shared.trunk_modulation(active)
        result: Tensor = self.trunk(tokens, active, self._rotary(hidden_states), common)
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
        semantic = semantic_condition(condition, features)
        tokens = self.shared.segment_patches(to_tokens(hidden_states, patch))
        common = self.shared.segment_modulation(semantic)
        tokens = self.segments[segment](tokens, semantic, self._rotary(hidden_states), common)
        return to_latents(self.shared.final(tokens, semantic), patch, height, width)
