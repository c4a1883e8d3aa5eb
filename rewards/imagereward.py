"""ImageReward: what people prefer, by a BLIP model that reads the prompt in view of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
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
from rewards.open_clip_score import warn_if_cut
from rewards.preprocess import Preprocess
from rewards.protocol import Images, to_tensor
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


class ImageReward:
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
            preprocess: how the model wants its pictures.
            tokenizer: BERT's, of transformers.
            name: name in results.
            dtype: that the model computes in; its head computes in float32.
            differentiable: let gradients reach the pictures.
        """
        self.model = model.eval()
        self.preprocess = preprocess
        self.tokenizer = tokenizer
        self.name = name
        self.dtype = dtype
        self.differentiable = differentiable
        self._tokens: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, images: Images, prompts: Sequence[str], /) -> Tensor:
        """Score pictures.

        Args:
            images: float `(batch, 3, height, width)` in [0, 1], or PIL pictures, of any size.
            prompts: one per picture. A prompt of more than 35 tokens, marks included, is cut, with
                a warning.

        Returns:
            float32 `(batch,)` on the model's device.

        Raises:
            RewardError: bad pictures, or another number of prompts.
        """
        pictures = to_tensor(images, prompts)
        device = next(self.model.parameters()).device
        parts = zip(*(self._tokenize(prompt) for prompt in prompts), strict=True)
        tokens, mask = (torch.cat(part).to(device) for part in parts)
        with nullcontext() if self.differentiable else torch.no_grad():
            pixels = self.preprocess(pictures.to(device)).to(self.dtype)
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
