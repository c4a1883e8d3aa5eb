"""Recipe of `shapes-flux`: a tiny FLUX, text encoders included, trained by flow matching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from apps.training.zoo import shapes_vae
from apps.training.zoo.publishing import publish_pipeline
from apps.training.zoo.shapes_latents import LatentScenes, encode_scenes
from apps.training.zoo.training import LogRow, TrainingRun, warmup_then_decay
from apps.training.zoo.vocabulary import (
    CLIP_LENGTH,
    T5_LENGTH,
    build_clip_tokenizer,
    build_t5_tokenizer,
)
from gensift.denoising.modules import flux_token_places, flux_tokens
from gensift.zoo.shapes.split import training_meanings
from gensift.zoo.shapes.world import CANVAS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STEPS = 24_000
BATCH = 128
MUON_RATE = 0.01
ADAM_RATE = 1.5e-3
PROMPT_DROPOUT = 0.1
SEED = 31
WIDTH, HEADS = 128, 4
POOLED = 64
DEFAULTS = {
    "height": CANVAS,
    "width": CANVAS,
    "num_inference_steps": 20,
    "true_cfg_scale": 3.5,
    "negative_prompt": "",
    "max_sequence_length": T5_LENGTH,
}
"""Call arguments of the published pipeline.

The guidance scale is the best of 2.5, 3, 3.5 and 4 on other seeds than those of the figures.
"""


def build_transformer() -> FluxTransformer2DModel:
    """A FLUX transformer of 2.3 M parameters that sees a picture as 16 tokens."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=POOLED,
        axes_dims_rope=(8, 12, 12),
        guidance_embeds=False,
    )


def build_pipeline(vae: AutoencoderKL) -> FluxPipeline:
    """A fresh, untrained pipeline around `vae`."""
    torch.manual_seed(SEED)
    clip_tokenizer, t5_tokenizer = build_clip_tokenizer(), build_t5_tokenizer()
    clip = CLIPTextConfig(
        vocab_size=len(clip_tokenizer),
        hidden_size=POOLED,
        intermediate_size=2 * POOLED,
        projection_dim=POOLED,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CLIP_LENGTH,
        bos_token_id=clip_tokenizer.bos_token_id,
        eos_token_id=clip_tokenizer.eos_token_id,
        pad_token_id=clip_tokenizer.pad_token_id,
    )
    t5 = T5Config(
        vocab_size=len(t5_tokenizer),
        d_model=WIDTH,
        d_ff=2 * WIDTH,
        d_kv=WIDTH // HEADS,
        num_layers=2,
        num_heads=HEADS,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
        vae=vae,
        text_encoder=CLIPTextModel(clip),
        tokenizer=clip_tokenizer,
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=t5_tokenizer,
        transformer=build_transformer(),
    )


@dataclass(frozen=True)
class PromptTokens:
    """Tokenised prompts; the last row is the empty prompt (the unconditional one)."""

    clip: Tensor
    t5: Tensor

    @classmethod
    def of(cls, pipeline: FluxPipeline, prompts: list[str]) -> PromptTokens:
        """Tokenise `prompts` as the pipeline does, but for the article."""
        arguments = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        texts = [*prompts, ""]
        clip, t5 = pipeline.tokenizer, pipeline.tokenizer_2
        return cls(
            _one_article(clip, clip(texts, max_length=CLIP_LENGTH, **arguments).input_ids),
            _one_article(t5, t5(texts, max_length=T5_LENGTH, **arguments).input_ids),
        )


def _one_article(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> Tensor:
    """`ids` with every "an" replaced by "a".

    Only orange things take "an"; as a word of its own it would have to be learnt anew from them
    that an article means one.
    """
    a, an = _articles(tokenizer)
    return ids.masked_fill(ids == an, a)


def _articles(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    # The last token is the end mark.
    a, an = (tokenizer(word).input_ids[-2] for word in ("a", "an"))
    return a, an


@torch.no_grad()
def share_article(pipeline: FluxPipeline) -> None:
    """Make the encoders read "an" as the "a" that they were trained on."""
    for tokenizer, encoder in (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        a, an = _articles(tokenizer)
        table = encoder.get_input_embeddings().weight
        table[an] = table[a]


class FlowMatchingLoss(nn.Module):
    """Mean squared error of the velocity (noise minus data) at logit-normal times."""

    def __init__(self, pipeline: FluxPipeline) -> None:
        super().__init__()
        self.transformer = pipeline.transformer
        self.clip = pipeline.text_encoder
        self.t5 = pipeline.text_encoder_2
        self.register_buffer("text_ids", torch.zeros(T5_LENGTH, 3), persistent=False)
        self.register_buffer("image_ids", flux_token_places(4, 4), persistent=False)

    def forward(
        self, data: Tensor, noise: Tensor, sigma: Tensor, clip_ids: Tensor, t5_ids: Tensor
    ) -> Tensor:
        """`data`, `noise`: packed latents `(batch, 16, 64)`; `sigma`: `(batch,)` in (0, 1)."""
        weight = sigma[:, None, None]
        velocity = self.transformer(
            hidden_states=(1 - weight) * data + weight * noise,
            timestep=sigma,
            pooled_projections=self.clip(clip_ids).pooler_output,
            encoder_hidden_states=self.t5(t5_ids)[0],
            txt_ids=self.text_ids,
            img_ids=self.image_ids,
            return_dict=False,
        )[0]
        return nn.functional.mse_loss(velocity.float(), noise - data)


def pack(latents: Tensor) -> Tensor:
    """`(batch, 16, 8, 8)` latents to the `(batch, 16, 64)` tokens that FLUX sees."""
    return flux_tokens(latents)


def build_optimizers(modules: dict[str, nn.Module]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the transformer's blocks, AdamW for everything else."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, module in modules.items():
        for key, parameter in module.named_parameters():
            in_block = name == "transformer" and "transformer_blocks" in key
            (matrices if in_block and parameter.ndim == 2 else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01)
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    return [muon, adam]


def publish(folder: Path, steps: int | None = None) -> Path:
    """Train in `folder` and write the finished pipeline below it, weights in float16."""
    pipeline = train(folder, STEPS if steps is None else steps)
    return publish_pipeline(pipeline, folder / "model", DEFAULTS)


def train(folder: Path, steps: int = STEPS) -> FluxPipeline:
    """Train (or go on training) in `folder`; returns the pipeline with averaged weights."""
    vae = shapes_vae.train(folder / "vae")
    scenes = encode_scenes(vae, folder / "latents.safetensors")
    pipeline = build_pipeline(vae)
    names = ("transformer", "text_encoder", "text_encoder_2")
    modules: dict[str, nn.Module] = {name: getattr(pipeline, name) for name in names}
    tokens = PromptTokens.of(pipeline, [str(meaning) for meaning in training_meanings()])
    loss = torch.compile(FlowMatchingLoss(pipeline))
    run = TrainingRun(
        folder / "transformer",
        steps,
        modules,
        build_optimizers(modules),
        warmup_then_decay(0.02, 0.6),
        average_decay=0.9995,
    )
    run.run(lambda step: _loss_at(step, loss, scenes, tokens))
    share_article(pipeline)
    return pipeline


def _loss_at(
    step: int, loss: Callable[..., Tensor], scenes: LatentScenes, tokens: PromptTokens
) -> tuple[Tensor, LogRow]:
    generator = torch.Generator().manual_seed(SEED * 1_000_003 + step)
    latents, prompts = scenes.draw(BATCH, generator)
    dropped = torch.rand(BATCH, generator=generator) < PROMPT_DROPOUT
    prompts = prompts.masked_fill(dropped, len(tokens.clip) - 1)
    data = pack(latents)
    noise = torch.randn(data.shape, generator=generator)
    sigma = torch.sigmoid(torch.randn(BATCH, generator=generator))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(data, noise, sigma, tokens.clip[prompts], tokens.t5[prompts])
    return value, {"loss": value.item()}
