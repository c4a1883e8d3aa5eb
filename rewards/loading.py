"""Reading published reward checkpoints: where a file is, what it may be, and whether it fits."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gensift.errors import ConfigError
from gensift.hub import (
    foreign_errors,
    is_hub_id,
    is_offline,
    one_line,
)

PRECISIONS = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
UNREADABLE = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    pickle.UnpicklingError,
    SafetensorError,
)
"""What the readers of checkpoints, configs and tokenizers raise on files that are absent or bad."""


def check_dtype(dtype: torch.dtype) -> None:
    """Refuse what reward models are not computed in.

    Raises:
        ConfigError: not float32, bfloat16 or float16.
    """
    if dtype not in PRECISIONS:
        raise ConfigError(f"dtype is {dtype}; allowed: {', '.join(map(str, PRECISIONS))}.")


def refuse_pickle(files: list[str], allow_pickle: bool) -> None:
    """Refuse files that are not safetensors, unless they are allowed.

    Raises:
        ConfigError: naming the first one.
    """
    pickled = [file for file in files if not file.endswith(".safetensors")]
    if pickled and not allow_pickle:
        raise ConfigError(
            f"Checkpoint {pickled[0]!r} is not safetensors, and only those are read; convert it, "
            "or set allow_pickle=True if you trust where it comes from."
        )


def find_checkpoint(source: str, filename: str, *, allow_pickle: bool) -> str:
    """Path of a checkpoint, downloaded if need be.

    A pickled file is refused before it is downloaded.

    Args:
        source: a file, a folder that holds `filename` (or the same with the ending
            `.safetensors`, which is preferred), or a hub id as OWNER/NAME.
        filename: under which the checkpoint is published.
        allow_pickle: take files other than safetensors.

    Raises:
        ConfigError: there is no such file, it cannot be fetched, or it is pickled.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        names = dict.fromkeys([Path(filename).with_suffix(".safetensors").name, filename])
        found = [path / name for name in names if (path / name).is_file()]
        if not found:
            raise ConfigError(f"Folder {source!r} has no {' or '.join(names)}; add it.")
        path = found[0]
    if path.is_file():
        refuse_pickle([str(path)], allow_pickle)
        return str(path)
    if not is_hub_id(source):
        raise ConfigError(
            f"Checkpoint {source!r} is not there; give a file, a folder with {filename}, or a hub "
            "id as OWNER/NAME."
        )
    refuse_pickle([f"{source}/{filename}"], allow_pickle)
    from huggingface_hub import hf_hub_download

    with foreign_errors(
        f"{filename} of hub model {source!r}", "Check the name, or give a local file", source
    ):
        return str(hf_hub_download(source, filename, local_files_only=is_offline(source)))


def read_checkpoint(file: str) -> dict[str, Tensor]:
    """Tensors by key, on the CPU; pickles are read with `weights_only=True`.

    Raises:
        ConfigError: the file is damaged or holds anything but tensors by key.
    """
    try:
        if file.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ConfigError(
            f"Checkpoint {file!r} cannot be read: {one_line(error)}. Fetch it again."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise ConfigError(f"Checkpoint {file!r} holds no tensors by key; give a state dict.")
    return content


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], file: str, unused: tuple[str, ...] = ()
) -> None:
    """Give `module` copies of the tensors of a checkpoint, of their dtypes; each must fit.

    Copies, because a tensor read from a file lies in memory wherever the file has it, and kernels
    add up in another order at other alignments: equal weights elsewhere would score otherwise.

    Args:
        module: may be on the device "meta".
        state: tensors by key.
        file: where they come from, for messages.
        unused: beginnings of keys that a checkpoint may hold in excess.

    Raises:
        ConfigError: naming the first key that is missing, unknown, or of another shape.
    """
    own = module.state_dict()
    for key, wanted in own.items():
        if key not in state:
            raise ConfigError(f"Checkpoint {file!r} lacks {key!r}; give one of this very model.")
        if state[key].shape != wanted.shape:
            raise ConfigError(
                f"Checkpoint {file!r} has {key!r} of shape {tuple(state[key].shape)}, but the "
                f"model {tuple(wanted.shape)}; give one of this very model."
            )
    extra = [key for key in state if key not in own and not key.startswith(unused)]
    if extra:
        raise ConfigError(
            f"Checkpoint {file!r} holds {extra[0]!r}, which the model does not; give one of this "
            "very model."
        )
    module.load_state_dict({key: state[key].clone() for key in own}, assign=True)


def load_clip(source: str, *, allow_pickle: bool = False) -> Any:
    """Load transformers' `CLIPModel` in float32, on the CPU, and insist that every key fits.

    Args:
        source: a folder or a hub id.
        allow_pickle: read `pytorch_model.bin` too, with `weights_only=True`.

    Raises:
        ConfigError: it is absent, cannot be read, or does not fit; naming the first wrong key.
    """
    from transformers import CLIPModel

    advice = "Check the name, or give a folder with config.json and model.safetensors"
    with foreign_errors(f"Model {source!r}", advice, source):
        model, report = CLIPModel.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=None if allow_pickle else True,
            weights_only=True,
            local_files_only=is_offline(source),
            ignore_mismatched_sizes=True,  # reported below, by name
            output_loading_info=True,
        )
    reported = {
        "lacks": report["missing_keys"],
        "has in another shape": [key for key, *_ in report["mismatched_keys"]],
        # A buffer that old transformers saved.
        "holds the unknown": [k for k in report["unexpected_keys"] if "position_ids" not in k],
    }
    for problem, keys in reported.items():
        if keys:
            raise ConfigError(
                f"Model {source!r} {problem} {min(keys)!r}; give a complete CLIP checkpoint whose "
                "config.json belongs to it."
            )
    return model.eval().requires_grad_(False)


def load_tokenizer(source: str) -> Any:
    """Load a tokenizer of transformers.

    Args:
        source: a folder or a hub id.

    Raises:
        ConfigError: it is absent or cannot be read.
    """
    from transformers import AutoTokenizer

    with foreign_errors(
        f"Tokenizer {source!r}", "Check the name, or give a folder that holds its files", source
    ):
        return AutoTokenizer.from_pretrained(source, local_files_only=is_offline(source))
