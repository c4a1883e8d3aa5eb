"""LLaDA checkpoints in the published layout, tiny and with random weights.

folder = write_checkpoint(tmp_path / "LLaDA-8B-Instruct", model)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

START, END, MASK, OPEN, CLOSE, EOT, UNKNOWN = SPECIAL = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<role>",
)
WORDS = ("user", "assistant", "\n\n", *(f"w{number}" for number in range(30)))
VOCABULARY = (*SPECIAL, *WORDS)
TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>' + message['content'] | trim + "
    "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>' }}"
)


def config_of(model: Any) -> dict[str, Any]:
    """All keys of a published config.json, in which `model` decides about the sizes."""
    sizes = {
        name: getattr(model.config, name)
        for name in (
            "d_model",
            "n_heads",
            "n_layers",
            "mlp_hidden_size",
            "vocab_size",
            "max_sequence_length",
            "rope_theta",
            "rms_norm_eps",
            "weight_tying",
            "mask_token_id",
            "eos_token_id",
            "pad_token_id",
        )
    }
    return {
        "activation_type": "silu",
        "alibi": False,
        "alibi_bias_max": 8.0,
        "architectures": ["LLaDAModelLM"],
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "attention_layer_norm_with_affine": True,
        "auto_map": {
            "AutoConfig": "configuration_llada.LLaDAConfig",
            "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
            "AutoModel": "modeling_llada.LLaDAModelLM",
        },
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "embedding_dropout": 0.0,
        "embedding_size": model.config.embedding_size or model.config.vocab_size,
        "flash_attention": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "init_cutoff_factor": None,
        "init_device": "meta",
        "init_fn": "mitchell",
        "init_std": 0.02,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mlp_ratio": 4,
        "model_type": "llada",
        "multi_query_attention": None,
        "n_kv_heads": model.config.n_kv_heads or model.config.n_heads,
        "precision": "amp_bf16",
        "residual_dropout": 0.0,
        "rope": True,
        "rope_full_precision": True,
        "scale_logits": False,
        "transformers_version": "4.46.3",
        "use_cache": False,
        **sizes,
    }


def write_checkpoint(folder: Path, model: Any, *, shards: int = 2) -> Path:
    """Write `model` as it would be published; its special tokens are those of `VOCABULARY`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_of(model)))
    state = model.state_dict()
    names = sorted(state)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: state[name].contiguous() for name in names[shard::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    write_tokenizer(folder)
    for name in ("modeling_llada.py", "configuration_llada.py"):
        (folder / name).write_text("raise SystemExit('code of the checkpoint was run')\n")
    return folder


def write_tokenizer(folder: Path) -> None:
    """Most special tokens are listed as added ones only, as in the published files."""
    ids = {token: index for index, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(ids[token]): {"content": token, **flags, "special": True} for token in SPECIAL
        },
        "additional_special_tokens": [UNKNOWN],
        "bos_token": START,
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "fast_tokenizer": True,
        "pad_token": END,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "trust_remote_code": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
