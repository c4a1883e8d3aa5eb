"""Figures of `shapes-flux`: GenEval-mini, and how faithful its autoencoder is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from apps.training.evaluation.scenes import fidelity, geneval_figures
from gensift.pipelines.loading import load_pipeline
from gensift.protocols import JsonObject, Pipeline

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def evaluate() -> JsonObject:
    """Figures of the embedded `shapes-flux`: one sample per prompt at the default settings."""
    pipe: Pipeline = load_pipeline("shapes-flux")
    return geneval_figures(pipe) | {
        "vae_reconstructions_verified": vae_fidelity(pipe.vae),
    }


def vae_fidelity(vae: AutoencoderKL, count: int = 500, seed: int = 6) -> float:
    """Share of rendered scenes that still verify after a pass through the autoencoder."""

    def reconstruct(pictures: Tensor) -> Tensor:
        latents = vae.encode((pictures * 2 - 1).to(vae.dtype)).latent_dist.mode()
        decoded: Tensor = (vae.decode(latents).sample.float() + 1) / 2
        return decoded

    return fidelity(reconstruct, count, seed)
