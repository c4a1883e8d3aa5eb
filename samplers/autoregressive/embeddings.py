"""What half-drawn pictures look like, for clustering: patch tokens of an image encoder."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gensift.errors import ConfigError
from gensift.hub import foreign_errors, is_offline
from gensift.protocols import Pipeline
from gensift.zoo.catalog import ZOO
from rewards.preprocess import Preprocess

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from transformers import PreTrainedModel

Embedding = Callable[[Tensor], Tensor]
"""Pictures `(batch, 3, height, width)` in [0, 1] to tokens `(batch, tokens, channels)`."""

DINOV2 = "facebook/dinov2-with-registers-large"
SHAPES_CLIP = "shapes-clip"
_DINO_SIDE = 224
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dinov2Embedding:
    """Normalized patch tokens of a DINOv2; class and register tokens are left out."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Wrap a `Dinov2Model` or `Dinov2WithRegistersModel` of transformers."""
        self.model = model.eval()
        side = _DINO_SIDE
        self._preprocess = Preprocess(
            size=(side, side),
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            interpolation="bilinear",
            resize_mode="squash",
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Tokens `(pictures, 256, channels)`, one for every 14 pixels of 224.

        Args:
            images: `(pictures, 3, height, width)` in [0, 1].
        """
        pixels = self._preprocess(images.to(self.model.device, torch.float32))
        hidden: Tensor = self.model(pixels.to(self.model.dtype)).last_hidden_state
        return hidden[:, 1 + getattr(self.model.config, "num_register_tokens", 0) :].float()


class OpenClipEmbedding:
    """Patch tokens of the image tower of an open_clip model."""

    def __init__(self, model: CLIP, preprocess: Preprocess) -> None:
        """Wrap a loaded model."""
        self._tower = model.visual.eval()
        self._preprocess = preprocess

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Tokens `(pictures, tokens, channels)` after the last block and its norm.

        Args:
            images: `(pictures, 3, height, width)` in [0, 1].
        """
        weight = next(self._tower.parameters())
        pixels = self._preprocess(images.to(weight.device, torch.float32)).to(weight.dtype)
        found = self._tower.forward_intermediates(
            pixels,
            indices=1,
            output_fmt="NLC",
            intermediates_only=True,
            normalize_intermediates=True,
        )
        tokens: Tensor = found["image_intermediates"][-1]
        return tokens.float()


def load_embedding(spec: str, pipeline: Pipeline, device: str) -> Embedding:
    """An embedding by name.

    Args:
        spec: "auto" for shapes-clip on zoo models and DINOv2 elsewhere; "shapes-clip"; "dinov2" for
            ViT-L/14 with registers, as published; or a folder or hub id of another DINOv2.
        pipeline: the model whose pictures are to be embedded.
        device: where to.

    Raises:
        ConfigError: there is no such model.
    """
    if spec == "auto":
        from gensift.pipelines.loading import model_folder_of

        folder = model_folder_of(pipeline)
        spec = SHAPES_CLIP if folder is not None and folder.name in ZOO else "dinov2"
    return _load(DINOV2 if spec == "dinov2" else spec, device)


@functools.lru_cache(maxsize=2)
def _load(spec: str, device: str) -> Embedding:
    if spec == SHAPES_CLIP:
        from rewards.shapes import shapes_clip

        reward = shapes_clip(device=device)
        return OpenClipEmbedding(reward.model, reward.preprocess)
    if not spec or (not Path(spec).is_dir() and spec.count("/") != 1):
        raise ConfigError(
            f"Embedding {spec!r} is unknown; give auto, shapes-clip, dinov2, or a folder or hub id "
            "(owner/name) of a DINOv2."
        )
    from transformers import AutoModel

    with foreign_errors(f"Embedding {spec!r}", "Give a folder or hub id of a DINOv2", spec):
        model = AutoModel.from_pretrained(
            spec, use_safetensors=True, local_files_only=is_offline(spec)
        )
    if not model.config.model_type.startswith("dinov2"):
        raise ConfigError(
            f"Embedding {spec!r} is a {model.config.model_type}, not a DINOv2; give another."
        )
    return Dinov2Embedding(model.to(device))
