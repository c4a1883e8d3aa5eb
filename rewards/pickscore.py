"""PickScore: a CLIP model that was trained on which of two pictures people picked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gensift.pipelines.loading import resolve_device
from rewards.loading import check_dtype, load_clip, load_tokenizer
from rewards.open_clip_score import OpenClipReward
from rewards.preprocess import Preprocess


class ClipFeatures(nn.Module):
    """transformers' `CLIPModel` with the two functions of open_clip's."""

    def __init__(self, model: Any) -> None:
        """Wrap a loaded model."""
        super().__init__()
        self.model = model

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Features `(batch, width)` of normalised pictures, not of unit length."""
        return _features(self.model.get_image_features(pixel_values=pixels))

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Features `(batch, width)` of token ids, not of unit length."""
        return _features(self.model.get_text_features(input_ids=tokens))


def _features(output: Any) -> Tensor:
    # transformers 5 returns an output object, whose pooled part has been projected.
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features


class _ClipTokenizer:
    """A tokenizer of transformers, called as open_clip's are; for one prompt at a time.

    Nothing is padded: the model is causal and reads the end mark, so padding cannot count.
    """

    def __init__(self, tokenizer: Any, context_length: int) -> None:
        self.tokenizer = tokenizer
        self.context_length = context_length

    def __call__(self, prompts: list[str]) -> Tensor:
        tokens = self.tokenizer(
            prompts, truncation=True, max_length=self.context_length, return_tensors="pt"
        )
        ids: Tensor = tokens.input_ids
        return ids


def load_pickscore(
    model: str = "yuvalkirstain/PickScore_v1",
    processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    differentiable: bool = False,
    allow_pickle: bool = False,
    name: str = "pickscore",
) -> OpenClipReward:
    """Load PickScore: the cosine times the model's own scale, about 100; typically 18 to 25.

    Pictures are resized and cropped as CLIP's are. transformers places the crop of a picture that
    is not square up to one pixel before open_clip's, which is the one used here.

    Args:
        model: a folder or hub id in the layout of transformers' `CLIPModel`.
        processor: a folder or hub id that holds the tokenizer.
        device: "cpu", "cuda", "cuda:N" or "auto".
        dtype: float32, bfloat16 or float16.
        differentiable: let gradients reach the pictures.
        allow_pickle: read checkpoints other than safetensors too, with `weights_only=True`.
        name: name in results.

    Raises:
        ConfigError: no such model or tokenizer, a pickled model, or it cannot be read.
        DeviceError: the device is absent.

    Source: Kirstain et al. 2023, "Pick-a-Pic", and the published model card.
    """
    check_dtype(dtype)
    target = resolve_device(device)
    tokenizer = load_tokenizer(processor)
    loaded = load_clip(model, allow_pickle=allow_pickle)
    scale = loaded.logit_scale.exp().item()  # before its precision is lowered
    return OpenClipReward(
        ClipFeatures(loaded.to(target, dtype)),
        Preprocess.from_open_clip({"size": loaded.config.vision_config.image_size}),
        _ClipTokenizer(tokenizer, loaded.config.text_config.max_position_embeddings),
        name=name,
        scale=scale,
        dtype=dtype,
        differentiable=differentiable,
    )
