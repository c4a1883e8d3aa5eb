"""Published LLaDA checkpoints: a config, sharded safetensors and a tokenizer; no code of theirs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from accelerate import init_empty_weights, load_checkpoint_in_model
from safetensors import SafetensorError, safe_open

from gensift.denoising.modules import config_arguments
from gensift.errors import ConfigError
from gensift.hub import foreign_errors
from gensift.pipelines.llada.pipeline import LLaDAPipeline
from gensift.pipelines.llada.transformer import LLaDATransformer
from gensift.protocols import JsonObject

CONFIG, INDEX, SINGLE = "config.json", "model.safetensors.index.json", "model.safetensors"
_FIXED = {
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "block_type": "llama",
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "rope": True,
    "scale_logits": False,
}
"""What the native model is built for, by name in the published config."""


def load_published(folder: Path, dtype: torch.dtype = torch.float32) -> LLaDAPipeline:
    """A pipeline of a published folder: LLaDA-8B Base, Instruct, 1.5, or one of their layout.

    Raises:
        ConfigError: a file is missing or damaged, an option is of another architecture, or the
            parameters are not those of the model, the first wrong one named.
    """
    from transformers import AutoTokenizer

    transformer = load_transformer(folder, dtype)
    advice = "Fetch tokenizer.json and tokenizer_config.json, too"
    with foreign_errors(f"The tokenizer in {folder}", advice):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    return LLaDAPipeline(transformer=transformer, tokenizer=tokenizer)


def load_transformer(folder: Path, dtype: torch.dtype = torch.float32) -> LLaDATransformer:
    """The transformer of a published folder, its parameters read straight into `dtype`.

    Raises:
        ConfigError: see `load_published`.
    """
    options = _options(folder / CONFIG)
    with init_empty_weights():
        transformer: LLaDATransformer = LLaDATransformer(**options)
    shapes = {name: tuple(value.shape) for name, value in transformer.state_dict().items()}
    files = _files(folder)
    _check_shapes(shapes, _stored_shapes(files), folder)
    index = folder / INDEX
    target = index if index.is_file() else folder / SINGLE
    load_checkpoint_in_model(
        transformer, str(target), device_map={"": "cpu"}, dtype=dtype, strict=True
    )
    transformer.eval()
    return transformer


def _options(file: Path) -> JsonObject:
    try:
        config: JsonObject = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} cannot be read ({error}); fetch the checkpoint again."
        ) from error
    for name, wanted in _FIXED.items():
        if config.get(name, wanted) != wanted:
            raise ConfigError(
                f"{file} says {name} = {config[name]!r}; this LLaDA is built for {wanted!r}."
            )
    known = config_arguments(LLaDATransformer)
    found = {name: config[name] for name in known if name in config}
    if found.get("mlp_hidden_size", 0) is None:
        found["mlp_hidden_size"] = config["mlp_ratio"] * config["d_model"]
    return found


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    names: Iterable[str] = [SINGLE]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{index} tells no files ({error!r}); fetch it again.") from error
    files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{file} is missing; fetch the checkpoint again (safetensors only).")
    return files


def _stored_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as stored:
                for key in stored.keys():  # noqa: SIM118 - no mapping
                    found[key] = tuple(stored.get_slice(key).get_shape())
        except (SafetensorError, OSError) as error:
            raise ConfigError(
                f"{file} is damaged ({' '.join(str(error).split())}); fetch it again."
            ) from error
    return found


def _check_shapes(
    wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]], folder: Path
) -> None:
    for name, shape in wanted.items():
        if name not in stored:
            raise ConfigError(f"{folder} lacks {name!r}; it is no complete LLaDA checkpoint.")
        if stored[name] != shape:
            raise ConfigError(
                f"{folder} holds {name!r} of shape {stored[name]}, but its {CONFIG} asks for "
                f"{shape}."
            )
    for name in stored:
        if name not in wanted:
            raise ConfigError(f"{folder} holds {name!r}, which LLaDA does not have.")
