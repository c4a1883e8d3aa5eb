"""Recipe of `shapes-clip`: an open_clip `CLIP` that tells true pictures from near misses.

Trained with a sigmoid loss on the exact truth of every picture-prompt pair in the batch, because
several prompts can be true of one picture.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from apps.training.zoo.shapes_latents import pick_prompts
from apps.training.zoo.shapes_pairs import Pairs, augment, build_pairs
from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from apps.training.zoo.vocabulary import CLIP_LENGTH, build_clip_tokenizer
from gensift.pipelines.loading import load_pipeline
from gensift.protocols import JsonObject
from gensift.zoo.shapes.split import training_meanings
from gensift.zoo.shapes.world import CANVAS

STEPS = 8_000
BATCH = 64
MUON_RATE = 0.01
ADAM_RATE = 1e-3
SEED = 43


def model_config() -> JsonObject:
    """The open_clip model configuration: 1.6 M parameters."""
    return {
        "embed_dim": 128,
        "init_logit_scale": float(np.log(10.0)),
        "init_logit_bias": -5.0,
        "vision_cfg": {
            "image_size": CANVAS,
            "patch_size": 8,
            "width": 128,
            "head_width": 32,
            "layers": 4,
        },
        "text_cfg": {
            "context_length": CLIP_LENGTH,
            "vocab_size": len(build_clip_tokenizer()),
            "hf_tokenizer_name": "shapes-clip",
            "width": 128,
            "heads": 4,
            "layers": 3,
        },
    }


def preprocess_config() -> JsonObject:
    """How pictures are prepared; read by open_clip beside the model configuration."""
    return {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }


def build() -> nn.Module:
    """A fresh model."""
    from open_clip.model import CLIP

    torch.manual_seed(SEED)
    model: nn.Module = CLIP(**model_config())
    return model


class PairLoss(nn.Module):
    """Sigmoid loss of a batch of pictures against its own prompts, true and nearly true.

    True pairs, near misses and all other wrong pairs weigh equally, however many of each there are.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, texts: Tensor, truth: Tensor, near: Tensor) -> Tensor:
        """`pixels` `(batch, 3, 64, 64)`; `texts` `(prompts, length)`; masks `(batch, prompts)`."""
        image, text, scale, bias = self.model(pixels, texts)
        logits = (scale * image @ text.T + bias).float()
        error = -logsigmoid(torch.where(truth, logits, -logits))
        groups = (truth, near & ~truth, ~truth & ~near)
        means = [(error * mask).sum() / mask.sum().clamp(min=1) for mask in groups]
        return means[0] + means[1] + means[2]


def publish(folder: Path, steps: int | None = None) -> Path:
    """Train in `folder` and write the finished model below it; needs the zoo's `shapes-flux`."""
    model = train(folder, STEPS if steps is None else steps)
    finished = folder / "model"
    save(model, finished)
    return finished


def train(folder: Path, steps: int = STEPS) -> nn.Module:
    """Train (or go on training) in `folder`; returns the model with averaged weights."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = build_pairs(load_pipeline("shapes-flux"), folder / "pairs.safetensors")
    model = build()
    tokens = build_clip_tokenizer()(
        [str(meaning) for meaning in training_meanings()],
        padding="max_length",
        max_length=CLIP_LENGTH,
        return_tensors="pt",
    ).input_ids
    loss = torch.compile(PairLoss(model))
    run = TrainingRun(
        folder,
        steps,
        {"clip": model},
        _build_optimizers(model),
        warmup_then_decay(0.05, 0.5),
        average_decay=0.998,
    )
    run.run(lambda step: _loss_at(step, loss, pairs, tokens))
    return model


def _build_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for key, parameter in model.named_parameters():
        is_matrix = "resblocks" in key and parameter.ndim == 2
        (matrices if is_matrix else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.02),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]


def _loss_at(
    step: int, loss: Callable[..., Tensor], pairs: Pairs, tokens: Tensor
) -> tuple[Tensor, LogRow]:
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    rows = torch.randint(len(pairs.pictures), (BATCH,), generator=generator)
    true, near = pairs.true[rows], pairs.near[rows]
    prompts = torch.cat([_pick(true, near, generator), _pick(near, near, generator)])
    is_true = (true[:, None, :] == prompts[None, :, None]).any(-1)
    is_near = (near[:, None, :] == prompts[None, :, None]).any(-1)
    pixels = augment(pairs.pictures[rows], generator) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(pixels, tokens[prompts], is_true, is_near)
    return value, {"loss": value.item()}


def _pick(choices: Tensor, otherwise: Tensor, generator: torch.Generator) -> Tensor:
    """One random prompt per row of `choices` (padded with -1), or the first of `otherwise`."""
    chosen = pick_prompts(choices, generator)
    return torch.where((choices >= 0).any(1), chosen, otherwise[:, 0])


def save(model: nn.Module, folder: Path) -> None:
    """Write the model as open_clip's `local-dir:` layout, weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": model_config(), "preprocess_cfg": preprocess_config()}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    build_clip_tokenizer().save_pretrained(folder)
