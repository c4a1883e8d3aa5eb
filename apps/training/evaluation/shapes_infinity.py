"""Figures of `shapes-infinity`: GenEval-mini, and how faithful its bitwise tokenizer is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from apps.training.evaluation.scenes import fidelity, geneval_figures
from gensift.pipelines.infinity.tokenizer import InfinityTokenizer
from gensift.pipelines.loading import load_pipeline
from gensift.pipelines.next_scale.scales import Scale
from gensift.protocols import JsonObject, Pipeline


def evaluate() -> JsonObject:
    """Figures of the embedded `shapes-infinity`: one sample per prompt at the default settings."""
    pipe: Pipeline = load_pipeline("shapes-infinity")
    return geneval_figures(pipe) | {
        "reconstructions_verified": tokenizer_fidelity(pipe.vae, pipe.schedule().scales),
    }


def tokenizer_fidelity(
    tokenizer: InfinityTokenizer, scales: Sequence[Scale], count: int = 500, seed: int = 6
) -> float:
    """Share of rendered scenes that still verify when they are drawn from their bits alone."""

    def reconstruct(pictures: Tensor) -> Tensor:
        bits = tokenizer.quantize(tokenizer.encode(pictures), scales)
        decoded: Tensor = tokenizer.decode(bits.latents)
        return decoded

    return fidelity(reconstruct, count, seed)
