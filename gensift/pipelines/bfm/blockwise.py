"""What blockwise flow models share: features of a trunk, and a stack of blocks per segment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn
from torch.nn.functional import silu

from gensift.errors import ConfigError
from gensift.pipelines.bfm.macs import StepMacs
from gensift.pipelines.bfm.residency import SegmentResidency
from gensift.pipelines.bfm.rotary import rotary_angles
from gensift.pipelines.bfm.schedule import checked_boundaries, segment_of
from gensift.pipelines.bfm.shards import MissingSegment, load_with_segments, write_shards


@dataclass
class BFMOutput(BaseOutput):
    """What a blockwise model returns.

    Attributes:
        sample: velocity, noise minus data, float32 `(rows, channels, height, width)`; sampling
            goes from sigma 1 to 0, so it is multiplied by a negative step.
        features: of the trunk `(rows, tokens, width)`, to be given back in later steps of the
            segment; nothing of a residual is in them.
    """

    sample: Tensor
    features: Tensor


class BlockwiseTransformer(ModelMixin, ConfigMixin):
    """A flow model with a trunk, one stack of blocks per segment, and parts shared by all.

    A subclass builds `shared`, `trunk`, `segments` and, where `frn_depth` is above 0, `frn`.

    Attributes:
        residency: what brings segments to the device when they are needed; None where all are
            there.
    """

    config_name = "config.json"
    _supports_gradient_checkpointing = True
    uses_attention_dispatcher = True
    """Attention runs on the active backend, which `set_attention_backend` sets for all models."""
    residency: SegmentResidency | None = None
    segments: nn.ModuleList

    @property
    def boundaries(self) -> tuple[float, ...]:
        """Sigmas between segments, from 1 down to 0."""
        return checked_boundaries(self.config.boundaries, self.config.num_segments)

    @property
    def null_label(self) -> int:
        """The class label that stands for none."""
        return int(self.config.num_classes)

    @property
    def has_approximation(self) -> bool:
        """Whether there is a network that approximates features (FRN)."""
        return bool(self.config.frn_depth)

    @property
    @abstractmethod
    def step_macs(self) -> StepMacs:
        """Multiply-accumulates of one evaluation of one row."""

    def condition(self, timestep: Tensor, class_labels: Tensor) -> Tensor:
        """Time and class as one vector, `(rows, width)`."""
        result: Tensor = self.shared.condition(timestep, class_labels)
        return result

    @abstractmethod
    def trunk_tokens(self, hidden_states: Tensor) -> Tensor:
        """What goes into the trunk, `(rows, tokens, width)`."""

    @abstractmethod
    def trunk_features(self, hidden_states: Tensor, condition: Tensor) -> Tensor:
        """Features `(rows, tokens, width)` of latents `(rows, channels, height, width)`."""

    def residual(self, hidden_states: Tensor, condition: Tensor) -> Tensor:
        """How features change over a whole segment, by FRN: `(rows, tokens, width)`."""
        tokens = self.trunk_tokens(hidden_states)
        active = silu(condition)[:, None]
        result: Tensor = self.frn(tokens, active, self._rotary(hidden_states)) - tokens
        return result

    @abstractmethod
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

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor,
        segment: int | None = None,
        features: Tensor | None = None,
        refresh: Tensor | None = None,
        residual_weight: Tensor | None = None,
        return_dict: bool = True,
    ) -> BFMOutput | tuple[Tensor, Tensor]:
        """Velocity of latents, and the features that it was computed from.

        Args:
            hidden_states: latents `(rows, channels, height, width)`.
            timestep: sigma in [0, 1], one or `(rows,)`.
            class_labels: int64 `(rows,)`; `num_classes` stands for no class.
            segment: index of the stack, known to whoever made the schedule; None finds it from
                `timestep`, which must then be in one segment for all rows.
            features: kept from an earlier step of the segment; None computes them.
            refresh: bool `(rows,)`, rows whose features are computed although there are some.
            residual_weight: float `(rows,)`, the share of the segment that lies between those
                features and now, by which FRN's residual is weighted; None leaves features as they
                were.
            return_dict: whether to return a `BFMOutput`, or else a tuple.

        Raises:
            ConfigError: the segment does not exist or was not loaded, rows fall in different ones,
                or there is no FRN.
        """
        sigma = torch.as_tensor(timestep, device=hidden_states.device).expand(len(hidden_states))
        index = self._segment_of(sigma) if segment is None else self._checked_segment(segment)
        latents = hidden_states.to(self.dtype)
        condition = self.condition(sigma, class_labels)
        kept = self._kept(latents, condition, features, refresh)
        used = kept
        if residual_weight is not None and features is not None:
            self._require_approximation()
            if self.residency is not None:
                self.residency.bring_approximation()
            used = kept + _per_row(residual_weight, kept) * self.residual(latents, condition)
        if self.residency is not None:
            self.residency.activate(index)
        velocity = self.velocity(latents, condition, used.to(kept.dtype), index)
        return BFMOutput(sample=velocity, features=kept) if return_dict else (velocity, kept)

    def _kept(
        self,
        latents: Tensor,
        condition: Tensor,
        features: Tensor | None,
        refresh: Tensor | None,
    ) -> Tensor:
        if features is None:
            return self.trunk_features(latents, condition)
        if refresh is None:
            return features
        rows = refresh.nonzero()[:, 0]
        if not len(rows):
            return features
        return features.index_copy(0, rows, self.trunk_features(latents[rows], condition[rows]))

    def _segment_of(self, sigma: Tensor) -> int:
        found = {segment_of(self.boundaries, value) for value in sigma.double().tolist()}
        if len(found) > 1:
            raise ConfigError(
                f"The rows of a batch fall in segments {sorted(found)}; one call runs one stack, "
                "so call the model once per segment."
            )
        return found.pop()

    def _checked_segment(self, segment: int) -> int:
        if not 0 <= segment < len(self.segments):
            raise ConfigError(
                f"`segment` is {segment}; this model has 0 to {len(self.segments) - 1}."
            )
        return segment

    def _require_approximation(self) -> None:
        if not self.has_approximation:
            raise ConfigError(
                "`residual_weight` was given, but this model has no FRN (its `frn_depth` is 0); "
                "leave it out, or use feature_mode 'full' or 'hold'."
            )

    def _rotary(self, latents: Tensor) -> Tensor:
        height, width = (side // self.config.patch_size for side in latents.shape[-2:])
        head_dim = self.config.hidden_size // self.config.num_heads
        return rotary_angles(height, width, head_dim, latents.device)

    def loaded_segments(self) -> list[int]:
        """Indices of the segments whose weights are here."""
        missing = [isinstance(part, MissingSegment) for part in self.segments]
        return [index for index, is_missing in enumerate(missing) if not is_missing]

    def save_pretrained(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        variant: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config and weights: one safetensors shard per segment, and one for all the rest.

        Diffusers' own `from_pretrained` reads them too. Of its options `safe_serialization` and
        `max_shard_size` mean nothing here.

        Raises:
            ConfigError: segments are missing.
        """
        if is_main_process:
            self.save_config(save_directory)
            write_shards(self, Path(save_directory), variant)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        segments: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Load a model.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id.
            segments: only these, from a local folder; calling another one is then an error.
            kwargs: those of diffusers; with `segments` just `subfolder`, `variant` and `dtype`.

        Raises:
            ConfigError: a segment does not exist, or the folder has no shards.
        """
        if segments is None:
            whole: Self = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
            return whole
        result: Self = load_with_segments(
            cls, Path(pretrained_model_name_or_path), segments, **kwargs
        )
        return result


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device, like.dtype)[:, None, None]
