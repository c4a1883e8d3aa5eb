"""ImageReward: what people prefer, by a BLIP model that reads the prompt in view of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gensift.errors import ConfigError
from gensift.pipelines.loading import resolve_device
from rewards.blip import Blip, BlipSizes
from rewards.loading import (
    check_dtype,
    find_checkpoint,
    load_strictly,
    load_tokenizer,
    read_checkpoint,
)
from rewards.network import NetworkReward
from rewards.open_clip_score import warn_if_cut
from rewards.preprocess import Preprocess
from rewards.score_head import ScoreHead

CONTEXT_LENGTH = 35
# Mean and standard deviation of the raw scores, published with the model.
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072
# Of BLIP's training, without part in the score; and a buffer that old transformers saved.
_UNUSED = ("blip.text_proj.", "blip.vision_proj.", "blip.text_encoder.embeddings.position_ids")
_MARKS = ["[DEC]", "[ENC]"]
_MAX_CACHED_PROMPTS = 1024


class ImageRewardModel(nn.Module):
    """BLIP and the head on the state of its first token; keys as published."""

    def __init__(self, sizes: BlipSizes) -> None:
        """Make a network with random weights."""
        super().__init__()
        self.blip = Blip(sizes)
        self.mlp = ScoreHead(sizes.width)

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Raw scores, float32 `(batch,)`; arguments as of `Blip`."""
        raw: Tensor = self.mlp(self.blip(pixels, tokens, mask)[:, 0].float())
        return raw


class ImageReward(NetworkReward):
    """ImageReward v1.0: standardised, about -2.3 to 2.1.

    Source: Xu et al. 2023, "ImageReward", and its published code.
    """

    context_length = CONTEXT_LENGTH

    def __init__(
        self,
        model: ImageRewardModel,
        preprocess: Preprocess,
        tokenizer: Any,
        *,
        name: str = "imagereward",
        dtype: torch.dtype = torch.float32,
        differentiable: bool = False,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: its head in float32; put into evaluation mode.
            preprocess: see `NetworkReward`, as `name`, `dtype` and `differentiable`.
            tokenizer: BERT's, of transformers.
        """
        super().__init__(model, preprocess, name=name, dtype=dtype, differentiable=differentiable)
        self.tokenizer = tokenizer
        self._tokens: dict[str, tuple[Tensor, Tensor]] = {}

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        parts = zip(*(self._tokenize(prompt) for prompt in prompts), strict=True)
        tokens, mask = (torch.cat(part).to(pixels.device) for part in parts)
        scores: Tensor = (self.model(pixels, tokens, mask) - _MEAN) / _STD
        return scores

    def _tokenize(self, prompt: str) -> tuple[Tensor, Tensor]:
        """Ids and mask `(1, 35)`, padded, so that no batch can change them."""
        if prompt not in self._tokens:
            warn_if_cut(self, prompt)
            encoded = self.tokenizer(
                [prompt],
                padding="max_length",
                truncation=True,
                max_length=CONTEXT_LENGTH,
                return_tensors="pt",
            )
            if len(self._tokens) >= _MAX_CACHED_PROMPTS:
                self._tokens.pop(next(iter(self._tokens)))
            self._tokens[prompt] = encoded.input_ids, encoded.attention_mask.bool()
        return self._tokens[prompt]


def load_imagereward(
    checkpoint: str = "THUDM/ImageReward",
    tokenizer: str = "google-bert/bert-base-uncased",
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    differentiable: bool = False,
    allow_pickle: bool = False,
    sizes: BlipSizes | None = None,
    name: str = "imagereward",
) -> ImageReward:
    """Load ImageReward v1.0.

    Args:
        checkpoint: a file, a folder with `ImageReward.pt` or `.safetensors`, or a hub id; published
            as a pickle.
        tokenizer: BERT's, a folder or hub id; BLIP's two marks are added.
        device: "cpu", "cuda", "cuda:N" or "auto".
        dtype: float32, bfloat16 or float16.
        differentiable: let gradients reach the pictures.
        allow_pickle: read checkpoints other than safetensors too, with `weights_only=True`.
        sizes: of the network; None for the published one.
        name: name in results.

    Raises:
        ConfigError: no such checkpoint or tokenizer, a pickled checkpoint, or it does not fit.
        DeviceError: the device is absent.
    """
    check_dtype(dtype)
    target = resolve_device(device)
    file = find_checkpoint(checkpoint, "ImageReward.pt", allow_pickle=allow_pickle)
    words = load_tokenizer(tokenizer)
    words.add_tokens(_MARKS, special_tokens=True)
    chosen = sizes or BlipSizes()
    if len(words) != chosen.vocab_size:
        raise ConfigError(
            f"Tokenizer {tokenizer!r} has {len(words)} tokens with BLIP's marks, but the model "
            f"{chosen.vocab_size}; give the one of bert-base-uncased."
        )
    with torch.device("meta"):
        model = ImageRewardModel(chosen)
    load_strictly(model, read_checkpoint(file), file, _UNUSED)
    model.requires_grad_(False).to(target)
    model.blip.to(dtype)
    model.mlp.float()
    return ImageReward(
        model,
        Preprocess.from_open_clip({"size": chosen.image_size}),
        words,
        name=name,
        dtype=dtype,
        differentiable=differentiable,
    )
