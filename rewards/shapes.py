"""Rewards of the Shapes world: the analytic verifier, and the zoo's own CLIP model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gensift.errors import RewardError
from gensift.zoo.catalog import model_folder
from gensift.zoo.shapes.grammar import parse
from gensift.zoo.shapes.verifier import detect, verdict
from gensift.zoo.shapes.world import CANVAS
from rewards.protocol import Images, to_tensor

if TYPE_CHECKING:
    from rewards.open_clip_score import OpenClipReward


class ShapesVerifierReward:
    """1.0 for a picture that holds exactly what its prompt names; partial credit up to 0.75.

    It also judges the benchmark, so a search that optimises it cannot be judged by GenEval-mini.
    """

    name = "shapes-verifier"

    def __call__(self, images: Images, prompts: Sequence[str], /) -> Tensor:
        """Score pictures.

        Args:
            images: float `(batch, 3, 64, 64)` in [0, 1], or PIL pictures; rounded to 8 bits.
            prompts: of the Shapes grammar, one per picture.

        Returns:
            float32 `(batch,)` on the CPU; NaN for a picture that holds a NaN.

        Raises:
            ConfigError: a prompt is not of the grammar.
            RewardError: the pictures are not 64x64.
        """
        pictures = to_tensor(images, prompts).detach().cpu()
        if pictures.shape[2:] != (CANVAS, CANVAS):
            raise RewardError(
                f"images are {pictures.shape[3]}x{pictures.shape[2]} pixels; the Shapes verifier "
                f"judges {CANVAS}x{CANVAS}. Use another reward, such as clip-score."
            )
        is_valid = pictures.isfinite().flatten(1).all(1)
        pixels = (pictures.nan_to_num().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
        meanings = [parse(prompt) for prompt in prompts]
        num_scored = [
            verdict(detect(picture.numpy()), meaning)
            for picture, meaning in zip(pixels, meanings, strict=True)
        ]
        return torch.where(is_valid, torch.tensor(num_scored, dtype=torch.float32), torch.nan)


def shapes_verifier(*, device: str = "cpu") -> ShapesVerifierReward:
    """Load the analytic verifier; it always runs on the CPU, whatever `device` is."""
    return ShapesVerifierReward()


def shapes_clip(*, device: str = "cpu") -> OpenClipReward:
    """Load the zoo model `shapes-clip`: the cosine of a Shapes picture and its prompt.

    Raises:
        ConfigError: its weights are missing.
    """
    from rewards.open_clip_score import load_clip_score

    return load_clip_score(
        f"local-dir:{model_folder('shapes-clip')}", device=device, name="shapes-clip"
    )
