"""Recipe of `shapes-infinity`: a small Infinity, trained on the bits of rendered scenes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import trange
from transformers import T5EncoderModel

from apps.training.zoo import shapes_tokenizer
from apps.training.zoo.publishing import publish_pipeline
from apps.training.zoo.shapes_latents import draw_scenes, pick_prompts
from apps.training.zoo.shapes_tokenizer import SCHEDULE
from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from apps.training.zoo.vocabulary import T5_LENGTH, build_t5_tokenizer
from gensift.pipelines.infinity.pipeline import InfinityPipeline
from gensift.pipelines.infinity.tokenizer import InfinityTokenizer
from gensift.pipelines.infinity.transformer import InfinityTransformer
from gensift.zoo.catalog import model_folder
from gensift.zoo.shapes.split import training_meanings
from gensift.zoo.shapes.world import render

STEPS = 4_400
BATCH = 48
MUON_RATE = 0.01
ADAM_RATE = 1.5e-3
PROMPT_DROPOUT = 0.1
MAX_FLIPS = 0.2
SCENES = 81_920
SCENE_SEED = 67
SEED = 71
LAYERS, HEADS, HEAD_DIM = 6, 4, 32
DEFAULTS = {"guidance_scale": 3.0, "temperature": 0.85, "top_p": 0.97}
"""Call arguments of the published pipeline."""
_ENCODE_BATCH = 128


@dataclass(frozen=True)
class TokenScenes:
    """Scenes as latents that are not yet quantized, and the prompts true of them.

    Attributes:
        latents: float16 `(scenes, 16, 8, 8)`.
        prompts: int64 `(scenes, 6)`, indices into `training_meanings()`; -1 pads.
    """

    latents: Tensor
    prompts: Tensor

    def draw(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A random batch: float32 latents and one true prompt each."""
        rows = torch.randint(len(self.latents), (size,), generator=generator)
        return self.latents[rows].float(), pick_prompts(self.prompts[rows], generator)


@torch.no_grad()
def encode_scenes(tokenizer: InfinityTokenizer, cache: Path, count: int = SCENES) -> TokenScenes:
    """Draw and encode the training set, or read it from `cache` when it is there already."""
    if not cache.exists():
        scenes, prompts = draw_scenes(count, SCENE_SEED)
        latents = []
        for start in trange(0, count, _ENCODE_BATCH, desc="encode scenes", unit="batch"):
            pixels = np.stack([render(scene) for scene in scenes[start : start + _ENCODE_BATCH]])
            pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            with torch.autocast("cpu", torch.bfloat16):
                latents.append(tokenizer.encode(pictures).half())
        arrays = {"latents": torch.cat(latents).contiguous(), "prompts": torch.from_numpy(prompts)}
        aside = cache.with_suffix(".tmp")
        save_file(arrays, aside)
        aside.replace(cache)
    return TokenScenes(**load_file(cache))


@dataclass(frozen=True)
class Batch:
    """Bits to predict, what the model sees before, and the prompts.

    Attributes:
        bits: int64 `(batch, tokens, 16)`.
        inputs: per scale but the first `(batch, 16, h, w)`.
        text_ids: `(batch, length)`.
        is_real: bool `(batch, length)`, false at padding.
        is_dropped: bool `(batch,)`, whether the prompt is withheld.
    """

    bits: Tensor
    inputs: list[Tensor]
    text_ids: Tensor
    is_real: Tensor
    is_dropped: Tensor


class BitLoss(nn.Module):
    """Cross-entropy of all bits, each scale predicted from the coarser ones.

    A scale weighs as the root of its number of tokens: what a picture shows is settled on the
    coarse grids, which would hardly count among so many fine tokens.
    """

    weights: Tensor

    def __init__(self, transformer: InfinityTransformer, text_encoder: T5EncoderModel) -> None:
        super().__init__()
        counts = torch.tensor(SCHEDULE.token_counts)
        weights = counts.rsqrt().repeat_interleave(counts)
        self.register_buffer("weights", weights / weights.sum(), persistent=False)
        self.transformer = transformer
        self.text_encoder = text_encoder

    def forward(self, batch: Batch) -> Tensor:
        """Mean error of a batch's bits, scales weighted: a scalar."""
        text = self.text_encoder(batch.text_ids, attention_mask=batch.is_real.long())[0]
        nothing = self.transformer.unconditional_text[: text.shape[1]]
        text = torch.where(batch.is_dropped[:, None, None], nothing, text)
        conditions = self.transformer.conditions_of_batch(text, batch.is_real[:, None, None])
        own = torch.arange(len(text))
        logits = self.transformer(batch.inputs, SCHEDULE, conditions, own)
        errors = cross_entropy(
            torch.unflatten(logits, -1, (-1, 2)).flatten(0, 2),
            batch.bits.flatten(),
            reduction="none",
        )
        return (errors.view(batch.bits.shape).mean((0, 2)) * self.weights).sum()


def build_transformer() -> InfinityTransformer:
    """A fresh transformer of 1.8 M parameters."""
    torch.manual_seed(SEED)
    transformer: InfinityTransformer = InfinityTransformer(
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        token_channels=16,
        text_channels=HEADS * HEAD_DIM,
        text_max_length=T5_LENGTH,
        pooling_heads=HEADS,
    )
    for name, parameter in transformer.named_parameters():
        if parameter.ndim >= 2:
            # Gates and the head start near zero, so that training begins with shallow paths.
            is_small = "modulation" in name or name.startswith(("head.", "head_norm"))
            nn.init.normal_(parameter, std=0.002 if is_small else 0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    with torch.no_grad():
        # Gates of one: the first two of the six vectors.
        transformer.shared_modulation.bias[: 2 * transformer.width].fill_(1.0)
    return transformer


def publish(folder: Path, steps: int | None = None) -> Path:
    """Train in `folder` and write the finished pipeline below it, weights in float16."""
    return publish_pipeline(
        train(folder, STEPS if steps is None else steps), folder / "model", DEFAULTS
    )


def train(folder: Path, steps: int = STEPS) -> InfinityPipeline:
    """Train (or go on training) in `folder`; needs the zoo's `shapes-flux` for its text encoder."""
    tokenizer = shapes_tokenizer.train(folder / "tokenizer")
    scenes = encode_scenes(tokenizer, folder / "scenes.safetensors")
    transformer = build_transformer()
    text_encoder = T5EncoderModel.from_pretrained(model_folder("shapes-flux") / "text_encoder_2")
    modules: dict[str, nn.Module] = {"transformer": transformer, "text_encoder": text_encoder}
    texts = [str(meaning) for meaning in training_meanings()]
    tokens = build_t5_tokenizer()(texts, padding="max_length", return_tensors="pt")
    ids, is_real = tokens.input_ids, tokens.attention_mask.bool()
    loss = torch.compile(BitLoss(transformer, text_encoder))
    run = TrainingRun(
        folder / "transformer",
        steps,
        modules,
        build_optimizers(modules),
        warmup_then_decay(0.02, 0.6),
        average_decay=0.9995,
    )

    def loss_at(step: int) -> tuple[Tensor, LogRow]:
        batch = batch_at(step, tokenizer, scenes, ids, is_real)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(batch)
        return value, {"loss": value.item()}

    run.run(loss_at)
    return InfinityPipeline(
        transformer, tokenizer, text_encoder, build_t5_tokenizer(), scales=SCHEDULE.scales
    )


@torch.no_grad()
def batch_at(
    step: int, tokenizer: InfinityTokenizer, scenes: TokenScenes, ids: Tensor, is_real: Tensor
) -> Batch:
    """The batch of a step, some of its bits turned over on the way (bitwise self-correction).

    `ids` int64 and `is_real` bool, both `(prompts, length)`.
    """
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    latents, prompts = scenes.draw(BATCH, generator)
    strength = torch.rand(BATCH, 1, 1, 1, generator=generator) * MAX_FLIPS
    channels = tokenizer.token_channels
    flips = [
        torch.rand(BATCH, channels, *scale, generator=generator) < strength
        for scale in SCHEDULE.scales[:-1]
    ]
    coded = tokenizer.quantize(latents, SCHEDULE.scales, flips)
    return Batch(
        bits=torch.cat([grid.flatten(2) for grid in coded.bits], dim=2).transpose(1, 2).long(),
        inputs=coded.inputs,
        text_ids=ids[prompts],
        is_real=is_real[prompts],
        is_dropped=torch.rand(BATCH, generator=generator) < PROMPT_DROPOUT,
    )


def build_optimizers(modules: dict[str, nn.Module]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformer's blocks, AdamW for everything else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, module in modules.items():
        for key, parameter in module.named_parameters():
            in_block = name == "transformer" and key.startswith("blocks.")
            (matrices if in_block and parameter.ndim == 2 else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01),
        torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
    ]
