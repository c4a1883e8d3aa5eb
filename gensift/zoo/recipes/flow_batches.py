"""Batches of class-conditional flow matching, and the optimisers of its transformers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gensift.zoo.recipes.shapes_classes import CLASSES, LabelledLatents

BATCH = 128
LABEL_DROPOUT = 0.1
MUON_RATE = 0.01
ADAM_RATE = 1.5e-3
SEED = 89


@dataclass(frozen=True)
class FlowBatch:
    """Rows of equal number for each stretch between boundaries, the noisiest first.

    Attributes:
        data, noise: `(batch, 16, 8, 8)`.
        sigma: share of noise `(batch,)`, uniform inside the stretch.
        start: the sigma at which the stretch begins `(batch,)`.
        labels: int64 `(batch,)`; the number of classes where the label is withheld.
        features: of the clean picture `(batch, 16, 128)`.
    """

    data: Tensor
    noise: Tensor
    sigma: Tensor
    start: Tensor
    labels: Tensor
    features: Tensor

    @property
    def velocity(self) -> Tensor:
        """Noise minus data."""
        return self.noise - self.data

    def latents_at(self, sigma: Tensor) -> Tensor:
        """The pairs of data and noise, mixed by `sigma` `(batch,)`."""
        return self.data + sigma[:, None, None, None] * self.velocity


def flow_batch(
    step: int, latents: LabelledLatents, boundaries: tuple[float, ...], size: int = BATCH
) -> FlowBatch:
    """The batch of a step; `size` is a multiple of the number of stretches."""
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    data, labels, features = latents.draw(size, generator)
    dropped = torch.rand(size, generator=generator) < LABEL_DROPOUT
    start, end = (
        torch.tensor(edges).repeat_interleave(size // (len(boundaries) - 1))
        for edges in (boundaries[:-1], boundaries[1:])
    )
    return FlowBatch(
        data=data,
        noise=torch.randn(data.shape, generator=generator),
        sigma=start + (end - start) * torch.rand(size, generator=generator),
        start=start,
        labels=labels.masked_fill(dropped, len(CLASSES)),
        features=features,
    )


def initialise(transformer: nn.Module) -> None:
    """Small normal weights; what starts at zero (modulations, the final layer) is left so."""
    for name, parameter in transformer.named_parameters():
        if parameter.ndim >= 2 and bool(parameter.any()):
            nn.init.normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def build_optimizers(*modules: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for everything else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            is_matrix = "blocks." in name and parameter.ndim == 2
            (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]
