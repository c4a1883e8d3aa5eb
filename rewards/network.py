"""What the rewards that ask a network have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from rewards.preprocess import Preprocess
from rewards.protocol import Images, to_tensor


class NetworkReward(ABC):
    """A reward whose score is that of a network; subclasses say how it is asked.

    Attributes:
        model: the network, in evaluation mode.
        preprocess: how it wants its pictures.
        name: name in results.
        dtype: that it computes in; scores are made in float32.
        differentiable: let gradients reach the pictures.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        *,
        name: str,
        dtype: torch.dtype = torch.float32,
        differentiable: bool = False,
    ) -> None:
        """Wrap a loaded model; arguments as the attributes."""
        self.model = model.eval()
        self.preprocess = preprocess
        self.name = name
        self.dtype = dtype
        self.differentiable = differentiable

    def __call__(self, images: Images, prompts: Sequence[str], /) -> Tensor:
        """Score pictures.

        Args:
            images: float `(batch, 3, height, width)` in [0, 1], or PIL pictures, of any size; not
                rounded to 8 bits, so a picture saved as PNG scores slightly differently.
            prompts: one per picture. A prompt longer than the model reads is cut, with a warning.

        Returns:
            float32 `(batch,)` on the model's device.

        Raises:
            RewardError: bad pictures, or another number of prompts.
        """
        with nullcontext() if self.differentiable else torch.no_grad():
            return self._score(self._pixels(images, prompts), prompts)

    @property
    def device(self) -> torch.device:
        """Where the network is now."""
        return next(self.model.parameters()).device

    def _pixels(self, images: Images, prompts: Sequence[str]) -> Tensor:
        """Pictures as the network takes them."""
        pictures = to_tensor(images, prompts)
        return self.preprocess(pictures.to(self.device)).to(self.dtype)

    @abstractmethod
    def _score(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores float32 `(batch,)` of preprocessed pictures on the network's device."""
