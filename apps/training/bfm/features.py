"""Frozen encoders whose features of clean pictures a trunk is drawn towards in training.

Each takes pictures in [0, 1] and gives one vector for each token of the flow model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from gensift.errors import ConfigError
from gensift.hub import foreign_errors, is_hub_id, is_offline
from gensift.zoo.catalog import model_folder

DINOV2 = "facebook/dinov2-base"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class FeatureEncoder(Protocol):
    """What the training asks of an encoder."""

    @property
    def channels(self) -> int:
        """Length of a feature vector."""
        ...

    def to(self, device: torch.device) -> Any:
        """Move the network."""
        ...

    def check_grid(self, grid: int) -> None:
        """Refuse a number of tokens along a side that it has no features for.

        Raises:
            ConfigError: it is such a number.
        """
        ...

    def __call__(self, pictures: Tensor, grid: int) -> Tensor:
        """Float32 `(rows, grid * grid, channels)` of `(rows, 3, height, width)` in [0, 1]."""
        ...


class Dinov2Features:
    """Normalised patch tokens of DINOv2, each patch of the encoder lying where a token lies.

    Source: Blockwise Flow Matching, arXiv 2510.21167, released code: pictures are normalised, then
    scaled bicubically to one patch per token (224 pixels for 16 x 16 tokens), and the encoder's
    positions are resampled to that grid.
    """

    def __init__(self, model: Any) -> None:
        """Wrap transformers' `Dinov2Model`."""
        self.model = model.eval().requires_grad_(False)

    @classmethod
    def load(cls, source: str) -> Self:
        """From a folder or hub id of a `Dinov2Model`.

        Raises:
            ConfigError: there is none, or it is another model.
        """
        from transformers import AutoConfig, Dinov2Model

        advice = "Give a folder or hub id of a Dinov2Model, shapes-clip or none"
        with foreign_errors(f"Feature encoder {source!r}", advice, source):
            local = {"local_files_only": is_offline(source)}
            kind = AutoConfig.from_pretrained(source, **local).model_type
            if kind != "dinov2":
                raise ConfigError(f"Feature encoder {source!r} is a {kind} model. {advice}.")
            return cls(
                Dinov2Model.from_pretrained(
                    source, dtype=torch.float32, use_safetensors=True, **local
                )
            )

    @property
    def channels(self) -> int:
        """Length of a feature vector."""
        return int(self.model.config.hidden_size)

    def to(self, device: torch.device) -> Self:
        """Move the network."""
        self.model.to(device)
        return self

    def check_grid(self, grid: int) -> None:
        """Every grid fits, as pictures are scaled to it."""

    @torch.no_grad()
    def __call__(self, pictures: Tensor, grid: int) -> Tensor:
        """See `FeatureEncoder`."""
        pictures = pictures.to(self.model.device)
        mean, std = (
            torch.tensor(values, device=pictures.device)[:, None, None]
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        side = grid * self.model.config.patch_size
        pixels = interpolate((pictures - mean) / std, (side, side), mode="bicubic")
        # The first token stands for the whole picture.
        result: Tensor = self.model(pixel_values=pixels).last_hidden_state[:, 1:].float()
        return result


class ShapesClipFeatures:
    """Patch features of the zoo's `shapes-clip`, averaged over the patches that a token covers."""

    def __init__(self, model: Any) -> None:
        """Wrap the picture side of an open_clip model."""
        self.model = model.eval().requires_grad_(False)
        self.model.output_tokens = True

    @classmethod
    def load(cls) -> Self:
        """The published one."""
        import open_clip

        location = f"local-dir:{model_folder('shapes-clip')}"
        return cls(open_clip.create_model_and_transforms(location)[0].visual)

    @property
    def channels(self) -> int:
        """Length of a feature vector."""
        return int(self.model.conv1.out_channels)

    def to(self, device: torch.device) -> Self:
        """Move the network."""
        self.model.to(device)
        return self

    def check_grid(self, grid: int) -> None:
        """Refuse a grid that the patches do not divide into.

        Raises:
            ConfigError: it is such a one.
        """
        side = self.model.grid_size[0]
        if side % grid:
            raise ConfigError(
                f"The flow model has {grid} x {grid} tokens, but the {side} x {side} features of "
                "shapes-clip cannot be shared among them; change --image-size or --patch-size, or "
                "give --features none."
            )

    @torch.no_grad()
    def __call__(self, pictures: Tensor, grid: int) -> Tensor:
        """See `FeatureEncoder`."""
        pictures = pictures.to(self.model.conv1.weight.device)
        if pictures.shape[-2:] != tuple(self.model.image_size):
            pictures = interpolate(pictures, self.model.image_size, mode="bicubic", antialias=True)
        patches = self.model(2 * pictures - 1)[1].float()
        by_place = torch.unflatten(patches.transpose(1, 2), 2, self.model.grid_size)
        return adaptive_avg_pool2d(by_place, grid).flatten(2).transpose(1, 2)


def load_features(spec: str) -> FeatureEncoder | None:
    """The encoder of a name, folder or hub id; None for "none".

    Raises:
        ConfigError: there is none such.
    """
    if spec == "none":
        return None
    if spec == "shapes-clip":
        return ShapesClipFeatures.load()
    if spec != "dinov2" and not Path(spec).is_dir() and not is_hub_id(spec):
        raise ConfigError(
            f"`features` is {spec!r}; give dinov2, shapes-clip, none, or a folder or hub id of a "
            "Dinov2Model."
        )
    return Dinov2Features.load(DINOV2 if spec == "dinov2" else spec)
