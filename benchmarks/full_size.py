"""Random-weight pipelines as large as SDXL, FLUX.1, Wan 2.1 and Infinity-2B, without a download.

Time, memory and FLOPs of a pipeline depend on the shapes of its weights, not on their values. The
denoisers and VAEs have the published configurations; the text encoders have the published widths
and lengths but few layers, since a prompt is encoded once however many candidates there are. All of
a pipeline is of one dtype; of a real Wan diffusers keeps norms and time embedding in float32.
Pictures are noise, so nothing can be learnt here about rewards.

The tiny variants have the same classes and block structure in small widths, for tests on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from apps.training.zoo.vocabulary import build_clip_tokenizer, build_t5_tokenizer
from gensift.pipelines.infinity.pipeline import InfinityPipeline
from gensift.pipelines.infinity.tokenizer import InfinityTokenizer
from gensift.pipelines.infinity.transformer import InfinityTransformer
from rewards.open_clip_score import OpenClipReward
from rewards.preprocess import Preprocess

CLIP_TOKENS = 77
TEXT_LAYERS = 2
DOWN, CROSS_DOWN = "DownBlock2D", "CrossAttnDownBlock2D"
UP, CROSS_UP = "UpBlock2D", "CrossAttnUpBlock2D"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The parts of one pipeline, as keyword arguments of their classes.

    Attributes:
        denoiser: of the UNet or transformer.
        vae: of the `AutoencoderKL`, `AutoencoderKLWan` or `InfinityTokenizer`.
        preview_decoder: of the `AutoencoderTiny` that decodes early estimates; empty for videos,
            which it cannot decode, and for next-scale models, whose own VAE decodes all scales.
        clips: of each CLIP text encoder's `CLIPTextConfig`, layers aside.
        t5: of the `T5Config` or `UMT5Config`, layers aside; empty where there is none.
        arguments: of the pipeline call, beside steps and the size of pictures.
    """

    denoiser: dict[str, Any]
    vae: dict[str, Any]
    preview_decoder: dict[str, Any] = field(default_factory=dict)
    clips: tuple[dict[str, Any], ...] = ()
    t5: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)


def _clip(width: int, heads: int, activation: str) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": width,
        "num_attention_heads": heads,
        "hidden_act": activation,
    }


SDXL_UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
    "up_block_types": (CROSS_UP, CROSS_UP, UP),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "sample_size": 1024,
}
SDXL_VAE = VAE | {"latent_channels": 4, "scaling_factor": 0.13025}
FLUX_VAE = VAE | {
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
T5_XXL = {
    "d_model": 4096,
    "d_kv": 64,
    "num_heads": 64,
    "d_ff": 10240,
    "feed_forward_proj": "gated-gelu",
}

FULL = {
    # Source: the configurations in stabilityai/stable-diffusion-xl-base-1.0.
    "sdxl": Architecture(
        denoiser=SDXL_UNET,
        vae=SDXL_VAE,
        preview_decoder={"latent_channels": 4},
        clips=(_clip(768, 12, "quick_gelu"), _clip(1280, 20, "gelu")),
        arguments={"guidance_scale": 5.0},
    ),
    # Source: the configurations in black-forest-labs/FLUX.1-dev.
    "flux": Architecture(
        denoiser={"guidance_embeds": True},
        vae=FLUX_VAE,
        preview_decoder={"latent_channels": 16},
        clips=(_clip(768, 12, "quick_gelu"),),
        t5=T5_XXL,
        arguments={"guidance_scale": 3.5, "max_sequence_length": 512},
    ),
    # Source: the configurations in Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
    "wan": Architecture(
        denoiser={
            "num_layers": 30,
            "num_attention_heads": 12,
            "attention_head_dim": 128,
            "ffn_dim": 8960,
            "text_dim": 4096,
        },
        vae={},
        t5=T5_XXL,
        arguments={
            "height": 480,
            "width": 832,
            "num_frames": 81,
            "guidance_scale": 5.0,
            "max_sequence_length": 512,
        },
    ),
    # Source: Infinity-2B with its tokenizer of 32 channels are the defaults of our classes; the
    # widths of google/flan-t5-xl; the arguments are those of the published notebook.
    "infinity": Architecture(
        denoiser={},
        vae={},
        t5={
            "d_model": 2048,
            "d_kv": 64,
            "num_heads": 32,
            "d_ff": 5120,
            "feed_forward_proj": "gated-gelu",
        },
        arguments={"guidance_scale": 3.0, "temperature": 0.5, "top_p": 0.97},
    ),
}

TINY_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
_TINY_DECODER = {
    "encoder_block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8),
}
TINY = {
    "sdxl": Architecture(
        denoiser=SDXL_UNET
        | {
            "sample_size": 8,
            "block_out_channels": (8, 16, 16),
            "transformer_layers_per_block": (1, 1, 1),
            "attention_head_dim": (1, 2, 2),
            "cross_attention_dim": 32,
            "norm_num_groups": 4,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 16,
        },
        vae=SDXL_VAE | TINY_VAE,
        preview_decoder=FULL["sdxl"].preview_decoder | _TINY_DECODER,
        clips=(_clip(16, 2, "quick_gelu"), _clip(16, 2, "gelu")),
        arguments=FULL["sdxl"].arguments,
    ),
    "flux": Architecture(
        denoiser=FULL["flux"].denoiser
        | {
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 16,
            "axes_dims_rope": (4, 4, 8),
        },
        vae=FLUX_VAE | TINY_VAE,
        preview_decoder=FULL["flux"].preview_decoder | _TINY_DECODER,
        clips=(_clip(16, 2, "quick_gelu"),),
        t5=FULL["flux"].t5 | {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 32},
        arguments=FULL["flux"].arguments | {"max_sequence_length": 16},
    ),
    "wan": Architecture(
        denoiser=FULL["wan"].denoiser
        | {
            "num_layers": 3,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "ffn_dim": 32,
            "text_dim": 32,
            "freq_dim": 16,
        },
        vae={"base_dim": 8, "num_res_blocks": 1},
        t5=T5_XXL | {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 32},
        arguments=FULL["wan"].arguments
        | {"height": 32, "width": 48, "num_frames": 9, "max_sequence_length": 16},
    ),
    "infinity": Architecture(
        denoiser={
            "num_layers": 1,
            "num_attention_heads": 1,
            "attention_head_dim": 8,
            "token_channels": 4,
            "text_channels": 32,
            "pooling_heads": 1,
            "feed_forward_width": 16,
        },
        vae={
            "latent_channels": 4,
            "block_out_channels": (8, 8),
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        t5=FULL["infinity"].t5 | {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 32},
        arguments=FULL["infinity"].arguments,
    ),
}

TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 8,
        "width": 32,
        "head_width": 16,
        "layers": 1,
    },
    "text_cfg": {
        "context_length": CLIP_TOKENS,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
    },
}


@contextmanager
def created_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Let modules made in the block have their weights on `device` in `dtype` from the start.

    Twelve billion float32 weights on the way would take 48 GB.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def build_denoiser(name: str, architecture: Architecture) -> nn.Module:
    """The denoiser of `name`, a key of `FULL`, on the device that is current."""
    kind = {
        "sdxl": diffusers.UNet2DConditionModel,
        "flux": diffusers.FluxTransformer2DModel,
        "wan": diffusers.WanTransformer3DModel,
        "infinity": InfinityTransformer,
    }
    denoiser: nn.Module = kind[name](**architecture.denoiser)
    return denoiser.eval().requires_grad_(False)


def build_vae(name: str, architecture: Architecture) -> nn.Module:
    """The VAE of `name`, on the device that is current."""
    own = {"wan": diffusers.AutoencoderKLWan, "infinity": InfinityTokenizer}
    vae: nn.Module = own.get(name, diffusers.AutoencoderKL)(**architecture.vae)
    return vae.eval().requires_grad_(False)


def build_pipeline(
    name: str, architecture: Architecture, device: str, dtype: torch.dtype, seed: int = 0
) -> Any:
    """The pipeline of `name`, a key of `FULL`, with random weights."""
    torch.manual_seed(seed)
    build = {"sdxl": _sdxl, "flux": _flux, "wan": _wan, "infinity": _infinity}[name]
    pipe = build(architecture, device, dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sdxl(architecture: Architecture, device: str, dtype: torch.dtype) -> Any:
    tokenizer = _clip_tokenizer()
    first, second = (_clip_config(widths, tokenizer) for widths in architecture.clips)
    with created_on(device, dtype):
        parts = {
            "unet": build_denoiser("sdxl", architecture),
            "vae": build_vae("sdxl", architecture),
            "text_encoder": CLIPTextModel(first).eval(),
            "text_encoder_2": CLIPTextModelWithProjection(second).eval(),
        }
    return diffusers.StableDiffusionXLPipeline(
        **parts,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        add_watermarker=False,
    )


def _flux(architecture: Architecture, device: str, dtype: torch.dtype) -> Any:
    tokenizer, tokenizer_2 = _clip_tokenizer(), build_t5_tokenizer()
    t5 = T5Config(vocab_size=len(tokenizer_2), num_layers=TEXT_LAYERS, **architecture.t5)
    with created_on(device, dtype):
        parts = {
            "transformer": build_denoiser("flux", architecture),
            "vae": build_vae("flux", architecture),
            "text_encoder": CLIPTextModel(_clip_config(architecture.clips[0], tokenizer)).eval(),
            "text_encoder_2": T5EncoderModel(t5).eval(),
        }
    return diffusers.FluxPipeline(
        **parts,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
    )


def _wan(architecture: Architecture, device: str, dtype: torch.dtype) -> Any:
    tokenizer = build_t5_tokenizer()
    t5 = UMT5Config(vocab_size=len(tokenizer), num_layers=TEXT_LAYERS, **architecture.t5)
    with created_on(device, dtype):
        parts = {
            "transformer": build_denoiser("wan", architecture),
            "vae": build_vae("wan", architecture),
            "text_encoder": UMT5EncoderModel(t5).eval(),
        }
    return diffusers.WanPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def _infinity(architecture: Architecture, device: str, dtype: torch.dtype) -> Any:
    tokenizer = build_t5_tokenizer()
    t5 = T5Config(vocab_size=len(tokenizer), num_layers=TEXT_LAYERS, **architecture.t5)
    with created_on(device, dtype):
        parts = {
            "transformer": build_denoiser("infinity", architecture),
            "vae": build_vae("infinity", architecture),
            "text_encoder": T5EncoderModel(t5).eval(),
        }
    return InfinityPipeline(**parts, tokenizer=tokenizer)


def _clip_tokenizer() -> Any:
    # The zoo's small vocabulary stands in for CLIP's; the length is what costs.
    tokenizer = build_clip_tokenizer()
    tokenizer.model_max_length = CLIP_TOKENS
    return tokenizer


def _clip_config(widths: dict[str, Any], tokenizer: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=TEXT_LAYERS,
        max_position_embeddings=CLIP_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **widths,
    )


def save_preview_decoder(
    architecture: Architecture, device: str, dtype: torch.dtype, folder: Path
) -> str:
    """Write a random tiny decoder of the pipeline's latents; returns its folder for samplers."""
    with created_on(device, dtype):
        decoder = diffusers.AutoencoderTiny(**architecture.preview_decoder)
    decoder.save_pretrained(folder)
    return str(folder)


def build_reward(config: dict[str, Any] | None, device: str, dtype: torch.dtype) -> OpenClipReward:
    """CLIPScore with random weights: an open_clip configuration, or None for ViT-L-14."""
    import open_clip
    from open_clip.model import CLIP

    config = config or open_clip.get_model_config("ViT-L-14")
    torch.manual_seed(1)
    with created_on(device, dtype):
        model = CLIP(**config)
    side = config["vision_cfg"]["image_size"]
    preprocess = Preprocess(
        size=(side, side),
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
    )
    return OpenClipReward(
        model.requires_grad_(False),
        preprocess,
        open_clip.get_tokenizer("ViT-L-14"),
        dtype=dtype,
    )
