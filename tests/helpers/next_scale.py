"""Tiny VAR and Infinity pipelines with random weights, in which everything matters.

pipe = build("var-shared")
latents = draw(pipe, LABELS["var"], seeds=[0, 1])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from gensift.pipelines.infinity.pipeline import InfinityPipeline
from gensift.pipelines.infinity.tokenizer import InfinityTokenizer
from gensift.pipelines.infinity.transformer import InfinityTransformer
from gensift.pipelines.next_scale.scales import ScaleSchedule
from gensift.pipelines.next_scale.transformer import Conditions
from gensift.pipelines.var.pipeline import VARPipeline
from gensift.pipelines.var.tokenizer import VARTokenizer
from gensift.pipelines.var.transformer import VARTransformer
from gensift.randomness import make_generators

SIDES = (1, 2, 3, 5)
GRIDS = ((1, 1), (2, 2), (3, 2), (6, 4))
FAMILIES = ("var", "var-shared", "infinity", "infinity-patches")
TEXT_CHANNELS = 16
WORDS = ("a", "red", "blue", "circle", "square", "left", "of", "two")
LABELS: dict[str, list[Any]] = {
    "var": [3, 0, 4],
    "infinity": ["a red circle", "a blue square left of a red circle", "square"],
}


def randomised(model: nn.Module, seed: int = 0, std: float = 0.3) -> Any:
    """All parameters drawn anew: no gate is closed, no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=std, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model.eval()


def var_transformer(has_shared_modulation: bool = False, cosine: bool = True) -> Any:
    return randomised(
        VARTransformer(
            num_layers=3,
            num_attention_heads=2,
            attention_head_dim=8,
            num_classes=5,
            codebook_size=24,
            latent_channels=4,
            scales=SIDES,
            has_shared_modulation=has_shared_modulation,
            cosine=cosine,
        )
    )


def var_tokenizer() -> Any:
    return randomised(
        VARTokenizer(
            codebook_size=24, latent_channels=4, block_out_channels=(8, 16), norm_num_groups=4
        )
    )


def infinity_transformer(token_channels: int = 6) -> Any:
    return randomised(
        InfinityTransformer(
            num_layers=3,
            num_attention_heads=2,
            attention_head_dim=8,
            token_channels=token_channels,
            text_channels=TEXT_CHANNELS,
            text_max_length=12,
            pooling_heads=2,
            feed_forward_width=48,
        )
    )


def infinity_tokenizer(patch_size: int = 1) -> Any:
    return randomised(
        InfinityTokenizer(
            latent_channels=6,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            patch_size=patch_size,
        )
    )


def text_tokenizer() -> Any:
    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def text_encoder() -> Any:
    config = T5Config(
        vocab_size=16, d_model=TEXT_CHANNELS, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    return randomised(T5EncoderModel(config))


def build(family: str) -> Any:
    """A pipeline of one of `FAMILIES`, quiet."""
    name, _, variant = family.partition("-")
    pipe: Any
    if name == "var":
        labels = {0: "tench, Tinca tinca", 3: "cock"}
        pipe = VARPipeline(var_transformer(variant == "shared"), var_tokenizer(), labels)
    else:
        patch = 2 if variant == "patches" else 1
        pipe = InfinityPipeline(
            infinity_transformer(6 * patch**2),
            infinity_tokenizer(patch),
            text_encoder(),
            text_tokenizer(),
            scales=GRIDS,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def labels_of(family: str) -> list[Any]:
    """Three conditions; texts of different lengths."""
    return LABELS[family.partition("-")[0]]


def draw(pipe: Any, labels: Any, seeds: Sequence[int], **options: Any) -> Tensor:
    """Latents, one row per seed."""
    latents: Tensor = pipe(
        labels, generator=make_generators(seeds), output_type="latent", **options
    ).images
    return latents


def schedule_of(pipe: Any) -> ScaleSchedule:
    schedule: ScaleSchedule = pipe.schedule()
    return schedule


def conditions_of(pipe: Any, labels: Sequence[Any]) -> Conditions:
    """Conditions of labels, without those of guidance."""
    transformer = pipe.transformer
    found: Conditions = (
        transformer.conditions(torch.tensor(labels))
        if isinstance(pipe, VARPipeline)
        else transformer.conditions(pipe.encode_text(labels))
    )
    return found


def random_inputs(pipe: Any, rows: int, seed: int = 0) -> list[Tensor]:
    """Something for the transformer to see before each scale but the first."""
    generator = torch.Generator().manual_seed(seed)
    channels = pipe.transformer.embed.in_features
    return [
        torch.randn(rows, channels, *scale, generator=generator)
        for scale in schedule_of(pipe).scales[1:]
    ]
