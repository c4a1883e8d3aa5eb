"""The training set of the class-conditional Shapes generators: pictures of a single object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import trange

from apps.training.bfm.features import ShapesClipFeatures
from gensift.pipelines.bfm.latents import encode_pictures
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
        vae, encoder = load_vae(), ShapesClipFeatures.load()
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


def _encode(vae: AutoencoderKL, encoder: ShapesClipFeatures, pixels: Tensor) -> dict[str, Tensor]:
    pictures = pixels / 2 + 0.5
    mean, std = encode_pictures(vae, pictures)
    return {"mean": mean.half(), "std": std.half(), "features": encoder(pictures, GRID).half()}
