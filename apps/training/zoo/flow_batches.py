"""Batches of class-conditional flow matching, and the optimisers of its transformers."""

from __future__ import annotations

import torch
from torch import nn

from apps.training.bfm.batches import FlowBatch, make_batch
from apps.training.zoo.shapes_classes import CLASSES, LabelledLatents

BATCH = 128
LABEL_DROPOUT = 0.1
MUON_RATE = 0.01
ADAM_RATE = 1.5e-3
SEED = 89


def flow_batch(
    step: int, latents: LabelledLatents, boundaries: tuple[float, ...], size: int = BATCH
) -> FlowBatch:
    """The batch of a step."""
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    data, labels, features = latents.draw(size, generator)
    return make_batch(
        data,
        labels,
        features,
        boundaries,
        null_label=len(CLASSES),
        label_dropout=LABEL_DROPOUT,
        generator=generator,
    )


def build_optimizers(*modules: nn.Module, rate: float = 1.0) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for everything else; rates times `rate`."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            is_matrix = "blocks." in name and parameter.ndim == 2
            (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=rate * MUON_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=rate * ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]
