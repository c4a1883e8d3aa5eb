"""Masked language models of random weights, for measuring speed."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

from gensift.pipelines.llada.pipeline import LLaDAPipeline
from gensift.pipelines.llada.transformer import LLaDATransformer

SIZES = {
    "tiny": {"d_model": 64, "n_heads": 4, "n_layers": 2, "mlp_hidden_size": 128, "vocab_size": 200},
    "200M": {
        "d_model": 1024,
        "n_heads": 16,
        "n_layers": 12,
        "mlp_hidden_size": 2816,
        "vocab_size": 32_000,
    },
    "8B": {
        "d_model": 4096,
        "n_heads": 32,
        "n_layers": 32,
        "mlp_hidden_size": 12_288,
        "vocab_size": 126_464,
    },
}
PROMPT_LENGTH = 48
LOGIT_STD = 6.0
"""Spread of the logits: the model is sure of some tokens and unsure of others."""


def random_model(
    size: str, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> LLaDATransformer:
    """A model of one of `SIZES` whose last token is the mask; nothing ends a text."""
    options = SIZES[size]
    with torch.device(device):
        model: LLaDATransformer = LLaDATransformer(
            **options,
            mask_token_id=options["vocab_size"] - 1,
            eos_token_id=None,
            pad_token_id=0,
        ).to(dtype)
    generator = torch.Generator(device=device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        is_head = name == "model.transformer.ff_out.weight"
        std = LOGIT_STD if is_head else 1.0
        # Sums over inputs of variance one keep the variance.
        fan_in = 1 if "wte" in name else parameter.shape[1]
        nn.init.normal_(parameter, std=std / fan_in**0.5, generator=generator)
    return model.eval()


def random_pipeline(
    size: str, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> LLaDAPipeline:
    """A pipeline around `random_model`; token i is the word "wi"."""
    count = SIZES[size]["vocab_size"]
    words = {f"w{index}": index for index in range(count - 1)} | {"[MASK]": count - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", pad_token="w0")
    return LLaDAPipeline(random_model(size, device, dtype), fast)


def random_prompt(size: str, seed: int) -> str:
    """A prompt of `PROMPT_LENGTH` tokens."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(1, SIZES[size]["vocab_size"] - 1, (PROMPT_LENGTH,), generator=generator)
    return " ".join(f"w{index}" for index in drawn.tolist())
