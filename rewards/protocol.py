"""What a reward is, and the one way in which samplers call it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gensift.errors import RewardError

Images = Tensor | Sequence[Image.Image]
"""Float `(batch, 3, height, width)` in [0, 1], or PIL pictures of one size."""

# bfloat16 and resizing overshoot [0, 1] by less, a picture in [-1, 1] or [0, 255] by far more.
_RANGE_SLACK = 1e-3


@runtime_checkable
class Reward(Protocol):
    """Judges pictures; a plain function of this signature is a reward.

    An attribute `name` (a string) names it in results; see `reward_name`. A noise-aware reward also
    has `at_sigma(sigma)`, which returns the reward that judges estimates of clean pictures made at
    the noise level `sigma` (flow scale: 1 is pure noise, 0 a finished picture).
    """

    def __call__(self, images: Images, prompts: Sequence[str], /) -> Tensor:
        """Score each picture against its own prompt.

        Args:
            images: float `(batch, 3, height, width)` in [0, 1], or `batch` PIL pictures.
            prompts: `batch` prompts.

        Returns:
            float32 `(batch,)`, higher is better; a score must not depend on the rest of the batch.
        """
        ...


def reward_name(reward: Reward) -> str:
    """Name of a reward in results: its `name`, else the function's or the class's own."""
    name = getattr(reward, "name", None) or getattr(reward, "__name__", None)
    return name if isinstance(name, str) else type(reward).__name__


def is_noise_aware(reward: Any) -> bool:
    """Whether a reward judges early estimates otherwise than finished pictures."""
    return callable(getattr(reward, "at_sigma", None))


def scorer_at(reward: Reward, sigma: float | None) -> Reward:
    """What judges estimates of noise level `sigma`; None means finished pictures."""
    if sigma is None or not is_noise_aware(reward):
        return reward
    scorer: Reward = reward.at_sigma(sigma)  # type: ignore[attr-defined]
    return scorer


def to_tensor(images: Images, prompts: Sequence[str]) -> Tensor:
    """Check pictures and prompts and return the pictures as a float32 tensor.

    Args:
        images: float `(batch, 3, height, width)` in [0, 1], or PIL pictures of one size.
        prompts: one per picture.

    Returns:
        float32 `(batch, 3, height, width)` on the device of `images`; gradients pass through.
        NaN pixels are let through: they lead to a NaN score, which samplers discard.

    Raises:
        RewardError: wrong type, shape or range, no picture at all, or another number of prompts.
    """
    pictures = images if isinstance(images, Tensor) else _stack(images)
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
        raise RewardError(
            f"images are {_describe(pictures)}; a reward takes float (batch, 3, height, width) in "
            "[0, 1]."
        )
    if isinstance(prompts, str) or len(prompts) != len(pictures) or not len(pictures):
        given = "one string" if isinstance(prompts, str) else len(prompts)
        raise RewardError(
            f"{len(pictures)} images came with {given} as prompts; give at least one image and a "
            "list with one prompt for each."
        )
    low, high = (bound.item() for bound in pictures.detach().aminmax())
    if low < -_RANGE_SLACK or high > 1 + _RANGE_SLACK:
        raise RewardError(
            f"image values reach from {low:.3g} to {high:.3g}; a reward takes [0, 1], so rescale "
            "(from [-1, 1]: images / 2 + 0.5)."
        )
    return pictures.float()


def _stack(images: Sequence[Image.Image]) -> Tensor:
    listed = list(images)
    if not all(isinstance(image, Image.Image) for image in listed):
        kinds = ", ".join(sorted({type(image).__name__ for image in listed}))
        raise RewardError(f"images hold {kinds}; give one tensor or a list of PIL pictures.")
    sizes = sorted({image.size for image in listed})
    if len(sizes) != 1:
        shown = ", ".join(f"{width}x{height}" for width, height in sizes) or "none"
        raise RewardError(f"images have the sizes {shown}; give pictures of one size per call.")
    pixels = np.stack([np.asarray(image.convert("RGB")) for image in listed])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def call_reward(
    reward: Reward, images: Images, prompts: Sequence[str], max_images: int | None = None
) -> Tensor:
    """Call a reward and check what it returns.

    Args:
        reward: gets a tensor, whatever `images` is; may return a sequence of floats too.
        images: float `(batch, 3, height, width)` in [0, 1], or PIL pictures of one size.
        prompts: one per picture.
        max_images: pictures per call; None scores all in one.

    Returns:
        float32 `(batch,)` on the CPU, detached. Non-finite scores are left for the sampler.

    Raises:
        RewardError: bad pictures or prompts, or the reward returned no such tensor.
    """
    pictures = to_tensor(images, prompts)
    size = len(pictures) if max_images is None else max_images
    if size < 1:
        raise RewardError(f"max_images is {max_images}; give at least 1, or None for all.")
    scores = [
        check_scores(reward, reward(part, texts), len(part))
        for part, texts in (
            (pictures[start : start + size], prompts[start : start + size])
            for start in range(0, len(pictures), size)
        )
    ]
    return torch.cat(scores)


def check_scores(reward: Reward, returned: Any, count: int) -> Tensor:
    """What a reward returned for `count` samples as float32 `(count,)` on the CPU, detached.

    Raises:
        RewardError: it is no such tensor.
    """
    try:
        scores = returned if isinstance(returned, Tensor) else torch.as_tensor(returned)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RewardError(
            f"Reward {reward_name(reward)!r} returned {type(returned).__name__}; a reward returns "
            f"a float tensor of shape ({count},)."
        ) from error
    if scores.shape != (count,) or scores.is_complex():
        raise RewardError(
            f"Reward {reward_name(reward)!r} returned {_describe(scores)} for {count} samples; a "
            f"reward returns a float tensor of shape ({count},)."
        )
    return scores.detach().to("cpu", torch.float32)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
