"""Published weights in our models: renamed by a table, and nothing missing or left over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from gensift.errors import ConfigError
from gensift.files import folder_written_whole
from gensift.pipelines.next_scale.checkpoints import (
    Checkpoint,
    State,
    open_checkpoints,
    pickle_refusal,
    pickles_in,
)

NAMED = 5
"""Most keys that an error names of each kind."""

WeightDtype = Literal["float32", "bfloat16", "float16"]
Rules = Sequence[tuple[str, str]]
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Report:
    """What became of one checkpoint.

    Attributes:
        source: the file.
        part: the component it became.
        renamed: tensors taken over.
        dropped: keys of buffers that hold nothing to keep.
        parameters: numbers in all.
        dtype: theirs; several are joined by commas.
    """

    source: str
    part: str
    renamed: int
    dropped: tuple[str, ...]
    parameters: int
    dtype: str


@dataclass(frozen=True)
class Part:
    """How one component is made from a checkpoint.

    Attributes:
        name: of the component in the pipeline.
        is_mine: whether keys are those of such a checkpoint.
        rules: for a state dict, patterns and what takes their place, each applied to every key in
            this order.
        dropped: patterns of whole keys that are left out.
    """

    name: str
    is_mine: Callable[[frozenset[str]], bool]
    rules: Callable[[State], Rules]
    dropped: tuple[str, ...] = ()


def find_part(checkpoints: Iterable[Checkpoint], part: Part, sources: Sequence[Path]) -> Checkpoint:
    """The one checkpoint that holds `part`.

    Raises:
        ConfigError: there is none, or more than one.
    """
    found = [checkpoint for checkpoint in checkpoints if part.is_mine(checkpoint.keys)]
    found = [checkpoint for checkpoint in found if not checkpoint.is_copy] or found
    if len(found) == 1:
        return found[0]
    given = ", ".join(map(str, sources))
    if found:
        names = ", ".join(str(checkpoint.path) for checkpoint in found)
        raise ConfigError(
            f"{given} holds {len(found)} checkpoints of a {part.name}: {names}. Give the files "
            "that belong together."
        )
    raise ConfigError(
        f"{given} holds no checkpoint of a {part.name}; give its file too, or a folder that has it."
    )


def find_parts(
    sources: Sequence[Path], parts: Sequence[Part], *, allow_pickle: bool
) -> list[Checkpoint]:
    """The checkpoint of each of `parts`.

    Raises:
        ConfigError: one cannot be found, or only in a pickle and none is allowed.
    """
    checkpoints = open_checkpoints(sources, allow_pickle=allow_pickle)
    try:
        return [find_part(checkpoints, part, sources) for part in parts]
    except ConfigError as error:
        if not allow_pickle and (pickles := pickles_in(sources)):
            raise ConfigError(f"{error} {pickle_refusal(pickles[0])}") from error
        raise


def fill(
    make: Callable[[], Model],
    state: State,
    part: Part,
    checkpoint: Checkpoint,
    dtype: WeightDtype | None = None,
) -> tuple[Model, Report]:
    """A model with the tensors of `state`, and what was done.

    Args:
        make: builds the model, without memory for its parameters.
        state: the checkpoint's tensors.
        part: how they are renamed.
        checkpoint: where they are from.
        dtype: of the result; by default as they are.

    Raises:
        ConfigError: naming each key that is missing, unknown or of another shape.
    """
    model = _built(make, checkpoint)
    wanted = model.state_dict()
    dropped = [key for key in state if _matches(key, part.dropped)]
    kept = {key: state[key] for key in state.keys() - set(dropped)}
    rules = part.rules(state)
    renamed = {key: renamed_key(key, rules) for key in sorted(kept)}
    problems = _differences(kept, renamed, wanted)
    if problems:
        raise ConfigError.from_problems(f"{checkpoint.path} as {type(model).__name__}", problems)
    target = None if dtype is None else getattr(torch, dtype)
    filled = {
        new: _own(kept[old].to(target or kept[old].dtype).reshape(wanted[new].shape))
        for old, new in renamed.items()
    }
    model.load_state_dict(filled, strict=True, assign=True)
    report = Report(
        source=str(checkpoint.path),
        part=part.name,
        renamed=len(filled),
        dropped=tuple(sorted(dropped)),
        parameters=sum(tensor.numel() for tensor in filled.values()),
        dtype=", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in filled.values()})),
    )
    return model.eval(), report


def _built(make: Callable[[], Model], checkpoint: Checkpoint) -> Model:
    try:
        with torch.device("meta"):
            return make()
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise ConfigError(
            f"{checkpoint.path}: its shapes make no model: {error}; give a checkpoint of the "
            "published layout."
        ) from error


def renamed_key(key: str, rules: Rules) -> str:
    """`key` as our models call it."""
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement, key)
    return key


def _own(tensor: Tensor) -> Tensor:
    """`tensor` in memory of its own, which safetensors asks for; some pickles share it."""
    is_alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if is_alone else tensor.clone(memory_format=torch.contiguous_format)


def _matches(key: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, key) for pattern in patterns)


def _differences(kept: State, renamed: Mapping[str, str], wanted: State) -> list[str]:
    unknown = [old for old, new in renamed.items() if new not in wanted]
    missing = sorted(wanted.keys() - set(renamed.values()))
    sources: dict[str, list[str]] = {}
    for old, new in renamed.items():
        sources.setdefault(new, []).append(old)
    doubled = [" and ".join(several) for several in sources.values() if len(several) > 1]
    misshapen = [
        f"{old} is {_shape(kept[old])} instead of {_shape(wanted[new])}"
        for old, new in renamed.items()
        if new in wanted and _squeezed(kept[old]) != _squeezed(wanted[new])
    ]
    kinds = {
        "unknown": unknown,
        "missing, by our names": missing,
        "one tensor under several names": doubled,
        "of another shape": misshapen,
    }
    return [f"{kind}: {_some(keys)}" for kind, keys in kinds.items() if keys]


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(keys[:NAMED]) + more


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """Shape without dimensions of size 1, which layouts place differently."""
    return tuple(size for size in tensor.shape if size != 1)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def shape_of(state: State, key: str, checkpoint: Checkpoint, dims: int) -> torch.Size:
    """The shape of a tensor that a config is read from.

    Raises:
        ConfigError: it is not there, or has not `dims` dimensions.
    """
    if key not in state:
        raise ConfigError(
            f"{checkpoint.path}: missing: {key}; give a checkpoint of the published layout."
        )
    if state[key].ndim != dims:
        raise ConfigError(
            f"{checkpoint.path}: {key} is {_shape(state[key])} and should have {dims} dimensions; "
            "give a checkpoint of the published layout."
        )
    return state[key].shape


def count(state: State, pattern: str) -> int:
    """One more than the highest number that group 1 of `pattern` finds at the start of a key."""
    found = (re.match(pattern, key) for key in state)
    return max((int(match.group(1)) + 1 for match in found if match), default=0)


def save(pipeline: DiffusionPipeline, destination: Path) -> None:
    """Write `pipeline` as a model folder, whole or not at all.

    Raises:
        ConfigError: `destination` holds something.
    """
    check_destination(destination)
    with folder_written_whole(destination) as folder:
        pipeline.save_pretrained(folder, safe_serialization=True)


def check_destination(destination: Path) -> None:
    """Refuse, before the work is done, a folder that cannot be written.

    Raises:
        ConfigError: it holds something, or is a file.
    """
    if destination.is_file():
        raise ConfigError(f"{str(destination)!r} is a file; name a new folder.")
    if destination.is_dir() and any(destination.iterdir()):
        raise ConfigError(f"{str(destination)!r} is not empty; name a new folder.")
