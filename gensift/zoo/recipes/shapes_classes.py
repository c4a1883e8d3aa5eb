"""The training set of the class-conditional Shapes generators: pictures of a single object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import avg_pool2d
from tqdm import trange

from gensift.zoo.catalog import model_folder
from gensift.zoo.shapes.grammar import KINDS, Meaning
from gensift.zoo.shapes.scenes import place
from gensift.zoo.shapes.world import render

CLASSES = tuple(str(Meaning(kind)) for kind in KINDS)
"""Name of each class, a prompt of the Shapes world; its place is the label."""
PICTURES = 24_000
SEED = 83
GRID = 4
"""Tokens along a side of what the generators see."""
_ENCODE_BATCH = 128


@dataclass(frozen=True)
class LabelledLatents:
    """Encoded pictures.

    Attributes:
        mean, std: of each picture's posterior, float16 `(pictures, 16, 8, 8)`, normalised as the
            pipeline expects.
        labels: int64 `(pictures,)`.
        features: of `shapes-clip`, float16 `(pictures, 16, 128)`, one for each patch of 16 x 16
            pixels, which is what a generator's token covers.
    """

    mean: Tensor
    std: Tensor
    labels: Tensor
    features: Tensor

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A random batch: float32 latents `(size, 16, 8, 8)`, labels, float32 features."""
        rows = torch.randint(len(self.labels), (size,), generator=generator)
        noise = torch.randn(self.mean[rows].shape, generator=generator)
        latents = self.mean[rows].float() + self.std[rows].float() * noise
        return latents, self.labels[rows], self.features[rows].float()


def load_vae() -> AutoencoderKL:
    """The published autoencoder of `shapes-flux`."""
    return AutoencoderKL.from_pretrained(model_folder("shapes-flux") / "vae").eval()


def load_feature_encoder() -> Any:
    """The published picture encoder of `shapes-clip`; it returns a vector, and normed patches."""
    import open_clip

    location = f"local-dir:{model_folder('shapes-clip')}"
    encoder = open_clip.create_model_and_transforms(location)[0].visual.eval()
    encoder.output_tokens = True
    return encoder.requires_grad_(False)


def draw_pictures(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Pictures of one object, all classes in turn, in [-1, 1] `(count, 3, 64, 64)`, and labels."""
    labels = np.arange(count) % len(KINDS)
    pixels = np.stack([render(place([KINDS[label]], rng)) for label in labels])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.from_numpy(
        labels
    )


@torch.no_grad()
def encode_classes(cache: Path, count: int = PICTURES) -> LabelledLatents:
    """Draw and encode the training set, or read it from `cache` when it is there already."""
    if not cache.exists():
        vae, encoder = load_vae(), load_feature_encoder()
        rng = np.random.default_rng(SEED)
        parts: list[dict[str, Tensor]] = []
        for start in trange(0, count, _ENCODE_BATCH, desc="encode pictures", unit="batch"):
            pixels, labels = draw_pictures(min(_ENCODE_BATCH, count - start), rng)
            parts.append(_encode(vae, encoder, pixels) | {"labels": labels})
        arrays = {name: torch.cat([p[name] for p in parts]).contiguous() for name in parts[0]}
        cache.parent.mkdir(parents=True, exist_ok=True)
        aside = cache.with_suffix(".tmp")
        save_file(arrays, aside)
        aside.replace(cache)
    return LabelledLatents(**load_file(cache))


def _encode(vae: AutoencoderKL, encoder: Any, pixels: Tensor) -> dict[str, Tensor]:
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor
    posterior = vae.encode(pixels).latent_dist
    return {
        "mean": ((posterior.mean - shift) * scale).half(),
        "std": (posterior.std * scale).half(),
        "features": patch_features(encoder, pixels).half(),
    }


def patch_features(encoder: Any, pixels: Tensor) -> Tensor:
    """Features `(pictures, 16, channels)` of pictures in [-1, 1], as `shapes-clip` takes them."""
    patches = encoder(pixels)[1]
    side = round(patches.shape[1] ** 0.5)
    grid = patches.transpose(1, 2).unflatten(2, (side, side))
    return avg_pool2d(grid, side // GRID).flatten(2).transpose(1, 2)
