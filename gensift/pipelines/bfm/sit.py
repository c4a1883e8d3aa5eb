"""SiT: the dense flow model that blockwise ones are compared with.

Source: SiT, arXiv 2401.08740; with the blocks of BFM (rotary positions, normed queries and keys)
instead of DiT's, so that both differ in their layout alone.
"""

from __future__ import annotations

import torch

# When a pipeline is loaded, diffusers looks for the base class in the module of the class itself.
from diffusers import ConfigMixin
from diffusers import ModelMixin as ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn
from torch.nn.functional import silu

from gensift.errors import ConfigError
from gensift.pipelines.bfm.blocks import BlockStack
from gensift.pipelines.bfm.embeddings import ConditionEmbedding
from gensift.pipelines.bfm.macs import StepMacs, sit_macs
from gensift.pipelines.bfm.modulation import FinalLayer, full_modulation
from gensift.pipelines.bfm.patches import to_latents, to_tokens
from gensift.pipelines.bfm.rotary import rotary_angles
from gensift.pipelines.bfm.sizes import check_sizes


class SiTTransformer2DModel(ModelMixin, ConfigMixin):
    """Velocity of latents by one stack of blocks for all times.

    Args:
        depth: blocks.
        hidden_size, num_heads: width of a token, attention heads.
        patch_size, sample_size, in_channels: of the latents.
        num_classes: without the null class.

    Raises:
        ConfigError: sizes do not fit together.
    """

    config_name = "config.json"
    uses_attention_dispatcher = True
    """Attention runs on the active backend, which `set_attention_backend` sets for all models."""
    boundaries = (1.0, 0.0)
    has_approximation = False

    @register_to_config
    def __init__(
        self,
        depth: int = 28,
        hidden_size: int = 1152,
        num_heads: int = 16,
        patch_size: int = 2,
        sample_size: int = 32,
        in_channels: int = 4,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        check_sizes(self.config)
        width, patch_channels = hidden_size, in_channels * patch_size**2
        self.condition = ConditionEmbedding(width, num_classes)
        self.patches = nn.Linear(patch_channels, width)
        self.stack = BlockStack(depth, width, num_heads, lambda: full_modulation(width, width))
        self.final = FinalLayer(width, width, patch_channels)

    @property
    def null_label(self) -> int:
        """The class label that stands for none."""
        return int(self.config.num_classes)

    @property
    def step_macs(self) -> StepMacs:
        """Multiply-accumulates of one evaluation of one row."""
        return sit_macs(self.config)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor,
        segment: int | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Velocity, noise minus data, float32 `(rows, channels, height, width)`.

        Args:
            hidden_states: latents `(rows, channels, height, width)`.
            timestep: sigma in [0, 1], one or `(rows,)`; 1 is noise.
            class_labels: int64 `(rows,)`; `num_classes` stands for no class.
            segment: 0 or None, so that it is called as blockwise models are.
            return_dict: whether to return an output object, or else a tuple.

        Raises:
            ConfigError: there is no such segment.
        """
        if segment not in (None, 0):
            raise ConfigError(f"`segment` is {segment}; a dense model has segment 0 alone.")
        latents = hidden_states.to(self.dtype)
        sigma = torch.as_tensor(timestep, device=latents.device).expand(len(latents))
        active = silu(self.condition(sigma, class_labels))[:, None]
        tokens = self.patches(to_tokens(latents, self.config.patch_size))
        tokens = self.stack(tokens, active, self._rotary(latents))
        patches = self.final(tokens, active)
        sample = to_latents(patches, self.config.patch_size, *latents.shape[-2:])
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _rotary(self, latents: Tensor) -> Tensor:
        height, width = (side // self.config.patch_size for side in latents.shape[-2:])
        head_dim = self.config.hidden_size // self.config.num_heads
        return rotary_angles(height, width, head_dim, latents.device)
