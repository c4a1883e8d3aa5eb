"""Tiny random-weight instances of unmodified diffusers pipelines, one per denoiser family.

    pipe, call_kwargs = build("flux")
    images = pipe(**call_kwargs([0, 1, 2], output_type="pt"), return_dict=False)[0]

Row `i` has its own generator *and its own text embedding*, both made from `seeds[i]`: a row that
gets another row's argument is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import diffusers
import torch
from helpers import tiny_models as models
from helpers.tiny_schedulers import SCHEDULERS

NUM_STEPS = 6
TEXT_TOKENS = 7

CallKwargs = Callable[..., dict[str, Any]]


class Tiny(NamedTuple):
    pipe: Any
    call_kwargs: CallKwargs


def build(family: str, scheduler: str | None = None) -> Tiny:
    """A pipeline on CPU in float32 and a function `call_kwargs(seeds, **overrides)`."""
    torch.manual_seed(0)
    builder, default = _BUILDERS[family]
    pipe, arguments = builder(SCHEDULERS[scheduler or default]())
    pipe.set_progress_bar_config(disable=True)

    def call_kwargs(seeds: Sequence[int], **overrides: Any) -> dict[str, Any]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        common = {"generator": generators, "num_inference_steps": NUM_STEPS}
        return {**common, **arguments(list(seeds)), **overrides}

    return Tiny(pipe, call_kwargs)


def text(seeds: Sequence[int], *shape: int, salt: int = 0) -> torch.Tensor:
    """Text embeddings `(len(seeds), *shape)`, row `i` made from `seeds[i]` and `salt`."""
    rows = [
        torch.randn(shape, generator=torch.Generator().manual_seed(1000 * (salt + 1) + seed))
        for seed in seeds
    ]
    return torch.stack(rows)


def _size(side: int = 16) -> dict[str, int]:
    return {"height": side, "width": side}


def _sd15(scheduler: Any) -> Any:
    pipe = diffusers.StableDiffusionPipeline(
        vae=models.kl_vae(4),
        text_encoder=None,
        tokenizer=None,
        unet=models.unet(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )

    def arguments(seeds: list[int]) -> dict[str, Any]:
        return {
            "prompt_embeds": text(seeds, TEXT_TOKENS, 32),
            "negative_prompt_embeds": text(seeds, TEXT_TOKENS, 32, salt=1),
            "guidance_scale": 4.0,
            **_size(),
        }

    return pipe, arguments


def _sdxl(scheduler: Any) -> Any:
    pooled = 16
    unet = models.unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + pooled,
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
    )
    pipe = diffusers.StableDiffusionXLPipeline(
        vae=models.kl_vae(4),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )

    def arguments(seeds: list[int]) -> dict[str, Any]:
        return {
            "prompt_embeds": text(seeds, TEXT_TOKENS, 32),
            "negative_prompt_embeds": text(seeds, TEXT_TOKENS, 32, salt=1),
            "pooled_prompt_embeds": text(seeds, pooled, salt=2),
            "negative_pooled_prompt_embeds": text(seeds, pooled, salt=3),
            "guidance_scale": 4.0,
            **_size(),
        }

    return pipe, arguments


def _sd3(scheduler: Any) -> Any:
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    names += ("tokenizer", "tokenizer_2", "tokenizer_3")
    pipe = diffusers.StableDiffusion3Pipeline(
        transformer=models.sd3_transformer(),
        scheduler=scheduler,
        vae=models.shifted_kl_vae(),
        **dict.fromkeys(names),
    )

    def arguments(seeds: list[int]) -> dict[str, Any]:
        return {
            "prompt_embeds": text(seeds, TEXT_TOKENS, 32),
            "negative_prompt_embeds": text(seeds, TEXT_TOKENS, 32, salt=1),
            "pooled_prompt_embeds": text(seeds, 16, salt=2),
            "negative_pooled_prompt_embeds": text(seeds, 16, salt=3),
            "guidance_scale": 4.0,
            **_size(),
        }

    return pipe, arguments


def _flux_pipeline(scheduler: Any) -> Any:
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    return diffusers.FluxPipeline(
        transformer=models.flux_transformer(),
        scheduler=scheduler,
        vae=models.shifted_kl_vae(),
        **dict.fromkeys(names),
    )


def _flux(scheduler: Any) -> Any:
    def arguments(seeds: list[int]) -> dict[str, Any]:
        return {
            "prompt_embeds": text(seeds, TEXT_TOKENS, 32),
            "pooled_prompt_embeds": text(seeds, 16, salt=2),
            "guidance_scale": 3.5,
            **_size(),
        }

    return _flux_pipeline(scheduler), arguments


def _flux_true_cfg(scheduler: Any) -> Any:
    pipe, plain = _flux(scheduler)

    def arguments(seeds: list[int]) -> dict[str, Any]:
        return {
            **plain(seeds),
            "negative_prompt_embeds": text(seeds, TEXT_TOKENS, 32, salt=1),
            "negative_pooled_prompt_embeds": text(seeds, 16, salt=3),
            "true_cfg_scale": 3.0,
        }

    return pipe, arguments


def _pixart(scheduler: Any) -> Any:
    pipe = diffusers.PixArtSigmaPipeline(
        transformer=models.pixart_transformer(),
        scheduler=scheduler,
        vae=models.kl_vae(4),
        text_encoder=None,
        tokenizer=None,
    )

    def arguments(seeds: list[int]) -> dict[str, Any]:
        return {**_masked_text(seeds, 32), **_size()}

    return pipe, arguments


def _masked_text(seeds: list[int], dim: int) -> dict[str, Any]:
    mask = torch.ones(len(seeds), TEXT_TOKENS, dtype=torch.long)
    for row, seed in enumerate(seeds):
        mask[row, TEXT_TOKENS - seed % 3 :] = 0
    return {
        "prompt_embeds": text(seeds, TEXT_TOKENS, dim),
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": text(seeds, TEXT_TOKENS, dim, salt=1),
        "negative_prompt_attention_mask": mask.clone(),
        "negative_prompt": None,
        "guidance_scale": 4.0,
        "use_resolution_binning": False,
    }


def _sana(scheduler: Any) -> Any:
    pipe = diffusers.SanaPipeline(
        transformer=models.sana_transformer(),
        scheduler=scheduler,
        vae=models.sana_vae(),
        text_encoder=None,
        tokenizer=None,
    )

    def arguments(seeds: list[int]) -> dict[str, Any]:
        return {**_masked_text(seeds, 8), **_size(32)}

    return pipe, arguments


def _qwen(scheduler: Any) -> Any:
    pipe = diffusers.QwenImagePipeline(
        transformer=models.qwen_transformer(),
        scheduler=scheduler,
        vae=models.qwen_vae(),
        text_encoder=None,
        tokenizer=None,
    )

    def arguments(seeds: list[int]) -> dict[str, Any]:
        mask = _masked_text(seeds, 16)["prompt_attention_mask"]
        return {
            "prompt_embeds": text(seeds, TEXT_TOKENS, 16),
            "prompt_embeds_mask": mask,
            "negative_prompt_embeds": text(seeds, TEXT_TOKENS, 16, salt=1),
            "negative_prompt_embeds_mask": mask.clone(),
            "true_cfg_scale": 3.0,
            **_size(),
        }

    return pipe, arguments


def _z_image(scheduler: Any) -> Any:
    pipe = diffusers.ZImagePipeline(
        transformer=models.z_image_transformer(),
        scheduler=scheduler,
        vae=models.shifted_kl_vae(),
        text_encoder=None,
        tokenizer=None,
    )

    def arguments(seeds: list[int]) -> dict[str, Any]:
        lengths = [TEXT_TOKENS + seed % 3 for seed in seeds]
        return {
            "prompt_embeds": [text([s], n, 16)[0] for s, n in zip(seeds, lengths, strict=True)],
            "negative_prompt_embeds": [text([s], TEXT_TOKENS, 16, salt=1)[0] for s in seeds],
            "guidance_scale": 4.0,
            **_size(),
        }

    return pipe, arguments


def _wan(scheduler: Any, **options: Any) -> Any:
    pipe = diffusers.WanPipeline(
        transformer=models.wan_transformer(),
        scheduler=scheduler,
        vae=models.wan_vae(),
        text_encoder=None,
        tokenizer=None,
        **options,
    )

    def arguments(seeds: list[int]) -> dict[str, Any]:
        return {
            "prompt_embeds": text(seeds, TEXT_TOKENS, 16),
            "negative_prompt_embeds": text(seeds, TEXT_TOKENS, 16, salt=1),
            "guidance_scale": 4.0,
            "num_frames": 5,
            **_size(),
        }

    return pipe, arguments


def _wan_two_experts(scheduler: Any) -> Any:
    return _wan(scheduler, transformer_2=models.wan_transformer(), boundary_ratio=0.8)


def _dit(scheduler: Any) -> Any:
    pipe = diffusers.DiTPipeline(
        transformer=models.dit_transformer(), scheduler=scheduler, vae=models.kl_vae(4)
    )

    def arguments(seeds: list[int]) -> dict[str, Any]:
        return {"class_labels": [37 * seed + 5 for seed in seeds], "guidance_scale": 4.0}

    return pipe, arguments


_BUILDERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "sd15": (_sd15, "pndm"),
    "sdxl": (_sdxl, "euler"),
    "sd3": (_sd3, "flow-euler"),
    "flux": (_flux, "flow-euler"),
    "flux-true-cfg": (_flux_true_cfg, "flow-euler"),
    "pixart-sigma": (_pixart, "dpm++"),
    "sana": (_sana, "flow-dpm++"),
    "qwen-image": (_qwen, "flow-euler"),
    "z-image": (_z_image, "flow-euler"),
    "wan": (_wan, "flow-unipc"),
    "wan-two-experts": (_wan_two_experts, "flow-unipc"),
    "dit": (_dit, "ddim"),
}

FAMILIES = tuple(_BUILDERS)
IMAGE_SIDE = {name: 32 if name == "sana" else 16 for name in FAMILIES}
BATCHED_GUIDANCE = frozenset({"sd15", "sdxl", "sd3", "pixart-sigma", "sana", "z-image", "dit"})
GUIDANCE_FACTOR = {name: 1 if name == "flux" else 2 for name in FAMILIES}
