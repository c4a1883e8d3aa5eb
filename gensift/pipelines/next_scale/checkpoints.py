"""Published checkpoints as state dicts: safetensors, pickles, and either in shards."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gensift.errors import ConfigError
from gensift.hub import one_line

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
SAFETENSORS = ".safetensors"
INDEX = ".index.json"
ENTRIES = ("trainer", "gpt_fsdp", "vae", "state_dicts", "ema_model")
"""Where tensors lie in a pickle that holds other things too."""

TRAINED = ("var_wo_ddp", "vae_local")
"""What VAR's own trainer keeps under `trainer`: the transformer, and its tokenizer."""

State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A state dict that is known by its keys, and read when it is needed.

    Attributes:
        path: the file, or the index of its shards.
        keys: names of all tensors.
        read: returns the tensors, on the CPU.
        is_copy: whether it lies beside another in one file, as trainers keep what they trained
            with; a file of its own counts before it.
    """

    path: Path
    keys: frozenset[str]
    read: Callable[[], State]
    is_copy: bool = False


def open_checkpoints(sources: Sequence[Path], *, allow_pickle: bool) -> list[Checkpoint]:
    """All checkpoints among `sources`.

    Args:
        sources: files, or folders that hold them, themselves or in a folder of their own.
        allow_pickle: whether to open pickles, which are left out of a folder otherwise.

    Raises:
        ConfigError: a source is not there or cannot be read, or is a pickle and none is allowed.
    """
    found: list[Checkpoint] = []
    for source in sources:
        if source.is_dir():
            files = _files(source)
            allowed = [file for file in files if allow_pickle or not _is_pickle(file)]
            found += [checkpoint for file in allowed for checkpoint in _open(file)]
            continue
        if not source.is_file():
            raise ConfigError(f"{str(source)!r} is neither a file nor a folder; give one of both.")
        if _is_pickle(source) and not allow_pickle:
            raise ConfigError(pickle_refusal(source))
        found += _open(source)
    return found


def pickles_in(sources: Iterable[Path]) -> list[Path]:
    """The checkpoints in folders among `sources` that are pickles."""
    folders = [source for source in sources if source.is_dir()]
    return [file for folder in folders for file in _files(folder) if _is_pickle(file)]


def pickle_refusal(path: Path) -> str:
    """Why a pickle is not opened, and what to do."""
    return (
        f"{str(path)!r} is a pickle, a format that can hide code; if you trust where it is from, "
        "add --allow-pickle."
    )


def _files(folder: Path) -> list[Path]:
    """Checkpoints in `folder` and its direct subfolders, shards by their index alone."""
    within = sorted(file for pattern in ("*", "*/*") for file in folder.glob(pattern))
    indices = [file for file in within if file.name.endswith(INDEX)]
    shards = {shard for index in indices for shard in _shards(index)}
    known = (*PICKLES, SAFETENSORS)
    singles = [file for file in within if file.suffix in known and file not in shards]
    return indices + singles


def _is_pickle(path: Path) -> bool:
    files = _shards(path) if path.name.endswith(INDEX) else {path}
    return any(file.suffix != SAFETENSORS for file in files)


def _open(path: Path) -> list[Checkpoint]:
    """The checkpoint in a file, or the several that a trainer keeps in one."""
    if path.is_file() and path.stat().st_size == 0:
        raise ConfigError(f"{str(path)!r} is empty; fetch it again.")
    if path.name.endswith(INDEX):
        return [Checkpoint(path, frozenset(_weight_map(path)), lambda: _read_shards(path))]
    if path.suffix == SAFETENSORS:
        with _named_errors(path), safe_open(path, framework="pt") as file:
            return [Checkpoint(path, frozenset(file.keys()), lambda: _read_safetensors(path))]
    loaded = _load_pickle(path)
    trainer = loaded.get("trainer") if isinstance(loaded, Mapping) else None
    if isinstance(trainer, Mapping) and any(name in trainer for name in TRAINED):
        # Its optimizer and config, which lie there too, are nothing to convert.
        return [
            _in_memory(path, _tensors(trainer[name], path), is_copy=name != TRAINED[0])
            for name in TRAINED
            if name in trainer
        ]
    return [_in_memory(path, _tensors(loaded, path))]


def _in_memory(path: Path, state: State, *, is_copy: bool = False) -> Checkpoint:
    return Checkpoint(path, frozenset(state), lambda: state, is_copy)


def _read_shards(index: Path) -> State:
    state: State = {}
    for shard in sorted(_shards(index)):
        if not shard.is_file():
            raise ConfigError(f"{str(index)!r} names {shard.name}, which is not there; fetch it.")
        is_safe = shard.suffix == SAFETENSORS
        state |= _read_safetensors(shard) if is_safe else _read_pickle(shard)
    return state


def _shards(index: Path) -> set[Path]:
    return {index.parent / name for name in _weight_map(index).values()}


def _weight_map(index: Path) -> dict[str, str]:
    with _named_errors(index):
        found: dict[str, str] = json.loads(index.read_text())["weight_map"]
    return found


def _read_safetensors(path: Path) -> State:
    with _named_errors(path), safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _read_pickle(path: Path) -> State:
    return _tensors(_load_pickle(path), path)


def _load_pickle(path: Path) -> object:
    with _named_errors(path):
        # Only files in torch's newer format can be mapped, which keeps them out of memory.
        is_mapped = zipfile.is_zipfile(path)
        loaded: object = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    return loaded


def _tensors(loaded: object, path: Path) -> State:
    while isinstance(loaded, Mapping):
        if inner := next((name for name in ENTRIES if isinstance(loaded.get(name), Mapping)), None):
            loaded = loaded[inner]
            continue
        other = [key for key, value in loaded.items() if not isinstance(value, Tensor)]
        if other:
            raise ConfigError(
                f"{str(path)!r} holds {str(other[0])!r}, which is no tensor; give a file with "
                f"tensors alone, or under one of: {', '.join(ENTRIES)}."
            )
        return {str(key): value for key, value in loaded.items()}
    raise ConfigError(f"{str(path)!r} holds no state dict; give one that does.")


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Say which file cannot be read."""
    try:
        yield
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, EOFError),
        *(pickle.UnpicklingError, SafetensorError),
    ) as error:
        reason = one_line(error)
        raise ConfigError(
            f"{str(path)!r} cannot be read as a checkpoint: {reason}. Give the files themselves, "
            "or a folder with nothing else."
        ) from error
