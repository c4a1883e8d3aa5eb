"""The LAION aesthetic score: how much people like a picture, whatever it was asked to show."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from gensift.pipelines.loading import resolve_device
from rewards.loading import (
    check_dtype,
    find_checkpoint,
    load_clip,
    load_strictly,
    read_checkpoint,
)
from rewards.network import NetworkReward
from rewards.pickscore import ClipFeatures
from rewards.preprocess import Preprocess
from rewards.score_head import ScoreHead


class AestheticReward(NetworkReward):
    """Score of about 1 to 10, typically 5 to 7; prompts are not looked at.

    Source: LAION "improved aesthetic predictor": a linear head on the unit-length image embedding
    of OpenAI's CLIP ViT-L/14.
    """

    def __init__(
        self,
        model: nn.Module,
        head: ScoreHead,
        preprocess: Preprocess,
        *,
        name: str = "aesthetic",
        dtype: torch.dtype = torch.float32,
        differentiable: bool = False,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: with open_clip's `encode_image`; put into evaluation mode.
            head: in float32.
            preprocess: see `NetworkReward`, as `name`, `dtype` and `differentiable`.
        """
        super().__init__(model, preprocess, name=name, dtype=dtype, differentiable=differentiable)
        self.head = head.eval()

    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        embeddings: Tensor = self.model.encode_image(pixels)  # type: ignore[operator]
        scores: Tensor = self.head(normalize(embeddings.float(), dim=-1))
        return scores


def load_aesthetic(
    model: str = "openai/clip-vit-large-patch14",
    head: str = "trl-lib/ddpo-aesthetic-predictor",
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    differentiable: bool = False,
    allow_pickle: bool = False,
    name: str = "aesthetic",
) -> AestheticReward:
    """Load the aesthetic predictor.

    The defaults are the ones that trl and tt-scale-flux use; the head is published as a pickle.

    Args:
        model: the CLIP model, a folder or hub id in the layout of transformers.
        head: a file with the keys of `ScoreHead` (such as `sac+logos+ava1-l14-linearMSE.pth`), a
            folder with `aesthetic-model.pth` or `.safetensors`, or a hub id.
        device: "cpu", "cuda", "cuda:N" or "auto".
        dtype: float32, bfloat16 or float16.
        differentiable: let gradients reach the pictures.
        allow_pickle: read checkpoints other than safetensors too, with `weights_only=True`.
        name: name in results.

    Raises:
        ConfigError: no such model or head, a pickled one, or it cannot be read.
        DeviceError: the device is absent.
    """
    check_dtype(dtype)
    target = resolve_device(device)
    file = find_checkpoint(head, "aesthetic-model.pth", allow_pickle=allow_pickle)
    state = read_checkpoint(file)
    loaded = load_clip(model, allow_pickle=allow_pickle)
    loaded.text_model = None  # prompts are not looked at
    scorer = ScoreHead(loaded.config.projection_dim)
    load_strictly(scorer, state, file)
    return AestheticReward(
        ClipFeatures(loaded.to(target, dtype)),
        scorer.requires_grad_(False).to(target, torch.float32),
        Preprocess.from_open_clip({"size": loaded.config.vision_config.image_size}),
        name=name,
        dtype=dtype,
        differentiable=differentiable,
    )
